#!/bin/bash
# Builds the simulation campaign and runs it on every core.
#
#   spec/c/sim.sh [FIRST COUNT]      default: seeds 1 to $SEEDS (1,000)
#   SAN=1 spec/c/sim.sh 1 500        with the address and undefined behaviour sanitizers
#   JOBS=1 spec/c/sim.sh ...         on one core
#
# Prints every failing seed with how to run it again; the exit status is 1 when there is one.
set -u
cd "$(dirname "$0")/../.." || exit 2

first=${1:-1}
count=${2:-${SEEDS:-1000}}
jobs=${JOBS:-$(nproc)}
out=${BUILD:-build}/spec/c
src=spec/c/sim_campaign.c
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -g ${CFLAGS:--O2}"
if [ -n "${SAN:-}" ]; then
    out=$out-san
    flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
fi

files=$src
for need in $(sed -n 's|^// needs:||p' $src); do
    case $need in
    *.c) files="$files $need" ;;
    *) files="$files $(echo "$need"/*.c)" ;;
    esac
done

pkgs=$(sed -n 's|^// pkgs:||p' $src | tr '\n' ' ')
libs=$(sed -n 's|^// libs:||p' $src | tr '\n' ' ')

# One object per file, so that a second run compiles only what changed.
mkdir -p "$out/sim"
# shellcheck disable=SC2086 # lists of words on purpose
if ! {
    printf 'out := %s\nflags := %s\n' "$out/sim" "$flags $(pkg-config --cflags $pkgs)"
    objs=""
    for f in $files; do
        o=$out/sim/$(echo "$f" | tr / _).o
        objs="$objs $o"
        printf '%s: %s\n\t@%s $(flags) -MMD -c -o $@ $<\n-include %s\n' "$o" "$f" "${CC:-cc}" "${o%.o}.d"
    done
    printf '%s: %s\n\t@%s $(flags) -o $@ $^ %s\n' "$out/sim_campaign" "$objs" "${CC:-cc}" "$libs $(pkg-config --libs $pkgs)"
} >"$out/sim/Makefile" || ! make -s -j "$jobs" -f "$out/sim/Makefile" "$out/sim_campaign"; then
    echo "sim_campaign: does not build"
    exit 2
fi

pids=""
each=$(((count + jobs - 1) / jobs))
for ((i = 0; i < jobs; i++)); do
    n=$((count - i * each < each ? count - i * each : each))
    [ $n -gt 0 ] || continue
    "$out/sim_campaign" $((first + i * each)) $n >"$out/sim/log.$i" 2>&1 &
    pids="$pids $!"
done
status=0
for pid in $pids; do
    wait "$pid" || status=1
done
for ((i = 0; i < jobs; i++)); do
    [ -f "$out/sim/log.$i" ] && [ $((count - i * each)) -gt 0 ] && tail -n 200 "$out/sim/log.$i"
done
exit $status
