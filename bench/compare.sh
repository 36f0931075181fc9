#!/bin/sh
# Another checkout beside this one in one run, by turns: have P1, P3, P4 and P6 fallen?
#   bench/compare.sh OLD_DIR|COMMIT [--reps N] [--quick] [--markdown]
# A commit is checked out and built below build/compare. Both are measured by this checkout's programs, so that only what
# is measured differs.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
old=$1
shift
if [ ! -d "$old" ]; then
    commit=$(git rev-parse --verify --short "$old^{commit}")
    old=build/compare/$commit
    if [ ! -d "$old" ]; then
        mkdir -p "$old"
        git archive "$commit" | tar -x -C "$old"
    fi
    BENCH_OLD_COMMIT=$commit
else
    BENCH_OLD_COMMIT=$(git -C "$old" rev-parse --short HEAD 2>/dev/null || echo "$old")
fi
old=$(cd "$old" && pwd)
for dir in "$old" .; do
    env -u LUA_PATH -u LUA_CPATH make -s -C "$dir" >/dev/null
done
BENCH_PROGRAM=bench/compare.lua
export BENCH_PROGRAM BENCH_OLD_COMMIT
exec sh bench/run.sh "$old" "$@"
