/* Probes in Lua: what the doctor finds out with where packets stop. */
#include "binding.h"
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include "../base/err.h"
#include "../transport/probe.h"
#include "luaaux.h"

#define PROBE_MT "echostream.probe"

static int probe_close(lua_State *L)
{
    struct es_probe **box = luaL_checkudata(L, 1, PROBE_MT);

    if (*box)
        es_probe_del(*box);
    *box = NULL;
    return 0;
}

static struct es_probe *check(lua_State *L)
{
    struct es_probe **box = luaL_checkudata(L, 1, PROBE_MT);

    luaL_argcheck(L, *box != NULL, 1, "the probe is closed");
    return *box;
}

/* What doctors tell apart, by name; the text says the rest. */
static const char *name_of(int error)
{
    switch (error) {
    case ECONNREFUSED:
        return "ECONNREFUSED";
    case EHOSTUNREACH:
        return "EHOSTUNREACH";
    case ENETUNREACH:
        return "ENETUNREACH";
    case EMSGSIZE:
        return "EMSGSIZE";
    case EPERM:
    case EACCES:
        return "EPERM";
    case EAFNOSUPPORT:
    case EADDRNOTAVAIL:
        return "EAFNOSUPPORT";
    default:
        return "EIO";
    }
}

/* nil, { name =, text = }; 2 */
static int failure(lua_State *L, int error)
{
    lua_pushnil(L);
    lua_createtable(L, 0, 8);
    lua_pushstring(L, name_of(error));
    lua_setfield(L, -2, "name");
    lua_pushstring(L, strerror(error));
    lua_setfield(L, -2, "text");
    return 2;
}

static int core_probe(lua_State *L)
{
    const char *text = es_lua_check_text(L, 1, NULL);
    union es_addr remote;

    luaL_argcheck(L, es_addr_parse(&remote, text) == 0, 1, "not a numeric address with a port");
    struct es_probe **box = es_lua_new(L, PROBE_MT, sizeof *box, 0);
    int rc = es_probe_open(&remote, box);
    if (rc == 0)
        return 1;
    return failure(L, rc == ES_ERR_NOMEM ? ENOMEM : errno);
}

static int probe_send(lua_State *L)
{
    struct es_probe *p = check(L);
    size_t n;
    const char *data = luaL_checklstring(L, 2, &n);
    lua_Integer ttl = luaL_optinteger(L, 3, 0);

    luaL_argcheck(L, ttl >= 0 && ttl <= 255, 3, "0 to 255");
    if (es_probe_send(p, (const uint8_t *)data, n, (int)ttl) != 0)
        return failure(L, errno);
    lua_pushboolean(L, 1);
    return 1;
}

static void push_error(lua_State *L, const struct es_probe_news *news)
{
    failure(L, news->error);
    if (news->icmp) {
        char host[INET6_ADDRSTRLEN] = "?";

        lua_pushinteger(L, news->icmp);
        lua_setfield(L, -2, "icmp");
        lua_pushinteger(L, news->type);
        lua_setfield(L, -2, "type");
        lua_pushinteger(L, news->code);
        lua_setfield(L, -2, "code");
        if (news->has_from) {
            inet_ntop(news->from.sa.sa_family,
                      news->from.sa.sa_family == AF_INET6 ? (const void *)&news->from.in6.sin6_addr
                                                          : (const void *)&news->from.in4.sin_addr,
                      host, sizeof host);
            lua_pushstring(L, host);
            lua_setfield(L, -2, "from");
        }
    }
    if (news->error == EMSGSIZE && news->info) {
        lua_pushinteger(L, news->info);
        lua_setfield(L, -2, "mtu");
    }
}

static int probe_recv(lua_State *L)
{
    struct es_probe *p = check(L);
    uint8_t buf[2048];
    struct es_probe_news news;

    es_probe_recv(p, buf, sizeof buf, &news);
    if (news.kind == ES_PROBE_DATA) {
        lua_pushlstring(L, (const char *)buf, news.len);
        return 1;
    } else if (news.kind == ES_PROBE_ERROR) {
        push_error(L, &news);
        return 2;
    }
    lua_pushnil(L);
    return 1;
}

void es_lua_open_probe(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {
        {"send", probe_send}, {"recv", probe_recv}, {"close", probe_close}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__gc", probe_close}, {"__close", probe_close}, {NULL, NULL}};

    es_lua_class(L, PROBE_MT, methods, metamethods);
    lua_pushcfunction(L, core_probe);
    lua_setfield(L, core, "probe");
}
