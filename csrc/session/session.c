/* Sessions: from attach to the last reference. */
#include "session.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

static _Atomic uint64_t last_session_id;

/* ---- references ---- */

void es_session_ref(struct es_session *s)
{
    s->refs++;
}

static void session_free(struct es_session *s)
{
    struct es_host *h = s->host;

    assert(es_list_empty(&s->calls_out) && es_list_empty(&s->calls_in) && es_list_empty(&s->channels));
    es_wheel_remove(&h->wheel, &s->hello_timer.deadline);
    es_wheel_remove(&h->wheel, &s->starved_timer.deadline);
    es_wheel_remove(&h->wheel, &s->sweep_timer.deadline);
    es_buf_free(&s->credentials);
    es_buf_free(&s->peer_credentials);
    es_idmap_free(&s->by_id);
    es_free(s->overtaken);
    es_free(s->peer_codecs);
    h->stats.sessions--;
    es_free(s);
    es_host_unref(h);
}

void es_session_unref(struct es_session *s)
{
    if (s == NULL)
        return;
    assert(s->refs > 0);
    if (--s->refs == 0)
        session_free(s);
}

/* ---- making one ---- */

static int copy_credentials(struct es_session *s, const struct es_session_dial *d)
{
    struct es_kv kv;
    int rc;

    if (d->n_credentials == 0)
        return 0;
    rc = kv_put(&s->credentials, d->credentials, d->n_credentials, &kv);
    s->n_credentials = d->n_credentials;
    return rc;
}

static void session_lists_init(struct es_session *s)
{
    es_list_init(&s->calls_out);
    es_list_init(&s->pending);
    es_list_init(&s->calls_in);
    es_list_init(&s->parked);
    es_list_init(&s->postponed);
    es_list_init(&s->fresh);
    es_list_init(&s->channels);
    es_list_init(&s->starved);
    es_list_init(&s->unis);
    es_list_init(&s->unreported);
    es_list_init(&s->all);
}

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct es_host *h = app->user;
    struct es_session_dial *dial = arg;
    struct es_session *s = es_calloc(1, sizeof *s);
    uint64_t seed;
    int rc;

    if (s == NULL)
        return ES_ERR_NOMEM;
    s->host = h;
    s->is_server = link->is_server != 0;
    if (dial != NULL) {
        rc = copy_credentials(s, dial);
        if (rc != 0) {
            es_buf_free(&s->credentials);
            es_free(s);
            return rc;
        }
    }
    s->refs = 1;
    s->id = ++last_session_id;
    s->created = h->cfg.wall(h->cfg.ctx);
    s->peer_max_message = ES_EARLY_MESSAGE;
    s->peer_max_metadata = ES_MAX_META_BYTES;
    s->caps_in = ES_OUR_CAPS;
    s->peer_max_named_streams = h->cfg.limits.max_named_streams;
    s->next_request_id = 1;
    session_lists_init(s);
    h->cfg.rand(h->cfg.ctx, (uint8_t *)&seed, sizeof seed);
    es_idmap_init(&s->by_id, seed);
    strand_init(&s->control_out, ES_STRAND_CONTROL_OUT, s, NULL, 0);
    strand_init(&s->hello_timer, ES_STRAND_HELLO_TIMER, s, NULL, 0);
    strand_init(&s->starved_timer, ES_STRAND_STARVED_TIMER, s, NULL, 0);
    strand_init(&s->sweep_timer, ES_STRAND_SWEEP_TIMER, s, NULL, 0);
    if (dial != NULL && dial->instance != NULL) {
        memcpy(s->instance, dial->instance, sizeof s->instance);
        s->shared_ids = 1;
    } else {
        h->cfg.rand(h->cfg.ctx, s->instance, sizeof s->instance);
    }
    if (dial != NULL) {
        s->user = dial->user;
        s->refs++;
        dial->session = s;
    }
    es_host_ref(h);
    h->stats.sessions++;
    h->stats.sessions_total++;
    s->link = link;
    es_list_push(&h->sessions, &s->all);
    es_link_attach(link, &session_link_events, s);
    es_link_set_tally(link, &h->unsent);
    return 0;
}

int es_session_app_init(struct es_app *app, struct es_host *host)
{
    if (host->calls.size == 0) {
        es_pool_init(&host->calls, sizeof(struct es_call), 4096);
        es_pool_init(&host->channels, sizeof(struct es_channel), 256);
        es_pool_init(&host->blocks, sizeof(struct es_block), 1024);
        host->on_deadline = session_expired;
    }
    memset(app, 0, sizeof *app);
    app->alpn = ES_ALPN;
    app->attach = attach;
    app->user = host;
    app->takes_early = 1;
    es_host_ref(host);
    return 0;
}

void es_session_app_free(struct es_app *app)
{
    es_host_unref(app->user);
    app->user = NULL;
}

/* ---- small things that everything uses ---- */

uint64_t session_now(const struct es_session *s)
{
    return s->host->cfg.timers->now;
}

int session_may_send(const struct es_session *s)
{
    return s->link != NULL && !s->closing;
}

void *session_push(struct es_session *s, unsigned type, size_t size)
{
    void *e = es_evq_push(s->host->cfg.events, type, s, size);

    if (e == NULL) {
        session_oom(s);
        return NULL;
    }
    s->refs++;
    return e;
}

static void abort_link(struct es_session *s, uint64_t code, const char *why)
{
    if (s->link == NULL || s->closing)
        return;
    s->closing = 1;
    es_link_close(s->link, 1, code, why);
}

void session_violation(struct es_session *s, uint64_t code, const char *why)
{
    if (s->link == NULL || s->closing)
        return;
    s->host->stats.bad_frames++;
    abort_link(s, code, why != NULL ? why : "protocol error");
}

void session_honest(struct es_session *s)
{
    if (s->link != NULL)
        es_glitch_forgive(&s->link->base->glitch, HONEST_POINTS);
}

void session_glitch(struct es_session *s, unsigned points, const char *what)
{
    if (s->link == NULL || s->closing)
        return;
    if (es_link_glitch(s->link, session_now(s), points, what))
        s->closing = 1;
}

void session_oom(struct es_session *s)
{
    abort_link(s, ES_APP_INTERNAL, "out of memory");
}

void session_hold(struct es_session *s, int64_t delta)
{
    s->held += (uint64_t)delta;
    if (s->link != NULL)
        es_link_hold(s->link, delta);
}

/* ---- the end ---- */

/* The streams died with the link; what was received and not delivered is dropped. Calls and channels stay on
 * their lists until they are reported. */
void session_bury(struct es_session *s)
{
    es_wheel_remove(&s->host->wheel, &s->hello_timer.deadline);
    es_wheel_remove(&s->host->wheel, &s->starved_timer.deadline);
    es_wheel_remove(&s->host->wheel, &s->sweep_timer.deadline);
    strand_detach(&s->control_out);
    for (int i = 0; i < ES_MAX_LANES; i++) {
        if (s->lanes_out[i] != NULL)
            lane_out_free(s->lanes_out[i]);
        if (s->lanes_in[i] != NULL)
            lane_free(s->lanes_in[i]);
    }
    es_list_foreach(it, &s->unis) uni_free(es_container_of(it, struct es_uni_in, node));
    es_list_foreach(it, &s->fresh) call_in_free(es_container_of(it, struct es_call, node));
    es_list_foreach(it, &s->parked) call_in_free(es_container_of(it, struct es_call, node));
    postponed_drop(s);
    es_list_foreach(it, &s->calls_in) strand_detach(&es_container_of(it, struct es_call, node)->st);
    es_list_foreach(it, &s->calls_out) strand_detach(&es_container_of(it, struct es_call, node)->st);
    es_list_foreach(it, &s->channels) strand_detach(&es_container_of(it, struct es_channel, node)->st);
    while (!es_list_empty(&s->pending)) {
        struct es_list *n = s->pending.next;

        /* They fail like the others, but were never sent (`pending` stays set). */
        es_list_remove(n);
        es_list_push(&s->calls_out, n);
    }
}

static int report_calls(struct es_session *s)
{
    while (!es_list_empty(&s->calls_out)) {
        int rc = call_out_report(es_container_of(s->calls_out.next, struct es_call, node));
        if (rc != 0)
            return rc;
    }
    es_list_foreach(it, &s->calls_in)
    {
        int rc = call_in_report(es_container_of(it, struct es_call, node));
        if (rc != 0)
            return rc;
    }
    es_list_foreach(it, &s->channels)
    {
        int rc = channel_report(es_container_of(it, struct es_channel, node));
        if (rc != 0)
            return rc;
    }
    return 0;
}

int session_report(struct es_session *s)
{
    struct es_ev_closed *e = NULL;

    if (s->reported)
        return 0;
    if (report_calls(s) == 0)
        e = session_push(s, ES_EV_SESSION_CLOSED, sizeof *e);
    if (e == NULL) {
        /* Told later: with the next record that is popped, or by the clock. */
        if (es_list_empty(&s->unreported))
            es_list_push(&s->host->unreported, &s->unreported);
        (void)es_wheel_add(&s->host->wheel, &s->starved_timer.deadline, session_now(s) + ES_STARVED_RETRY);
        return ES_ERR_NOMEM;
    }
    es_list_remove(&s->unreported);
    e->info = s->close_info;
    e->opened = s->opened;
    s->reported = 1;
    return 0;
}

static void pop_call(struct es_event *e)
{
    struct es_ev_message *m = (struct es_ev_message *)e;

    if (m->call == NULL)
        return;
    switch (e->type) {
    case ES_EV_REQUEST:
        m->call->rec_request = NULL;
        m->call->admitted = 1;
        break;
    case ES_EV_CALL_CANCELLED:
        m->call->rec_cancel = NULL;
        break;
    default: /* RESPONSE; CALL_FAILED has its call at the same place */
        call_out_free(((struct es_ev_failed *)e)->call);
    }
}

void es_session_pop(struct es_evq *q)
{
    struct es_event *e = es_evq_peek(q);
    struct es_session *s = e->owner;
    struct es_host *h = s->host;
    struct es_ev_channel *ch = (struct es_ev_channel *)e;

    switch (e->type) {
    case ES_EV_REQUEST:
    case ES_EV_CALL_CANCELLED:
    case ES_EV_RESPONSE:
    case ES_EV_CALL_FAILED:
        pop_call(e);
        break;
    case ES_EV_CHANNEL_REQUEST:
        if (ch->channel != NULL)
            channel_popped(ch->channel, ES_REC_REQUEST);
        break;
    case ES_EV_CHANNEL_READABLE:
    case ES_EV_CHANNEL_WRITABLE:
    case ES_EV_CHANNEL_CLOSED:
        if (ch->channel != NULL)
            channel_popped(ch->channel, ES_REC_READABLE + (e->type - ES_EV_CHANNEL_READABLE));
        break;
    case ES_EV_SESSION_CLOSED:
        es_session_unref(s); /* the session's own */
        break;
    default:
        break;
    }
    es_evq_pop(q);
    if (!es_list_empty(&h->unreported))
        (void)session_report(es_container_of(h->unreported.next, struct es_session, unreported));
    es_session_unref(s);
}

void es_session_close(struct es_session *s, uint64_t code, const char *reason)
{
    abort_link(s, code, reason != NULL ? reason : "");
}

void session_check_idle(struct es_session *s)
{
    if (!s->draining || s->idle_told || s->dead || es_session_in_flight(s) != 0)
        return;
    if (session_push(s, ES_EV_SESSION_IDLE, sizeof(struct es_event)) != NULL)
        s->idle_told = 1;
}

/* ---- what may be asked ---- */

void *es_session_user(const struct es_session *s)
{
    return s->user;
}

void es_session_set_user(struct es_session *s, void *user)
{
    s->user = user;
}

uint64_t es_session_id(const struct es_session *s)
{
    return s->id;
}

struct es_host *es_session_host(struct es_session *s)
{
    return s->host;
}

struct es_link *es_session_link(struct es_session *s)
{
    return s->link;
}

int es_session_is_open(const struct es_session *s)
{
    return s->opened && session_may_send(s);
}

uint64_t es_session_created(const struct es_session *s)
{
    return s->created;
}

const uint8_t *es_session_credentials(const struct es_session *s, size_t *len)
{
    *len = s->peer_credentials.n;
    return s->peer_credentials.n != 0 ? s->peer_credentials.p : NULL;
}

const uint8_t *es_session_peer_instance(const struct es_session *s)
{
    return s->hello_seen ? s->peer_instance : NULL;
}

const char *es_session_agent(const struct es_session *s)
{
    return s->agent;
}

size_t es_session_in_flight(const struct es_session *s)
{
    return s->n_calls_out + s->n_pending + s->n_calls_in + s->n_channels + s->n_events;
}

int es_session_flushed(const struct es_session *s)
{
    /* The carrier counts unacknowledged bytes as held, beside what we reported. */
    return s->link == NULL || s->link->base->held <= s->held;
}
