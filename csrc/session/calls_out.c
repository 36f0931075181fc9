/* Calls of ours: from es_session_request to RESPONSE, CALL_FAILED or es_call_cancel. */
#include <string.h>
#include "internal.h"

void es_call_opts_default(struct es_call_opts *o)
{
    memset(o, 0, sizeof *o);
    o->deadline = ES_DEADLINE_DEFAULT;
    o->priority = 3;
    o->codec = ES_CODEC_MSGPACK;
}

uint64_t session_next_request_id(struct es_session *s)
{
    /* Sessions that share one instance must not share ids: the peer's dedupe key is both. */
    return s->shared_ids ? s->host->next_request_id++ : s->next_request_id++;
}

uint64_t es_session_request_id(struct es_session *s)
{
    return session_may_send(s) ? session_next_request_id(s) : 0;
}

/* ---- the end of a call ---- */

void call_out_free(struct es_call *c)
{
    struct es_host *h = c->st.session->host;

    strand_free(&c->st);
    es_list_remove(&c->node);
    es_buf_free(&c->stash);
    if (c->release != NULL)
        c->release(c->release_arg);
    es_pool_put(&h->calls, c);
}

/* Off its list; nothing of it goes out or is waited for any more. */
static void leave_list(struct es_call *c, int status)
{
    struct es_session *s = c->st.session;

    es_meter_end(c->meter, status, session_now(s) - c->opened_at);

    es_list_remove(&c->node);
    if (c->pending)
        s->n_pending--;
    else
        s->n_calls_out--;
    s->host->stats.calls_out_running--;
    es_wheel_remove(&s->host->wheel, &c->st.deadline);
}

/* Tells the peer that nobody waits: CANCEL is what it acts on, the rest frees both directions. Of a request
 * that has not left there is nothing to act on. */
static void abandon(struct es_call *c, uint64_t code)
{
    struct es_link_stream *ls = c->st.ls;

    if (ls == NULL)
        return;
    if (c->st.session->link != NULL) {
        if (es_link_queued(ls) < c->request_len)
            control_send_cancel(c->st.session, c->request_id, code);
        es_link_stop(ls, code);
        es_glitch_expect(&c->st.session->link->base->glitch,
                         3); /* RESET_STREAM and STOP_SENDING, repeated perhaps */
        /* What is in packets already is left to arrive: resets go in front of CANCELs, and a crowd of them
         * looks like an attack. */
        if (!c->fin_acked && es_link_queued(ls) > 0)
            es_link_reset(ls, code);
    }
    strand_detach(&c->st);
}

static int fail_packed(struct es_call *c, const struct es_failure *f, int packed)
{
    struct es_session *s = c->st.session;
    struct es_ev_failed *e;
    const char *code = f->code != NULL ? f->code : es_status_code(f->status);
    size_t code_len = f->code != NULL ? f->code_len : strlen(code);
    size_t trailers_len = f->trailers != NULL ? f->trailers->n : 0;
    uint8_t *p;

    e = session_push(s, ES_EV_CALL_FAILED,
                     sizeof *e + code_len + f->message_len + f->details_len + trailers_len);
    if (e == NULL) {
        strand_detach(&c->st);
        return ES_ERR_NOMEM;
    }
    e->call = c;
    e->user = c->user;
    e->status = (uint16_t)f->status;
    e->processed = (uint8_t)f->processed;
    e->codec = (uint8_t)f->codec;
    e->packed = (uint8_t)packed;
    e->retry_after_ms = f->retry_after_ms;
    e->code_len = (uint32_t)code_len;
    e->message_len = (uint32_t)f->message_len;
    e->details_len = (uint32_t)f->details_len;
    e->trailers_len = (uint32_t)trailers_len;
    p = e->data;
    memcpy(p, code, code_len);
    p += code_len;
    if (f->message_len > 0)
        memcpy(p, f->message, f->message_len);
    p += f->message_len;
    if (f->details_len > 0)
        memcpy(p, f->details, f->details_len);
    if (trailers_len > 0)
        memcpy(p + f->details_len, f->trailers->p, trailers_len);
    c->record = &e->h;
    leave_list(c, f->status);
    strand_detach(&c->st);
    session_check_idle(s);
    return 0;
}

int call_out_fail(struct es_call *c, const struct es_failure *f)
{
    return fail_packed(c, f, 0);
}

static void fail_with(struct es_call *c, int status, int processed, const char *message)
{
    struct es_failure f;

    failure_set(&f, status, processed, message);
    (void)call_out_fail(c, &f);
}

int call_out_report(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_failure f;
    char text[CLOSE_TEXT_ROOM];

    failure_of_close(&f, &s->close_info, c->pending ? ES_PROCESSED_NO : ES_PROCESSED_MAYBE, text);
    return call_out_fail(c, &f);
}

void call_out_expired(struct es_call *c)
{
    c->st.session->host->stats.calls_timed_out++;
    abandon(c, ES_APP_DEADLINE);
    fail_with(c, ES_STATUS_TIMEOUT, c->pending ? ES_PROCESSED_NO : ES_PROCESSED_MAYBE, "the deadline passed");
}

void es_call_cancel(struct es_call *c, uint64_t code)
{
    struct es_session *s = c->st.session;

    s->host->stats.calls_cancelled++;
    if (c->record != NULL) {
        ((struct es_ev_failed *)c->record)->call = NULL; /* RESPONSE has its call at the same place */
        c->record->type = ES_EV_DROPPED;
    } else {
        abandon(c, code);
        leave_list(c, ES_STATUS_CANCELLED);
        session_check_idle(s);
    }
    call_out_free(c);
}

/* ---- sending ---- */

static uint64_t deadline_ms(const struct es_call *c)
{
    uint64_t now = session_now(c->st.session), ms;

    if (c->deadline == ES_NEVER)
        return 0;
    ms = c->deadline > now ? (c->deadline - now + ES_MILLI - 1) / ES_MILLI : 0;
    return ms > 0 ? ms : 1; /* 0 would mean none */
}

int call_out_send(struct es_call *c, const struct es_bytes *method, const struct es_kv *kv,
                  const uint8_t *payload, size_t len, void (*release)(void *), void *arg)
{
    struct es_session *s = c->st.session;
    struct es_buf *b = &s->host->scratch;
    struct es_request r = {0};
    struct es_packed k;
    int rc = codec_out(s, c->codec, &r.codec);

    if (rc == 0)
        rc = es_link_open(s->link, ES_DIR_BIDI, &c->st, &c->st.ls);
    if (rc != 0)
        return rc;
    if (c->priority != 3)
        es_link_priority(c->st.ls, ES_PRIO_FIRST + c->priority);
    pack_payload(s, &c->packing, payload, len, &k);
    r.flags = (c->idempotent ? ES_FLAG_IDEMPOTENT : 0) | (c->retry ? ES_FLAG_RETRY : 0) | k.flags;
    r.request_id = c->request_id;
    r.method = *method;
    r.deadline_ms = deadline_ms(c);
    r.priority = c->priority;
    r.metadata = *kv;
    es_buf_clear(b);
    rc = es_request_encode_head(b, &r, packed_len(&k));
    if (rc == 0)
        rc = pack_write(s, c->st.ls, &k, 1, release, arg);
    c->request_len = es_link_queued(c->st.ls);
    if (rc != 0) {
        es_link_stop(c->st.ls, ES_APP_CANCELLED);
        es_link_reset(c->st.ls, ES_APP_CANCELLED);
        strand_detach(&c->st);
    }
    return rc;
}

/* ---- receiving ---- */

static void succeeded(struct es_call *c, const struct es_response *r)
{
    struct es_session *s = c->st.session;
    struct es_ev_message *e;

    e = session_push(s, ES_EV_RESPONSE, sizeof *e + r->trailers.n + r->payload.n);
    if (e == NULL) {
        strand_detach(&c->st);
        return;
    }
    e->call = c;
    e->user = c->user;
    e->codec = (uint8_t)r->codec;
    e->idempotent = (r->flags & ES_FLAG_METHOD_IDEMPOTENT) != 0;
    e->packed = (r->flags & ES_FLAG_ZSTD) != 0;
    e->metadata_len = (uint32_t)r->trailers.n;
    e->payload_len = (uint32_t)r->payload.n;
    if (r->trailers.n > 0)
        memcpy(e->data, r->trailers.p, r->trailers.n);
    if (r->payload.n > 0)
        memcpy(e->data + r->trailers.n, r->payload.p, r->payload.n);
    c->record = &e->h;
    leave_list(c, ES_STATUS_OK);
    strand_detach(&c->st);
    session_check_idle(s);
}

static void answered(struct es_call *c, const struct es_response *r)
{
    struct es_failure f = {0};

    /* The answer is there: what is still unsent of the request is wanted by nobody. */
    if (es_link_queued(c->st.ls) > 0)
        es_link_reset(c->st.ls, ES_APP_NO_MORE_WANTED);
    if (r->status == ES_STATUS_OK) {
        succeeded(c, r);
        return;
    }
    f.status = (int)r->status;
    f.code = (const char *)r->code.p;
    f.code_len = r->code.n;
    f.message = (const char *)r->message.p;
    f.message_len = r->message.n;
    f.processed = (int)r->processed;
    f.retry_after_ms = r->retry_after_ms;
    f.codec = (int)r->codec;
    f.details = r->payload.p;
    f.details_len = r->payload.n;
    f.trailers = &r->trailers;
    (void)fail_packed(c, &f, (r->flags & ES_FLAG_ZSTD) != 0);
}

static void answer_too_large(struct es_call *c)
{
    abandon(c, ES_APP_TOO_LARGE);
    fail_with(c, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_YES, "the answer is larger than max_message");
}

/* 1: go on; 0: the call is over or the session is closing. */
static int response_frame(struct es_call *c, const struct es_raw_frame *f)
{
    struct es_session *s = c->st.session;
    const char *why = "a frame that does not belong in an answer";
    struct es_response r;
    struct es_head head;
    int rc = ES_ERR_PROTOCOL;

    if (f->type == ES_FRAME_RESPONSE) {
        rc = es_response_decode(&r, f->body, f->len, s->caps_in, &why);
        rc = unpack_check(s, f, rc, r.flags, &r.payload, &why);
        if (rc == ES_ERR_CORRUPT) {
            abandon(c, ES_APP_CANCELLED);
            fail_with(c, ES_STATUS_DATA_LOSS, ES_PROCESSED_MAYBE, why);
            return 0;
        }
        if (rc == 0 && !codec_known(s, r.codec)) {
            why = "an answer in an unknown codec";
            rc = ES_ERR_PROTOCOL;
        }
        if (rc == 0) {
            if (r.payload.n > s->host->cfg.limits.max_message)
                answer_too_large(c);
            else
                answered(c, &r);
            return 0;
        }
    } else if (f->type == ES_FRAME_HEAD && !c->head_seen) {
        rc = es_head_decode(&head, f->body, f->len, &why);
        c->head_seen = 1;
    }
    if (rc == 0)
        return 1;
    if (rc == ES_ERR_TOO_LARGE)
        answer_too_large(c);
    else
        session_violation(s, ES_APP_PROTOCOL, why);
    return 0;
}

void call_out_data(struct es_call *c, const uint8_t *p, size_t n, int fin)
{
    struct es_session *s = c->st.session;
    struct es_raw_frame f;
    int rc;

    while ((rc = strand_feed(&c->st, &p, &n, &f)) == 1) {
        if (!response_frame(c, &f))
            return;
    }
    if (rc == ES_ERR_NOMEM)
        session_oom(s);
    else if (rc == ES_ERR_TOO_LARGE)
        answer_too_large(c);
    else if (rc < 0)
        session_violation(s, ES_APP_PROTOCOL, c->st.reader.why);
    else if (fin)
        fail_with(c, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "the stream ended without an answer");
    else
        strand_settle(&c->st, 0, 0, 1);
}

void call_out_reset(struct es_call *c, uint64_t code)
{
    struct es_failure f;
    char text[80];

    failure_of_code(&f, code, ES_PROCESSED_MAYBE, text, sizeof text);
    /* Our own direction: the peer reads nothing of it any more. */
    if (es_link_queued(c->st.ls) > 0)
        es_link_reset(c->st.ls, ES_APP_NO_MORE_WANTED);
    (void)call_out_fail(c, &f);
}
