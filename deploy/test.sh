#!/usr/bin/env bash
# The image and compose.yaml from nothing to nothing, on a machine with a Docker engine and no image
# registry: build offline, up, scale, kill, train to the end, go on, down. Needs mmdebstrap, curl, jq.
# Grafana's image cannot be made from packages; everything else runs.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-target/deploy-test}")
mkdir -p "$work"

for tool in docker mmdebstrap curl jq; do
  command -v "$tool" > /dev/null || { echo "$tool is missing: install it" >&2; exit 1; }
done
DOCKER_CONFIG=$(deploy/test/compose.sh "$work")
export DOCKER_CONFIG

export COMPOSE_PROJECT_NAME=tandem-test
export TANDEM_IMAGE=tandem:test PROMETHEUS_IMAGE=tandem-prometheus:test PROMETHEUS_PORT=19090
export TANDEM__TRAIN__STEPS=${STEPS:-1500} TANDEM_EVAL_EVERY_STEPS=50
compose() { docker compose -f deploy/compose.yaml -f deploy/test/compose.yaml "$@"; }

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
fail() {
  echo "FAILED: $*" >&2
  compose ps -a >&2 || true
  compose logs --tail 20 >&2 || true
  exit 1
}
# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    ((SECONDS < until)) || fail "not within its time: $what"
    sleep 1
  done
  echo "$what"
}
query() { curl -sfG "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1"; }
value() { query "$1" | jq -re '.data.result[0].value[1]'; }
is() { [ "$(value "$1")" = "$2" ]; }
at_least() { [ "$(value "$1")" -ge "$2" ]; }
step() { value tandem_coordinator_step; }
goes_on() {
  local from
  from=$(step)
  await 90 "steps go on after $from" at_least tandem_coordinator_step $((from + 3))
}
container() { compose ps -q "$1" | sed -n "${2:-1}p"; }

say images
deploy/test/images.sh "$work"
say build
DOCKER_BUILDKIT=0 docker build --network none -q -f deploy/Dockerfile -t "$TANDEM_IMAGE" \
  --build-arg BUILDER_IMAGE=tandem-builder:test --build-arg BASE_IMAGE=tandem-base:test .

say up
trap 'compose down -v --timeout 30 > /dev/null 2>&1' EXIT
compose up -d --wait --wait-timeout 180 || fail "not every service is healthy"
compose ps
await 60 "every target is up: coordinator, weak-server, learner, actor" is 'count(up == 1)' 4
is 'count(up == 0) or vector(0)' 0 || fail "a target is down"

say "four actors while it runs"
compose up -d --wait --wait-timeout 120 --no-recreate --scale actor=4 ||
  fail "not every actor is healthy"
await 60 "seven targets are up" is 'count(up == 1)' 7
goes_on

say "an actor is killed"
docker kill "$(container actor 2)" > /dev/null
goes_on
say "the weak-server is killed and comes back"
server=$(container weak-server)
docker kill "$server" > /dev/null
docker start "$server" > /dev/null
goes_on
say "an actor's program dies and is started again by Docker"
actor=$(container actor 1)
kill -9 "$(docker inspect -f '{{.State.Pid}}' "$actor")"
restarted() { [ "$(docker inspect -f '{{.RestartCount}}' "$actor")" -ge 1 ]; }
await 60 "it was started again" restarted
goes_on

say "to the end"
coordinator=$(container coordinator)
ended() { [ "$(docker inspect -f '{{.State.Status}}' "$coordinator")" = exited ]; }
await 600 "the run has ended" ended
[ "$(docker inspect -f '{{.State.ExitCode}}' "$coordinator")" = 0 ] || fail "the coordinator failed"
docker cp -q "$coordinator:/var/lib/tandem/run/summary.json" "$work/summary.json"
jq '{steps, groups, before: .before.tandem_accuracy, after: .after.tandem_accuracy}' "$work/summary.json"
jq -e --argjson steps "$TANDEM__TRAIN__STEPS" \
  '.groups.consumed == 8 * $steps and .groups.trained_twice == 0 and .after.jargon_rate < 0.1' \
  "$work/summary.json" > /dev/null || fail "not what a whole run gives"

say "up again leaves a complete run as it is"
if again=$(compose up -d --no-recreate 2>&1); then fail "it started what a complete run does not need"; fi
grep -F 'exited (0)' <<< "$again" || fail "$again"
compose logs --no-log-prefix --tail 1 coordinator | grep 'is complete' || fail "the coordinator does not say so"
[ "$(docker inspect -f '{{.State.ExitCode}}' "$coordinator")" = 0 ] || fail "it did not end well"

say down
compose down -v --timeout 30
left=$(docker ps -aq --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME
  docker volume ls -q --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME
  docker network ls -q --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME)
[ -z "$left" ] || fail "left behind: $left"
say "all passed"
