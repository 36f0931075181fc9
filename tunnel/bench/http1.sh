#!/bin/sh
# What HTTP/1.1 costs a request, without sockets:  tunnel/bench/http1.sh [ROUNDS]
# shellcheck disable=SC2046,SC2086 # lists of words on purpose
set -e
cd "$(dirname "$0")/../.."
if pkg-config --exists libllhttp; then llhttp=$(pkg-config --libs libllhttp); else llhttp=$(ls /usr/share/llhttp/*.c); fi
mkdir -p build/bench
${CC:-cc} -std=c11 -D_GNU_SOURCE -O2 -DLLHTTP_STRICT_MODE=1 -I/usr/share/include/llhttp -o build/bench/http1 tunnel/bench/http1.c tunnel/spec/c/fake_sock.c \
    $(ls tunnel/csrc/http1/*.c tunnel/csrc/head/*.c) csrc/base/buf.c csrc/base/mem.c csrc/base/clock.c csrc/base/varint.c $llhttp
exec build/bench/http1 "$@"
