#!/bin/sh
# Builds every spec/c/*_test.c into build/spec/c and runs it.
#
#   spec/c/run.sh [word...]        only the files whose name contains a word; -word: only those without it
#   SAN=1 spec/c/run.sh            with the address and undefined behaviour sanitizers
#   VALGRIND=1 spec/c/run.sh       under valgrind, leaks are failures
#   CC=clang-14 CFLAGS=-O3 ...     as usual
#
# The head of a test file says what it is made of; nothing else is linked, which proves the layering:
#   // needs: csrc/base csrc/framing/varint.c      rooms (every .c in them) or single files; may be repeated
#   // libs: -lgnutls                              extra flags for the linker (a source of a room may say so too)
#   // pkgs: libngtcp2 gnutls                      pkg-config names, for compiling and linking
# Headers are included by relative path. A program prints "N passed, N failed" as its last line.
# The last line here is the sum; the exit status is 1 when anything failed, crashed or did not build.
# shellcheck disable=SC2013,SC2086 # lists of words on purpose
set -u
cd "$(dirname "$0")/../.." || exit 2

out=build/spec/c
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -g ${CFLAGS:--O1}"
wrap=""
if [ -n "${SAN:-}" ]; then
    out=$out-san
    flags="$flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    # Specs ask for impossible sizes on purpose; NULL is the answer that malloc itself gives.
    export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
fi
if [ -n "${VALGRIND:-}" ]; then
    wrap="valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible"
    export RELAXED=1 # times are not measured
    TEST_TIMEOUT=${TEST_TIMEOUT:-900}
fi
mkdir -p "$out"

passed=0
failed=0
for src in spec/c/*_test.c; do
    name=$(basename "$src" .c)
    if [ $# -gt 0 ]; then
        words=0 wanted=0 unwanted=0
        for word in "$@"; do
            case $word in
            -*) case $name in *"${word#-}"*) unwanted=1 ;; esac ;;
            *) words=1 && case $name in *"$word"*) wanted=1 ;; esac ;;
            esac
        done
        [ $unwanted = 0 ] && [ $words = $wanted ] || continue
    fi
    files=""
    for need in $(sed -n 's|^// needs:||p' "$src"); do
        case $need in
        *.c) files="$files $need" ;;
        *) files="$files $(echo "$need"/*.c)" ;;
        esac
    done
    libs=$(sed -n 's|^// libs:||p' "$src" $files)
    pkgs=$(sed -n 's|^// pkgs:||p' "$src")
    if [ -n "$pkgs" ]; then
        libs="$libs $(pkg-config --libs $pkgs)"
        files="$(pkg-config --cflags $pkgs) $files"
    fi
    if ! ${CC:-cc} $flags -o "$out/$name" "$src" $files ${LDFLAGS:-} $libs; then
        echo "$name: does not build"
        failed=$((failed + 1))
        continue
    fi
    timeout "${TEST_TIMEOUT:-300}" $wrap "$out/$name" >"$out/$name.log" 2>&1
    status=$?
    last=$(tail -n 1 "$out/$name.log")
    p=$(echo "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1/p')
    f=$(echo "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\2/p')
    if [ -z "$p" ] || { [ $status -ne 0 ] && [ "$f" = 0 ]; }; then
        # Crashed, hung, or the sanitizer or valgrind complained after the last test.
        cat "$out/$name.log"
        echo "$name: ended with status $status"
        failed=$((failed + ${f:-0} + 1))
        passed=$((passed + ${p:-0}))
        continue
    fi
    [ "$f" = 0 ] || cat "$out/$name.log"
    echo "$name: $last"
    passed=$((passed + p))
    failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
