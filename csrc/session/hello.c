/* HELLO: what both sides say first, without waiting for each other. */
#include <string.h>
#include "internal.h"

static int encode_hello(struct es_session *s, struct es_buf *out)
{
    const struct es_host_config *cfg = &s->host->cfg;
    struct es_buf codecs = {0};
    struct es_hello h;
    int rc;

    es_hello_default(&h);
    h.caps = ES_OUR_CAPS;
    memcpy(h.instance, s->instance, sizeof h.instance);
    h.max_message = cfg->limits.max_message;
    h.max_metadata = cfg->limits.max_metadata;
    h.max_calls = cfg->limits.max_calls;
    h.max_named_streams = cfg->limits.max_named_streams;
    h.has = 1u << ES_HELLO_MAX_MESSAGE | 1u << ES_HELLO_MAX_METADATA | 1u << ES_HELLO_MAX_CALLS |
            1u << ES_HELLO_MAX_NAMED_STREAMS;
    if (cfg->agent[0] != '\0') {
        h.agent.p = (const uint8_t *)cfg->agent;
        h.agent.n = strlen(cfg->agent);
        h.has |= 1u << ES_HELLO_AGENT;
    }
    if (s->n_credentials > 0) {
        h.credentials.p = s->credentials.p;
        h.credentials.n = s->credentials.n;
        h.credentials.count = s->n_credentials;
        h.has |= 1u << ES_HELLO_CREDENTIALS;
    }
    rc = codecs_announce(s, &codecs);
    if (codecs.n > 0) {
        h.codecs.p = codecs.p;
        h.codecs.n = codecs.n;
        h.has |= 1u << ES_HELLO_CODECS;
    }
    es_buf_clear(out);
    if (rc == 0)
        rc = es_buf_put(out, "\0", 1); /* ES_UNI_CONTROL */
    if (rc == 0)
        rc = es_hello_encode(out, &h);
    es_buf_free(&codecs);
    return rc;
}

/* How long the peer may take, from the handshake on. Its HELLO rides on the first flight after it, but over a
 * slow and lossy path every repetition of a lost one costs several round trips. */
static uint64_t patience(const struct es_session *s)
{
    struct es_link_stats st;
    uint64_t more;

    es_link_stats_get(s->link, &st);
    more = st.rtt_smoothed < ES_HELLO_TIMEOUT ? 60 * st.rtt_smoothed : ES_HELLO_TIMEOUT_MAX;
    return more < ES_HELLO_TIMEOUT_MAX - ES_HELLO_TIMEOUT ? ES_HELLO_TIMEOUT + more : ES_HELLO_TIMEOUT_MAX;
}

static int await_hello(struct es_session *s)
{
    return es_wheel_add(&s->host->wheel, &s->hello_timer.deadline, s->established_at + patience(s));
}

/* The round trip is known better by now than when the handshake ended. */
void hello_expired(struct es_session *s)
{
    if (s->hello_seen || s->closing || s->link == NULL)
        return;
    if (s->established_at + patience(s) <= session_now(s))
        session_violation(s, ES_APP_HELLO, "no HELLO came");
    else if (await_hello(s) != 0)
        session_oom(s);
}

int hello_send(struct es_session *s)
{
    struct es_buf *b = &s->host->scratch;
    int rc;

    if (s->control_out.ls != NULL) { /* it went with the early data; the peer's time begins only now */
        s->established_at = session_now(s);
        if (s->hello_seen)
            return 0;
        es_wheel_remove(&s->host->wheel, &s->hello_timer.deadline);
        return await_hello(s);
    }
    rc = es_link_open(s->link, ES_DIR_UNI, &s->control_out, &s->control_out.ls);
    if (rc != 0)
        return rc;
    es_link_priority(s->control_out.ls, ES_PRIO_CONTROL);
    rc = encode_hello(s, b);
    if (rc == 0)
        rc = es_link_write(s->control_out.ls, b->p, b->n, 0);
    es_buf_free(&s->credentials); /* said once */
    if (rc == 0) {
        s->established_at = session_now(s);
        if (!s->hello_seen && !s->early)
            rc = await_hello(s);
    }
    return rc;
}

/* For logs: what a peer says about itself is not to bring control characters along. */
static void copy_agent(struct es_session *s, const struct es_bytes *agent)
{
    size_t n = agent->n < sizeof s->agent - 1 ? agent->n : sizeof s->agent - 1;

    for (size_t i = 0; i < n; i++)
        s->agent[i] = agent->p[i] >= 0x20 && agent->p[i] < 0x7f ? (char)agent->p[i] : '?';
    s->agent[n] = '\0';
}

void hello_received(struct es_session *s, const struct es_raw_frame *f)
{
    struct es_hello h;
    const char *why = NULL;

    if (es_hello_decode(&h, f->body, f->len, &why) != 0) {
        session_violation(s, ES_APP_HELLO, why);
        return;
    }
    if (h.min_minor > 0) { /* we speak minor 0 only */
        session_violation(s, ES_APP_HELLO, "no common minor version");
        return;
    }
    if ((h.credentials.n > 0 && es_buf_put(&s->peer_credentials, h.credentials.p, h.credentials.n) != 0) ||
        codecs_received(s, &h.codecs) != 0) {
        session_oom(s);
        return;
    }
    es_wheel_remove(&s->host->wheel, &s->hello_timer.deadline);
    s->hello_seen = 1;
    s->caps = s->caps_in = h.caps & ES_OUR_CAPS;
    memcpy(s->peer_instance, h.instance, sizeof s->peer_instance);
    s->peer_max_message = h.max_message;
    s->peer_max_metadata = h.max_metadata;
    s->peer_max_named_streams = h.max_named_streams;
    copy_agent(s, &h.agent);
    if (s->is_server) {
        /* Early, a peer is let in only by hosts that say that nothing is harmed if it is let in twice. */
        if (!s->early || s->host->cfg.early_open) {
            if (session_push(s, ES_EV_SESSION_OPEN, sizeof(struct es_event)) == NULL)
                return;
            s->opened = 1;
        }
        if (!s->host->cfg.hold_until_accept)
            s->accepted = 1;
    }
    session_let_in(s);
    pending_run(s); /* messages over 64 KiB waited for the peer's limit */
    es_list_foreach(it, &s->channels) channel_unblock(es_container_of(it, struct es_channel, node));
    emit_writable(s);
    session_feed_starved(s);
}

int session_lets_in(const struct es_session *s)
{
    return s->hello_seen && s->accepted && !s->closing && !s->early;
}

int session_lets_in_early(const struct es_session *s)
{
    return s->hello_seen && s->accepted && s->opened && !s->closing && s->early && s->is_server;
}

static void let_in_early(struct es_session *s)
{
    struct es_list work;

    es_list_init(&work);
    while (!es_list_empty(&s->parked)) {
        struct es_list *n = s->parked.next;
        es_list_remove(n);
        es_list_push(&work, n);
    }
    while (!es_list_empty(&work)) {
        struct es_list *n = work.next;
        es_list_remove(n);
        es_list_push(&s->parked, n);
        if (es_container_of(n, struct es_call, node)->idempotent && !s->closing)
            call_in_let_in(es_container_of(n, struct es_call, node)); /* its method may park it again */
    }
}

void session_let_in(struct es_session *s)
{
    if (session_lets_in_early(s))
        let_in_early(s);
    if (!session_lets_in(s))
        return;
    while (!es_list_empty(&s->parked) && !s->closing)
        call_in_let_in(es_container_of(s->parked.next, struct es_call, node));
    for (int i = 0; i < ES_MAX_LANES; i++) {
        if (s->lanes_in[i] != NULL)
            lane_run(s->lanes_in[i]);
    }
}

int es_session_accept(struct es_session *s)
{
    if (!session_may_send(s))
        return ES_ERR_CLOSED;
    s->accepted = 1;
    session_let_in(s);
    return 0;
}
