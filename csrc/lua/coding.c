/* Content codings of HTTP (RFC 9110 8.4.1) in Lua: bytes go in piece by piece, what is ready comes out. */
#define ZSTD_STATIC_LINKING_ONLY /* for ZSTD_customMem: memory of the core comes from base/mem.h */
#define ZLIB_CONST
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include "../base/mem.h"
#include "binding.h"
#include "errors.h"
#include "luaaux.h"

#define CODER_MT   "echostream.coder"
#define WINDOW_LOG 23 /* RFC 9659: what every client of the coding "zstd" has room for */

struct coder { /* userdata */
    enum { CODER_OVER, CODER_GZIP, CODER_ZSTD } kind;
    z_stream z;     /* of GZIP */
    ZSTD_CCtx *ctx; /* owned: of ZSTD */
};

static const ZSTD_customMem counted = {es_mem_take, es_mem_give, NULL};

static void coder_end(struct coder *c)
{
    if (c->kind == CODER_GZIP)
        (void)deflateEnd(&c->z);
    else if (c->kind == CODER_ZSTD)
        (void)ZSTD_freeCCtx(c->ctx);
    c->kind = CODER_OVER;
}

/* ---- coding ---- */

static int gzip(struct coder *c, luaL_Buffer *b, const char *p, size_t n, int end)
{
    c->z.next_in = (const Bytef *)p;
    c->z.avail_in = (uInt)n;
    for (;;) {
        c->z.next_out = (Bytef *)luaL_prepbuffer(b);
        c->z.avail_out = (uInt)LUAL_BUFFERSIZE;
        int rc = deflate(&c->z, end ? Z_FINISH : Z_SYNC_FLUSH);
        luaL_addsize(b, LUAL_BUFFERSIZE - c->z.avail_out);
        if (rc == Z_STREAM_END || (rc == Z_BUF_ERROR && !end) || (rc == Z_OK && c->z.avail_out > 0 && !end))
            return 0;
        if (rc != Z_OK)
            return ES_ERR_INVAL;
    }
}

static int zstd(struct coder *c, luaL_Buffer *b, const char *p, size_t n, int end)
{
    ZSTD_inBuffer in = {p, n, 0};
    size_t left;

    do {
        ZSTD_outBuffer out = {luaL_prepbuffer(b), LUAL_BUFFERSIZE, 0};
        left = ZSTD_compressStream2(c->ctx, &out, &in, end ? ZSTD_e_end : ZSTD_e_flush);
        luaL_addsize(b, out.pos);
    } while (!ZSTD_isError(left) && left > 0);
    return ZSTD_isError(left) ? ES_ERR_NOMEM : 0;
}

static struct coder *check(lua_State *L)
{
    return luaL_checkudata(L, 1, CODER_MT);
}

/* push(bytes): what the other side needs to see all of it; finish(bytes): the last. nil, err: it is over, or
 * out of memory. */
static int code(lua_State *L, int end)
{
    struct coder *c = check(L);
    luaL_Buffer b;
    size_t n;
    const char *p = luaL_optlstring(L, 2, "", &n);

    luaL_argcheck(L, n < (size_t)1 << 31, 2, "expected less than 2 GiB");
    if (c->kind == CODER_OVER)
        return es_lua_closed(L, "coder");
    luaL_buffinit(L, &b);
    int rc = c->kind == CODER_GZIP ? gzip(c, &b, p, n, end) : zstd(c, &b, p, n, end);
    if (end || rc != 0)
        coder_end(c);
    if (rc != 0)
        return es_lua_fail(L, rc, "coder");
    luaL_pushresult(&b);
    return 1;
}

static int coder_push(lua_State *L)
{
    return code(L, 0);
}

static int coder_finish(lua_State *L)
{
    return code(L, 1);
}

static int coder_gc(lua_State *L)
{
    coder_end(check(L));
    return 0;
}

/* coder(coding, level): "gzip" or "zstd" */
static int core_coder(lua_State *L)
{
    static const char *const names[] = {"gzip", "zstd", NULL};
    int kind = luaL_checkoption(L, 1, NULL, names);
    lua_Integer level = luaL_optinteger(L, 2, 3);
    int rc = 0;

    luaL_argcheck(L, level >= 1 && level <= 9, 2, "a level is 1 to 9");
    struct coder *c = es_lua_new(L, CODER_MT, sizeof *c, 0);
    if (kind == 0) {
        c->z.zalloc = es_mem_take_array;
        c->z.zfree = es_mem_give;
        rc = deflateInit2(&c->z, (int)level, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK;
        c->kind = rc == 0 ? CODER_GZIP : CODER_OVER;
    } else {
        c->ctx = ZSTD_createCCtx_advanced(counted);
        c->kind = c->ctx != NULL ? CODER_ZSTD : CODER_OVER;
        rc = c->ctx == NULL ||
             ZSTD_isError(ZSTD_CCtx_setParameter(c->ctx, ZSTD_c_compressionLevel, (int)level)) ||
             ZSTD_isError(ZSTD_CCtx_setParameter(c->ctx, ZSTD_c_windowLog, WINDOW_LOG - 5));
    }
    return rc != 0 ? es_lua_fail(L, ES_ERR_NOMEM, "coder") : 1;
}

void es_lua_open_coding(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"push", coder_push}, {"finish", coder_finish}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", coder_gc}, {"__close", coder_gc}, {NULL, NULL}};

    es_lua_class(L, CODER_MT, methods, meta);
    lua_pushcfunction(L, core_coder);
    lua_setfield(L, core, "coder");
}
