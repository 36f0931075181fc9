/* What a host counts, for metrics.lua: numbers as they are, times as histograms that Lua may merge and ask
 * for quantiles. */
#include "binding.h"
#include "../base/histogram.h"
#include "../dispatch/host.h"
#include "../framing/frame.h"
#include "luaaux.h"

static void set_integer(lua_State *L, const char *name, uint64_t v)
{
    lua_pushinteger(L, (lua_Integer)v);
    lua_setfield(L, -2, name);
}

static void set_histogram(lua_State *L, const char *name, const struct es_histogram *h)
{
    es_lua_push_histogram(L, h);
    lua_setfield(L, -2, name);
}

/* Adds { name, refused, codes = { timeout = n }, time } of a meter to the table at the top. */
static void set_meter(lua_State *L, const struct es_meter *m)
{
    if (!m)
        return;
    set_integer(L, "refused", m->refused);
    set_histogram(L, "time", &m->time);
    lua_newtable(L);
    for (int i = 0; i < ES_METER_STATUSES; i++)
        if (m->status[i])
            set_integer(L, i == ES_STATUS_OK ? "ok" : es_status_code(i), m->status[i]);
    lua_setfield(L, -2, "codes");
}

/* A list of what the host offers of one kind. */
static void push_methods(lua_State *L, const struct es_host *h, enum es_kind kind)
{
    size_t it = 0;
    void *value;
    lua_newtable(L);
    for (lua_Integer i = 1; es_map_next(&h->methods[kind], &it, NULL, NULL, &value); i++) {
        const struct es_method *m = value;
        lua_createtable(L, 0, 6);
        lua_pushlstring(L, m->name, m->name_len);
        lua_setfield(L, -2, "name");
        uint64_t calls = 0;
        for (const struct es_method *each = m; each; each = each->older)
            calls += each->calls;
        set_integer(L, "calls", calls);
        set_integer(L, "running", es_method_inside(m));
        lua_pushboolean(L, (m->flags & ES_METHOD_STREAM) != 0);
        lua_setfield(L, -2, "streaming");
        set_meter(L, m->meter);
        lua_rawseti(L, -2, i);
    }
}

/* A list of what the host called of one kind; the names beyond the limit have the name "". */
static void push_outgoing(lua_State *L, const struct es_host *h, int stream)
{
    size_t it = 0;
    void *value;
    lua_Integer i = 1;
    lua_newtable(L);
    for (;;) {
        const struct es_meter *m = NULL;
        if (es_map_next(&h->meters[stream], &it, NULL, NULL, &value))
            m = value;
        const struct es_meter *each = m ? m : h->other_meter[stream];
        if (each) {
            lua_createtable(L, 0, 4);
            lua_pushlstring(L, each->name, each->name_len);
            lua_setfield(L, -2, "name");
            set_meter(L, each);
            lua_rawseti(L, -2, i++);
        }
        if (!m)
            return;
    }
}

static void add_meter(uint64_t sum[ES_METER_STATUSES], const struct es_meter *m)
{
    for (int i = 0; m && i < ES_METER_STATUSES; i++)
        sum[i] += m->status[i];
}

static void push_sum(lua_State *L, const uint64_t sum[ES_METER_STATUSES])
{
    lua_newtable(L);
    for (int i = 0; i < ES_METER_STATUSES; i++)
        if (sum[i])
            set_integer(L, i == ES_STATUS_OK ? "ok" : es_status_code(i), sum[i]);
}

/* host:outcomes() -> incoming, outgoing: how many calls and streams ended how, { ok = n, timeout = n, … } */
int es_lua_host_outcomes(lua_State *L)
{
    struct es_lhost *lh = es_lua_check_host(L, 1);
    const struct es_host *h = lh->host;
    uint64_t in[ES_METER_STATUSES] = {0}, out[ES_METER_STATUSES] = {0};
    void *value;
    for (int kind = 0; kind < ES_KINDS; kind++)
        for (size_t it = 0; kind != ES_KIND_EVENT && es_map_next(&h->methods[kind], &it, NULL, NULL, &value);)
            add_meter(in, ((const struct es_method *)value)->meter);
    for (int stream = 0; stream < 2; stream++) {
        for (size_t it = 0; es_map_next(&h->meters[stream], &it, NULL, NULL, &value);)
            add_meter(out, value);
        add_meter(out, h->other_meter[stream]);
    }
    push_sum(L, in);
    push_sum(L, out);
    return 2;
}

static void set_link(lua_State *L, const struct es_host *h, const struct es_host_figures *f)
{
    const struct es_link_totals *t = &f->link;
    lua_createtable(L, 0, 20);
#define FIELD(name) set_integer(L, #name, t->name)
    FIELD(bytes_sent);
    FIELD(bytes_received);
    FIELD(packets_sent);
    FIELD(packets_received);
    FIELD(packets_lost);
    FIELD(ecn_ce);
    FIELD(migrations);
    FIELD(mtu_reductions);
    FIELD(key_updates);
    FIELD(resumed);
    FIELD(early_accepted);
    FIELD(early_rejected);
#undef FIELD
    set_histogram(L, "handshakes", &h->handshakes);
    set_histogram(L, "rtt", &f->rtt);
    set_histogram(L, "cwnd", &f->cwnd);
    set_histogram(L, "held", &f->held);
    lua_setfield(L, -2, "quic");
}

/* host:figures() -> table */
int es_lua_host_figures(lua_State *L)
{
    struct es_lhost *lh = es_lua_check_host(L, 1);
    const struct es_host *h = lh->host;
    struct es_host_figures f;
    es_session_figures(lh->host, &f);
    lua_createtable(L, 0, 16);
#define FIELD(name) set_integer(L, #name, f.name)
    FIELD(open);
    FIELD(pending);
    FIELD(running);
    FIELD(channels_in);
    FIELD(channels_out);
    FIELD(events);
    FIELD(unsent);
    FIELD(unread);
#undef FIELD
    set_link(L, h, &f);
    push_methods(L, h, ES_KIND_RPC);
    lua_setfield(L, -2, "methods");
    push_methods(L, h, ES_KIND_STREAM);
    lua_setfield(L, -2, "streams");
    push_methods(L, h, ES_KIND_EVENT);
    lua_setfield(L, -2, "event_handlers");
    push_outgoing(L, h, 0);
    lua_setfield(L, -2, "calls_out");
    push_outgoing(L, h, 1);
    lua_setfield(L, -2, "streams_out");
    return 1;
}
