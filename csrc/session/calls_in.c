/* Calls of the peer: from the stream it opens to the answer. */
#include <stdio.h>
#include <string.h>
#include "internal.h"

#define EMPTY_RESETS    8                   /* that cost a point together */
#define MAX_DEADLINE_MS (UINT64_C(1) << 40) /* 34 years: keeps the sum in 64 bits */

void call_in_opened(struct es_session *s, struct es_link_stream *ls)
{
    struct es_call *c = es_pool_get(&s->host->calls);

    if (c == NULL) {
        session_oom(s);
        return;
    }
    strand_init(&c->st, ES_STRAND_CALL_IN, s, ls, session_max_body(s));
    c->opened_at = session_now(s);
    sweep_start(s);
    es_list_init(&c->node);
    es_list_push(&s->fresh, &c->node);
}

/* ---- delivering ---- */

/* What a method of these flags is, for people. */
static const char *method_sort(unsigned flags)
{
    switch (flags & ES_METHOD_STREAM) {
    case 0:
        return "a plain method: it is called without a stream";
    case ES_METHOD_STREAM_IN:
        return "a client-streaming method: it is called with a stream to it";
    case ES_METHOD_STREAM_OUT:
        return "a server-streaming method: it is called with a stream from it";
    default:
        return "a two-way streaming method: it is called with a stream both ways";
    }
}

/* A request with both flags means a named stream, or any streaming method: its caller is ready for either
 * direction. With one flag or none it means a method of exactly that sort. */
static struct es_method *find_method(struct es_session *s, const struct es_request *r, struct es_failure *f,
                                     char text[REFUSAL_TEXT])
{
    const char *name = (const char *)r->method.p;
    uint64_t asked = r->flags & (ES_FLAG_MORE | ES_FLAG_STREAM);
    int both = asked == (ES_FLAG_MORE | ES_FLAG_STREAM);
    struct es_method *m = both ? es_host_find(s->host, ES_KIND_STREAM, name, r->method.n) : NULL;
    unsigned has;

    if (m != NULL)
        return m;
    m = es_host_find(s->host, ES_KIND_RPC, name, r->method.n);
    if (m == NULL) {
        snprintf(text, REFUSAL_TEXT, "no %s %.*s", both ? "stream" : "method", (int)r->method.n, name);
        failure_set(f, ES_STATUS_METHOD_NOT_FOUND, ES_PROCESSED_NO, text);
        return NULL;
    }
    has = (m->flags & ES_METHOD_STREAM_IN ? ES_FLAG_MORE : 0) |
          (m->flags & ES_METHOD_STREAM_OUT ? ES_FLAG_STREAM : 0);
    if (has == asked || (both && has != 0))
        return m;
    snprintf(text, REFUSAL_TEXT, "%.*s is %s", (int)r->method.n, name, method_sort(m->flags));
    failure_set(f, ES_STATUS_INVALID_ARGUMENT, ES_PROCESSED_NO, text);
    return NULL;
}

int refuse_reason(struct es_session *s, const struct es_request *r, struct es_failure *f,
                  char text[REFUSAL_TEXT], struct es_method **method)
{
    uint64_t code;

    if (s->draining) {
        failure_set(f, ES_STATUS_UNAVAILABLE, ES_PROCESSED_NO, "the server is shutting down");
        f->retry_after_ms = s->retry_after_ms;
        return 1;
    }
    /* A retry has the id of a call that ended, whose CANCEL may have come too late and is remembered. */
    if (s->n_overtaken > 0 && !(r->flags & ES_FLAG_RETRY) && overtaken_take(s, r->request_id, &code)) {
        s->host->stats.calls_cancelled++;
        reset_forgiven(s);
        session_honest(s); /* the CANCEL that was charged as one of nothing was right */
        failure_set(f, ES_STATUS_CANCELLED, ES_PROCESSED_NO, "cancelled before it came");
        return 1;
    }
    if (!codec_known(s, r->codec)) {
        failure_set(f, ES_STATUS_INVALID_ARGUMENT, ES_PROCESSED_NO, "unknown codec");
        return 1;
    }
    if (r->payload.n > s->host->cfg.limits.max_message || r->metadata.n > s->host->cfg.limits.max_metadata) {
        failure_set(f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO, "the request is too large");
        return 1;
    }
    if (es_idmap_get(&s->by_id, r->request_id) != NULL) {
        failure_set(f, ES_STATUS_ALREADY_EXISTS, ES_PROCESSED_NO, "the request id is in use");
        return 1;
    }
    *method = find_method(s, r, f, text);
    return *method == NULL;
}

/* Whoever marks a retry idempotent does not know whether the call ran before; the method has to agree. */
static int refuse_retry(const struct es_request *r, const struct es_method *m, struct es_failure *f)
{
    const uint64_t both = ES_FLAG_RETRY | ES_FLAG_IDEMPOTENT;

    if ((r->flags & both) != both || (m->flags & ES_METHOD_IDEMPOTENT))
        return 0;
    failure_set(f, ES_STATUS_FAILED_PRECONDITION, ES_PROCESSED_NO,
                "it may have run already, and the method is not declared idempotent");
    return 1;
}

/* Requests that can never be served are an honest peer's mistake once, and an attack by the thousand. */
void session_glitch_refusal(struct es_session *s, const struct es_failure *f)
{
    if (f->status != ES_STATUS_UNAVAILABLE && f->status != ES_STATUS_CANCELLED)
        session_glitch(s, 1, "too many requests that cannot be served");
}

/* Appends ES_EV_REQUEST. 0, or ES_ERR_NOMEM (the session is closing). */
static int deliver(struct es_call *c, const struct es_request *r)
{
    struct es_session *s = c->st.session;
    struct es_ev_message *e;
    int rc;

    if ((rc = es_buf_put(&c->metadata, r->metadata.p, r->metadata.n)) != 0 ||
        (rc = es_idmap_put(&s->by_id, c->request_id, &c->st)) != 0) {
        session_oom(s);
        return rc;
    }
    c->in_map = 1;
    e = session_push(s, ES_EV_REQUEST, sizeof *e + r->metadata.n + r->payload.n);
    if (e == NULL)
        return ES_ERR_NOMEM;
    e->call = c;
    e->method = c->method;
    e->codec = c->codec;
    e->idempotent = c->idempotent;
    e->packed = (c->peer_flags & ES_FLAG_ZSTD) != 0;
    e->metadata_len = (uint32_t)r->metadata.n;
    e->payload_len = (uint32_t)r->payload.n;
    if (r->metadata.n > 0)
        memcpy(e->data, r->metadata.p, r->metadata.n);
    if (r->payload.n > 0)
        memcpy(e->data + r->metadata.n, r->payload.p, r->payload.n);
    c->rec_request = e;
    c->delivered = 1;
    es_session_ref(s);
    es_list_remove(&c->node);
    es_list_push(&s->calls_in, &c->node);
    s->n_calls_in++;
    s->host->stats.calls_in++;
    s->host->stats.calls_in_running++;
    return 0;
}

/* A method may allow its calls less time than their callers do. */
static int limit_time(struct es_call *c)
{
    struct es_wheel *w = &c->st.session->host->wheel;
    uint64_t ends = session_now(c->st.session) + c->method->timeout;

    if (c->method->timeout == 0 || ends >= c->deadline)
        return 0;
    c->limited = 1;
    c->deadline = ends;
    es_wheel_remove(w, &c->st.deadline);
    return es_wheel_add(w, &c->st.deadline, ends);
}

static void refuse_with(struct es_call *c, int status, const char *message, uint64_t stop_code)
{
    struct es_failure f;

    failure_set(&f, status, ES_PROCESSED_NO, message);
    f.codec = c->codec;
    call_in_refuse(c, &f, stop_code);
}

/* As many calls as may are under way, of all sessions together. One session cannot take the places of all:
 * each may have its share. */
static int is_full(const struct es_session *s)
{
    const struct es_host *h = s->host;
    uint64_t max = h->cfg.limits.max_total_calls, sessions = h->stats.sessions;

    return max != 0 && h->stats.calls_in_running >= max && (s->n_calls_in + 1) * sessions > max;
}

/* The whole request is there and the peer is let in. c may be gone after. */
static void dispatch(struct es_call *c, const struct es_request *r)
{
    struct es_session *s = c->st.session;
    struct es_method *m = NULL;
    struct es_failure f;
    char text[REFUSAL_TEXT];

    if (refuse_reason(s, r, &f, text, &m) || refuse_retry(r, m, &f)) {
        session_glitch_refusal(s, &f);
        f.codec = c->codec;
        call_in_refuse(c, &f,
                       f.status == ES_STATUS_RESOURCE_EXHAUSTED ? ES_APP_TOO_LARGE : ES_APP_NO_MORE_WANTED);
        return;
    }
    /* It may be given up whenever its caller likes, together with all others that are under way: what that
     * takes comes before any of it is answered. That starting and giving up is not all that the peer does is
     * seen to by the account of resets, and by the allowance of streams. */
    session_honest(s);
    if (is_full(s)) {
        reset_forgiven(s); /* honest callers give up more calls than ever when we are slow */
        refuse_with(c, ES_STATUS_RESOURCE_EXHAUSTED, "as many calls are under way as may",
                    ES_APP_NO_MORE_WANTED);
        return;
    }
    c->method = m;
    es_method_use(m);
    set_urgency(c->st.ls, m, r);
    if (limit_time(c) != 0)
        session_oom(s);
    else if (deliver(c, r) != 0)
        call_in_end(c);
}

/* ---- receiving ---- */

static void start_deadline(struct es_call *c, const struct es_request *r)
{
    struct es_session *s = c->st.session;
    uint64_t ms = r->deadline_ms < MAX_DEADLINE_MS ? r->deadline_ms : MAX_DEADLINE_MS;

    if (c->deadline != 0)
        return; /* it ran while the call was parked */
    c->deadline = ms != 0 ? session_now(s) + ms * ES_MILLI : ES_NEVER;
    if (es_wheel_add(&s->host->wheel, &c->st.deadline, c->deadline) != 0)
        session_oom(s);
}

/* Calls that come before HELLO, or before es_session_accept(), are kept as they came. What follows the
 * REQUEST of a named stream is kept too, without returning credit. */
static void park(struct es_call *c, const struct es_raw_frame *f)
{
    struct es_session *s = c->st.session;

    if (es_buf_put(&c->stash, f->body, f->len) != 0) {
        session_oom(s);
        return;
    }
    c->parked = 1;
    es_list_remove(&c->node);
    es_list_push(&s->parked, &c->node);
}

static void park_more(struct es_call *c, const uint8_t *p, size_t n)
{
    if (es_buf_put(&c->late, p, n) != 0)
        session_oom(c->st.session);
    else
        strand_settle(&c->st, c->stash.n + c->late.n, c->stash.n + c->late.n, 0);
}

/* Early data may be played to us by others than its sender, and again: only a call that its caller and its
 * method both call harmless when run twice is let in before the handshake is over. */
static int may_run_early(struct es_session *s, const struct es_request *r)
{
    struct es_method *m;

    if (!session_lets_in_early(s) || !(r->flags & ES_FLAG_IDEMPOTENT) ||
        (r->flags & (ES_FLAG_MORE | ES_FLAG_STREAM | ES_FLAG_RETRY)))
        return 0;
    m = es_host_find(s->host, ES_KIND_RPC, (const char *)r->method.p, r->method.n);
    return m != NULL && (m->flags & ES_METHOD_IDEMPOTENT) && !(m->flags & ES_METHOD_STREAM);
}

/* The REQUEST came, now or before the peer was let in. c may be gone after, and its stream a channel's. */
static void request_frame(struct es_call *c, const struct es_raw_frame *f)
{
    struct es_session *s = c->st.session;
    const char *why = NULL;
    struct es_request r;
    int rc = es_request_decode(&r, f->body, f->len, s->caps_in, &why);

    rc = unpack_check(s, f, rc, r.flags, &r.payload, &why);
    if (rc == ES_ERR_CORRUPT) {
        session_glitch(s, 1, "too many requests with wrong checksums");
        refuse_with(c, ES_STATUS_DATA_LOSS, why, ES_APP_NO_MORE_WANTED);
        return;
    }
    if (rc == ES_ERR_TOO_LARGE) {
        session_glitch(s, 1, "too many requests that are too large");
        refuse_with(c, ES_STATUS_RESOURCE_EXHAUSTED, why, ES_APP_TOO_LARGE);
        return;
    }
    if (rc == 0 && r.request_id == 0) {
        rc = ES_ERR_PROTOCOL;
        why = "the request id 0";
    }
    if (rc != 0) {
        session_violation(s, ES_APP_PROTOCOL, why);
        return;
    }
    c->got_request = 1;
    c->request_id = r.request_id;
    c->codec = codec_known(s, r.codec) ? (uint8_t)r.codec : ES_CODEC_RAW;
    c->peer_flags = (uint8_t)(r.flags & ES_PACKED);
    c->priority = (uint8_t)r.priority;
    c->idempotent = (r.flags & ES_FLAG_IDEMPOTENT) != 0;
    c->retry = (r.flags & ES_FLAG_RETRY) != 0;
    start_deadline(c, &r);
    if (s->closing)
        return;
    if (!session_lets_in(s) && !may_run_early(s, &r))
        park(c, f);
    else if (r.flags & (ES_FLAG_MORE | ES_FLAG_STREAM))
        channel_accept(c, &r);
    else
        dispatch(c, &r);
}

/* What follows the REQUEST of a unary call must be nothing but frames of unknown odd types and FIN. */
void call_in_data(struct es_call *c, const uint8_t *p, size_t n, int fin)
{
    struct es_session *s = c->st.session;
    struct es_link_stream *ls = c->st.ls;
    struct es_raw_frame f;
    int rc = 0;

    while (!c->parked && (rc = strand_feed(&c->st, &p, &n, &f)) == 1) {
        struct es_strand *st;

        if (c->got_request || f.type != ES_FRAME_REQUEST) {
            session_violation(s, ES_APP_PROTOCOL, "a frame that does not belong in a request");
            return;
        }
        request_frame(c, &f);
        if (s->closing)
            return;
        st = ls->user;
        if (st != &c->st) { /* refused, or a named stream now */
            if (st != NULL)
                channel_data((struct es_channel *)st, p, n, fin);
            return;
        }
    }
    if (c->parked) {
        park_more(c, p, n);
        return;
    }
    if (rc == ES_ERR_NOMEM)
        session_oom(s);
    else if (rc == ES_ERR_TOO_LARGE && !c->got_request) {
        session_glitch(s, 1, "too many requests that are too large");
        refuse_with(c, ES_STATUS_RESOURCE_EXHAUSTED, "the request is larger than max_message",
                    ES_APP_TOO_LARGE);
    } else if (rc < 0)
        session_violation(s, ES_APP_PROTOCOL, c->st.reader.why);
    else if (fin && !c->got_request)
        session_violation(s, ES_APP_PROTOCOL, "a stream without a whole REQUEST");
    else
        strand_settle(&c->st, 0, 0, 1);
}

/* HELLO came and the session is accepted: as if the bytes came only now. */
void call_in_let_in(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_link_stream *ls = c->st.ls;
    struct es_raw_frame f = {ES_FRAME_REQUEST, c->stash.p, c->stash.n};
    struct es_buf body = c->stash, late = c->late;
    int fin = c->st.fin;

    c->parked = 0;
    es_list_remove(&c->node);
    es_list_push(&s->fresh, &c->node);
    memset(&c->stash, 0, sizeof c->stash);
    memset(&c->late, 0, sizeof c->late);
    request_frame(c, &f);
    if (!s->closing && ls->user != NULL) {
        struct es_strand *st = ls->user;

        if (st->kind == ES_STRAND_CHANNEL)
            channel_data((struct es_channel *)st, late.p, late.n, fin);
        else
            call_in_data((struct es_call *)st, late.p, late.n, fin);
    }
    es_buf_free(&body);
    es_buf_free(&late);
}

void call_in_reset(struct es_call *c, uint64_t code)
{
    struct es_session *s = c->st.session;

    /* What was given up before any of it was sent costs no handler's start, nor much else: an honest peer may
     * give up crowd after crowd of calls that wait for a slow path, and its resets go in front of its
     * CANCELs. Only that they are very many counts as glitches. */
    if (c->st.received > 0)
        reset_counted(s);
    else if (++s->empty_resets % EMPTY_RESETS != 0)
        es_glitch_forgive(&s->link->base->glitch, 1);
    if (s->closing)
        return;
    if (c->delivered) {
        call_in_cancel(c, code);
        return;
    }
    refuse_with(c, ES_STATUS_CANCELLED, "cancelled before it was let in", code);
}

void call_in_too_slow(struct es_call *c)
{
    session_glitch(c->st.session, 4, "too many requests that do not become whole");
    refuse_with(c, ES_STATUS_TIMEOUT, "the request did not come whole in time", ES_APP_DEADLINE);
}

void call_in_cancel(struct es_call *c, uint64_t code)
{
    struct es_session *s = c->st.session;

    if (!c->delivered || c->cancelled)
        return;
    if (c->admitted) {
        struct es_ev_message *e = session_push(s, ES_EV_CALL_CANCELLED, sizeof *e);

        if (e == NULL)
            return; /* the session is closing: it is told then */
        e->call = c;
        e->user = c->user;
        e->method = c->method;
        e->code = code;
        c->rec_cancel = e;
    }
    c->cancelled = 1;
    c->cancel_code = code;
    s->host->stats.calls_cancelled++;
    es_wheel_remove(&s->host->wheel, &c->st.deadline);
    /* A retry may come under the same id while the handler still runs. */
    if (c->in_map)
        es_idmap_remove(&s->by_id, c->request_id);
    c->in_map = 0;
}

void call_in_expired(struct es_call *c)
{
    c->st.session->host->stats.calls_timed_out++;
    reset_forgiven(c->st.session); /* its CANCEL is on the way, and will find nothing */
    if (c->delivered) {
        if (c->limited)
            call_in_answer_expired(
                c); /* its caller still waits, and not for a handler that does not heed us */
        call_in_cancel(c, ES_APP_DEADLINE);
    } else {
        session_honest(c->st.session); /* nobody looked at it yet */
        refuse_with(c, ES_STATUS_TIMEOUT, "the deadline passed before the call was let in", ES_APP_DEADLINE);
    }
}

int call_in_report(struct es_call *c)
{
    call_in_cancel(c, ES_APP_SESSION_CLOSED);
    return c->cancelled ? 0 : ES_ERR_NOMEM;
}
