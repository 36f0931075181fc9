#!/bin/sh
# Builds a peer on quic-go from the packages of Debian alone: no module is downloaded.
#   build_quicgo.sh FOLDER OUTPUT [test]      with `test`, its unit tests run first
# Needs golang-go and golang-github-lucas-clemente-quic-go-dev (Debian 12: quic-go 0.29, Debian 13: 0.50).
set -eu
output=$(realpath -m "$2")
cd "$1"
name=$(basename "$PWD")
source=/usr/share/gocode/src/github.com
if ! command -v go >/dev/null 2>&1; then
    echo "$name: no Go compiler (package golang-go)" >&2
    exit 3
fi
if [ -d $source/quic-go/quic-go ]; then
    tags=quicgo050
elif [ -d $source/lucas-clemente/quic-go ]; then
    tags=
else
    echo "$name: no quic-go (package golang-github-lucas-clemente-quic-go-dev)" >&2
    exit 3
fi
mkdir -p "$(dirname "$output")"
export GO111MODULE=off GOFLAGS= GOPATH=/usr/share/gocode GOCACHE="${GOCACHE:-$(dirname "$output")/go-cache}"
[ "${3:-}" != test ] || go test -tags "$tags" .
exec go build -tags "$tags" -o "$output" .
