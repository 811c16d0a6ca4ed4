import { writeReport } from '../report/report.ts'
import { ConfigError } from '../runtime/errors.ts'
import { type Command, fail } from './command.ts'

export const report: Command = {
  summary: "draws a run's curves, samples and settings as one page",
  options: {
    run: { type: 'string', value: 'dir', help: 'folder of the run; it may still go on' },
    out: { type: 'string', value: 'file', help: 'page to write (report.html in --run)' },
    title: { type: 'string', help: 'its title (Training run)' },
  },
  async run(args) {
    const [out, title] = [args.text('out'), args.text('title')]
    try {
      const path = await writeReport({
        run: args.required('run'),
        ...(out !== undefined && { out }),
        ...(title !== undefined && { title }),
      })
      process.stdout.write(`${path}\n`)
      return 0
    } catch (error) {
      if (error instanceof ConfigError) fail(error.message)
      throw error
    }
  },
}
