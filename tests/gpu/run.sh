#!/usr/bin/env bash
# Everything that one NVIDIA GPU can show: checks against the CPU, NCCL at world 1, speed beside
# PyTorch, the miniature, the recipe. From anywhere: tests/gpu/run.sh [OUTPUT_DIR]
#
# The kernels of candle are compiled by a CUDA toolkit: CUDA_HOME, or one that the script at
# TANDEM_CUDA_HOME_SCRIPT lays out (`lite`: the quantised kernels are left out). A machine without a
# Rust toolchain gets what `tests/gpu/run.sh --build` has left in target/gpu, and runs that.
# Python with torch, where there is one, is the peer.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/gpu/out}
bin=target/gpu/bin

build() {
  cargo fetch --locked
  if [ -z "${CUDA_HOME:-}" ]; then
    CUDA_HOME_NVCC=lite bash "${TANDEM_CUDA_HOME_SCRIPT:-../shared/tools/cuda-home.sh}" target/gpu/cuda-home
    # shellcheck disable=SC1091
    . target/gpu/cuda-home/env.sh
  fi
  mkdir -p "$bin"
  export CARGO_TARGET_DIR=target/gpu
  cargo build --release --workspace --features cuda,nccl --bins --examples
  cp target/gpu/release/{coordinator,actor,learner,weak-server,examples/gpu-bench} "$bin"
  cargo test --release --workspace --features cuda,nccl --test gpu --no-run --message-format json |
    sed -n 's/.*"name":"gpu".*"executable":"\([^"]*\)".*/\1/p' | tail -1 | xargs -I{} cp {} "$bin/gpu-checks"
}

# Prints the step, and keeps what it says.
step() {
  local name=$1; shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$out/$name.txt"
}

if [ "${1:-}" = --build ]; then build; exit; fi
command -v nvidia-smi >/dev/null || { echo "no NVIDIA driver here: this needs a GPU" >&2; exit 1; }
[ -x "$bin/gpu-checks" ] || build
mkdir -p "$out"

# The math libraries and NCCL of Python's packages, where the system has none.
libraries=$(python3 - <<'PY' 2>/dev/null || true
import glob, nvidia, os
found = {os.path.dirname(f) for p in nvidia.__path__ for f in glob.glob(f"{p}/**/lib/*.so.*", recursive=True)}
print(":".join(sorted(found)))
PY
)
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export TANDEM_TEST_DEVICE=cuda NCCL_DEBUG=WARN

step machine nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
step checks "$bin/gpu-checks" --nocapture --test-threads=1
for shape in qwen2.5-0.5b qwen2.5-1.5b; do
  step "tandem-$shape" "$bin/gpu-bench" "$shape" bf16 cuda
  if python3 -c 'import torch' 2>/dev/null; then
    step "torch-$shape" python3 tests/gpu/peer.py "$shape" bf16 cuda
  else
    echo "no torch here: $shape has no peer" | tee "$out/torch-$shape.txt"
  fi
done
run=$(mktemp -d)/miniature
step miniature "$bin/coordinator" launch --actors 1 --steps 20 --run-dir "$run" \
  --set compute.device=cuda --set compute.precision=bf16
# The recipe with a real checkpoint, where this build has the command and the model is there.
if [ -n "${TANDEM_GPU_MODEL:-}" ] && "$bin/coordinator" recipe --help >/dev/null 2>&1; then
  step recipe "$bin/coordinator" recipe gsm8k-jargon --strong "$TANDEM_GPU_MODEL" --weak "$TANDEM_GPU_MODEL" \
    --run-dir "$(dirname "$run")/recipe" --set compute.device=cuda --set compute.precision=bf16
else
  echo "recipe not run: set TANDEM_GPU_MODEL to a Gemma-3-270M directory" | tee "$out/recipe.txt"
fi
printf '\nall done; the output is in %s\n' "$out"
