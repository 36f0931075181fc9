#!/bin/sh
# Line coverage of one room by its C specs and fuzz seeds.
#
#   spec/c/coverage.sh [room] [least]      default: csrc/framing 90; tunnel/csrc/head and the like too
#
# Builds every spec of the room (spec/c/<room>_*_test.c) and every fuzz target whose sources are in it with
# clang's source-based coverage, runs the specs and the committed seeds, and prints llvm-cov's table. The exit
# status is 1 when less than `least` percent of the lines were reached.
# shellcheck disable=SC2013,SC2046,SC2086 # lists of words on purpose
set -u
cd "$(dirname "$0")/../.." || exit 2

room=${1:-csrc/framing}
least=${2:-90}
name=$(basename "$room")
out=build/spec/coverage/$name
ver=-14
command -v clang$ver >/dev/null || ver=""
rm -rf "$out"
mkdir -p "$out"

objects=""
build() { # source, program, extra flags
    files=""
    for need in $(sed -n 's|^// needs:||p' "$1"); do
        case $need in
        *.c) files="$files $need" ;;
        *) files="$files $(echo "$need"/*.c)" ;;
        esac
    done
    pkgs=$(sed -n 's|^// pkgs:||p' "$1")
    [ -z "$pkgs" ] || files="$(pkg-config --cflags $pkgs) $files $(pkg-config --libs $pkgs)"
    clang$ver -std=c11 -D_GNU_SOURCE -g -O0 -fprofile-instr-generate -fcoverage-mapping ${3:-} \
        -o "$2" "$1" $files $(cat "$1" csrc/framing/compress.c | sed -n 's|^// libs:||p') || exit 1
    objects="$objects ${objects:+-object }$2" # the first stands plainly
}

for src in spec/c/"$name"_*_test.c tunnel/spec/c/"$name"_*_test.c tunnel/spec/c/"$name"_test.c; do
    [ -e "$src" ] || continue
    prog=$out/$(basename "$src" .c)
    build "$src" "$prog"
    LLVM_PROFILE_FILE=$prog.profraw timeout 300 "$prog" >"$prog.log" 2>&1 || cat "$prog.log"
done
for src in spec/fuzz/*_fuzz.c tunnel/spec/fuzz/*_fuzz.c; do
    [ -e "$src" ] || continue
    grep -q "^// needs:.*$room" "$src" || continue
    target=$(basename "$src" _fuzz.c)
    prog=$out/${target}_fuzz
    build "$src" "$prog" -fsanitize=fuzzer
    LLVM_PROFILE_FILE=$prog.profraw timeout 300 "$prog" -runs=0 "$(dirname "$src")/corpus/$target" \
        >"$prog.log" 2>&1 || cat "$prog.log"
done

llvm-profdata$ver merge -o "$out/all.profdata" "$out"/*.profraw || exit 1
llvm-cov$ver report -instr-profile "$out/all.profdata" $objects $(find "$room" -name '*.c' -o -name '*.h' | sort) \
    >"$out/report.txt" 2>"$out/report.err" || cat "$out/report.err"
cat "$out/report.txt"
percent=$(awk '$1 == "TOTAL" { sub("%", "", $10); print $10 }' "$out/report.txt")
echo "$room: $percent % of lines (at least $least)"
awk -v p="$percent" -v l="$least" 'BEGIN { exit !(p + 0 >= l + 0) }'
