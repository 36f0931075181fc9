/* Raw QUIC connections on the side of the link: their life, and what the carrier tells them. No Lua runs
 * here. */
#include "quic_internal.h"
#include <string.h>
#include "../base/mem.h"

/* ---- apps ---- */

static int attach(struct es_app *app, struct es_link *link, void *arg);

struct es_raw_app *es_raw_app_new(struct es_lloop *lp, const char *alpn)
{
    struct es_raw_app *a = es_calloc(1, sizeof *a);
    size_t n = strlen(alpn);
    if (a == NULL)
        return NULL;
    memcpy(a->alpn, alpn, n < sizeof a->alpn ? n : sizeof a->alpn - 1);
    a->refs = 1;
    a->loop = es_lloop_ref(lp);
    a->fn_ref = LUA_NOREF;
    a->app.alpn = a->alpn;
    a->app.attach = attach;
    a->app.user = a;
    return a;
}

void es_raw_app_unref(struct es_raw_app *a)
{
    if (--a->refs != 0)
        return;
    struct es_lua *lua = a->loop->lua;
    if (a->fn_ref != LUA_NOREF && !lua->closing && lua_checkstack(lua->main, 4))
        luaL_unref(lua->main, LUA_REGISTRYINDEX, a->fn_ref);
    es_lloop_unref(a->loop);
    es_free(a);
}

/* ---- life of a connection ---- */

struct es_lconn *es_lconn_new(struct es_raw_app *app, int incoming)
{
    struct es_lconn *c = es_calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->refs = 1;
    c->app = app;
    app->refs++;
    c->loop = es_lloop_ref(app->loop);
    c->unclaimed = (uint8_t)incoming;
    c->ud_ref = LUA_NOREF;
    for (int i = 0; i < 2; i++)
        es_list_init(&c->waiting[i]);
    es_list_init(&c->streams);
    es_list_init(&c->datagrams);
    return c;
}

struct es_lconn *es_lconn_ref(struct es_lconn *c)
{
    c->refs++;
    return c;
}

static void drop_datagrams(struct es_lconn *c)
{
    es_list_foreach(it, &c->datagrams)
    {
        struct es_lqdatagram *d = es_container_of(it, struct es_lqdatagram, node);
        es_list_remove(it);
        if (c->link != NULL)
            es_link_hold(c->link, -(int64_t)d->n);
        es_free(d);
    }
    c->n_datagrams = 0;
}

/* Streams that nobody will accept any more. Each of them references the connection. */
void es_lconn_drop_waiting(struct es_lconn *c)
{
    for (int dir = 0; dir < 2; dir++) {
        es_list_foreach(it, &c->waiting[dir])
        {
            struct es_lqstream *s = es_container_of(it, struct es_lqstream, node);
            es_list_remove(it);
            es_lqstream_give_up(s);
            es_lqstream_unref(s);
        }
        c->n_waiting[dir] = 0;
    }
}

void es_lconn_unref(struct es_lconn *c)
{
    if (--c->refs != 0)
        return;
    drop_datagrams(c);
    es_raw_app_unref(c->app);
    es_lloop_unref(c->loop);
    es_free(c);
}

/* The userdata may be collected from now on. */
void es_lconn_unanchor(struct es_lconn *c)
{
    struct es_lua *lua = c->loop->lua;
    if (c->ud_ref != LUA_NOREF && !lua->closing && lua_checkstack(lua->main, 4))
        luaL_unref(lua->main, LUA_REGISTRYINDEX, c->ud_ref);
    c->ud_ref = LUA_NOREF;
}

void es_lconn_tell(struct es_lconn *c, unsigned bits)
{
    c->bits |= bits;
    if (c->queued || c->loop->events == NULL)
        return;
    if (es_evq_push(c->loop->events, ES_QUIC_EVENT_CONN, c, sizeof(struct es_event)) == NULL) {
        if (c->link != NULL) /* somebody would wait for ever */
            es_link_close(c->link, 1, ES_APP_INTERNAL, "out of memory");
        return;
    }
    c->queued = 1;
    c->refs++;
}

/* ---- what the link says: no Lua here ---- */

static void on_established(void *user)
{
    struct es_lconn *c = user;
    c->state = ES_LCONN_OPEN;
    es_lconn_tell(c, ES_QC_OPEN);
}

static void on_stream_opened(void *user, struct es_link_stream *ls, int dir)
{
    struct es_lconn *c = user;
    int uni = dir == ES_DIR_UNI;
    struct es_lqstream *s =
        c->n_waiting[uni] < ES_QUIC_ACCEPT_MAX && !c->closing ? es_lqstream_new(c, uni, 1) : NULL;
    ls->user = s;
    if (s == NULL) { /* nobody accepts them, or no memory: this one is refused, the connection goes on */
        es_link_stop(ls, ES_APP_REFUSED);
        if (!uni)
            es_link_reset(ls, ES_APP_REFUSED);
        return;
    }
    s->s = ls;
    s->id = ls->id;
    es_list_push(&c->streams, &s->all);
    es_list_push(&c->waiting[uni], &s->node);
    s->refs++; /* one for the link, one for the list */
    c->n_waiting[uni]++;
    es_lconn_tell(c, uni ? ES_QC_UNI : ES_QC_BIDI);
}

static void on_data(void *user, struct es_link_stream *ls, const uint8_t *p, size_t n, int fin)
{
    if (ls->user != NULL)
        es_lqstream_on_data(ls->user, p, n, fin);
    else if (n > 0)
        es_link_credit(ls, n);
}

static void on_stream_reset(void *user, struct es_link_stream *ls, uint64_t code)
{
    if (ls->user != NULL)
        es_lqstream_on_reset(ls->user, code);
}

static void on_stream_stopped(void *user, struct es_link_stream *ls, uint64_t code)
{
    if (ls->user != NULL)
        es_lqstream_on_stopped(ls->user, code);
}

static void on_writable(void *user, struct es_link_stream *ls)
{
    if (ls->user != NULL)
        es_lqstream_tell(ls->user, ES_QS_WRITABLE);
}

static void on_sent(void *user, struct es_link_stream *ls)
{
    (void)user;
    (void)ls;
}

static void on_stream_closed(void *user, struct es_link_stream *ls)
{
    if (ls->user != NULL)
        es_lqstream_detach(ls->user);
}

static void on_datagram(void *user, const uint8_t *p, size_t n)
{
    struct es_lconn *c = user;
    struct es_lqdatagram *d = c->closing ? NULL : es_malloc(sizeof *d + n);
    if (d == NULL)
        return; /* datagrams may be lost */
    d->n = n;
    memcpy(d->data, p, n);
    es_list_push(&c->datagrams, &d->node);
    es_link_hold(c->link, (int64_t)n);
    if (++c->n_datagrams > ES_QUIC_DATAGRAM_MAX) {
        struct es_lqdatagram *old = es_container_of(c->datagrams.next, struct es_lqdatagram, node);
        es_list_remove(&old->node);
        es_link_hold(c->link, -(int64_t)old->n);
        es_free(old);
        c->n_datagrams--;
    }
    es_lconn_tell(c, ES_QC_DATAGRAM);
}

static void on_credit(void *user, int dir)
{
    (void)dir;
    es_lconn_tell(user, ES_QC_CREDIT);
}

static void on_hold_low(void *user)
{
    (void)user; /* nothing is held back here: what a peer may send is bounded by the windows */
}

static void on_closed(void *user, const struct es_close_info *info)
{
    struct es_lconn *c = user;
    c->state = ES_LCONN_CLOSED;
    c->info = *info;
    c->link = NULL; /* first: nothing below may use it */
    es_list_foreach(it, &c->streams)
    {
        es_lqstream_detach(es_container_of(it, struct es_lqstream, all));
    }
    es_lconn_tell(c, ES_QC_CLOSED);
    es_lconn_unref(c);
}

static void on_moved(void *user, const struct es_link_move *move)
{
    struct es_lconn *c = user;
    c->moves[move->peer != 0] = *move;
    es_lconn_tell(c, ES_QC_MOVED);
}

static const struct es_link_events link_events = {.established = on_established,
                                                  .stream_opened = on_stream_opened,
                                                  .data = on_data,
                                                  .stream_reset = on_stream_reset,
                                                  .stream_stopped = on_stream_stopped,
                                                  .writable = on_writable,
                                                  .sent = on_sent,
                                                  .stream_closed = on_stream_closed,
                                                  .datagram = on_datagram,
                                                  .stream_credit = on_credit,
                                                  .hold_low = on_hold_low,
                                                  .closed = on_closed,
                                                  .moved = on_moved};

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct es_lconn *c = arg; /* dialled */
    if (c == NULL) {
        c = es_lconn_new(app->user, 1);
        if (c == NULL)
            return ES_ERR_NOMEM;
    } else {
        c->refs++;
    }
    c->link = link;
    es_link_attach(link, &link_events, c);
    return 0;
}
