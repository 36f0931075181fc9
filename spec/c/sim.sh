#!/bin/bash
# Builds the simulations and runs them.
#
#   spec/c/sim.sh [FIRST COUNT]      the campaign on every core; default: seeds 1 to $SEEDS (1,000)
#   spec/c/sim.sh calls [N [LOSS]]   N calls (1,000,000) at that loss (0.05), each run and ended exactly once
#   SAN=1 spec/c/sim.sh 1 500        with the address and undefined behaviour sanitizers
#   JOBS=1 spec/c/sim.sh ...         on one core
#
# Prints every failing seed with how to run it again; the exit status is 1 when there is one.
set -u
cd "$(dirname "$0")/../.." || exit 2

jobs=${JOBS:-$(nproc)}
out=${BUILD:-build}/spec/c
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -g ${CFLAGS:--O2}"
if [ -n "${SAN:-}" ]; then
    out=$out-san
    flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
fi

# One object per file, so that a second run compiles only what changed.
build() { # build NAME: spec/c/NAME.c into $out/NAME
    local src=spec/c/$1.c dir=$out/$1.objects files objs="" libs pkgs need f o
    mkdir -p "$dir"
    files=$src
    for need in $(sed -n 's|^// needs:||p' "$src"); do
        case $need in
        *.c) files="$files $need" ;;
        *) files="$files $(echo "$need"/*.c)" ;;
        esac
    done
    pkgs=$(sed -n 's|^// pkgs:||p' "$src" | tr '\n' ' ')
    libs=$(sed -n 's|^// libs:||p' "$src" | tr '\n' ' ')
    {
        # shellcheck disable=SC2086 # a list of words
        printf 'flags := %s\n' "$flags $(pkg-config --cflags $pkgs)"
        printf 'all: %s\n' "$out/$1"
        for f in $files; do
            o=$dir/$(echo "$f" | tr / _).o
            objs="$objs $o"
            printf '%s: %s %s\n\t@%s $(flags) -MMD -c -o $@ $<\n-include %s\n' "$o" "$f" "$dir/flags" "${CC:-cc}" "${o%.o}.d"
        done
        # shellcheck disable=SC2086
        printf '%s: %s\n\t@%s $(flags) -o $@ $^ %s\n' "$out/$1" "$objs" "${CC:-cc}" "$libs $(pkg-config --libs $pkgs)"
    } >"$dir/Makefile"
    # Other flags or another compiler: everything anew.
    [ "$(cat "$dir/flags" 2>/dev/null)" = "${CC:-cc} $flags" ] || echo "${CC:-cc} $flags" >"$dir/flags"
    if ! make -s -j "$jobs" -f "$dir/Makefile" all; then
        echo "$1: does not build"
        exit 2
    fi
}

if [ "${1:-}" = calls ]; then
    build sim_calls
    exec "$out/sim_calls" "${2:-1000000}" "${3:-0.05}"
fi

first=${1:-1}
count=${2:-${SEEDS:-1000}}
build sim_campaign
status=0
if [ $# -eq 0 ]; then # seeds that found a fault once come first
    for seed in 110 1882 5992 11713 16125 22003 24291 64349 97922 312983 317070 501235; do
        "$out/sim_campaign" $seed 1 >"$out/sim_campaign.objects/log" 2>&1 || { cat "$out/sim_campaign.objects/log" && status=1; }
    done
fi
pids=""
each=$(((count + jobs - 1) / jobs))
for ((i = 0; i < jobs; i++)); do
    n=$((count - i * each < each ? count - i * each : each))
    [ $n -gt 0 ] || continue
    "$out/sim_campaign" $((first + i * each)) $n >"$out/sim_campaign.objects/log.$i" 2>&1 &
    pids="$pids $!"
done
for pid in $pids; do
    wait "$pid" || status=1
done
for ((i = 0; i < jobs; i++)); do
    [ $((count - i * each)) -gt 0 ] && tail -n 200 "$out/sim_campaign.objects/log.$i"
done
exit $status
