/* Values that are encoded once and sent to many: what broadcasts are made of. The bytes are reference
 * counted; each session that has not been acknowledged yet holds one reference, Lua's userdata another. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/frame.h"
#include "codec.h"
#include "errors.h"
#include "luaaux.h"

#define ENCODED_MT "echostream.encoded"

struct encoded {
    unsigned refs;
    int codec;
    size_t len;
    uint8_t data[];
};

static void encoded_unref(void *arg)
{
    struct encoded *e = arg;
    if (--e->refs == 0)
        es_free(e);
}

static int encoded_gc(lua_State *L)
{
    struct encoded **box = luaL_checkudata(L, 1, ENCODED_MT);
    if (*box)
        encoded_unref(*box);
    *box = NULL;
    return 0;
}

static int encoded_len(lua_State *L)
{
    struct encoded **box = luaL_checkudata(L, 1, ENCODED_MT);
    lua_pushinteger(L, *box ? (lua_Integer)(*box)->len : 0);
    return 1;
}

/* core.encode(options, ...): `codec` of the options, MessagePack by default. */
static int core_encode(lua_State *L)
{
    int codec = ES_CODEC_MSGPACK;
    struct es_buf b;
    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TTABLE);
        codec = es_lua_read_codec(L, 1);
    }
    int n = lua_gettop(L) - 1;
    struct encoded **box = es_lua_new(L, ENCODED_MT, sizeof *box, 0);
    lua_insert(L, 1);
    memset(&b, 0, sizeof b);
    if (es_codec_encode(L, codec, 3, n < 0 ? 0 : n, &b) < 0) {
        es_buf_free(&b);
        return luaL_error(L, "%s", lua_tostring(L, -1));
    }
    struct encoded *e = es_malloc(sizeof *e + b.n);
    if (e) {
        e->refs = 1;
        e->codec = codec;
        e->len = b.n;
        if (b.n)
            memcpy(e->data, b.p, b.n);
    }
    es_buf_free(&b);
    if (!e)
        return luaL_error(L, "out of memory");
    *box = e;
    lua_settop(L, 1);
    return 1;
}

static int emit_failed(lua_State *L, struct es_lsession *ls, int rc, const char *name, int unreliable)
{
    struct es_link_stats st;
    switch (rc) {
    case ES_ERR_AGAIN:
        lua_pushnil(L);
        lua_pushliteral(L, "again");
        return 2;
    case ES_ERR_CLOSED:
        return es_lsession_closed_error(L);
    case ES_ERR_INVAL:
        return luaL_error(L,
                          "%s: an event name is 1 to 256 bytes of A-Z a-z 0-9 . _ / : - ; metadata keys are "
                          "lower case",
                          name);
    case ES_ERR_TOO_LARGE:
        if (!unreliable)
            break;
        es_link_stats_get(es_session_link(ls->s), &st);
        lua_pushnil(L);
        es_lua_push_error(
            L, "resource_exhausted",
            "%s: an unreliable event must fit one datagram: %d bytes now, with its name and head", name,
            (int)st.max_datagram);
        return 2;
    default:
        break;
    }
    return es_lua_fail(L, rc, name);
}

/* session:emit_encoded(name, options, encoded) */
int es_lsession_emit_encoded(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    size_t len, n_kv = 0;
    const char *name = es_lua_check_text(L, 2, &len);
    struct encoded *e = *(struct encoded **)luaL_checkudata(L, 4, ENCODED_MT);
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    lua_Integer lane = 0;
    int unreliable = 0;
    if (!ls)
        return es_lsession_closed_error(L);
    struct es_packing packing = ls->host->packing;
    if (!lua_isnoneornil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        es_lua_opt_integer(L, 3, "lane", 0, 7, &lane);
        es_lua_opt_boolean(L, 3, "unreliable", &unreliable);
        (void)es_lua_read_packing(L, 3, &packing);
        lua_getfield(L, 3, "metadata");
        n_kv = es_lua_read_kv(L, -1, "metadata", kv, ES_MAX_META_PAIRS);
        lua_pop(L, 1);
    }
    int shared = e->len >= ES_ANCHOR_BYTES;
    e->refs += (unsigned)shared;
    int rc = es_session_emit_ref(ls->s, &packing, name, len, unreliable ? ES_LANE_DATAGRAM : (int)lane,
                                 e->codec, kv, n_kv, 0, e->data, e->len, shared ? encoded_unref : NULL, e);
    if (rc == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    e->refs -= (unsigned)shared;
    if (rc == ES_ERR_UNSUPPORTED && es_session_takes_codec(ls->s, e->codec) != 1)
        return es_lua_codec_unknown(L, name, e->codec);
    return emit_failed(L, ls, rc, name, unreliable);
}

void es_lua_open_encoded(lua_State *L, int core)
{
    static const luaL_Reg meta[] = {{"__gc", encoded_gc}, {"__len", encoded_len}, {NULL, NULL}};
    es_lua_class(L, ENCODED_MT, NULL, meta);
    lua_pushcfunction(L, core_encode);
    lua_setfield(L, core, "encode");
}
