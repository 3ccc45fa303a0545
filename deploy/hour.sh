#!/usr/bin/env bash
# An operator's first hour, by the commands of the README: look at the machine, fetch what is needed,
# train, look at it, stop, go on, evaluate, export. On a machine without a GPU it trains the miniature,
# and takes minutes.
#
#   deploy/hour.sh [DIR]      everything goes into DIR (runs/hour)
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-runs/hour}
coordinator=${COORDINATOR:-target/release/coordinator}
prometheus=${PROMETHEUS:-prometheus}
[ -x "$coordinator" ] || { echo "no $coordinator: run \`cargo build --release\`" >&2; exit 1; }
[ ! -e "$dir" ] || { echo "$dir exists: remove it or name another" >&2; exit 1; }
mkdir -p "$dir"

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
said() { printf '$ %s\n' "$*"; }
run() { said "$@"; "$@"; }
lines() { if [ -f "$1" ]; then wc -l < "$1"; else echo 0; fi; }
# reaches COUNT: until so many steps are committed, or the run has ended.
reaches() {
  while [ "$(lines "$dir/run/metrics.jsonl")" -lt "$1" ]; do
    kill -0 "$launched" 2> /dev/null || { echo "the run ended before step $1" >&2; exit 1; }
    sleep 0.2
  done
}
stopped() {
  local code=0
  wait "$launched" || code=$?
  [ "$code" = "$1" ] || { echo "the run ended with $code, not $1" >&2; exit 1; }
}

say "what is this machine?"
run "$coordinator" doctor --write-env "$dir/.env" || echo "(something above stands in the way; going on)"
# shellcheck disable=SC1091
. "$dir/.env"

models=()
preset=$TANDEM_PRESET
if [ "$preset" != miniature ]; then
  # The smallest is enough for an hour.
  preset=gsm8k-qwen2.5-0.5b
  say "models and problems"
  strong=$(run "$coordinator" model get Qwen/Qwen2.5-0.5B-Instruct | tail -n 1)
  run "$coordinator" data get gsm8k --out "$dir/gsm8k"
  models=(--set "strong.model=$strong" --set "data.path=$dir/gsm8k")
fi

port=${ADMIN_PORT:-9100}
trap 'kill ${launched:-} ${watching:-} 2> /dev/null || true' EXIT
if command -v "$prometheus" > /dev/null; then
  say dashboards
  sed "s/127.0.0.1:9100/127.0.0.1:$port/" deploy/prometheus/prometheus-local.yml > "$dir/prometheus.yml"
  cp deploy/prometheus/rules.yml "$dir"
  watch=("$prometheus" --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/prometheus"
    --web.listen-address=127.0.0.1:19091)
  said "${watch[@]}"
  "${watch[@]}" > "$dir/prometheus.out" 2>&1 &
  watching=$!
fi

say launch
launch=("$coordinator" launch --config "$preset" --actors "${TANDEM_ACTORS:-2}"
  --learners "${TANDEM_LEARNERS:-1}" --run-dir "$dir/run" --set "admin.listen=127.0.0.1:$port"
  --set eval.every_steps=10 "${models[@]}")
# As many as the rest of the hour needs while it trains.
if [ "$preset" = miniature ]; then launch+=(--steps "${STEPS:-300}"); fi
said "${launch[@]}"
"${launch[@]}" > "$dir/launch.out" 2>&1 &
launched=$!
reaches 10

if [ -n "${watching:-}" ]; then
  say "what Prometheus sees"
  answer() {
    curl -sfG http://127.0.0.1:19091/api/v1/query --data-urlencode "query=$1" | grep -o '"value":.*\]'
  }
  tries=0
  until answer 'count(up == 1) > 3 and sum(tandem_coordinator_step) > 10'; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "not every process within a minute; see $dir/prometheus.out" >&2; exit 1; }
    sleep 1
  done
fi

say status
run "$coordinator" status "$dir/run"
say stop
kill -INT "$launched"
stopped 130
tail -n 3 "$dir/launch.out"
say resume
said "$coordinator" launch --resume --run-dir "$dir/run"
"$coordinator" launch --resume --run-dir "$dir/run" > "$dir/resume.out" 2>&1 &
launched=$!
stopped 0
tail -n 15 "$dir/resume.out"
say evaluate
run "$coordinator" eval "$dir/run" --limit 200
say report
run "$coordinator" report "$dir/run" --out "$dir/report.html"
say export
run "$coordinator" model export "$dir/run" --out "$dir/exported"
say "the hour is over"
