#!/usr/bin/env bash
# A whole sweep on this machine: a coordinator on a fresh SQLite file, one worker, the sweep of sweeps/demo.yaml on a
# pretrained ViT, and its table. Stops what it started, also on Ctrl-C. Its exit code is the sweep's.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-target}/release
folder=demo
mkdir -p "$folder"
exec 9> "$folder/.lock"
if ! flock -n 9; then
    echo "demo: another demo runs in this folder" >&2
    exit 1
fi

coordinator=
worker=
watch=

alive() { [ -n "$1" ] && kill -0 "$1" 2> /dev/null; }

# Asks a program to end, and after ten seconds insists.
stop() {
    alive "$1" || return 0
    kill -TERM "$1" 2> /dev/null || true
    for _ in $(seq 100); do
        alive "$1" || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2> /dev/null || true
}

clean_up() {
    trap - EXIT
    stop "$watch"
    stop "$worker"
    stop "$coordinator"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

give_up() {
    echo "demo: $1" >&2
    echo "demo: the end of $2:" >&2
    tail -n 20 "$2" >&2 || true
    exit 1
}

rm -f "$folder"/demo.db "$folder"/demo.db-shm "$folder"/demo.db-wal "$folder/address"

# The children must not hold the lock (9>&-): it ends with this script.
"$bin/coordinator" serve --listen 127.0.0.1:0 --address-file "$folder/address" --database-url "sqlite:$folder/demo.db" \
    > "$folder/coordinator.log" 2>&1 9>&- &
coordinator=$!
for _ in $(seq 300); do
    [ -s "$folder/address" ] && break
    alive "$coordinator" || give_up "the coordinator ended" "$folder/coordinator.log"
    sleep 0.1
done
[ -s "$folder/address" ] || give_up "the coordinator does not listen after 30 seconds" "$folder/coordinator.log"
export SWEEP_SERVER="http://$(tr -d '[:space:]' < "$folder/address")"
echo "demo: coordinator at $SWEEP_SERVER, its database is $folder/demo.db"

"$bin/worker" start --server "$SWEEP_SERVER" --home third_party/home > "$folder/worker.log" 2>&1 9>&- &
worker=$!
echo "demo: worker started, its log is $folder/worker.log"

"$bin/sweep" submit sweeps/demo.yaml --watch 9>&- &
watch=$!
while alive "$watch"; do
    alive "$worker" || give_up "the worker ended" "$folder/worker.log"
    alive "$coordinator" || give_up "the coordinator ended" "$folder/coordinator.log"
    sleep 0.3
done
code=0
wait "$watch" || code=$?
watch=

echo
"$bin/sweep" results last --spread std || [ "$code" != 0 ] || code=$?
cat << TEXT

What next: the sweep is in $folder/demo.db. Serve it again, in one terminal, and look around in another:
    $bin/coordinator serve --database-url sqlite:$folder/demo.db
    $bin/sweep list
    $bin/sweep results last --spread std
    $bin/sweep best last
    $bin/sweep trials last
    $bin/sweep capture TRIAL
Edit sweeps/demo.yaml, or try another of sweeps/*.yaml; docs/ says what they mean.
TEXT
exit "$code"
