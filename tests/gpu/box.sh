#!/usr/bin/env bash
# What needs several GPUs: tests/gpu/box.sh --gpus N. Sums over N ranks against one rank, 20 tandem
# steps, an actor and then the whole run killed on the way, the run resumed, its result exported.
# TANDEM_TEST_DEVICE=cpu rehearses it without GPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --gpus ] || [ "${2:-0}" -lt 2 ]; then
  echo "usage: tests/gpu/box.sh --gpus N (2 or more)" >&2
  exit 2
fi
gpus=$2
device=${TANDEM_TEST_DEVICE:-cuda}
if [ "$device" = cuda ]; then
  have=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
  [ "$have" -ge "$gpus" ] || { echo "$gpus GPUs are asked for, $have are here" >&2; exit 1; }
fi
bin=target/gpu/bin
[ -x "$bin/coordinator" ] || tests/gpu/run.sh --build
work=$(mktemp -d)
launch() { "$bin/coordinator" launch --set "compute.device=$device" --run-dir "$work/$1" "${@:2}"; }

# The same seed with one rank and with all: the first step's loss and its gradients' norm must agree.
launch one --actors 1 --learners 1 --steps 2 --seed 3
launch all --actors 1 --learners "$gpus" --steps 2 --seed 3
python3 - "$work" <<'PY'
import json, sys
first = [json.loads(open(f"{sys.argv[1]}/{run}/metrics.jsonl").readline())["values"] for run in ("one", "all")]
for name, least in (("loss", 1.0), ("grad_norm", 0.0)):
    one, all = (values[name] for values in first)
    print(f"{name} of the first step, one rank and all:", one, all)
    assert all == all and abs(one - all) <= 1e-4 * max(least, abs(one)), name
PY

"$bin/coordinator" launch --set "compute.device=$device" --run-dir "$work/tandem" --actors "$gpus" --learners "$gpus" \
  --steps 20 --set checkpoint.every_steps=5 &
run=$!
until_step() {
  until [ "$(wc -l 2>/dev/null <"$work/tandem/metrics.jsonl" || echo 0)" -ge "$1" ]; do
    kill -0 "$run" || { echo "the run ended before step $1" >&2; exit 1; }
    sleep 0.1
  done
}
until_step 3
actor=$(pgrep -P "$run" -x actor | head -1)
echo "killing actor $actor"
kill -9 "$actor"
until_step 10
echo "killing the run"
kill -9 "$run"
wait "$run" || true
"$bin/coordinator" launch --resume --run-dir "$work/tandem"
"$bin/coordinator" model export "$work/tandem" --checkpoint latest --dtype bf16 --out "$work/exported"
ls -l "$work/exported"
