#!/bin/sh
# Where the time goes: one mode of bench/client.lua with both sides under perf, the top functions of each printed.
#   bench/profile.sh small|sequential|up|down|connect|idle [N] [IN_FLIGHT]
# Run bench/run.sh once before (it builds the helpers). Needs perf (package linux-perf) and the right to use it.
set -eu
cd "$(dirname "$0")/.."
mode=$1
BENCH_DIR=${BENCH_DIR:-build/bench}
LUA=${LUA:-lua5.4}
LINES=${LINES:-40}
case $mode in
small) n=${2:-300000} ;;
sequential) n=${2:-5} ;;
up | down) n=${2:-16000} ;;
connect) n=${2:-500} ;;
*) n=${2:-500} ;;
esac
in_flight=${3:-128}
export BENCH_DIR LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;" LUA_CPATH="${BENCH_CPATH:-lua/?.so};$BENCH_DIR/?.so;;"
mkdir -p "$BENCH_DIR"
export XDG_STATE_HOME="$PWD/$BENCH_DIR"
log=$BENCH_DIR/profile-server.log

taskset -c 0 "$LUA" bench/server.lua >"$log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    grep -q '^ready' "$log" && break
    sleep 0.05
done
address=$(sed -n "s/^ready \([^ ]*\) .*/\1/p" "$log")
pin=$(sed -n "s/^ready [^ ]* //p" "$log")

perf record -q -F 5000 -g -o "$BENCH_DIR/server.perf" -p $server 2>/dev/null &
perf_server=$!
sleep 0.3
taskset -c 1 perf record -q -F 5000 -g -o "$BENCH_DIR/client.perf" "$LUA" bench/client.lua "$mode" "$address" "$pin" "$server" "$n" "$in_flight"
kill -INT $perf_server
wait $perf_server 2>/dev/null || true

for side in server client; do
    echo
    echo "== $side, by library"
    perf report -i "$BENCH_DIR/$side.perf" --no-children -g none --sort dso --stdio 2>/dev/null | grep -v '^#' | grep -v '^$' | head -12
    echo "== $side, by function"
    perf report -i "$BENCH_DIR/$side.perf" --no-children -g none --sort dso,symbol --stdio 2>/dev/null | grep -v '^#' | grep -v '^$' | head -"$LINES"
done
