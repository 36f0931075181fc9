/* Histograms in Lua: what metrics.lua records times and sizes with. Values are non-negative integers; the
 * unit is the user's. */
#include "binding.h"
#include "../base/histogram.h"
#include "luaaux.h"

#define HISTOGRAM_MT "echostream.histogram"

static struct es_histogram *check(lua_State *L)
{
    return luaL_checkudata(L, 1, HISTOGRAM_MT);
}

static uint64_t check_value(lua_State *L, int idx)
{
    lua_Number v = luaL_checknumber(L, idx);

    if (!(v > 0))
        return 0;
    return v < 0x1p62 ? (uint64_t)v : UINT64_C(1) << 62;
}

static int core_histogram(lua_State *L)
{
    (void)es_lua_new(L, HISTOGRAM_MT, sizeof(struct es_histogram), 0);
    return 1;
}

static int histogram_add(lua_State *L)
{
    struct es_histogram *h = check(L);
    uint64_t v = check_value(L, 2);
    lua_Integer n = luaL_optinteger(L, 3, 1);

    luaL_argcheck(L, n >= 0, 3, "how often is no negative number");
    if (n > 0) {
        es_histogram_add(h, v);
        h->bucket[es_histogram_index(v)] += (uint64_t)n - 1;
        h->count += (uint64_t)n - 1;
        h->sum += v * ((uint64_t)n - 1);
    }
    return 0;
}

/* The buckets that are not empty: a list of the largest value that falls into each, of the last one that did,
 * and the count, in turns. */
static int histogram_buckets(lua_State *L)
{
    const struct es_histogram *h = check(L);
    lua_Integer at = 0;

    lua_newtable(L);
    for (unsigned i = 0; i < ES_HISTOGRAM_BUCKETS; i++) {
        if (h->bucket[i] != 0) {
            uint64_t upper = i < ES_HISTOGRAM_BUCKETS - 1 ? es_histogram_upper(i) : h->max;
            lua_pushinteger(L, (lua_Integer)upper);
            lua_rawseti(L, -2, ++at);
            lua_pushinteger(L, (lua_Integer)h->bucket[i]);
            lua_rawseti(L, -2, ++at);
        }
    }
    return 1;
}

/* count, sum, max */
static int histogram_totals(lua_State *L)
{
    const struct es_histogram *h = check(L);

    lua_pushinteger(L, (lua_Integer)h->count);
    lua_pushinteger(L, (lua_Integer)h->sum);
    lua_pushinteger(L, (lua_Integer)h->max);
    return 3;
}

static int histogram_quantile(lua_State *L)
{
    lua_Number q = luaL_checknumber(L, 2);

    luaL_argcheck(L, q >= 0 && q <= 1, 2, "a share is 0 to 1");
    lua_pushnumber(L, es_histogram_quantile(check(L), q));
    return 1;
}

static int histogram_at_most(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)es_histogram_at_most(check(L), check_value(L, 2)));
    return 1;
}

static int histogram_merge(lua_State *L)
{
    es_histogram_merge(check(L), luaL_checkudata(L, 2, HISTOGRAM_MT));
    return 0;
}

void es_lua_push_histogram(lua_State *L, const struct es_histogram *h)
{
    struct es_histogram *copy = es_lua_new(L, HISTOGRAM_MT, sizeof *copy, 0);

    if (h)
        *copy = *h;
}

void es_lua_open_histogram(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"add", histogram_add},
                                       {"totals", histogram_totals},
                                       {"quantile", histogram_quantile},
                                       {"at_most", histogram_at_most},
                                       {"merge", histogram_merge},
                                       {"buckets", histogram_buckets},
                                       {NULL, NULL}};
    es_lua_class(L, HISTOGRAM_MT, methods, NULL);
    lua_pushcfunction(L, core_histogram);
    lua_setfield(L, core, "histogram");
}
