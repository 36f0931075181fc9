/* A peer that says exactly the bytes that a test writes, against one real session over the in-memory pair. */
#ifndef ES_SPEC_C_SESSION_RAW_H
#define ES_SPEC_C_SESSION_RAW_H

#include "session_env.h"

struct raw_stream {
    struct es_link_stream *ls;
    int dir, mine, fin, reset, stopped, closed;
    uint64_t reset_code, stop_code;
    uint8_t in[8192];
    size_t n;
};

struct raw {
    struct es_link *link;
    struct raw_stream stream[64];
    size_t n;
    int closed;
    struct es_close_info info;
    uint8_t datagram[2048];
    size_t datagram_len, n_datagrams;
};

static struct raw raw;

static void raw_established(void *user)
{
    (void)user;
}

static void raw_stream_opened(void *user, struct es_link_stream *s, int dir)
{
    struct raw_stream *r = &raw.stream[raw.n++];

    (void)user;
    r->ls = s;
    r->dir = dir;
    s->user = r;
}

static void raw_data(void *user, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct raw_stream *r = s->user;
    size_t room = sizeof r->in - r->n, take = n < room ? n : room;

    (void)user;
    if (take > 0)
        memcpy(r->in + r->n, p, take);
    r->n += take;
    r->fin |= fin;
    es_link_credit(s, n);
}

static void raw_reset(void *user, struct es_link_stream *s, uint64_t code)
{
    struct raw_stream *r = s->user;

    (void)user;
    r->reset = 1;
    r->reset_code = code;
}

static void raw_stopped(void *user, struct es_link_stream *s, uint64_t code)
{
    struct raw_stream *r = s->user;

    (void)user;
    r->stopped = 1;
    r->stop_code = code;
}

static void raw_nothing(void *user, struct es_link_stream *s)
{
    (void)user;
    (void)s;
}

static void raw_stream_closed(void *user, struct es_link_stream *s)
{
    struct raw_stream *r = s->user;

    (void)user;
    r->closed = 1;
    r->ls = NULL;
}

static void raw_datagram(void *user, const uint8_t *p, size_t n)
{
    (void)user;
    raw.n_datagrams++;
    raw.datagram_len = n;
    memcpy(raw.datagram, p, n < sizeof raw.datagram ? n : sizeof raw.datagram);
}

static void raw_credit(void *user, int dir)
{
    (void)user;
    (void)dir;
}

static void raw_low(void *user)
{
    (void)user;
}

static void raw_closed(void *user, const struct es_close_info *info)
{
    (void)user;
    raw.closed = 1;
    raw.info = *info;
}

static const struct es_link_events raw_events = {
    .established = raw_established,
    .stream_opened = raw_stream_opened,
    .data = raw_data,
    .stream_reset = raw_reset,
    .stream_stopped = raw_stopped,
    .writable = raw_nothing,
    .sent = raw_nothing,
    .stream_closed = raw_stream_closed,
    .datagram = raw_datagram,
    .stream_credit = raw_credit,
    .hold_low = raw_low,
    .closed = raw_closed,
};

/* `side` has the session, the other side is raw. */
__attribute__((unused)) static int raw_start(struct env *e, int side, const struct env_options *o)
{
    struct env_options none = {0};
    struct es_host_config cfg = {0};
    int rc;

    if (o == NULL)
        o = &none;
    memset(e, 0, sizeof *e);
    memset(&raw, 0, sizeof raw);
    e->seed = 7;
    e->chunk = o->chunk;
    es_timers_init(&e->timers);
    e->timers.now = 1000 * ES_SECOND;
    for (int i = 0; i < 2; i++) {
        if ((rc = es_evq_new(&e->q[i])) != 0)
            return rc;
    }
    cfg.timers = &e->timers;
    cfg.events = e->q[side];
    cfg.rand = env_rand;
    cfg.wall = env_wall;
    cfg.ctx = e;
    if (o->has_limits)
        cfg.limits = o->limits[side];
    else
        es_limits_default(&cfg.limits);
    cfg.hold_until_accept = o->hold_until_accept;
    cfg.packing = o->packing[side];
    cfg.codecs = o->codecs[side];
    if ((rc = es_host_new(&e->host[side], &cfg)) != 0 || (rc = es_pair_new(&e->pair)) != 0)
        return rc;
    es_session_app_init(&e->app[side], e->host[side]);
    es_pair_limits(e->pair, o->bidi ? o->bidi : 1024, o->uni ? o->uni : 16,
                   o->window ? o->window : 256 * 1024, 1200);
    raw.link = es_pair_link(e->pair, side == CLIENT);
    es_link_attach(raw.link, &raw_events, NULL);
    rc = e->app[side].attach(&e->app[side], es_pair_link(e->pair, side == SERVER), NULL);
    if (rc != 0)
        return rc;
    e->s[side] = es_pair_link(e->pair, side == SERVER)->user;
    es_session_ref(e->s[side]);
    es_pair_establish(e->pair);
    env_pump(e);
    return 0;
}

/* Opens a stream and writes hex digits on it. */
__attribute__((unused)) static struct raw_stream *raw_open(int dir, const char *hex, int fin)
{
    struct raw_stream *r = &raw.stream[raw.n++];
    uint8_t b[4096];
    size_t n = test_unhex(hex, b, sizeof b);

    r->dir = dir;
    r->mine = 1;
    if (es_link_open(raw.link, dir, r, &r->ls) != 0 || es_link_write(r->ls, b, n, fin) != 0) {
        fputs("raw_open: no stream\n", stderr);
        abort();
    }
    return r;
}

__attribute__((unused)) static void raw_write(struct raw_stream *r, const char *hex, int fin)
{
    uint8_t b[4096];
    size_t n = test_unhex(hex, b, sizeof b);

    if (r->ls != NULL)
        (void)es_link_write(r->ls, b, n, fin);
}

#define RAW_HELLO "00 001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"
/* The same with capability 8: it takes part in PING and PONG. */
#define RAW_HELLO_CLOCK "00 001e000008 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"

/* The first stream of a kind that the session opened, n-th. */
__attribute__((unused)) static struct raw_stream *raw_peer(int dir, size_t n)
{
    for (size_t i = 0; i < raw.n; i++) {
        if (!raw.stream[i].mine && raw.stream[i].dir == dir && n-- == 0)
            return &raw.stream[i];
    }
    return NULL;
}

/* The status of the RESPONSE that came on a stream; -1: none. */
__attribute__((unused)) static int raw_status(const struct raw_stream *r)
{
    struct es_raw_frame f = {0};
    struct es_reader reader;
    struct es_response out;
    const uint8_t *p = r->in;
    size_t n = r->n;
    int rc;

    es_reader_init(&reader, 1 << 20);
    while ((rc = es_reader_feed(&reader, &p, &n, &f)) == 1 && f.type != ES_FRAME_RESPONSE)
        ;
    rc = rc == 1 && es_response_decode(&out, f.body, f.len, 0, NULL) == 0 ? (int)out.status : -1;
    es_reader_free(&reader);
    return rc;
}

#define CHECK_HEX(p, n, hex)                                                                                 \
    do {                                                                                                     \
        uint8_t want_[4096];                                                                                 \
        size_t want_n_ = test_unhex(hex, want_, sizeof want_);                                               \
        CHECK_MEM(p, n, want_, want_n_);                                                                     \
    } while (0)

#endif
