/* es_session_request, and the calls that wait inside: for the handshake, for the peer's HELLO (messages over
 * 64 KiB), or for its stream allowance. First come, first sent. */
#include <stdio.h>
#include <string.h>
#include "internal.h"

static int needs_hello(const struct es_session *s, const struct es_call *c, size_t payload_len)
{
    return !s->hello_seen && (payload_len > ES_EARLY_MESSAGE || c->codec >= ES_FIRST_CODEC);
}

/* Requests wait here rather than in the link when much is unacknowledged already: the link stops giving the
 * peer credit above its cap, and the answers could not come. */
static int has_room(const struct es_session *s, size_t payload_len)
{
    return s->n_calls_out == 0 || s->link->base->held + payload_len <= s->link->base->hold_cap / 4 * 3;
}

/* Keeps what is to be sent later. */
static int stash(struct es_call *c, const struct es_bytes *method, const struct es_kv *kv,
                 const uint8_t *payload, size_t len, void (*release)(void *), void *arg)
{
    int rc;

    if ((rc = es_buf_put(&c->stash, method->p, method->n)) != 0 ||
        (rc = es_buf_put(&c->stash, kv->p, kv->n)) != 0 ||
        (release == NULL && (rc = es_buf_put(&c->stash, payload, len)) != 0))
        return rc;
    c->method_len = (uint32_t)method->n;
    c->kv_len = (uint32_t)kv->n;
    c->kv_count = (uint32_t)kv->count;
    c->payload = payload;
    c->payload_len = len;
    c->release = release;
    c->release_arg = arg;
    c->pending = 1;
    return 0;
}

/* 0: sent, or over; ES_ERR_LIMIT: it still has to wait. */
static int send_stashed(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_bytes method = {c->stash.p, c->method_len};
    struct es_kv kv = {c->stash.p + c->method_len, c->kv_len, c->kv_count};
    const uint8_t *payload = c->release != NULL ? c->payload : kv.p + c->kv_len;
    struct es_failure f;
    char text[64 + ES_MAX_CODEC_NAME];
    int rc;

    if (needs_hello(s, c, c->payload_len))
        return ES_ERR_LIMIT;
    if (!has_room(s, c->payload_len)) {
        session_look_again(s);
        return ES_ERR_LIMIT;
    }
    if (c->payload_len > s->peer_max_message) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO,
                    "the request is larger than the peer's max_message");
        return call_out_fail(c, &f);
    }
    if (kv.n > s->peer_max_metadata) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO, es_strerror(ES_ERR_METADATA));
        return call_out_fail(c, &f);
    }
    rc = call_out_send(c, &method, &kv, payload, c->payload_len, c->release, c->release_arg);
    if (rc == ES_ERR_LIMIT)
        return rc;
    if (rc == 0) {
        c->release = NULL; /* the link has it */
        c->pending = 0;
        es_buf_free(&c->stash);
        es_list_remove(&c->node);
        es_list_push(&s->calls_out, &c->node);
        s->n_pending--;
        s->n_calls_out++;
        return 0;
    }
    if (rc == ES_ERR_UNSUPPORTED) {
        snprintf(text, sizeof text, "the peer does not know the codec \"%s\"",
                 s->host->cfg.codecs->name[c->codec - ES_FIRST_CODEC]);
        failure_set(&f, ES_STATUS_INVALID_ARGUMENT, ES_PROCESSED_NO, text);
    } else
        failure_set(&f, ES_STATUS_UNAVAILABLE, ES_PROCESSED_NO, es_strerror(rc));
    if (rc == ES_ERR_CLOSED)
        f.code = "connection_closed", f.code_len = strlen(f.code);
    return call_out_fail(c, &f);
}

void pending_run(struct es_session *s)
{
    while (s->established && !es_list_empty(&s->pending) && session_may_send(s)) {
        if (send_stashed(es_container_of(s->pending.next, struct es_call, node)) != 0)
            return;
    }
}

void pending_refuse(struct es_session *s)
{
    struct es_failure f;

    failure_set(&f, ES_STATUS_UNAVAILABLE, ES_PROCESSED_NO, "the peer is shutting down");
    f.retry_after_ms = s->peer_retry_after_ms;
    while (!es_list_empty(&s->pending)) {
        if (call_out_fail(es_container_of(s->pending.next, struct es_call, node), &f) != 0)
            return;
    }
}

static struct es_call *call_new(struct es_session *s, const struct es_call_opts *o, void *user)
{
    struct es_host *h = s->host;
    struct es_call *c = es_pool_get(&h->calls);

    if (c == NULL)
        return NULL;
    strand_init(&c->st, ES_STRAND_CALL_OUT, s, NULL, session_max_body(s));
    es_list_init(&c->node);
    c->user = user;
    c->opened_at = session_now(s);
    c->request_id = o->request_id != 0 ? o->request_id : session_next_request_id(s);
    c->codec = o->codec;
    c->priority = o->priority;
    c->idempotent = o->idempotent;
    c->retry = o->retry;
    c->packing = o->packing != NULL ? *o->packing : h->cfg.packing;
    if (o->deadline == ES_DEADLINE_DEFAULT) {
        uint64_t timeout = h->cfg.limits.request_timeout;
        c->deadline = timeout != 0 ? session_now(s) + timeout : ES_NEVER;
    } else {
        c->deadline = o->deadline;
    }
    return c;
}

/* Before the end of the handshake, past those that have to wait for it. */
static int may_go_early(const struct es_call *c)
{
    const struct es_session *s = c->st.session;

    return s->early && s->opened && c->idempotent && !c->retry && c->codec < ES_FIRST_CODEC;
}

/* Sends it, or puts it in the queue, or fails it at once with an event. */
static int place(struct es_call *c, const struct es_bytes *method, const struct es_kv *kv,
                 const uint8_t *payload, size_t len, void (*release)(void *), void *arg)
{
    struct es_session *s = c->st.session;
    int rc = ES_ERR_LIMIT;

    if ((s->established ? es_list_empty(&s->pending) : may_go_early(c)) && !needs_hello(s, c, len) &&
        has_room(s, len) && !s->refused)
        rc = call_out_send(c, method, kv, payload, len, release, arg);
    if (rc == 0) {
        es_list_push(&s->calls_out, &c->node);
        s->n_calls_out++;
        return 0;
    }
    if (rc != ES_ERR_LIMIT)
        return rc;
    if (s->n_pending >= s->host->cfg.limits.max_pending)
        return ES_ERR_LIMIT;
    rc = stash(c, method, kv, payload, len, release, arg);
    if (rc != 0) {
        c->release = NULL;
        return rc;
    }
    es_list_push(&s->pending, &c->node);
    s->n_pending++;
    if (!has_room(s, len))
        session_look_again(s);
    return 0;
}

static int check(const struct es_session *s, const char *method, size_t method_len,
                 const struct es_call_opts *o, size_t payload_len)
{
    uint64_t wire;
    int rc = codec_out(s, o->codec, &wire);

    if (!session_may_send(s) || s->draining)
        return ES_ERR_CLOSED;
    if (!es_name_valid(method, method_len) || o->priority > 7 || rc == ES_ERR_INVAL)
        return ES_ERR_INVAL;
    if (rc == ES_ERR_UNSUPPORTED)
        return rc;
    if (payload_len > UINT32_MAX / 2 || (s->hello_seen && payload_len > s->peer_max_message))
        return ES_ERR_TOO_LARGE;
    return 0;
}

int es_session_request(struct es_session *s, const char *method, size_t method_len,
                       const struct es_call_opts *opts, const uint8_t *payload, size_t payload_len,
                       void (*release)(void *), void *arg, void *user, struct es_call **out)
{
    struct es_host *h = s->host;
    struct es_bytes name = {(const uint8_t *)method, method_len};
    struct es_call_opts defaults;
    struct es_call *c;
    struct es_kv kv = {0};
    int rc;

    if (opts == NULL) {
        es_call_opts_default(&defaults);
        opts = &defaults;
    }
    rc = check(s, method, method_len, opts, payload_len);
    if (rc == 0 && opts->n_metadata > 0) {
        es_buf_clear(&h->scratch_kv);
        rc = kv_put_for(s, &h->scratch_kv, opts->metadata, opts->n_metadata, &kv);
    }
    if (rc != 0)
        return rc;
    c = call_new(s, opts, user);
    if (c == NULL)
        return ES_ERR_NOMEM;
    c->meter = es_host_meter(h, 0, method, method_len);
    if (c->deadline != ES_NEVER)
        rc = es_wheel_add(&h->wheel, &c->st.deadline, c->deadline);
    if (rc == 0)
        rc = place(c, &name, &kv, payload, payload_len, release, arg);
    if (rc != 0) {
        call_out_free(c);
        return rc;
    }
    h->stats.calls_out++;
    h->stats.calls_out_running++;
    if (out != NULL)
        *out = c;
    if (s->refused)
        pending_refuse(s);
    return 0;
}
