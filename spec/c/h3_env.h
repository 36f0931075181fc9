/* Two ends of HTTP/3 over the in-memory pair, or one end and a peer that writes bytes by hand. */
#ifndef ES_SPEC_C_H3_ENV_H
#define ES_SPEC_C_H3_ENV_H

#include "../../csrc/base/mem.h"
#include "../../csrc/http3/h3.h"
#include "../../csrc/link/pair.h"
#include "test.h"

#define MAX_SEEN 4096

struct end { /* one side with its queue, and what it was told */
    struct es_evq *q;
    struct es_h3_config cfg;
    struct es_app app;
    struct es_h3 *h;
    unsigned conn_bits;
    struct es_exchange *x; /* the last request or answer that it was told of */
    unsigned bits;         /* of x */
    int requests, responses, aborted;
    struct es_exchange *held[MAX_SEEN];
    int n_held;
};

struct h3_env {
    struct es_timers timers;
    struct es_pair *pair;
    struct end client, server;
    size_t chunk;
};

static void end_init(struct h3_env *e, struct end *d, int server)
{
    REQUIRE(es_evq_new(&d->q) == 0);
    d->cfg.events = d->q;
    d->cfg.timers = &e->timers;
    es_h3_limits_default(&d->cfg.limits);
    es_h3_app_init(&d->app, &d->cfg);
}

static inline void h3_env_init(struct h3_env *e)
{
    memset(e, 0, sizeof *e);
    es_timers_init(&e->timers);
    REQUIRE(es_pair_new(&e->pair) == 0);
    end_init(e, &e->client, 0);
    end_init(e, &e->server, 1);
}

static void end_drain(struct end *d)
{
    struct es_event *ev;

    while ((ev = es_evq_peek(d->q)) != NULL) {
        unsigned bits = es_h3_take(ev);

        if (ev->type == ES_H3_EVENT_CONN) {
            d->conn_bits |= bits;
        } else if (bits != 0) {
            struct es_exchange *x = ev->owner;

            if (x != d->x) {
                d->x = x;
                d->bits = 0;
            }
            d->bits |= bits;
            d->responses += (bits & ES_EX_RESPONSE) != 0;
            d->aborted += (bits & ES_EX_ABORTED) != 0;
            if ((bits & ES_EX_REQUEST) != 0) {
                d->requests++;
                d->held[d->n_held++ % MAX_SEEN] = x;
            }
        }
        es_h3_pop(d->q);
    }
}

static inline void run(struct h3_env *e)
{
    int moved;

    do {
        moved = es_pair_pump(e->pair, e->chunk);
        end_drain(&e->client);
        end_drain(&e->server);
    } while (moved);
}

static inline void h3_env_start(struct h3_env *e)
{
    struct es_h3_dial dial = {0};

    REQUIRE(e->server.app.attach(&e->server.app, es_pair_link(e->pair, 1), NULL) == 0);
    e->server.h = es_pair_link(e->pair, 1)->user;
    es_h3_ref(e->server.h);
    REQUIRE(e->client.app.attach(&e->client.app, es_pair_link(e->pair, 0), &dial) == 0);
    e->client.h = dial.h3;
    es_pair_establish(e->pair);
    run(e);
}

static void end_free(struct end *d)
{
    end_drain(d);
    for (int i = 0; i < d->n_held; i++) {
        if (d->held[i] != NULL) {
            es_exchange_release(d->held[i]);
        }
    }
    end_drain(d);
    if (d->h != NULL) {
        es_h3_unref(d->h);
    }
    es_evq_del(d->q);
}

static inline void h3_env_free(struct h3_env *e)
{
    es_pair_del(e->pair);
    end_free(&e->client);
    end_free(&e->server);
    es_timers_free(&e->timers);
}

static inline void let_go(struct end *d, struct es_exchange *x) /* the server's, before the end */
{
    for (int i = 0; i < d->n_held; i++) {
        if (d->held[i] == x) {
            d->held[i] = NULL;
        }
    }
    es_exchange_release(x);
}

#define FIELD(n, v)                                                                                          \
    {                                                                                                        \
        .name = (n), .value = (v), .name_len = strlen(n), .value_len = strlen(v)                             \
    }

static const struct es_h3_target GET_ROOT = {"GET", "https", "a", "/", NULL};

static inline const char *value_of(const struct es_h3_head *head, const char *name)
{
    struct es_h3_field f;
    size_t at = 0;

    while (head != NULL && es_h3_head_next(head, &at, &f)) {
        if (strcmp(f.name, name) == 0) {
            return f.value;
        }
    }
    return NULL;
}

static inline const char *pseudo(const struct es_h3_head *head, enum es_h3_pseudo which)
{
    size_t n;
    const char *s = head != NULL ? es_h3_head_pseudo(head, which, &n) : NULL;

    return s != NULL ? s : "-";
}

/* ---- a peer by hand ---- */

struct raw {
    struct es_link *link;
    int established, closed, resets, stops;
    struct es_close_info info;
    uint64_t reset_code, stop_code;
    uint8_t got[65536]; /* on two-way streams */
    size_t n_got;
    struct es_link_stream *control, *stream;
    struct es_link_stream *pending_reset; /* is reset once its bytes arrived */
};

static void raw_none(void *u) {}
static void raw_established(void *u)
{
    ((struct raw *)u)->established = 1;
}
static void raw_opened(void *u, struct es_link_stream *s, int dir) {}
static void raw_data(void *u, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct raw *r = u;

    if ((s->id & 2) == 0 && n > 0 && r->n_got + n <= sizeof r->got) {
        memcpy(r->got + r->n_got, p, n);
        r->n_got += n;
    }
    if (n > 0) {
        es_link_credit(s, n);
    }
}
static void raw_reset(void *u, struct es_link_stream *s, uint64_t code)
{
    ((struct raw *)u)->resets++;
    ((struct raw *)u)->reset_code = code;
}
static void raw_stopped(void *u, struct es_link_stream *s, uint64_t code)
{
    ((struct raw *)u)->stops++;
    ((struct raw *)u)->stop_code = code;
}
static void raw_stream(void *u, struct es_link_stream *s)
{
    struct raw *r = u;

    if (r->stream == s) {
        r->stream = NULL;
    }
    if (r->control == s) {
        r->control = NULL;
    }
    if (r->pending_reset == s) {
        r->pending_reset = NULL;
    }
}
static void raw_datagram(void *u, const uint8_t *p, size_t n) {}
static void raw_credit(void *u, int dir) {}
static void raw_quiet(void *u, struct es_link_stream *s) {}
static void raw_closed(void *u, const struct es_close_info *info)
{
    struct raw *r = u;

    r->closed = 1;
    r->info = *info;
    r->stream = r->control = r->pending_reset = NULL;
}

static const struct es_link_events raw_events = {.established = raw_established,
                                                 .stream_opened = raw_opened,
                                                 .data = raw_data,
                                                 .stream_reset = raw_reset,
                                                 .stream_stopped = raw_stopped,
                                                 .writable = raw_quiet,
                                                 .sent = raw_quiet,
                                                 .stream_closed = raw_stream,
                                                 .datagram = raw_datagram,
                                                 .stream_credit = raw_credit,
                                                 .hold_low = raw_none,
                                                 .closed = raw_closed};

/* "01 0a ff": bytes */
static size_t unhex(uint8_t *out, const char *hex)
{
    size_t n = 0;
    unsigned b;

    while (*hex != '\0') {
        if (*hex == ' ') {
            hex++;
            continue;
        }
        sscanf(hex, "%2x", &b);
        out[n++] = (uint8_t)b;
        hex += 2;
    }
    return n;
}

/* dir, or -1: on the stream that is there */
static inline struct es_link_stream *raw_send(struct raw *r, int dir, const char *hex, int fin)
{
    uint8_t buf[8192];
    size_t n = unhex(buf, hex);
    struct es_link_stream *s = r->stream;

    if (dir >= 0) {
        CHECK_INT(es_link_open(r->link, dir, NULL, &s), ==, 0);
    }
    if (s != NULL) {
        (void)es_link_write(s, buf, n, fin);
    }
    r->stream = s;
    return s;
}

/* A server under test, and a client by hand that has sent its SETTINGS unless `control` says something else.
 */
static inline void raw_start(struct h3_env *e, struct raw *r, const char *control)
{
    memset(r, 0, sizeof *r);
    r->link = es_pair_link(e->pair, 0);
    REQUIRE(e->server.app.attach(&e->server.app, es_pair_link(e->pair, 1), NULL) == 0);
    e->server.h = es_pair_link(e->pair, 1)->user;
    es_h3_ref(e->server.h);
    es_link_attach(r->link, &raw_events, r);
    es_pair_establish(e->pair);
    r->control = raw_send(r, ES_DIR_UNI, control != NULL ? control : "00 04 00", 0);
    run(e);
}

#endif
