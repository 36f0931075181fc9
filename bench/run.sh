#!/bin/sh
# Measures the goals of docs/PERFORMANCE.md against the same run's peers and prints one table.
#   bench/run.sh --seed-table [--seconds N] [--markdown]    the table of the design: bench/seed_table.lua
#   bench/run.sh [--reps N] [--rows P1,P1m,P2,…] [--peers-only] [--quick] [--markdown]
# Rows: bench/rows.lua. --peers-only needs nothing of ours built; --markdown prints the tables only, as docs/PERFORMANCE.md
# has them. Packages that are missing are installed when root, else named. BENCH_PROGRAM: another bench/*.lua than run.lua.
set -eu
cd "$(dirname "$0")/.."

LUA=${LUA:-lua5.4}
CC=${CC:-cc}
BENCH_DIR=${BENCH_DIR:-build/bench}

# The table that the design set out with needs no peers.
if [ "${1:-}" = --seed-table ]; then
    shift
    mkdir -p "$BENCH_DIR"
    ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
    XDG_STATE_HOME=$PWD/$BENCH_DIR
    export XDG_STATE_HOME LUA BENCH_DIR LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;" LUA_CPATH="${BENCH_CPATH:-lua/?.so};;"
    exec taskset -c "${BENCH_CLIENT_CPU:-1}" "$LUA" bench/seed_table.lua "$@"
fi

missing=
need() { # need COMMAND PACKAGE…
    command -v "$1" >/dev/null 2>&1 || { shift; missing="$missing $*"; }
}
need gtlsserver ngtcp2-server
need gtlsclient ngtcp2-client
need openssl openssl
need taskset util-linux
need "$LUA" lua5.4
need pkg-config pkg-config
need "$CC" gcc libc6-dev
# gRPC C++ only for its rows: it is 100 MB of packages and a minute of compiling.
grpc=yes
case " $* " in *" --rows "*)
    case ",$(echo " $* " | sed 's/.* --rows \([^ ]*\) .*/\1/')," in *,P2,* | *,P5,* | *,P11,*) ;; *) grpc= ;; esac ;;
esac
[ -z "${BENCH_PROGRAM:-}" ] || grpc=
if [ -n "$grpc" ]; then
    need g++ g++
    need protoc protobuf-compiler
    need grpc_cpp_plugin protobuf-compiler-grpc
    pkg-config --exists grpc++ 2>/dev/null || missing="$missing libgrpc++-dev libprotobuf-dev"
fi
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
    else
        echo "bench: missing packages, install them first:$missing" >&2
        exit 1
    fi
fi

mkdir -p "$BENCH_DIR" bench/results
# The peer serves files; memory is the disk that does not slow it.
if [ -d /dev/shm ] && [ -w /dev/shm ]; then BENCH_DOCS=$(mktemp -d /dev/shm/echostream-bench.XXXXXX); else BENCH_DOCS=$(mktemp -d); fi
BENCH_PIDS=$BENCH_DOCS/.pids
: >"$BENCH_PIDS"
finish() {
    while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$BENCH_PIDS"
    rm -rf "$BENCH_DOCS"
}
trap finish EXIT
trap 'exit 130' INT TERM
printf '01234567890123456789012345678901' >"$BENCH_DOCS/small"

# P-256 for both sides: an RSA-3072 handshake costs nine times as much.
if [ ! -s "$BENCH_DIR/cert.pem" ] || ! openssl x509 -checkend 86400 -noout -in "$BENCH_DIR/cert.pem" >/dev/null; then
    openssl ecparam -name prime256v1 -genkey -noout -out "$BENCH_DIR/key.pem"
    openssl req -x509 -new -key "$BENCH_DIR/key.pem" -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -days 13 -out "$BENCH_DIR/cert.pem"
fi

FLAGS="-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra"
build() { # build OUTPUT SOURCE PACKAGES [FLAGS]
    [ "$BENCH_DIR/$1" -nt "$2" ] && return
    libs=
    cflags=
    if [ -n "$3" ]; then
        cflags=$(pkg-config --cflags $3)
        libs=$(pkg-config --libs $3)
    fi
    $CC $FLAGS ${4:-} $cflags -o "$BENCH_DIR/$1" "$2" $libs
}
build measure bench/measure.c ""
build pingpong bench/pingpong.c ""
build floor bench/floor.c "libngtcp2 libngtcp2_crypto_gnutls gnutls"
build bench_heap.so bench/heap.c "" "-shared -fPIC $(pkg-config --cflags lua5.4 2>/dev/null || pkg-config --cflags lua-5.4)"

if [ -n "$grpc" ] && ! [ "$BENCH_DIR/grpc_peer" -nt bench/grpc_peer.cc ]; then
    protoc --proto_path=bench --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" --grpc_out="$BENCH_DIR" \
        --cpp_out="$BENCH_DIR" grpc_echo.proto
    g++ -std=c++17 -O2 -Wall -Wextra -I"$BENCH_DIR" -o "$BENCH_DIR/grpc_peer" bench/grpc_peer.cc "$BENCH_DIR"/grpc_echo*.pb.cc \
        $(pkg-config --cflags --libs grpc++ protobuf)
fi
# A socket for each of P8's connections. Where the limit is lower, the row fails and says so.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

BENCH_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
XDG_STATE_HOME=$PWD/$BENCH_DIR # the made key stays out of the user's own state directory
export XDG_STATE_HOME LUA BENCH_DIR BENCH_DOCS BENCH_PIDS BENCH_COMMIT
export LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;"
export LUA_CPATH="${BENCH_CPATH:-lua/?.so};$BENCH_DIR/?.so;;"
"$LUA" "${BENCH_PROGRAM:-bench/run.lua}" "$@"
