#!/usr/bin/env bash
# Everything that one NVIDIA GPU can show: checks against the CPU, NCCL at world 1, speed beside
# PyTorch, the miniature, the recipe. From anywhere: tests/gpu/run.sh [OUTPUT_DIR]
#
# The kernels of candle are compiled by a CUDA toolkit: CUDA_HOME, or one that the script at
# TANDEM_CUDA_HOME_SCRIPT lays out (`lite`: the quantised kernels are left out). A machine without a
# Rust toolchain gets what `tests/gpu/run.sh --build` has left in target/gpu, and runs that.
# Python with torch, where there is one, is the peer. The recipe needs TANDEM_GPU_MODEL, a directory of
# Gemma-3-270M, and TANDEM_TEST_GSM8K.
# TANDEM_TEST_DEVICE=cpu rehearses all of it without a GPU, with a tiny shape and a tiny model. With
# TANDEM_GPU_SHAPES=tiny and the device out of software (crates/device/software/build.sh) the GPU's code runs
# too; TANDEM__EVAL__PROBLEMS=16 then makes it a matter of minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/gpu/out}
bin=target/gpu/bin
export TANDEM_TEST_DEVICE=${TANDEM_TEST_DEVICE:-cuda} NCCL_DEBUG=WARN

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

# Says what cannot be run, and keeps it for the last line.
lacks=()
lacking() {
  lacks+=("$1")
  printf '\n== %s not run: %s\n' "$1" "$2" | tee "$out/$1.txt"
}

# The miniature for 20 steps, then the recipe.
train() {
  local run model=${TANDEM_GPU_MODEL:-} precision=bf16 smaller=()
  run=$(mktemp -d)
  if [ "$TANDEM_TEST_DEVICE" = cpu ]; then precision=f32; fi
  local compute=(--set "compute.device=$TANDEM_TEST_DEVICE" --set "compute.precision=$precision")
  step miniature "$bin/coordinator" launch --actors 1 --steps 20 --run-dir "$run/miniature" "${compute[@]}"
  if [ "${shapes[*]}" = tiny ] && [ -n "${TANDEM_TEST_GSM8K:-}" ]; then
    model=$run/tiny
    "$bin/coordinator" model tiny --tokenizer-from "$TANDEM_TEST_GSM8K" --out "$model"
    smaller=(--set recipe.sft_steps=2 --set recipe.sft_examples_per_step=4 --set recipe.probe_problems=4
      --set train.steps=2 --set train.problems_per_step=4 --set sampling.max_tokens=16 --set eval.problems=4)
  fi
  if [ -z "$model" ] || [ -z "${TANDEM_TEST_GSM8K:-}" ]; then
    lacking recipe "set TANDEM_GPU_MODEL to a directory of Gemma-3-270M and TANDEM_TEST_GSM8K to one of GSM8K"
    return
  fi
  step recipe "$bin/coordinator" recipe gsm8k-jargon --strong "$model" --weak "$model" --out "$run/recipe" \
    --set "data.path=$TANDEM_TEST_GSM8K" "${compute[@]}" "${smaller[@]}"
}

if [ "${1:-}" = --build ]; then build; exit; fi
shapes=tiny precision=f32
if [ "$TANDEM_TEST_DEVICE" = cuda ]; then
  command -v nvidia-smi >/dev/null || { echo "no NVIDIA driver here: this needs a GPU" >&2; exit 1; }
  shapes="qwen2.5-0.5b qwen2.5-1.5b" precision=bf16
fi
read -ra shapes <<<"${TANDEM_GPU_SHAPES:-$shapes}"
[ -x "$bin/gpu-checks" ] || build
mkdir -p "$out"

# The math libraries and NCCL of Python's packages, where the system has none.
libraries=$(python3 - <<'PY' 2>/dev/null || true
import glob, nvidia, os
found = {os.path.dirname(f) for p in nvidia.__path__ for f in glob.glob(f"{p}/**/lib/*.so.*", recursive=True)}
print(":".join(sorted(found)))
PY
)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries

if [ "$TANDEM_TEST_DEVICE" = cuda ]; then
  step machine nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
fi
step checks "$bin/gpu-checks" --nocapture --test-threads=1
for shape in "${shapes[@]}"; do
  step "tandem-$shape" "$bin/gpu-bench" "$shape" "$precision" "$TANDEM_TEST_DEVICE"
  if python3 -c 'import sys, torch; torch.zeros(1, device=sys.argv[1])' "$TANDEM_TEST_DEVICE" 2>/dev/null; then
    step "torch-$shape" python3 tests/gpu/peer.py "$shape" "$precision" "$TANDEM_TEST_DEVICE"
  else
    lacking "torch-$shape" "no torch for this device here: no peer and no bandwidth bound"
  fi
done
train
printf '\n%s; the output is in %s\n' "${lacks[*]:+done, without }${lacks[*]:-all done}" "$out"
