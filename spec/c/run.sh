#!/bin/sh
# Builds every spec/c/*_test.c into build/spec/c and runs it.
#
#   spec/c/run.sh [word...]        only the files whose name contains a word; -word: only those without it
#   SAN=1 spec/c/run.sh            with the address and undefined behaviour sanitizers
#   VALGRIND=1 spec/c/run.sh       under valgrind, leaks are failures
#   CC=clang-14 CFLAGS=-O3 ...     as usual
#
# The head of a test file says what it is made of; nothing else is linked, which proves the layering:
#   // needs: csrc/base csrc/framing/kv.c      rooms (every .c in them) or single files, or "llhttp"; may be repeated
#   // libs: -lgnutls                              extra flags for the linker (a source of a room may say so too)
#   // defines: -DLIMIT=8                        for what it is made of too, which is then compiled for it alone
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
    export RELAXED=1 # times are not measured, so two run at a time
    JOBS=${JOBS:-2}
    export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
fi
if [ -n "${VALGRIND:-}" ]; then
    wrap="valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible"
    export RELAXED=1 # times are not measured
    TEST_TIMEOUT=${TEST_TIMEOUT:-900}
fi
mkdir -p "$out"

wanted() { # NAME WORD...
    name=$1 words=0 hits=0
    shift
    for word in "$@"; do
        case $word in
        -*) case $name in *"${word#-}"*) return 1 ;; esac ;;
        *) words=1 && case $name in *"$word"*) hits=1 ;; esac ;;
        esac
    done
    [ $words = $hits ]
}

compile() { # DIR [FLAGS]: the rule for objects in DIR
    printf '%s\n' "$1/%.o: %.c $out/flags" "	@mkdir -p \$(@D)" "	\$(CC) $flags ${2:-} -MMD -MP -c -o \$@ \$<"
}

# llhttp is a library on Debian 13; Debian 12 has its sources.
llhttp="" llhttp_libs=""
if pkg-config --exists libllhttp; then
    llhttp_libs=$(pkg-config --libs libllhttp)
else
    llhttp=$(ls /usr/share/llhttp/*.c 2>/dev/null)
fi
flags="$flags -DLLHTTP_STRICT_MODE=1 -I/usr/share/include/llhttp"

# Every source is compiled once, whatever tests need it, on every processor.
tests=""
rules=$out/tests.mk
for src in spec/c/*_test.c tunnel/spec/c/*_test.c; do
    [ -e "$src" ] || continue
    wanted "$(basename "$src" .c)" "$@" || continue
    tests="$tests $src"
done
flags="$flags $(pkg-config --cflags $(sed -n 's|^// pkgs:||p' spec/c/*_test.c $(ls tunnel/spec/c/*_test.c 2>/dev/null)))"
{
    echo "CC = ${CC:-cc}"
    echo "all:"
    compile "$out/obj"
    for src in $tests; do
        files=$src libs=""
        for need in $(sed -n 's|^// needs:||p' "$src"); do
            case $need in
            llhttp) files="$files $llhttp" libs=$llhttp_libs ;;
            *.c) files="$files $need" ;;
            *) files="$files $(echo "$need"/*.c)" ;;
            esac
        done
        libs="$libs $(sed -n 's|^// libs:||p' $files)"
        own=$(sed -n 's|^// pkgs:||p' "$src")
        [ -z "$own" ] || libs="$libs $(pkg-config --libs $own)"
        program=$out/$(basename "$src" .c) objects="" dir=$out/obj
        defines=$(sed -n 's|^// defines:||p' "$src")
        if [ -n "$defines" ]; then
            dir=$out/obj-$(basename "$src" .c)
            compile "$dir" "$defines"
        fi
        for file in $files; do objects="$objects $dir/${file%.c}.o"; done
        printf '%s\n' "all: $program" "$program:$objects" "	\$(CC) $flags -o \$@ \$^ ${LDFLAGS:-} $(echo $libs)"
    done
    echo "-include \$(shell find $out -type f -name '*.d' 2>/dev/null)"
} >"$rules"
echo "${CC:-cc} $flags" | cmp -s - "$out/flags" || echo "${CC:-cc} $flags" >"$out/flags"
unset MAKEFLAGS MFLAGS # of a make that runs this
make -s -k -j"$(nproc)" -f "$rules" all

run_one() { # NAME: leaves its exit status in $out/NAME.status
    timeout "${TEST_TIMEOUT:-300}" $wrap "$out/$1" >"$out/$1.log" 2>&1
    echo $? >"$out/$1.status"
}

# JOBS at a time (default 1: some measure times); what came of them is told in their order.
running=0
for src in $tests; do
    name=$(basename "$src" .c)
    rm -f "$out/$name.status"
    make -s -q -f "$rules" "$out/$name" || continue
    if [ "${JOBS:-1}" -le 1 ]; then
        run_one "$name"
        continue
    fi
    run_one "$name" &
    running=$((running + 1))
    if [ $running -ge "$JOBS" ]; then
        wait
        running=0
    fi
done
wait

passed=0
failed=0
for src in $tests; do
    name=$(basename "$src" .c)
    if [ ! -e "$out/$name.status" ]; then
        echo "$name: does not build"
        failed=$((failed + 1))
        continue
    fi
    read -r status <"$out/$name.status"
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
