/* Two hosts with a session each over the in-memory pair, for the specs of the session room.
 *
 * What a host's queue says is kept in a log; requests are answered by the method's ref: see enum env_ref. */
#ifndef ES_SPEC_C_SESSION_ENV_H
#define ES_SPEC_C_SESSION_ENV_H

#include "../../csrc/base/mem.h"
#include "../../csrc/base/pool.h"
#include "../../csrc/framing/frame.h"
#include "../../csrc/link/pair.h"
#include "../../csrc/session/session.h"
#include "test.h"

#define MS ES_MILLI

enum env_ref {
    REF_ECHO = 1, /* answers with the payload */
    REF_FAIL,     /* fails with code "odd_code", message "no luck", details = the payload */
    REF_HOLD,     /* suspended: env->held, until the test ends it */
    REF_NOTHING,  /* answers with no bytes at all */
    REF_QUIET     /* events: done at once, streams: nothing */
};

enum { CLIENT = 0, SERVER = 1 };

struct env_log {
    int side;
    unsigned type;
    void *user, *what; /* what: the call or channel */
    int status, processed, codec, lane, opened, idempotent;
    uint64_t code, retry_after_ms, seq, wall;
    uint64_t close_code;
    int close_cause;
    char text[128]; /* code string, or the method's name */
    char message[128];
    uint8_t data[256]; /* the beginning of the payload or details, in plain */
    size_t len, meta_len;
    int packed, plain_rc; /* it came compressed; what es_session_plain said */
    uint8_t meta[64];
};

struct env {
    struct es_timers timers;
    struct es_evq *q[2];
    struct es_host *host[2];
    struct es_app app[2];
    struct es_pair *pair;
    struct es_session *s[2]; /* with a reference */
    size_t chunk;
    struct env_log log[4096];
    size_t n_log, quiet;
    struct es_call *held[4096];
    size_t n_held;
    struct es_channel *channel[2][600]; /* incoming, in order */
    size_t n_channel[2];
    struct es_method *events[4096]; /* held events of the server, with lanes */
    int lanes[4096];
    size_t n_events;
    uint64_t seed;
};

struct env_options {
    size_t chunk, bidi, uni, window, datagram, connection_window;
    int hold_until_accept, no_establish;
    struct es_limits limits[2];
    int has_limits;
    const struct es_pair_kv *credentials;
    size_t n_credentials;
    const uint8_t *instance;
    struct es_packing packing[2];
    const struct es_codec_names *codecs[2];
};

static void env_rand(void *ctx, uint8_t *out, size_t n)
{
    struct env *e = ctx;

    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)test_rand(&e->seed);
}

static uint64_t env_wall(void *ctx)
{
    (void)ctx;
    return UINT64_C(1700000000) * ES_SECOND;
}

__attribute__((unused)) static int env_start(struct env *e, const struct env_options *o)
{
    static const struct env_options none;
    struct es_session_dial dial = {0};
    int rc;

    memset(e, 0, sizeof *e);
    e->seed = 42;
    if (o == NULL)
        o = &none;
    e->chunk = o->chunk;
    es_timers_init(&e->timers);
    e->timers.now = 1000 * ES_SECOND;
    for (int i = 0; i < 2; i++) {
        struct es_host_config cfg = {0};

        if ((rc = es_evq_new(&e->q[i])) != 0)
            return rc;
        cfg.timers = &e->timers;
        cfg.events = e->q[i];
        cfg.rand = env_rand;
        cfg.wall = env_wall;
        cfg.ctx = e;
        if (o->has_limits)
            cfg.limits = o->limits[i];
        else
            es_limits_default(&cfg.limits);
        cfg.hold_until_accept = i == SERVER && o->hold_until_accept;
        cfg.packing = o->packing[i];
        cfg.codecs = o->codecs[i];
        strcpy(cfg.agent, i == SERVER ? "spec-server" : "spec-client");
        if ((rc = es_host_new(&e->host[i], &cfg)) != 0)
            return rc;
        es_session_app_init(&e->app[i], e->host[i]);
    }
    if ((rc = es_pair_new(&e->pair)) != 0)
        return rc;
    es_pair_limits(e->pair, o->bidi ? o->bidi : 1024, o->uni ? o->uni : 16,
                   o->window ? o->window : 256 * 1024, o->datagram ? o->datagram : 1200);
    if (o->connection_window)
        es_pair_connection_window(e->pair, o->connection_window);
    dial.credentials = o->credentials;
    dial.n_credentials = o->n_credentials;
    dial.instance = o->instance;
    if ((rc = e->app[SERVER].attach(&e->app[SERVER], es_pair_link(e->pair, 1), NULL)) != 0)
        return rc;
    e->s[SERVER] = es_pair_link(e->pair, 1)->user;
    es_session_ref(e->s[SERVER]);
    if ((rc = e->app[CLIENT].attach(&e->app[CLIENT], es_pair_link(e->pair, 0), &dial)) != 0)
        return rc;
    e->s[CLIENT] = dial.session;
    if (!o->no_establish)
        es_pair_establish(e->pair);
    return 0;
}

__attribute__((unused)) static int env_add(struct env *e, int side, enum es_kind kind, const char *name,
                                           int ref, unsigned flags, uint32_t concurrent)
{
    return es_host_add(e->host[side], kind, name, strlen(name), ref, flags, concurrent);
}

static void env_log_message(struct env_log *l, const struct es_ev_message *m)
{
    l->user = m->user;
    l->what = m->call;
    l->codec = m->codec;
    l->lane = m->lane;
    l->idempotent = m->idempotent;
    l->code = m->code;
    l->seq = m->seq;
    l->wall = m->wall_time_us;
    if (m->method != NULL)
        snprintf(l->text, sizeof l->text, "%s", m->method->name);
    l->len = m->payload_len;
    l->meta_len = m->metadata_len;
    memcpy(l->meta, m->data, l->meta_len < sizeof l->meta ? l->meta_len : sizeof l->meta);
    const uint8_t *p = m->data + m->metadata_len;
    l->packed = m->packed;
    if (m->packed)
        l->plain_rc = es_session_plain(m->h.owner, p, l->len, &p, &l->len);
    if (l->len > 0)
        memcpy(l->data, p, l->len < sizeof l->data ? l->len : sizeof l->data);
}

static void env_log_failed(struct env_log *l, const struct es_ev_failed *f)
{
    l->user = f->user;
    l->what = f->call;
    l->status = f->status;
    l->processed = f->processed;
    l->codec = f->codec;
    l->retry_after_ms = f->retry_after_ms;
    snprintf(l->text, sizeof l->text, "%.*s", (int)f->code_len, (const char *)f->data);
    snprintf(l->message, sizeof l->message, "%.*s", (int)f->message_len, (const char *)f->data + f->code_len);
    l->len = f->details_len;
    memcpy(l->data, f->data + f->code_len + f->message_len,
           l->len < sizeof l->data ? l->len : sizeof l->data);
    l->meta_len = f->trailers_len;
    memcpy(l->meta, f->data + f->code_len + f->message_len + f->details_len,
           l->meta_len < sizeof l->meta ? l->meta_len : sizeof l->meta);
}

static void env_log_event(struct env *e, int side, struct es_event *ev)
{
    struct env_log *l;

    if (e->quiet || e->n_log == sizeof e->log / sizeof e->log[0])
        return;
    l = &e->log[e->n_log++];
    memset(l, 0, sizeof *l);
    l->side = side;
    l->type = ev->type;
    switch (ev->type) {
    case ES_EV_REQUEST:
    case ES_EV_CALL_CANCELLED:
    case ES_EV_RESPONSE:
    case ES_EV_EVENT:
    case ES_EV_CHANNEL_REQUEST:
        env_log_message(l, (struct es_ev_message *)ev);
        break;
    case ES_EV_CALL_FAILED:
        env_log_failed(l, (struct es_ev_failed *)ev);
        break;
    case ES_EV_CHANNEL_READABLE:
    case ES_EV_CHANNEL_WRITABLE:
    case ES_EV_CHANNEL_CLOSED:
        l->what = ((struct es_ev_channel *)ev)->channel;
        l->user = ((struct es_ev_channel *)ev)->user;
        break;
    case ES_EV_SESSION_CLOSED:
        l->close_code = ((struct es_ev_closed *)ev)->info.code;
        l->close_cause = ((struct es_ev_closed *)ev)->info.cause;
        l->opened = ((struct es_ev_closed *)ev)->opened;
        snprintf(l->message, sizeof l->message, "%.100s", ((struct es_ev_closed *)ev)->info.reason);
        break;
    case ES_EV_SESSION_PONG:
        l->code = ((struct es_ev_pong *)ev)->id;
        l->seq = ((struct es_ev_pong *)ev)->rtt;
        break;
    case ES_EV_SESSION_GOAWAY:
        l->retry_after_ms = ((struct es_ev_goaway *)ev)->retry_after_ms;
        snprintf(l->message, sizeof l->message, "%.100s", ((struct es_ev_goaway *)ev)->reason);
        break;
    default:
        break;
    }
}

static void env_request(struct env *e, struct es_ev_message *m)
{
    struct es_failure f = {0};
    struct es_call *c = m->call;
    const uint8_t *p = m->data + m->metadata_len;
    size_t len = m->payload_len;
    int ref = m->method->ref, rc = es_call_admit(c);

    if (!e->quiet && e->n_log > 0)
        e->log[e->n_log - 1].opened = rc; /* what admit said */
    if (rc != 0)
        return;
    switch (ref) {
    case REF_ECHO:
        if (m->packed && es_session_plain(m->h.owner, p, len, &p, &len) != 0)
            len = 0;
        (void)es_call_respond(c, m->codec, p, len, NULL, NULL);
        break;
    case REF_NOTHING:
        (void)es_call_respond(c, m->codec, NULL, 0, NULL, NULL);
        break;
    case REF_FAIL:
        f.status = ES_STATUS_UNKNOWN;
        f.code = "odd_code";
        f.code_len = 8;
        f.message = "no luck";
        f.message_len = 7;
        f.processed = ES_PROCESSED_YES;
        f.retry_after_ms = 70;
        f.codec = m->codec;
        f.details = m->data + m->metadata_len;
        f.details_len = m->payload_len;
        (void)es_call_fail(c, &f);
        break;
    default:
        es_call_started(c);
        e->held[e->n_held++] = c;
    }
}

static void env_event(struct env *e, struct es_session *s, struct es_ev_message *m)
{
    if (m->method->ref == REF_HOLD) {
        e->events[e->n_events] = m->method;
        e->lanes[e->n_events++] = m->lane;
    } else {
        es_session_event_done(s, m->lane, m->method);
    }
}

/* Everything that is in the queues; 1 when there was something. */
__attribute__((unused)) static int env_drain(struct env *e)
{
    int any = 0;

    for (int side = 0; side < 2; side++) {
        struct es_event *ev;

        while ((ev = es_evq_peek(e->q[side])) != NULL) {
            struct es_ev_message *m = (struct es_ev_message *)ev;

            any = 1;
            if (ev->type != ES_EV_DROPPED)
                env_log_event(e, side, ev);
            if (ev->type == ES_EV_REQUEST)
                env_request(e, m);
            else if (ev->type == ES_EV_EVENT)
                env_event(e, ev->owner, m);
            else if (ev->type == ES_EV_CHANNEL_REQUEST)
                e->channel[side][e->n_channel[side]++] = m->channel;
            es_session_pop(e->q[side]);
        }
    }
    return any;
}

__attribute__((unused)) static void env_pump(struct env *e)
{
    while (es_pair_pump(e->pair, e->chunk) | env_drain(e))
        ;
}

/* Time passes, at most a few ms at once. */
__attribute__((unused)) static void env_wait(struct env *e, uint64_t ns)
{
    uint64_t end = e->timers.now + ns;

    while (e->timers.now < end) {
        e->timers.now += 4 * MS < end - e->timers.now ? 4 * MS : end - e->timers.now;
        es_timers_expire(&e->timers, 1000);
        env_pump(e);
    }
}

/* Both sessions die; everything is given back. Calls still held are ended. */
__attribute__((unused)) static void env_stop(struct env *e)
{
    if (e->pair != NULL) {
        es_pair_del(e->pair);
        e->pair = NULL;
    }
    for (int i = 0; i < 2; i++) {
        if (e->q[i] == NULL)
            continue;
    }
    if (e->q[0] != NULL && e->q[1] != NULL)
        env_drain(e);
    for (size_t i = 0; i < e->n_held; i++) {
        if (e->held[i] != NULL)
            (void)es_call_respond(e->held[i], 1, NULL, 0, NULL, NULL);
    }
    for (size_t i = 0; i < e->n_events; i++) {
        if (e->events[i] != NULL)
            es_session_event_done(e->s[SERVER], e->lanes[i], e->events[i]);
    }
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < e->n_channel[i]; j++) {
            if (e->channel[i][j] != NULL)
                es_channel_release(e->channel[i][j]);
        }
        es_session_unref(e->s[i]);
        if (e->app[i].user != NULL)
            es_session_app_free(&e->app[i]);
        es_host_unref(e->host[i]);
    }
    for (int i = 0; i < 2; i++)
        es_evq_del(e->q[i]);
    es_timers_free(&e->timers);
}

__attribute__((unused)) static struct es_call *env_call(struct env *e, int side, const char *method,
                                                        const char *payload, void *user)
{
    struct es_call *c = NULL;
    int rc = es_session_request(e->s[side], method, strlen(method), NULL, (const uint8_t *)payload,
                                strlen(payload), NULL, NULL, user, &c);

    CHECK_INT(rc, ==, 0);
    return c;
}

/* The n-th (from 0) record of a type on a side; NULL: none. */
__attribute__((unused)) static struct env_log *env_find(struct env *e, int side, unsigned type, size_t n)
{
    for (size_t i = 0; i < e->n_log; i++) {
        if (e->log[i].side == side && e->log[i].type == type && n-- == 0)
            return &e->log[i];
    }
    return NULL;
}

__attribute__((unused)) static size_t env_count(struct env *e, int side, unsigned type)
{
    size_t n = 0;

    for (size_t i = 0; i < e->n_log; i++)
        n += e->log[i].side == side && e->log[i].type == type;
    return n;
}

__attribute__((unused)) static void env_clear(struct env *e)
{
    e->n_log = 0;
}

#endif
