#!/bin/bash
# RELIABILITY T1 to T5 and N6 at full size.
#
#   spec/c/hostile.sh                      every case of the hostile peer ten times, then the abuse campaign
#   spec/c/hostile.sh cases                only the cases; HOSTILE_ROUNDS=10, HOSTILE_CASE=word
#   spec/c/hostile.sh abuse [N [SECONDS]]  only the campaign: N streams opened and reset (1,000,000), and so
#                                          many seconds of each other attack (5)
#
# Prints what a library decided otherwise than the RFC, and of each attack what an honest client saw of it.
set -u
cd "$(dirname "$0")/../.." || exit 2

what=${1:-all}
out=${BUILD:-build}/spec/c
status=0
if [ "$what" != abuse ]; then
    HOSTILE_FULL=1 TEST_TIMEOUT=1200 spec/c/run.sh hostile || status=1
    grep -h '^note: ' build/spec/c/hostile_*_test.log | sort -u
fi
if [ "$what" != cases ]; then
    src=spec/c/abuse_campaign.c
    mkdir -p "$out"
    files=$(sed -n 's|^// needs:||p' "$src" | tr ' ' '\n' | sed -e '/^$/d' -e '/\.c$/!s|$|/*.c|')
    pkgs=$(sed -n 's|^// pkgs:||p' "$src")
    # shellcheck disable=SC2086 # lists of words and patterns
    ${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -g ${CFLAGS:--O2} \
        $(pkg-config --cflags $pkgs) -o "$out/abuse_campaign" "$src" $files $(pkg-config --libs $pkgs) -lpthread || exit 2
    "$out/abuse_campaign" "${2:-1000000}" "${3:-5}" || status=1
fi
exit $status
