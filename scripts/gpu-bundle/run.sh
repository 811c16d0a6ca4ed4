#!/bin/sh
# Proves the build on a bare GPU host: runs the parts, prints a table and writes report.md, anew after
# every part. Exits 1 when one failed.
#
#   sh run.sh [--seconds N] [part ...] [-- op ...]
#
# Parts, in the order in which they run; all when none is named:
#   cuda        the plugin by itself, without Node
#   matrix      every op (or those named) on the GPU against float64 references, with what multiplies
#               matrices here: cuBLASLt where it is found
#   order       two queues, memory that they share and use again, uploads: values that waits decide
#   parity      100 steps of training beside the CPU's losses, f32 and bf16
#   shapes      attention and products at the sizes of real models; with builtin and hopper, so, too
#   quickstart  examples/quickstart.ts on the GPU, 1,400 steps
#   builtin     ops with products again, by kernels of our own
#   hopper      the same with FUSELM_CUDA_WGMMA=1 (compute capability 9.0); of shapes each of its kernels
#               by itself, so that one that fails or waits for ever is known by its name
#   bench       benches beside PyTorch, where python3 has it: one part each, bench-train and so on
#   memcheck racecheck    the matrix under compute-sanitizer
#   cpu         every op at every level of the CPU
#
# With --seconds nothing begins after N seconds, and what runs then is stopped. The archive of
# `npm run gpu-bundle -- --sources` first builds the plugin for this card.
cd "$(dirname "$0")" || exit 1
unset FUSELM_ADDON FUSELM_CUDA_PLUGIN FUSELM_DEVICE FUSELM_ISA FUSELM_THREADS FUSELM_LEVELS FUSELM_OPS FUSELM_PROFILE
started=$(date +%s)
seconds=0
parts=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --seconds) seconds=$2; shift ;;
    cuda|matrix|order|parity|shapes|quickstart|builtin|hopper|bench|bench-*|memcheck|racecheck|cpu) parts="$parts $1" ;;
    *) echo "unknown part $1; see the head of run.sh" >&2; exit 2 ;;
  esac
  shift
done
[ "$1" = -- ] && shift
chmod +x node
mkdir -p logs
: >logs/parts.tsv
worst=0

left() { [ "$seconds" -eq 0 ] && echo 86400 || echo $((seconds - $(date +%s) + started)); }
limited() { timeout -k 5 "$(left)" "$@"; }
# part NAME COMMAND...: 77 is a part that this host cannot run; the log's last line says why.
part() {
  name=$1; shift
  from=$(date +%s)
  if [ "$(left)" -lt 5 ]; then
    printf '%s\tleft out\t0\tno time left\n' "$name" >>logs/parts.tsv
    return 0
  fi
  "$@" >"logs/$name.log" 2>&1
  code=$?
  note=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "logs/$name.log" | tail -n 1)
  case $code in
    0) result=ok ;;
    77) result=absent; note=$(tail -n 1 "logs/$name.log") ;;
    124|137) result=stopped; note="after $(grep -c '^ok ' "logs/$name.log") passed, $(grep -c '^FAIL' "logs/$name.log") failed" ;;
    *) result=FAILED; worst=1; [ -n "$note" ] || note="exit status $code" ;;
  esac
  case $result in FAILED|stopped) grep '^FAIL' "logs/$name.log" | head -n 10; tail -n 5 "logs/$name.log" ;; esac
  printf '%s\t%s\t%s\t%s\n' "$name" "$result" "$(($(date +%s) - from))" "$note" >>logs/parts.tsv
  ./node report.mjs >/dev/null
}
on_gpu() { # COMMAND...
  if [ -z "$compute" ]; then ./node dist/cli/main.js doctor | tail -n 1; return 77; fi
  limited "$@"
}
chosen() { # NAME, or one of a group: bench-train of bench
  [ -n "$parts" ] || return 0
  case " $parts " in *" $1 "* | *" ${1%%-*} "*) return 0 ;; esac
  return 1
}
needs() { command -v "$1" >/dev/null || { echo "$1 is not on this host"; return 77; }; }
sanitizer() { # TOOL, then ops
  tool=$1; shift
  needs compute-sanitizer || return
  on_gpu env FUSELM_LEVELS=cuda compute-sanitizer --tool "$tool" --error-exitcode 9 ./node test/ops/main.js "$@"
}
absent() { echo "$1"; return 77; }

nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,power.limit,clocks.max.sm \
  --format=csv,noheader >logs/gpu.txt 2>/dev/null
compute=$(cut -d, -f3 logs/gpu.txt | head -n 1 | tr -d ' .')
nvidia-smi >logs/nvidia-smi.log 2>&1

if [ -d native ] && [ ! -f build/Release/libfuselm_cuda.so ]; then
  build() {
    needs nvcc || [ -x /usr/local/cuda/bin/nvcc ] || return
    PATH=$PATH:/usr/local/cuda/bin
    arch=${compute:-80}; [ "$arch" = 90 ] && arch=90a
    generator='Unix Makefiles'; command -v ninja >/dev/null && generator=Ninja
    limited cmake -S native/cuda -B build/cuda -G "$generator" -DCMAKE_BUILD_TYPE=Release \
      "-DCMAKE_CUDA_ARCHITECTURES=$arch-real" "-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$PWD/build/Release" &&
      limited cmake --build build/cuda --parallel "$(nproc)"
  }
  part build build
fi
./node dist/cli/main.js doctor --json >logs/doctor.json 2>&1
part doctor limited ./node dist/cli/main.js doctor
compute=$(sed -n 's/.*"cuda:0":"[^"]*compute \([0-9]*\)\.\([0-9]*\).*/\1\2/p' logs/doctor.json)

products='attention cached_attention linear linear_group linear_cross_entropy linear_int8 lora_linear matmul'
[ $# -gt 0 ] && products=$*
if chosen cuda; then
  if [ -x build/Release/fuselm_cuda_test ]; then
    part cuda limited build/Release/fuselm_cuda_test build/Release/libfuselm_cuda.so
  else
    part cuda absent 'fuselm_cuda_test is not built'
  fi
fi
if chosen matrix; then part matrix on_gpu env FUSELM_LEVELS=cuda ./node test/ops/main.js "$@"; fi
if chosen order; then part order on_gpu ./node test/cuda/order.mjs; fi
if chosen parity; then part parity on_gpu ./node test/cuda/main.js parity "${FUSELM_PARITY_STEPS:-100}"; fi
if chosen shapes; then part shapes on_gpu ./node test/cuda/main.js shapes; fi
if chosen quickstart; then
  part quickstart on_gpu env FUSELM_DEVICE=cuda ./node build/examples/quickstart.js --data text/node_modules --steps 1400
fi
if chosen builtin; then
  part builtin on_gpu env FUSELM_CUBLASLT=off FUSELM_LEVELS=cuda ./node test/ops/main.js $products
  chosen shapes && part builtin-shapes on_gpu env FUSELM_CUBLASLT=off ./node test/cuda/main.js shapes
fi
if chosen hopper; then
  if [ "$compute" = 90 ]; then
    if chosen shapes; then
      for kernel in forward backward product int8; do
        part "hopper-$kernel" on_gpu env FUSELM_CUDA_WGMMA=$kernel FUSELM_CUBLASLT=off \
          timeout -k 5 120 ./node test/cuda/main.js shapes $kernel
      done
    fi
    part hopper on_gpu env FUSELM_CUDA_WGMMA=1 FUSELM_CUBLASLT=off FUSELM_LEVELS=cuda ./node test/ops/main.js $products
  else
    part hopper absent "compute capability ${compute:-unknown}, not 9.0"
  fi
fi
bench() { # NAME, then options
  name=$1; shift
  chosen "bench-$name" && part "bench-$name" on_gpu env FUSELM_DEVICE=cuda "$@"
}
run='./node bench/run.mjs --built --peers'
bench train $run train --model 124M --batch 16
bench attention $run attention
bench gemm $run gemm
if [ "$compute" = 90 ]; then
  bench attention-hopper env FUSELM_CUDA_WGMMA=1 $run attention
  bench gemm-hopper env FUSELM_CUDA_WGMMA=1 FUSELM_CUBLASLT=off $run gemm
fi
bench gemm-builtin env FUSELM_CUBLASLT=off $run gemm
bench adamw $run adamw
bench norms $run norms
bench loss $run loss
bench int8 $run int8
[ "$compute" = 90 ] && bench int8-hopper env FUSELM_CUDA_WGMMA=1 $run int8
bench lora $run lora --model 124M --int8
if chosen memcheck; then part memcheck sanitizer memcheck "$@"; fi
if chosen racecheck; then part racecheck sanitizer racecheck "$@"; fi
if chosen cpu; then
  part cpu limited env FUSELM_LEVELS=generic,avx2,avx512,avx512bf16,amx ./node test/ops/main.js "$@"
fi
./node report.mjs
exit $worst
