// node child.mjs <workload.mjs> <end> <delay ms>: runs the workload, then ends in the given way.
// Writes `end` at that moment; the parent takes the time from there.
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

const say = (text) => writeSync(1, `${text}\n`)

async function inWorker() {
  const { start } = await import(workerData.workload)
  await start()
  parentPort.postMessage('started')
}

async function inMain(workload, end, delay) {
  if (end === 'terminate') {
    const worker = new Worker(new URL(import.meta.url), { workerData: { workload } })
    await new Promise((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
    })
    await sleep(delay)
    say('end')
    const code = await worker.terminate()
    // The addon must still work in the thread that is left.
    const { Device } = await import('fuselm')
    const device = Device.open()
    const storage = device.queue.alloc(4)
    device.queue.write(storage, 0, Uint8Array.of(1, 2, 3, 4))
    const back = new Uint8Array(await device.queue.read(storage, 0, 4))
    if (back[3] !== 4 || code !== 1) throw new Error(`read ${back}, worker code ${code}`)
    device.close()
    return
  }
  const { start } = await import(workload)
  const running = await start()
  await sleep(delay)
  say('end')
  switch (end) {
    case 'return':
      running.stop()
      break
    case 'exit':
      process.exit(7)
      break
    case 'throw':
      setImmediate(() => {
        throw new Error('thrown on purpose')
      })
      break
    case 'sigterm':
      process.kill(process.pid, 'SIGTERM')
      break
    default:
      throw new Error(`unknown end ${end}`)
  }
}

if (isMainThread) {
  const [workload, end, delay] = process.argv.slice(2)
  await inMain(workload, end, Number(delay))
} else {
  await inWorker()
}
