/* Raw QUIC in Lua: events become calls of notify functions, and the methods of connections. */
#include "quic.h"
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"
#include "quic_internal.h"

#define CONN_MT "echostream.conn"

static const char *const names[] = {"open", "bidi", "uni", "datagram", "credit", "closed", "moved"};
static const char userdata_key; /* registry: object -> userdata, weak */

struct es_app *es_lua_raw_app_new(lua_State *L, struct es_lloop *lp, const char *alpn, int fn_index)
{
    lua_pushvalue(L, fn_index);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    struct es_raw_app *a = es_raw_app_new(lp, alpn);
    if (a == NULL) {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        return NULL;
    }
    a->fn_ref = ref;
    return &a->app;
}

void es_lua_raw_app_del(lua_State *L, struct es_app *app)
{
    es_raw_app_unref(app->user);
}

/* ---- events: Lua from here on ---- */

void es_quic_link_userdata(lua_State *L, void *object)
{
    es_lua_registry_table(L, &userdata_key, "v");
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, object);
    lua_pop(L, 1);
}

int es_quic_push(lua_State *L, void *object)
{
    es_lua_registry_table(L, &userdata_key, "v");
    int found = lua_rawgetp(L, -1, object) != LUA_TNIL;
    lua_remove(L, -2);
    return found;
}

void es_quic_notify(lua_State *L, struct es_lloop *lp, void *object, unsigned bits, const char *const *what)
{
    int top = lua_gettop(L);
    for (; bits != 0 && es_quic_push(L, object); bits &= bits - 1, lua_settop(L, top)) {
        if (lua_getiuservalue(L, -1, 1) != LUA_TFUNCTION)
            break;
        lua_pushstring(L, what[__builtin_ctz(bits)]);
        if (lua_pcall(L, 1, 0, 0) != LUA_OK)
            es_lua_log(L, lp->lua, "error", es_lua_error_text(L, -1), NULL, "notify");
    }
    lua_settop(L, top);
}

/* Pushes the connection's userdata, anchored until it is closed. */
static void push_conn(lua_State *L, struct es_lconn *c)
{
    struct es_lconn **box = es_lua_new(L, CONN_MT, sizeof *box, 1);
    es_quic_link_userdata(L, c);
    lua_pushvalue(L, -1);
    c->ud_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    *box = c;
    c->refs++;
}

/* An incoming connection is open: its app's function gets it, in a task. */
static void claim(lua_State *L, struct es_lconn *c)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->app->fn_ref);
    push_conn(L, c);
    c->unclaimed = 0;
    es_task_call(L, c->loop, 1);
}

static int event_body(lua_State *L)
{
    struct es_event *ev = lua_touserdata(L, 1);
    luaL_checkstack(L, 16, NULL);
    if (ev->type == ES_QUIC_EVENT_STREAM) {
        es_lqstream_event(L, ev->owner);
        return 0;
    }
    struct es_lconn *c = ev->owner;
    unsigned bits = c->bits;
    c->bits = 0;
    if (c->unclaimed && (bits & ES_QC_OPEN) != 0)
        claim(L, c);
    es_quic_notify(L, c->loop, c, bits, names);
    if ((bits & ES_QC_CLOSED) != 0)
        es_lconn_unanchor(c);
    return 0;
}

static void let_go(struct es_event *ev)
{
    if (ev->type == ES_QUIC_EVENT_STREAM)
        es_lqstream_unref(ev->owner);
    else
        es_lconn_unref(ev->owner);
}

void es_lua_quic_event(lua_State *L, struct es_event *ev)
{
    struct es_lloop *lp = ev->type == ES_QUIC_EVENT_STREAM ? ((struct es_lqstream *)ev->owner)->conn->loop
                                                           : ((struct es_lconn *)ev->owner)->loop;
    /* The bits may be set again while the functions run: the next record says so. */
    if (ev->type == ES_QUIC_EVENT_STREAM)
        ((struct es_lqstream *)ev->owner)->queued = 0;
    else
        ((struct es_lconn *)ev->owner)->queued = 0;
    lua_pushcfunction(L, event_body);
    lua_pushlightuserdata(L, ev);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* out of memory */
        es_lua_log(L, lp->lua, "error", es_lua_error_text(L, -1), NULL, "quic");
        lua_pop(L, 1);
        struct es_lconn *c = ev->type == ES_QUIC_EVENT_CONN ? ev->owner : NULL;
        if (c != NULL && c->unclaimed && c->link != NULL)
            es_link_close(c->link, 1, ES_APP_INTERNAL, "out of memory");
    }
    struct es_lconn *dead = ev->type == ES_QUIC_EVENT_CONN ? ev->owner : NULL;
    if (dead != NULL && dead->unclaimed && dead->link == NULL)
        es_lconn_drop_waiting(dead);
    let_go(ev);
}

void es_lua_quic_drop(struct es_event *ev)
{
    if (ev->type == ES_QUIC_EVENT_STREAM) {
        ((struct es_lqstream *)ev->owner)->queued = 0;
    } else {
        struct es_lconn *c = ev->owner;
        c->queued = 0;
        if (c->link == NULL) {
            es_lconn_unanchor(c);
            es_lconn_drop_waiting(c);
        }
    }
    let_go(ev);
}

/* ---- methods ---- */

static struct es_lconn *check(lua_State *L)
{
    struct es_lconn *c = *(struct es_lconn **)luaL_checkudata(L, 1, CONN_MT);
    if (c == NULL)
        luaL_error(L, "the connection was collected");
    return c;
}

int es_lconn_push_closed(lua_State *L, const struct es_lconn *c)
{
    if (c->state != ES_LCONN_CLOSED)
        return es_lua_closed(L, "connection");
    lua_pushnil(L);
    es_lua_push_close_err(L, &c->info);
    return 2;
}

static int is_gone(const struct es_lconn *c)
{
    return c->link == NULL || c->closing;
}

static int conn_status(lua_State *L)
{
    struct es_lconn *c = check(L);
    if (c->state != ES_LCONN_CLOSED) {
        lua_pushstring(L, c->state == ES_LCONN_OPEN ? "open" : "connecting");
        return 1;
    }
    lua_pushliteral(L, "closed");
    lua_createtable(L, 0, 4);
    lua_pushstring(L, es_lua_close_cause((int)c->info.cause));
    lua_setfield(L, -2, "cause");
    lua_pushboolean(L, c->info.app);
    lua_setfield(L, -2, "app");
    lua_pushinteger(L, (lua_Integer)c->info.code);
    lua_setfield(L, -2, "code");
    lua_pushstring(L, c->info.reason);
    lua_setfield(L, -2, "reason");
    es_lua_push_close_err(L, &c->info);
    return 3;
}

static int conn_notify(lua_State *L)
{
    luaL_checkudata(L, 1, CONN_MT);
    return es_lua_set_notify(L);
}

static int check_dir(lua_State *L, int arg)
{
    static const char *const dirs[] = {"bidi", "uni", NULL};
    return luaL_checkoption(L, arg, NULL, dirs);
}

static int conn_open(lua_State *L)
{
    struct es_lconn *c = check(L);
    int uni = check_dir(L, 2);
    if (is_gone(c))
        return es_lconn_push_closed(L, c);
    /* The userdata first: making it may raise, opening the stream cannot be undone. */
    struct es_lqstream **box = es_lua_new(L, "echostream.qstream", sizeof *box, 1);
    struct es_lqstream *s = es_lqstream_new(c, uni, 0);
    if (s == NULL)
        return es_lua_fail(L, ES_ERR_NOMEM, "stream");
    *box = s;
    es_quic_link_userdata(L, s);
    int rc = es_link_open(c->link, uni ? ES_DIR_UNI : ES_DIR_BIDI, s, &s->s);
    if (rc == 0) {
        s->refs++; /* the link's */
        s->id = s->s->id;
        es_list_push(&c->streams, &s->all);
        return 1;
    }
    s->s = NULL;
    s->rx_given_up = 1;
    if (rc == ES_ERR_LIMIT || rc == ES_ERR_AGAIN) {
        lua_pushnil(L);
        lua_pushliteral(L, "again");
        return 2;
    }
    return es_lua_fail(L, rc, "stream");
}

static int conn_accept(lua_State *L)
{
    struct es_lconn *c = check(L);
    int uni = check_dir(L, 2);
    if (es_list_empty(&c->waiting[uni])) {
        lua_pushnil(L);
        return 1;
    }
    struct es_lqstream *s = es_container_of(c->waiting[uni].next, struct es_lqstream, node);
    es_lqstream_push(L, s);
    es_list_remove(&s->node);
    c->n_waiting[uni]--;
    es_lqstream_unref(s);
    return 1;
}

static int conn_send_datagram(lua_State *L)
{
    struct es_lconn *c = check(L);
    luaL_checktype(L, 2, LUA_TSTRING);
    size_t n;
    const char *data = lua_tolstring(L, 2, &n);
    if (is_gone(c))
        return es_lconn_push_closed(L, c);
    int rc = es_link_datagram(c->link, data, n);
    if (rc == 0) {
        es_lloop_wake(c->loop);
        lua_pushboolean(L, 1);
        return 1;
    }
    struct es_link_stats st;
    memset(&st, 0, sizeof st);
    es_link_stats_get(c->link, &st);
    lua_pushnil(L);
    if (rc == ES_ERR_TOO_LARGE)
        es_lua_push_error(L, es_err_code(rc), "a datagram of %I bytes, but at most %I can be sent now",
                          (LUAI_UACINT)n, (LUAI_UACINT)st.max_datagram);
    else if (rc == ES_ERR_UNSUPPORTED)
        es_lua_push_error(L, es_err_code(rc), "the peer takes no datagrams");
    else
        es_lua_push_es_err(L, rc, "datagram");
    return 2;
}

static int conn_recv_datagram(lua_State *L)
{
    struct es_lconn *c = check(L);
    if (es_list_empty(&c->datagrams)) {
        lua_pushnil(L);
        return 1;
    }
    struct es_lqdatagram *d = es_container_of(c->datagrams.next, struct es_lqdatagram, node);
    lua_pushlstring(L, (const char *)d->data, d->n);
    es_list_remove(&d->node);
    c->n_datagrams--;
    if (c->link != NULL)
        es_link_hold(c->link, -(int64_t)d->n);
    es_free(d);
    return 1;
}

static int conn_close(lua_State *L)
{
    struct es_lconn *c = check(L);
    lua_Integer code = luaL_optinteger(L, 2, 0);
    const char *reason = luaL_optstring(L, 3, "");
    luaL_argcheck(L, code >= 0 && code < (lua_Integer)1 << 62, 2, "a code is 0 to 2^62 - 1");
    if (!is_gone(c)) {
        c->closing = 1;
        es_link_close(c->link, 1, (uint64_t)code, reason);
        es_lloop_wake(c->loop);
    }
    es_lconn_drop_waiting(c);
    lua_pushboolean(L, 1);
    return 1;
}

static int conn_stats(lua_State *L)
{
    struct es_lconn *c = check(L);
    if (c->link == NULL)
        return es_lconn_push_closed(L, c);
    es_lua_push_link_stats(L, c->link);
    return 1;
}

static int conn_peer_addr(lua_State *L)
{
    struct es_lconn *c = check(L);
    char buf[80] = "";
    if (c->link == NULL)
        return es_lconn_push_closed(L, c);
    es_link_peer_addr(c->link, buf, sizeof buf);
    lua_pushstring(L, buf);
    return 1;
}

static int conn_peer_pin(lua_State *L)
{
    struct es_lconn *c = check(L);
    uint8_t spki[32];
    if (c->link == NULL)
        return es_lconn_push_closed(L, c);
    if (es_link_peer_pin(c->link, spki) == 0)
        lua_pushlstring(L, (const char *)spki, sizeof spki);
    else
        lua_pushnil(L);
    return 1;
}

static int conn_peer_cert(lua_State *L)
{
    struct es_lconn *c = check(L);
    return c->link != NULL ? es_lua_push_peer_cert(L, c->link) : es_lconn_push_closed(L, c);
}

static int conn_export_key(lua_State *L)
{
    struct es_lconn *c = check(L);
    return c->link != NULL ? es_lua_export_key(L, c->link) : es_lconn_push_closed(L, c);
}

static int conn_update_key(lua_State *L)
{
    struct es_lconn *c = check(L);
    return c->link != NULL ? es_lua_update_key(L, c->link, c->loop) : es_lconn_push_closed(L, c);
}

static int conn_keep_alive(lua_State *L)
{
    struct es_lconn *c = check(L);
    if (c->link == NULL)
        return es_lconn_push_closed(L, c);
    es_link_keep_alive(c->link, lua_toboolean(L, 2));
    lua_pushboolean(L, 1);
    return 1;
}

static int conn_migrate(lua_State *L)
{
    struct es_lconn *c = check(L);
    luaL_checkstring(L, 2);
    if (is_gone(c))
        return es_lconn_push_closed(L, c);
    int n = es_lua_migrate(L, c->link);
    if (n != 0)
        return n;
    es_lloop_wake(c->loop);
    lua_pushboolean(L, 1);
    return 1;
}

/* moved(of_the_peer): nothing when there was none; else from, to and true, or from, to, nil and why it
 * failed. Forgets it. */
static int conn_moved(lua_State *L)
{
    struct es_lconn *c = check(L);
    struct es_link_move *m = &c->moves[lua_toboolean(L, 2)];
    if (m->from[0] == '\0')
        return 0;
    lua_pushstring(L, m->from);
    lua_pushstring(L, m->to);
    int n = es_lua_push_move(L, m);
    m->from[0] = '\0';
    return 2 + n;
}

/* Only a closed connection's userdata is collected, or any at lua_close(). */
static int conn_gc(lua_State *L)
{
    struct es_lconn **box = luaL_checkudata(L, 1, CONN_MT);
    struct es_lconn *c = *box;
    if (c == NULL)
        return 0;
    *box = NULL;
    es_lconn_drop_waiting(c);
    es_lconn_unref(c);
    return 0;
}

/* ---- dialling ---- */

static int quic_dial(lua_State *L)
{
    static const char *const fields[] = {"remote", "tls", "alpn", "transport", "ticket", "on_ticket", NULL};
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    es_lua_check_fields(L, 2, fields);
    if (le->ep == NULL)
        return es_lua_closed(L, "endpoint");

    struct es_connect_config cc;
    memset(&cc, 0, sizeof cc);
    union es_addr remote;
    const char *text = NULL, *alpn = NULL;
    size_t n = 0;
    if (!es_lua_opt_string(L, 2, "remote", &text, NULL) || es_addr_parse(&remote, text) < 0)
        return luaL_error(L, "remote: expected a numeric address such as 127.0.0.1:5000, got %s",
                          text != NULL ? text : "nothing");
    if (!es_lua_opt_string(L, 2, "alpn", &alpn, &n) || n == 0 || n > 255 || strlen(alpn) != n)
        return luaL_error(L, "alpn: expected a string of 1 to 255 bytes");
    lua_getfield(L, 2, "tls");
    cc.tls = es_lua_check_tls(L, -1);
    lua_getfield(L, 2, "transport");
    es_transport_config_default(&cc.transport, 0);
    es_lua_transport_config(L, -1, &cc.transport);
    cc.remote = &remote;

    struct es_raw_app *app = es_raw_app_new(le->loop, alpn);
    struct es_lconn *c = app != NULL ? es_lconn_new(app, 0) : NULL;
    if (app != NULL)
        es_raw_app_unref(app); /* the connection's now */
    if (c == NULL)
        return es_lua_fail(L, ES_ERR_NOMEM, "connection");
    push_conn(L, c);
    es_lconn_unref(c); /* the userdata's now */
    cc.app = &app->app;
    cc.app_arg = c;
    char err[256] = "";
    struct es_link *link;
    int rc = es_lua_ticket_options(L, 2, c->loop, &cc);
    if (rc == 0)
        rc = es_endpoint_connect(le->ep, &cc, &link, err, sizeof err);
    if (rc < 0 && cc.ticket_free != NULL)
        cc.ticket_free(cc.ticket_user);
    if (rc == 0) {
        es_lloop_wake(c->loop);
        return 1;
    }
    if (c->link != NULL) { /* attached, and closed() will not come */
        c->link = NULL;
        es_lconn_unref(c);
    }
    c->state = ES_LCONN_CLOSED;
    es_lconn_unanchor(c);
    lua_pushnil(L);
    es_lua_push_error(L, es_err_code(rc), "%s", err[0] != '\0' ? err : es_strerror(rc));
    return 2;
}

void es_lua_open_quic(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"status", conn_status},
                                       {"notify", conn_notify},
                                       {"open", conn_open},
                                       {"accept", conn_accept},
                                       {"send_datagram", conn_send_datagram},
                                       {"recv_datagram", conn_recv_datagram},
                                       {"close", conn_close},
                                       {"stats", conn_stats},
                                       {"peer_addr", conn_peer_addr},
                                       {"peer_pin", conn_peer_pin},
                                       {"keep_alive", conn_keep_alive},
                                       {"peer_cert", conn_peer_cert},
                                       {"update_key", conn_update_key},
                                       {"export_key", conn_export_key},
                                       {"migrate", conn_migrate},
                                       {"moved", conn_moved},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", conn_gc}, {NULL, NULL}};
    es_lua_class(L, CONN_MT, methods, meta);
    es_lua_open_qstream(L);
    lua_pushcfunction(L, quic_dial);
    lua_setfield(L, core, "quic_dial");
}
