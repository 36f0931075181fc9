/* What runs on WebTransport sessions in the tests: it writes down what it is told. */
#ifndef ES_SPEC_C_WT_ENV_H
#define ES_SPEC_C_WT_ENV_H

#include "../../csrc/http3/webtransport.h"
#include "h3_play.h"

struct proto {
    struct es_app app;
    struct es_link *link; /* of the last session; NULL after closed() */
    int sessions, established, closed, bidi, uni, ended, resets, stops, stream_closes, sent, writable;
    uint64_t reset_code, stop_code;
    struct es_close_info info;
    char got[1 << 16]; /* on all streams */
    size_t n_got;
    char datagram[2048];
    int datagrams;
    struct es_link_stream *stream; /* the last one of the peer's */
    int hold;                      /* credit is not given back */
    int refuse;                    /* attach fails */
};

static void p_established(void *u)
{
    ((struct proto *)u)->established++;
}
static void p_opened(void *u, struct es_link_stream *s, int dir)
{
    struct proto *p = u;

    s->user = p;
    p->stream = s;
    p->bidi += dir == ES_DIR_BIDI;
    p->uni += dir == ES_DIR_UNI;
}
static void p_data(void *u, struct es_link_stream *s, const uint8_t *b, size_t n, int fin)
{
    struct proto *p = u;

    if (n > 0 && p->n_got + n < sizeof p->got) {
        memcpy(p->got + p->n_got, b, n);
        p->n_got += n;
        p->got[p->n_got] = '\0';
    }
    p->ended += fin;
    if (n > 0 && !p->hold) {
        es_link_credit(s, n);
    }
}
static void p_reset(void *u, struct es_link_stream *s, uint64_t code)
{
    ((struct proto *)u)->resets++;
    ((struct proto *)u)->reset_code = code;
}
static void p_stopped(void *u, struct es_link_stream *s, uint64_t code)
{
    ((struct proto *)u)->stops++;
    ((struct proto *)u)->stop_code = code;
}
static void p_writable(void *u, struct es_link_stream *s)
{
    ((struct proto *)u)->writable++;
}
static void p_sent(void *u, struct es_link_stream *s)
{
    ((struct proto *)u)->sent++;
}
static void p_stream_closed(void *u, struct es_link_stream *s)
{
    struct proto *p = u;

    p->stream_closes++;
    if (p->stream == s) {
        p->stream = NULL;
    }
}
static void p_datagram(void *u, const uint8_t *b, size_t n)
{
    struct proto *p = u;

    p->datagrams++;
    memcpy(p->datagram, b, n < sizeof p->datagram ? n : sizeof p->datagram);
}
static void p_credit(void *u, int dir) {}
static void p_hold_low(void *u) {}
static void p_closed(void *u, const struct es_close_info *info)
{
    struct proto *p = u;

    p->closed++;
    p->info = *info;
    p->link = NULL;
    p->stream = NULL;
}

static const struct es_link_events proto_events = {.established = p_established,
                                                   .stream_opened = p_opened,
                                                   .data = p_data,
                                                   .stream_reset = p_reset,
                                                   .stream_stopped = p_stopped,
                                                   .writable = p_writable,
                                                   .sent = p_sent,
                                                   .stream_closed = p_stream_closed,
                                                   .datagram = p_datagram,
                                                   .stream_credit = p_credit,
                                                   .hold_low = p_hold_low,
                                                   .closed = p_closed};

static int p_attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct proto *p = app->user;

    if (p->refuse) {
        return ES_ERR_NOMEM;
    }
    p->sessions++;
    p->link = link;
    es_link_attach(link, &proto_events, p);
    return 0;
}

static void proto_init(struct proto *p)
{
    memset(p, 0, sizeof *p);
    p->app = (struct es_app){"test", p_attach, p, 0};
}

/* ---- both ends, or a server and a peer by hand ---- */

struct wt_env {
    struct h3_env h;
    struct raw raw;
    struct proto client, server;
    struct es_webtransport cfg;
};

static void wt_run(struct wt_env *w)
{
    int moved;

    do {
        run(&w->h);
        moved = (int)es_timers_expire(&w->h.timers, 100);
    } while (moved);
}

static void wt_init(struct wt_env *w)
{
    memset(w, 0, sizeof *w);
    h3_env_init(&w->h);
    proto_init(&w->client);
    proto_init(&w->server);
    w->cfg.app = &w->server.app;
    w->cfg.path = "/echostream";
    w->cfg.max_sessions = 2;
    w->h.server.cfg.webtransport = &w->cfg;
}

static inline void wt_dial(struct wt_env *w, const char *path, const char *origin)
{
    struct es_wt_dial dial = {&w->h.timers, &w->client.app, NULL, "a:1", path, origin};
    struct es_app *app = es_wt_client_app();

    REQUIRE(w->h.server.app.attach(&w->h.server.app, es_pair_link(w->h.pair, 1), NULL) == 0);
    w->h.server.h = es_pair_link(w->h.pair, 1)->user;
    es_h3_ref(w->h.server.h);
    REQUIRE(app->attach(app, es_pair_link(w->h.pair, 0), &dial) == 0);
    es_pair_establish(w->h.pair);
    wt_run(w);
}

static inline void wt_start(struct wt_env *w)
{
    wt_init(w);
    wt_dial(w, "/echostream", NULL);
}

static void wt_free(struct wt_env *w)
{
    h3_env_free(&w->h);
}

/* By hand: what is said is written as h3_rows.h has it. The settings have gone, and the CONNECT on stream 0.
 */
#define WT_SETTINGS "04[33 01 ab603742 01]"
#define WT_HEAD(path, more)                                                                                  \
    "01[0000 {:method:CONNECT} {:scheme:https} {:authority:a:1} {:path:" path                                \
    "} {:protocol:webtransport} " more "]"
#define WT_ASK WT_HEAD("/echostream", "")

static inline void wt_say(struct wt_env *w, const char *text)
{
    while (!w->raw.closed && h3_say(&w->raw, &text)) {
        wt_run(w);
        if (w->raw.pending_reset != NULL) {
            es_link_reset(w->raw.pending_reset, 0x52e4a40fa8db + 7);
            w->raw.pending_reset = NULL;
            wt_run(w);
        }
    }
}

static inline void wt_raw(struct wt_env *w, size_t chunk)
{
    wt_init(w);
    w->h.chunk = chunk;
    raw_start(&w->h, &w->raw, "00 04 07 33 01 ab 60 37 42 01");
    wt_run(w);
}

/* The status of the answer on a two-way stream: HEADERS, with :status from the static table or as a literal.
 */
static inline int wt_status(const struct raw *r)
{
    static const struct {
        uint8_t index;
        int status;
    } known[] = {{25, 200}, {27, 404}, {28, 503}, {67, 400}, {68, 403}};
    const uint8_t *p = r->got;
    unsigned index;

    if (r->n_got < 5 || p[0] != 1) {
        return 0;
    }
    if ((p[4] & 0xc0) == 0xc0) {
        index = p[4] & 0x3f;
        if (index == 0x3f) {
            index += p[5];
        }
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            if (known[i].index == index) {
                return known[i].status;
            }
        }
    }
    return -1; /* a literal */
}

#endif
