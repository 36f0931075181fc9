# First cut; the packaging work extends it.
LUA      ?= lua5.4
CC       ?= cc
BUILD    ?= build
PKGS      = libngtcp2 libngtcp2_crypto_gnutls gnutls jansson lua5.4
CFLAGS   ?= -O2 -g
CPPFLAGS += -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS))
ALL_CFLAGS = -std=c11 -Wall -Wextra -Wno-unused-parameter -fPIC $(CFLAGS)
SRC = $(wildcard csrc/*/*.c)
OBJ = $(SRC:%.c=$(BUILD)/%.o)
all: lua/echostream/core.so
lua/echostream/core.so: $(OBJ)
	$(CC) -shared $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs libngtcp2 libngtcp2_crypto_gnutls gnutls jansson)
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -MMD -c -o $@ $<
clean:
	rm -rf $(BUILD) lua/echostream/core.so
-include $(OBJ:.o=.d)
.PHONY: all clean
