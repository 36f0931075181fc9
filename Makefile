# echostream: build, try, test.  `make help` lists the targets.
#
# `make demo` and `make test` work on a fresh Debian 12 or 13: .ci/deps installs with apt what is missing.
# What needs a library is looked up only when it is used, so that every target works before anything is installed.

LUA      ?= lua5.4
CC       ?= cc
BUILD    ?= build
CFLAGS   ?= -O2 -g
SEEDS    ?= 10000
SECONDS  ?= 600
ROCK_TREE ?= build/rocks

# What is linked, and where its headers are. Asked of pkg-config once, at the first use.
PKGS      = libngtcp2 libngtcp2_crypto_gnutls libnghttp3 libnghttp2 gnutls jansson libzstd zlib
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) lua5.4))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)

# SAN: sanitizer flags of a variant build (see asan); CORE: where its module goes.
SAN      ?=
CORE     ?= lua/echostream/core.so
ALL_CFLAGS = -std=c11 -Wall -Wextra -Wno-unused-parameter -fPIC $(CFLAGS) $(SAN)
ALL_CPPFLAGS = -D_GNU_SOURCE $(CPPFLAGS) $(PKG_CFLAGS)

SRC = $(sort $(wildcard csrc/*/*.c))
OBJ = $(SRC:%.c=$(BUILD)/%.o)

.DEFAULT_GOAL := all
# Compile on every processor unless a number of jobs was given.
PARALLEL = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))

all: deps-build  ## build lua/echostream/core.so
	@$(MAKE) --no-print-directory $(PARALLEL) core

core: $(CORE) tunnel

$(CORE): $(OBJ)
	@mkdir -p $(@D)
	$(CC) -shared $(SAN) $(LDFLAGS) -o $@.new $(OBJ) $(PKG_LIBS)
	@mv -f $@.new $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ALL_CPPFLAGS) -MMD -MP -c -o $@ $<

# The tunnel's module: the second rock. llhttp is a library on Debian 13; Debian 12 has its sources (package node-llhttp).
TUNNEL_CORE ?= tunnel/lua/echostream/tunnel/core.so
TUNNEL_SRC = $(sort $(wildcard tunnel/csrc/*/*.c))
LLHTTP_DIR = /usr/share/llhttp
LLHTTP_SRC = $(if $(shell pkg-config --exists libllhttp && echo yes),,$(wildcard $(LLHTTP_DIR)/*.c))
TUNNEL_OBJ = $(TUNNEL_SRC:%.c=$(BUILD)/%.o) $(patsubst csrc/base/%.c,$(BUILD)/csrc/base/%.o,$(wildcard csrc/base/*.c)) \
	$(LLHTTP_SRC:$(LLHTTP_DIR)/%.c=$(BUILD)/llhttp/%.o)
TUNNEL_PKGS = libnghttp2 gnutls $(if $(LLHTTP_SRC),,libllhttp)
TUNNEL_CPPFLAGS = $(eval TUNNEL_CPPFLAGS := -DLLHTTP_STRICT_MODE=1 $(if $(LLHTTP_SRC),-I/usr/share/include/llhttp) \
	$(shell pkg-config --cflags $(TUNNEL_PKGS) lua5.4))$(TUNNEL_CPPFLAGS)
TUNNEL_LIBS = $(eval TUNNEL_LIBS := $(shell pkg-config --libs $(TUNNEL_PKGS)))$(TUNNEL_LIBS)

tunnel: $(if $(TUNNEL_SRC),$(TUNNEL_CORE))

$(TUNNEL_CORE): $(TUNNEL_OBJ)
	@mkdir -p $(@D)
	$(CC) -shared $(SAN) $(LDFLAGS) -o $@.new $(TUNNEL_OBJ) $(TUNNEL_LIBS)
	@mv -f $@.new $@

$(BUILD)/tunnel/%.o: tunnel/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -D_GNU_SOURCE $(CPPFLAGS) $(TUNNEL_CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/llhttp/%.o: $(LLHTTP_DIR)/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) -std=c11 -fPIC $(CFLAGS) $(SAN) $(TUNNEL_CPPFLAGS) -c -o $@ $<

# Rewritten only when the flags changed, so that a change of CFLAGS rebuilds and nothing else does.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS) $(CPPFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(CPPFLAGS)' > $@

deps-%: FORCE
	@.ci/deps $*

demo: all  ## a server and a client in two processes: RPC and events both ways, a two-way stream
	@.ci/demo

test: all deps-test  ## C tests and specs; prints "N passed, N failed"
	@BUILD=$(BUILD) .ci/test

ASAN_MAKE = BUILD=build/asan CORE=build/asan/lua/echostream/core.so TUNNEL_CORE=build/asan/lua/echostream/tunnel/core.so CFLAGS='-O1 -g -fno-omit-frame-pointer' \
	SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined -Wl,-z,nodelete'
asan: deps-build deps-test  ## the whole suite under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory $(PARALLEL) core $(ASAN_MAKE)
	@BUILD=build/asan VARIANT=asan .ci/test

valgrind: all deps-test deps-valgrind  ## the unit specs under valgrind
	@BUILD=$(BUILD) VARIANT=valgrind .ci/test spec/unit

lint: deps-lint  ## layers, formats, the rockspec's list, docs and specs of every public function
	@.ci/lint

docs:  ## docs/API.md and tunnel/docs/API.md from their API.in.md and the annotations
	@$(LUA) .ci/docs.lua
	@$(LUA) .ci/docs.lua tunnel

sim: all  ## SEEDS=10000 simulated runs with loss, reordering, duplication and corruption
	@BUILD=$(BUILD) SEEDS=$(SEEDS) bash spec/c/sim.sh

rebinding: all deps-test  ## a NAT that changes a client's address each second, for a minute: RUNS=25 simulated ones, then sockets
	@.ci/env $(LUA) spec/campaign/rebinding.lua $(RUNS)

hostile: deps-build  ## peers that break every rule: each case ten times, then floods, slow ones and a million resets
	@BUILD=$(BUILD) spec/c/hostile.sh

CASES    ?=
interop: all deps-test  ## the cases of quic-interop-runner, simulated and between processes; CASES='real handshake' to choose
	@.ci/env $(LUA) spec/interop/run.lua $(CASES)

goodput: all deps-bench  ## a lossy 10 Mbit/s path, beside ngtcp2's own server and client
	@.ci/env $(LUA) bench/goodput.lua

CALLS ?= 1000000
campaign-calls: all  ## CALLS=1000000 simulated calls of which 30 % time out, are cancelled or lose their connection
	@CALLS=$(CALLS) .ci/env $(LUA) spec/campaigns/calls.lua

LEDGER_KILLS ?= 100
RETRY_SEEDS ?= 1000
NETWORK ?= loss=0.03 duplicate=0.03 reorder=0.03 delay=0.002 rebind=5
campaign-ledger: all deps-test  ## CALLS=1000000 simulated calls at 5 % loss, a tenth between processes, LEDGER_KILLS=100 servers killed: each runs once
	@BUILD=$(BUILD) bash spec/c/sim.sh calls $(CALLS) 0.05
	@.ci/env $(LUA) spec/interop/calls.lua $$(($(CALLS) / 10))
	@KILLS=$(LEDGER_KILLS) NETWORK='$(NETWORK)' .ci/env $(LUA) spec/campaigns/kill.lua

campaign-retries: all  ## RETRY_SEEDS=1000 simulated networks with retries, addresses that change and servers that vanish: each call runs as often as said
	@SEEDS=$(RETRY_SEEDS) .ci/env $(LUA) spec/campaigns/ledger.lua

campaign-streams: all  ## SEEDS=10000 simulated networks with streaming calls of every kind
	@SEEDS=$(SEEDS) .ci/env $(LUA) spec/campaigns/streams.lua

campaign-clock: all  ## SEEDS=2000 simulated pairs of wrong clocks for CLOCK_SECONDS=200, 50 ms apart with 20 ms of jitter: within 10 ms
	@SEEDS=$(if $(filter command environment,$(origin SEEDS)),$(SEEDS),2000) SECONDS=$(or $(CLOCK_SECONDS),200) .ci/env $(LUA) spec/campaigns/clock.lua

KILLS ?= 1000
campaign-kill: all deps-test  ## KILLS=1000 times kill -9 of a server under load: clients come back, nothing runs twice
	@KILLS=$(KILLS) .ci/env $(LUA) spec/campaigns/kill.lua

campaign-chaos: all deps-test  ## SECONDS=120 of three servers killed and paused at random behind a lossy network; prints a ledger
	@.ci/env $(LUA) examples/chaos.lua $(if $(filter command environment,$(origin SECONDS)),$(SECONDS),120)

RESTARTS ?= 100
campaign-rolling: all deps-test  ## RESTARTS=100 rolling restarts under load: no call of CALLS=1000000 fails, each stop within its grace
	@RESTARTS=$(RESTARTS) CALLS=$(CALLS) .ci/env $(LUA) spec/campaigns/rolling.lua

campaign-reload: all  ## RELOADS=1000 times a server's code is changed under load: no call fails, memory stays
	@RELOADS=$(or $(RELOADS),1000) .ci/env $(LUA) spec/campaigns/reload.lua

campaign-slow: all deps-test  ## MIB=1024 into a reader in another process that takes RATE=1 MB/s: memory of both
	@MIB=$(or $(MIB),1024) RATE=$(or $(RATE),1) .ci/env $(LUA) spec/campaigns/slow.lua

campaign-overload: all deps-test  ## three times as many calls as a server can serve, for OVERLOAD_SECONDS=10 (CPU_US=100 of the handler)
	@SECONDS=$(or $(OVERLOAD_SECONDS),10) CPU_US=$(or $(CPU_US),100) .ci/env $(LUA) spec/campaigns/overload.lua

campaign-fleet: all  ## SEEDS=300 simulated runs of a fleet and a client that reconnects, while servers stop and start and networks go
	@SEEDS=$(if $(filter command environment,$(origin SEEDS)),$(SEEDS),300) .ci/env $(LUA) spec/campaigns/fleet.lua

campaign-tunnel-streams: all deps-test  ## MIB=1024 through a tunnel with flat memory, SOCKETS=1000 idle WebSockets, the time added to a first byte; MIB=10240 for 10 GB
	@MIB=$(or $(MIB),1024) SOCKETS=$(or $(SOCKETS),1000) EVENTS=$(or $(EVENTS),200) .ci/env $(LUA) tunnel/spec/campaigns/streams.lua

campaign-tunnel-aborted: all  ## ABORTS=10000 downloads through a tunnel that visitors abort: memory and streams are back where they were
	@ABORTS=$(or $(ABORTS),10000) .ci/env $(LUA) tunnel/spec/campaigns/aborted.lua

campaign-tunnel-slow: all  ## READERS=50 visitors that take 50 KB/s, and one that is fast: its p99 is less than twice what it is alone
	@READERS=$(or $(READERS),50) .ci/env $(LUA) tunnel/spec/campaigns/slow_readers.lua

campaign-tunnel-grpc: all deps-interop  ## ROUNDS=20 of gRPC's interop cases through a tunnel with TLS, grpc-js and grpcio as clients and servers
	@ROUNDS=$(or $(ROUNDS),20) .ci/env $(LUA) tunnel/spec/campaigns/grpc.lua

campaign-tunnel-restart: all deps-test  ## AGENTS=200 of a server that is killed: all back within 30 s, at most 20 handshakes in any 100 ms
	@AGENTS=$(or $(AGENTS),200) DOWN=$(or $(DOWN),0.5) .ci/env $(LUA) tunnel/spec/campaigns/restart.lua

campaign-tunnel-attackers: all deps-interop  ## slowhttptest from CONNECTIONS=400 connections for SECONDS=25 each way: honest visitors lose nothing
	@SECONDS=$(if $(filter command environment,$(origin SECONDS)),$(SECONDS),25) CONNECTIONS=$(or $(CONNECTIONS),400) .ci/env $(LUA) tunnel/spec/campaigns/attackers.lua

campaign-cancel: all deps-test  ## CANCELS=100000 calls cancelled at every stage of their life
	@CANCELS=$(or $(CANCELS),100000) .ci/env $(LUA) .ci/busted.lua spec/integration/cancel_spec.lua

fuzz: deps-build deps-fuzz  ## each fuzz target for SECONDS=600
	@SECONDS_EACH=$(SECONDS) bash spec/fuzz/run.sh $(SECONDS)

bench: all deps-bench  ## the figures the README quotes, beside their peers
	@if [ -f bench/run.sh ]; then bash bench/run.sh; else .ci/env $(LUA) bench/run.lua; fi

bench-tunnel: all deps-interop  ## the tunnel beside nginx, nginx as a proxy and HAProxy; ROWS='small bulk rate'
	@.ci/env $(LUA) bench/tunnel.lua $(ROWS)

bench-seed: all  ## the table that the design set out with: set-up, streaming, codec, backpressure, retry, clean-up
	@bash bench/run.sh --seed-table

install-rock: deps-build deps-rock  ## install both rocks into ROCK_TREE=build/rocks (/usr/local needs root)
	@.ci/rock '$(ROCK_TREE)'

check-debian13:  ## the whole suite inside a Debian 13 chroot (DEBIAN13=dir to choose where it is kept)
	@.ci/debian13

clean:  ## remove everything that was built
	rm -rf $(BUILD) build lua/echostream/core.so lua/echostream/core.so.new echostream tunnel/lua/echostream/tunnel/core.so*
	find csrc -name '*.o' -delete

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-16s %s\n", $$1, $$2 }'

FORCE:
-include $(OBJ:.o=.d) $(TUNNEL_OBJ:.o=.d)
.PHONY: bench-tunnel bench-seed all core tunnel docs demo test asan valgrind lint sim interop goodput hostile campaign-calls campaign-slow campaign-overload campaign-cancel campaign-clock campaign-ledger campaign-chaos campaign-fleet campaign-kill campaign-rolling campaign-reload campaign-streams fuzz bench install-rock check-debian13 clean help FORCE
