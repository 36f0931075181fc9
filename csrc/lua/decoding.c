/* Content codings of HTTP (RFC 9110 8.4.1) undone in Lua: bytes go in piece by piece, and come out in pieces
 * of a bounded size, so that a few bytes that stand for many cost no more memory than any others. */
#define ZSTD_STATIC_LINKING_ONLY /* for ZSTD_customMem: memory of the core comes from base/mem.h */
#define ZLIB_CONST
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>
#include "../base/mem.h"
#include "binding.h"
#include "errors.h"
#include "luaaux.h"

#define DECODER_MT "echostream.decoder"
#define OUT_BYTES  65536
#define WINDOW_LOG 23 /* RFC 9659: more than that nobody may ask of the reader of "zstd" */

struct decoder { /* userdata; user value 1: the string that is being read */
    enum { DECODER_OVER, DECODER_GZIP, DECODER_ZSTD } kind;
    z_stream z;     /* of GZIP */
    ZSTD_DCtx *ctx; /* owned: of ZSTD */
    size_t at;      /* bytes of the string that were read */
    int begun;      /* a byte came */
    int whole;      /* what came ends where it may end */
};

static const ZSTD_customMem counted = {es_mem_take, es_mem_give, NULL};

static void decoder_end(struct decoder *d)
{
    if (d->kind == DECODER_GZIP)
        (void)inflateEnd(&d->z);
    else if (d->kind == DECODER_ZSTD)
        (void)ZSTD_freeDCtx(d->ctx);
    d->kind = DECODER_OVER;
}

static struct decoder *check(lua_State *L)
{
    return luaL_checkudata(L, 1, DECODER_MT);
}

/* Each fills `out` as far as the input goes: 0, or an es_err. *used, *made: bytes. */
static int gunzip(struct decoder *d, const char *p, size_t n, char *out, size_t *used, size_t *made)
{
    int rc = Z_OK;

    d->z.next_in = (const Bytef *)p;
    d->z.avail_in = (uInt)n;
    d->z.next_out = (Bytef *)out;
    d->z.avail_out = OUT_BYTES;
    while (rc == Z_OK && d->z.avail_out > 0 && d->z.avail_in > 0) {
        if (d->whole && inflateReset(&d->z) != Z_OK) /* another member (RFC 1952 2.2) */
            return ES_ERR_PROTOCOL;
        d->whole = 0;
        rc = inflate(&d->z, Z_NO_FLUSH);
        if (rc == Z_STREAM_END) {
            d->whole = 1;
            rc = Z_OK;
        }
    }
    if (rc == Z_OK && !d->whole && n == 0 && d->begun) { /* what did not fit before */
        rc = inflate(&d->z, Z_NO_FLUSH);
        d->whole = rc == Z_STREAM_END;
    }
    *used = n - d->z.avail_in;
    *made = OUT_BYTES - d->z.avail_out;
    return rc == Z_OK || rc == Z_BUF_ERROR || rc == Z_STREAM_END ? 0
           : rc == Z_MEM_ERROR                                   ? ES_ERR_NOMEM
                                                                 : ES_ERR_PROTOCOL;
}

static int unzstd(struct decoder *d, const char *p, size_t n, char *out, size_t *used, size_t *made)
{
    ZSTD_inBuffer from = {p, n, 0};
    ZSTD_outBuffer to = {out, OUT_BYTES, 0};
    size_t before, rc = 1;

    do {
        before = from.pos + to.pos;
        if (from.pos == n && d->whole)
            break; /* between two frames there is nothing to be had */
        rc = ZSTD_decompressStream(d->ctx, &to, &from);
        if (ZSTD_isError(rc))
            return ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation ? ES_ERR_NOMEM : ES_ERR_PROTOCOL;
        d->whole = rc == 0;
    } while (to.pos < OUT_BYTES && from.pos + to.pos > before);
    *used = from.pos;
    *made = to.pos;
    return 0;
}

/* decode(bytes): what comes of them, at most 64 KiB, and whether there is more to be had with decode(). nil,
 * err: `data_loss`, they are nothing of the kind. */
static int decoder_decode(lua_State *L)
{
    struct decoder *d = check(L);
    size_t n = 0, used = 0, made = 0;
    const char *p = "";
    luaL_Buffer b;

    lua_settop(L, 2);
    if (d->kind == DECODER_OVER)
        return es_lua_closed(L, "decoder");
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TSTRING);
        luaL_argcheck(L, lua_rawlen(L, 2) < (size_t)1 << 31, 2, "expected less than 2 GiB");
        lua_setiuservalue(L, 1, 1);
        d->at = 0;
    }
    if (lua_getiuservalue(L, 1, 1) == LUA_TSTRING)
        p = lua_tolstring(L, -1, &n);
    d->begun |= n > 0;
    char *out = luaL_buffinitsize(L, &b, OUT_BYTES);
    int rc = d->kind == DECODER_GZIP ? gunzip(d, p + d->at, n - d->at, out, &used, &made)
                                     : unzstd(d, p + d->at, n - d->at, out, &used, &made);
    if (rc != 0) {
        int kind = d->kind;
        decoder_end(d);
        if (rc == ES_ERR_NOMEM)
            return es_lua_fail(L, rc, "decoder");
        lua_pushnil(L);
        es_lua_push_error(L, "data_loss", "the body is no %s", kind == DECODER_GZIP ? "gzip" : "zstd");
        return 2;
    }
    d->at += used;
    int more = made == OUT_BYTES || d->at < n;
    if (!more) {
        d->at = 0;
    }
    luaL_pushresultsize(&b, made);
    lua_pushboolean(L, more);
    if (!more) {
        lua_pushnil(L);
        lua_setiuservalue(L, 1, 1);
    }
    return 2;
}

/* finish(): true: what came was whole, or nothing; nil, err: `data_loss` */
static int decoder_finish(lua_State *L)
{
    struct decoder *d = check(L);
    int whole = d->whole || !d->begun;

    if (d->kind == DECODER_OVER)
        return es_lua_closed(L, "decoder");
    decoder_end(d);
    if (whole) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushnil(L);
    es_lua_push_error(L, "data_loss", "the compressed body ends in the middle");
    return 2;
}

static int decoder_gc(lua_State *L)
{
    decoder_end(check(L));
    return 0;
}

/* decoder(coding): "gzip" or "zstd" */
static int core_decoder(lua_State *L)
{
    static const char *const names[] = {"gzip", "zstd", NULL};
    int kind = luaL_checkoption(L, 1, NULL, names);
    int failed;

    struct decoder *d = es_lua_new(L, DECODER_MT, sizeof *d, 1);
    if (kind == 0) {
        d->z.zalloc = es_mem_take_array;
        d->z.zfree = es_mem_give;
        failed = inflateInit2(&d->z, MAX_WBITS + 16) != Z_OK;
        d->kind = failed ? DECODER_OVER : DECODER_GZIP;
    } else {
        d->ctx = ZSTD_createDCtx_advanced(counted);
        d->kind = d->ctx != NULL ? DECODER_ZSTD : DECODER_OVER;
        failed =
            d->ctx == NULL || ZSTD_isError(ZSTD_DCtx_setParameter(d->ctx, ZSTD_d_windowLogMax, WINDOW_LOG));
    }
    return failed ? es_lua_fail(L, ES_ERR_NOMEM, "decoder") : 1;
}

void es_lua_open_decoding(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"decode", decoder_decode}, {"finish", decoder_finish}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", decoder_gc}, {"__close", decoder_gc}, {NULL, NULL}};

    es_lua_class(L, DECODER_MT, methods, meta);
    lua_pushcfunction(L, core_decoder);
    lua_setfield(L, core, "decoder");
}
