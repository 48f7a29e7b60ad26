#!/usr/bin/env bash
# Tries out an image as strictly as it may be run, and says how large it is: try-image.sh ENGINE IMAGE [BUILDAH ...].
# build-image.sh calls it; BUILDAH is the buildah command with its options, where that is the engine.
#
# Read-only root, the image's own numeric user, no capability, no network but loopback, a tmpfs at /tmp, one volume.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly ENGINE=$1 IMAGE=$2
readonly buildah=("${@:3}")
readonly TRIAL=$PWD/build/image-trial
readonly CONFIGURATION=$TRIAL/node.toml STATE=$TRIAL/state RUNC=(runc --root "$TRIAL/runc")
readonly USER_ID=10001 NAME=dicom-gam-trial-$$
readonly STRICT=(--read-only --network none --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp:size=256m
  --volume "$NAME:/var/lib/dicom-gam" --volume "$CONFIGURATION:/etc/dicom-gam/node.toml:ro")
mounted='' names=()

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

prepare() {
  rm -rf "$TRIAL"
  mkdir -p "$TRIAL"
  cat >"$CONFIGURATION" <<'TOML'
[node]
host = "127.0.0.1"
storage = "/var/lib/dicom-gam"
[web]
enabled = true
TOML
  [ "$ENGINE" = buildah ] || return 0 # the others make a volume by its name, and give it to the image's user
  install -d -o "$USER_ID" -g "$USER_ID" -m 700 "$STATE"
  "${buildah[@]}" inspect --type image "$IMAGE" >"$TRIAL/image.json"
  "${buildah[@]}" from --pull-never --name "$NAME" "$IMAGE" >/dev/null
  mounted=$("${buildah[@]}" mount "$NAME")
}

# shellcheck disable=SC2317 # called by trap
clean_up() {
  local name
  for name in "${names[@]}"; do
    if [ "$ENGINE" = buildah ]; then
      "${RUNC[@]}" delete --force "$name" >/dev/null 2>&1 || true
    else
      "$ENGINE" rm --force "$name" >/dev/null 2>&1 || true
    fi
  done
  if [ "$ENGINE" != buildah ]; then
    "$ENGINE" volume rm --force "$NAME" >/dev/null 2>&1 || true
  elif [ -n "$mounted" ]; then
    "${buildah[@]}" rm "$NAME" >/dev/null
  fi
}

# start NAME [ARGUMENT ...]: a container in the background, its output in NAME.log, its process in $running.
start() {
  local name=$NAME-$1 log=$TRIAL/$1.log bundle=$TRIAL/bundle-$1
  shift
  names+=("$name")
  if [ "$ENGINE" = buildah ]; then
    python3 docker/runc_bundle.py "$bundle" "$mounted" "$TRIAL/image.json" "$CONFIGURATION" "$STATE" "$@"
    "${RUNC[@]}" run --bundle "$bundle" "$name" >"$log" 2>&1 </dev/null &
  else
    "$ENGINE" run --name "$name" "${STRICT[@]}" "$IMAGE" "$@" >"$log" 2>&1 </dev/null &
  fi
  running=$!
}

# inside NAME COMMAND ...: a command in a running container.
inside() {
  local name=$NAME-$1
  shift
  if [ "$ENGINE" = buildah ]; then "${RUNC[@]}" exec "$name" "$@"; else "$ENGINE" exec "$name" "$@"; fi
}

# terminate NAME: SIGTERM to process 1; the exit status is in $status, 124 when it had to be killed after 60 s.
terminate() {
  local deadline=$((SECONDS + 60))
  if [ "$ENGINE" = buildah ]; then
    "${RUNC[@]}" kill "$NAME-$1" TERM
  else
    "$ENGINE" kill --signal TERM "$NAME-$1" >/dev/null
  fi
  while kill -0 "$running" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      status=124
      return
    fi
    sleep 0.2
  done
  status=0
  wait "$running" || status=$?
}

# wait_healthy NAME: until the health check is content.
wait_healthy() {
  local deadline=$((SECONDS + 180))
  until inside "$1" dicom-gam-health >/dev/null 2>&1; do
    kill -0 "$running" 2>/dev/null || fail "the node ended: $(tail -n 5 "$TRIAL/$1.log")"
    [ "$SECONDS" -lt "$deadline" ] || fail "not healthy after 180 s: $(inside "$1" dicom-gam-health 2>&1)"
    sleep 1
  done
}

seconds_since() {
  awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'
}

try_demo() {
  local from=$EPOCHREALTIME expected
  echo "== dicom-gam demo in the image"
  start demo demo --output /var/lib/dicom-gam/demo # /tmp is too small for a node's storage
  wait "$running" || fail "dicom-gam demo: $(cat "$TRIAL/demo.log")"
  cat "$TRIAL/demo.log"
  for expected in 'RG1_UNCR.*PASS' 'RG3_UNCR.*REJECT' 'chain unbroken'; do
    grep -q "$expected" "$TRIAL/demo.log" || fail "the demo does not say $expected"
  done
  echo "demo: $(seconds_since "$from") s"
}

try_early_stop() {
  echo "== SIGTERM while PyTorch still loads"
  start early
  sleep 2
  terminate early
  [ "$status" = 143 ] || fail "exit status $status: $(cat "$TRIAL/early.log")"
  echo "ends at once, exit status 143"
}

try_serve() {
  local from=$EPOCHREALTIME
  echo "== dicom-gam serve in the image"
  start serve
  sleep 1
  if inside serve dicom-gam-health; then fail "healthy before it listens"; fi
  wait_healthy serve
  echo "healthy $(seconds_since "$from") s after its start"
  from=$EPOCHREALTIME
  inside serve dicom-gam-health || fail "the health check"
  echo "one health check takes $(seconds_since "$from") s, the start of its process included"
  look_around
  inside serve dicom-gam doctor --offline --config /etc/dicom-gam/node.toml || [ $? = 1 ] || fail "dicom-gam doctor"
  from=$EPOCHREALTIME
  terminate serve
  [ "$status" = 0 ] || fail "SIGTERM: exit status $status: $(tail -n 5 "$TRIAL/serve.log")"
  grep -q 'node.stopped' "$TRIAL/serve.log" || fail "the node was not stopped in order: $(tail -n 5 "$TRIAL/serve.log")"
  echo "SIGTERM: stopped in order after $(seconds_since "$from") s, exit status 0"
  start audit audit verify /var/lib/dicom-gam
  wait "$running" || fail "the audit log: $(cat "$TRIAL/audit.log")"
  cat "$TRIAL/audit.log"
}

# What the container may, seen from within.
look_around() {
  [ "$(inside serve id -u)" = "$USER_ID" ] || fail "it runs as $(inside serve id)"
  [ "$(inside serve cat /proc/1/comm)" = dumb-init ] || fail "process 1 is $(inside serve cat /proc/1/comm)"
  [ "$(inside serve ls /sys/class/net)" = lo ] || fail "there is a network: $(inside serve ls /sys/class/net)"
  if inside serve touch /opt/dicom-gam/touched 2>/dev/null; then fail "the root file system can be written to"; fi
  inside serve grep -q '^CapBnd:[[:space:]]*0*$' /proc/1/status || fail "it has capabilities"
  inside serve sh -c '(sleep 0.2 &)'
  sleep 1
  if inside serve grep -l '^State:[[:space:]]*Z' -r /proc --include=status -s | grep -q .; then
    fail "zombies are left"
  fi
  echo "user $USER_ID, read-only root, no capability, loopback alone, orphans are reaped by process 1"
  echo "files in /tmp: $(inside serve find /tmp -type f | wc -l)"
}

try_logs() {
  if grep -iE 'read-only file system|permission denied|not a writable|traceback' "$TRIAL"/*.log; then
    fail "something wanted to write where it may not, see above"
  fi
}

sizes() {
  local bytes packed='not measured (above 3 GB it takes minutes)'
  if [ "$ENGINE" = buildah ]; then
    bytes=$(du --summarize --block-size=1 "$mounted" | cut -f 1)
  else
    bytes=$("$ENGINE" image inspect --format '{{.Size}}' "$IMAGE")
  fi
  if [ "$bytes" -lt 3000000000 ]; then
    packed="$(($(pack | gzip -6 | wc -c) / 1000000)) MB"
  fi
  echo "size of $IMAGE: $((bytes / 1000000)) MB; compressed, as a registry has it: $packed"
}

pack() {
  if [ "$ENGINE" = buildah ]; then tar --directory="$mounted" --create .; else "$ENGINE" save "$IMAGE"; fi
}

trap clean_up EXIT
prepare
try_demo
try_early_stop
try_serve
try_logs
sizes
rm -rf "$TRIAL"
