#!/bin/sh
# Coverage-guided fuzzing with libFuzzer, the address and the undefined behaviour sanitizer.
#
#   spec/fuzz/run.sh SECONDS [target...]   each target (spec/fuzz/<target>_fuzz.c, tunnel/spec/fuzz/<target>_fuzz.c) for so many seconds
#   spec/fuzz/run.sh 0 [target...]         only runs the corpus once: a regression check
#   spec/fuzz/run.sh seeds                 writes the seed corpora anew from the sample frames
#
# A target's head says what it is made of, as in spec/c: `// needs: csrc/base csrc/framing` (rooms or single
# files, may be repeated), `// libs: -lfoo`, `// pkgs: name` (pkg-config). Seeds are in
# corpus/<target>/ beside it; what fuzzing finds new goes to build/fuzz/corpus/<target>/ and is used again by
# the next run. A finding is kept in build/fuzz/<target>-crash-* and makes the exit status 1; once it is
# fixed, put it into the seeds.
# FUZZ_CC names the compiler (default: clang-14, else clang), FUZZ_FLAGS adds libFuzzer flags.
# shellcheck disable=SC2013,SC2086 # lists of words on purpose
set -u
cd "$(dirname "$0")/../.." || exit 2

out=build/fuzz
mkdir -p "$out"
if [ "${1:-}" = seeds ]; then
    ${CC:-cc} -std=c11 -o "$out/seeds" spec/fuzz/seeds.c csrc/base/varint.c && mkdir -p spec/fuzz/corpus &&
        exec "$out/seeds" spec/fuzz/corpus
    exit 1
fi
case ${1:-} in
'' | *[!0-9]*)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" | grep -v shellcheck
    exit 2
    ;;
esac
seconds=$1
shift

cc=${FUZZ_CC:-}
if [ -z "$cc" ]; then
    cc=clang-14
    command -v $cc >/dev/null || cc=clang
fi
targets=$*
[ -n "$targets" ] || targets=$(for f in spec/fuzz/*_fuzz.c tunnel/spec/fuzz/*_fuzz.c; do [ ! -e "$f" ] || basename "$f" _fuzz.c; done)

if pkg-config --exists libllhttp; then llhttp=$(pkg-config --libs libllhttp); else llhttp=$(ls /usr/share/llhttp/*.c 2>/dev/null); fi

one() { # TARGET: builds and runs it; what is said about it goes to $out/TARGET.said
    target=$1
    dir=spec/fuzz
    [ -e "$dir/${target}_fuzz.c" ] || dir=tunnel/spec/fuzz
    src=$dir/${target}_fuzz.c
    files=""
    for need in $(sed -n 's|^// needs:||p' "$src"); do
        case $need in
        llhttp) files="$files $llhttp" ;; # as in spec/c/run.sh
        *.c) files="$files $need" ;;
        *) files="$files $(echo "$need"/*.c)" ;;
        esac
    done
    libs=$(sed -n 's|^// libs:||p' "$src" $(for f in $files; do case $f in *.c) echo "$f" ;; esac; done))
    pkgs=$(sed -n 's|^// pkgs:||p' "$src")
    if [ -n "$pkgs" ]; then
        libs="$libs $(pkg-config --libs $pkgs)"
        files="$(pkg-config --cflags $pkgs) $files"
    fi
    if ! $cc -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-unused-parameter \
        -DLLHTTP_STRICT_MODE=1 -I/usr/share/include/llhttp -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o "$out/$target" "$src" $files $libs; then
        echo "$target: does not build"
        return 1
    fi
    mkdir -p "$out/corpus/$target" "$dir/corpus/$target"
    if [ "$seconds" = 0 ]; then
        limit="-runs=0"
    else
        limit="-max_total_time=$seconds"
    fi
    timeout $((seconds + 120)) "$out/$target" $limit -max_len=8192 -timeout=5 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="$out/$target-" ${FUZZ_FLAGS:-} \
        "$out/corpus/$target" "$dir/corpus/$target" >"$out/$target.log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    if [ $status -ne 0 ]; then
        tail -n 40 "$out/$target.log"
        echo "$target: FINDING, see $out/$target.log"
        return 1
    else
        echo "$target: ${runs:-?} runs, no finding"
    fi
}

# As many at a time as there are processors: JOBS=1 for one after another.
bad=0
jobs=${JOBS:-$(nproc)}
set --
for target in $targets; do
    one "$target" >"$out/$target.said" 2>&1 &
    set -- "$@" "$!:$target"
    if [ $# -ge "$jobs" ]; then
        wait "${1%%:*}" || bad=1
        cat "$out/${1#*:}.said"
        shift
    fi
done
for started in "$@"; do
    wait "${started%%:*}" || bad=1
    cat "$out/${started#*:}.said"
done
exit $bad
