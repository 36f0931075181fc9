// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/err.c csrc/lua/errors.c csrc/lua/luaaux.c csrc/lua/value.c
// needs: csrc/lua/msgpack.c csrc/lua/json.c csrc/lua/codec.c csrc/lua/codec_custom.c csrc/lua/ext.c
// needs: csrc/framing/kv.c csrc/base/varint.c csrc/session/text.c
// pkgs: lua5.4 jansson
/* What a peer sends as a payload: byte 0 chooses the codec and the form (an array of values, or one value),
 * byte 1 which of Lua's allocations fails (0: none), the rest is the payload. What decodes is encoded and
 * decoded again: both encodings are equally long (the order of a map's keys is free), and both decodings give
 * as many values. Whatever happens, the stack is as the contract says and no more memory is used than the
 * input can justify. */
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../csrc/base/err.h"
#include "../../csrc/lua/codec.h"
#include "../../csrc/lua/errors.h"
#include "../../csrc/session/session.h"

#define MUST(x)                                                                                              \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                          \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static size_t in_use, peak;
static unsigned fail_in;

static void *alloc(void *ud, void *p, size_t old, size_t n)
{
    (void)ud;
    if (n == 0) {
        in_use -= p != NULL ? old : 0;
        free(p);
        return NULL;
    }
    if ((p == NULL || n > old) && fail_in != 0 && --fail_in == 0) {
        return NULL;
    }
    void *q = realloc(p, n);
    if (q != NULL) {
        in_use += n - (p != NULL ? old : 0);
        peak = in_use > peak ? in_use : peak;
    }
    return q;
}

struct input {
    int codec, single;
    const uint8_t *p;
    size_t n;
    struct es_buf *first, *second; /* outlive a raised error */
};

static int decode(lua_State *L, const struct input *in, const uint8_t *p, size_t n, int *count)
{
    int top = lua_gettop(L), rc;

    *count = 1;
    rc = in->single ? es_codec_unpack(L, in->codec, p, n) : es_codec_decode(L, in->codec, p, n, count);
    if (rc == 0) {
        MUST(lua_gettop(L) == top + *count && *count <= 250);
    } else {
        MUST(rc < 0 && lua_gettop(L) == top + 1 && lua_type(L, -1) == LUA_TSTRING);
    }
    return rc;
}

static int encode(lua_State *L, const struct input *in, int first, int count, struct es_buf *out)
{
    int top = lua_gettop(L);
    int rc = in->single ? es_codec_pack(L, in->codec, first, out)
                        : es_codec_encode(L, in->codec, first, count, out);

    MUST(lua_gettop(L) == (rc == 0 ? top : top + 1));
    return rc;
}

static int body(lua_State *L)
{
    struct input *in = lua_touserdata(L, 1);
    int count, again;

    if (decode(L, in, in->p, in->n, &count) != 0) {
        return 0;
    }
    int rc = encode(L, in, 2, count, in->first);
    MUST(rc == 0); /* whatever can be received can be sent */
    lua_settop(L, 1);
    rc = decode(L, in, in->first->p, in->first->n, &again);
    MUST(rc == 0 && again == count);
    MUST(encode(L, in, 2, again, in->second) == 0);
    MUST(in->first->n == in->second->n);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    static unsigned runs;
    struct es_buf first = {0}, second = {0};

    if (L == NULL) {
        L = lua_newstate(alloc, NULL);
        MUST(L != NULL);
        lua_newtable(L);
        es_lua_open_errors(L, 1);
        es_lua_open_codec(L, 1);
    }
    if (size < 2) {
        return 0;
    }
    struct input in = {.codec = data[0] & 1 ? ES_CODEC_JSON : ES_CODEC_MSGPACK,
                       .single = data[0] >> 1 & 1,
                       .p = data + 2,
                       .n = size - 2,
                       .first = &first,
                       .second = &second};
    if (++runs % 256 == 0) {
        lua_gc(L, LUA_GCCOLLECT);
    }
    lua_settop(L, 1);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, &in);
    size_t before = in_use;
    peak = in_use;
    fail_in = data[1];
    int rc = lua_pcall(L, 1, 0, 0);
    fail_in = 0;
    MUST(rc == LUA_OK || rc == LUA_ERRMEM);
    /* two decodings, and a table costs up to some 60 bytes for each byte of input (an empty one 56) */
    MUST(peak - before < 65536 + 200 * size);
    es_buf_free(&first);
    es_buf_free(&second);
    return 0;
}
