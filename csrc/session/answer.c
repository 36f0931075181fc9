/* How a responder ends a stream: RESPONSE + FIN, STOP_SENDING when the peer has not finished, never a reset.
 */
#include <string.h>
#include "internal.h"

/* The code of a failure goes on the wire, so it has to be a name. */
static void set_code(struct es_response *r, const struct es_failure *f)
{
    const char *code = f->code;
    size_t n = f->code_len;

    if (code == NULL || !es_name_valid(code, n)) {
        code = es_status_code(f->status);
        n = strlen(code);
    }
    r->code.p = (const uint8_t *)code;
    r->code.n = n;
}

static int write_failure(struct es_session *s, struct es_link_stream *ls, const struct es_failure *f)
{
    struct es_buf *b = &s->host->scratch;
    const struct es_packing how = {.checksum = s->host->cfg.packing.checksum};
    struct es_response r = {0};
    struct es_packed k;
    size_t details = f->details_len;
    int rc;

    if (codec_out(s, (uint64_t)f->codec, &r.codec) != 0)
        details = 0; /* r.codec is 0: raw */
    r.status =
        f->status > 0 && f->status <= ES_STATUS_UNAUTHENTICATED ? (uint64_t)f->status : ES_STATUS_UNKNOWN;
    set_code(&r, f);
    r.message.p = (const uint8_t *)f->message;
    r.message.n = utf8_cut(f->message, f->message_len, ES_MAX_MESSAGE_TEXT);
    r.processed = (uint64_t)f->processed;
    r.retry_after_ms = f->retry_after_ms < ES_VARINT_MAX ? f->retry_after_ms : ES_VARINT_MAX;
    if (f->trailers != NULL)
        r.trailers = *f->trailers;
    if (details > s->peer_max_message)
        details = 0; /* the status matters more */
    pack_payload(s, &how, f->details, details, &k);
    r.flags = k.flags;
    es_buf_clear(b);
    rc = es_response_encode_head(b, &r, packed_len(&k));
    return rc == 0 ? pack_write(s, ls, &k, 1, NULL, NULL) : rc;
}

/* After the last byte was queued (or could not be). */
static void close_stream(struct es_link_stream *ls, int fin, int rc, uint64_t stop_code)
{
    if (rc != 0 && rc != ES_ERR_CLOSED)
        es_link_reset(ls, ES_APP_INTERNAL); /* no answer can be given */
    if (!fin)
        es_link_stop(ls, stop_code);
    es_link_stream_done(ls);
}

int answer_failure(struct es_session *s, struct es_link_stream *ls, int fin, const struct es_failure *f,
                   uint64_t stop_code)
{
    int rc = write_failure(s, ls, f);

    close_stream(ls, fin, rc, stop_code);
    return rc;
}

/* ---- the end of a call of the peer ---- */

void call_in_free(struct es_call *c)
{
    struct es_session *s = c->st.session;

    if (c->in_map)
        es_idmap_remove(&s->by_id, c->request_id);
    es_list_remove(&c->node);
    strand_free(&c->st);
    if (c->method != NULL)
        es_method_unuse(c->method);
    es_buf_free(&c->stash);
    es_buf_free(&c->late);
    es_buf_free(&c->metadata);
    es_buf_free(&c->trailers);
    es_pool_put(&s->host->calls, c);
}

void call_in_end(struct es_call *c)
{
    struct es_session *s = c->st.session;
    int delivered = c->delivered;

    if (c->rec_request != NULL) {
        c->rec_request->call = NULL;
        if (!c->admitted)
            c->rec_request->h.type = ES_EV_DROPPED;
    }
    if (c->rec_cancel != NULL) {
        c->rec_cancel->call = NULL;
        c->rec_cancel->h.type = ES_EV_DROPPED;
    }
    if (c->running) {
        s->n_running--;
        c->method->running--;
    }
    if (c->owes && session_may_send(s))
        es_link_allow(s->link, ES_DIR_BIDI);
    if (delivered) {
        s->n_calls_in--;
        s->host->stats.calls_in_running--;
    }
    call_in_free(c);
    if (delivered) {
        session_check_idle(s);
        es_session_unref(s); /* may be the last */
    }
}

void call_in_refuse(struct es_call *c, const struct es_failure *f, uint64_t stop_code)
{
    struct es_session *s = c->st.session;

    s->host->stats.calls_in_refused++;
    if (c->method != NULL) {
        struct es_meter *meter = es_method_meter(c->method);

        if (meter != NULL)
            meter->refused++;
    }
    if (c->st.ls != NULL && s->link != NULL)
        (void)answer_failure(s, c->st.ls, c->st.fin, f, stop_code);
    call_in_end(c);
}

/* How a call that was let in ended, for its method's meter. */
static void count_end(struct es_call *c, int status)
{
    es_meter_end(c->meter, status, session_now(c->st.session) - c->opened_at);
    c->meter = NULL;
}

/* Nobody waits for the answer, but the stream has to end. */
void call_in_end_unwanted(struct es_call *c)
{
    int timed_out = c->cancel_code == ES_APP_DEADLINE;
    struct es_failure f;

    count_end(c, timed_out ? ES_STATUS_TIMEOUT : ES_STATUS_CANCELLED);
    if (c->st.ls != NULL && c->st.session->link != NULL) {
        failure_set(&f, timed_out ? ES_STATUS_TIMEOUT : ES_STATUS_CANCELLED,
                    c->admitted ? ES_PROCESSED_MAYBE : ES_PROCESSED_NO,
                    timed_out ? "the deadline passed" : "cancelled");
        f.codec = c->codec;
        (void)answer_failure(c->st.session, c->st.ls, c->st.fin, &f, ES_APP_NO_MORE_WANTED);
    }
    call_in_end(c);
}

void call_in_answer_expired(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_failure f;

    if (c->st.ls == NULL || s->link == NULL || c->cancelled)
        return;
    failure_set(&f, ES_STATUS_TIMEOUT, c->admitted ? ES_PROCESSED_MAYBE : ES_PROCESSED_NO,
                "the method's own time limit passed");
    f.codec = c->codec;
    c->method->errors++;
    (void)answer_failure(s, c->st.ls, c->st.fin, &f, ES_APP_NO_MORE_WANTED);
    strand_detach(&c->st);
}

static int is_wanted(const struct es_call *c)
{
    return !c->cancelled && c->st.ls != NULL && session_may_send(c->st.session);
}

int es_call_admit(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_failure f;

    if (!is_wanted(c)) {
        call_in_end_unwanted(c);
        return ES_ERR_CLOSED;
    }
    if (c->method->ref == ES_NO_REF) {
        failure_set(&f, ES_STATUS_METHOD_NOT_FOUND, ES_PROCESSED_NO, "the method was removed");
        f.codec = c->codec;
        call_in_refuse(c, &f, ES_APP_NO_MORE_WANTED);
        return ES_ERR_NOT_FOUND;
    }
    if (s->n_running >= s->host->cfg.limits.max_calls) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO, "too many calls are running");
        f.codec = c->codec;
        reset_forgiven(s);
        call_in_refuse(c, &f, ES_APP_NO_MORE_WANTED);
        return ES_ERR_LIMIT;
    }
    if (c->method->max_calls != 0 && es_method_inside(c->method) >= c->method->max_calls) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO,
                    "as many calls of this method are running as may");
        f.codec = c->codec;
        reset_forgiven(s);
        call_in_refuse(c, &f, ES_APP_NO_MORE_WANTED);
        return ES_ERR_LIMIT;
    }
    if (call_in_must_wait(s))
        return call_in_postpone(c);
    c->admitted = 1;
    c->method->calls++;
    c->meter = es_method_meter(c->method);
    return 0;
}

void es_call_started(struct es_call *c)
{
    if (c->running)
        return;
    c->running = 1;
    c->method->running++;
    c->st.session->n_running++;
}

static struct es_kv trailers_of(const struct es_call *c)
{
    return (struct es_kv){c->trailers.p, c->trailers.n, c->n_trailers};
}

int es_call_set_trailers(struct es_call *c, const struct es_pair_kv *pairs, size_t n)
{
    return kv_replace(c->st.session, &c->trailers, &c->n_trailers, pairs, n);
}

static int write_success(struct es_call *c, uint64_t codec, const uint8_t *payload, size_t len,
                         void (*release)(void *), void *arg)
{
    struct es_session *s = c->st.session;
    struct es_buf *b = &s->host->scratch;
    const struct es_packing *how = &s->host->cfg.packing;
    struct es_packing in_kind;
    struct es_response r = {0};
    struct es_packed k;
    int rc;

    r.codec = codec;
    if (c->peer_flags != 0 || c->method->flags & ES_METHOD_SECRET) {
        in_kind = pack_mirror(how, c->peer_flags);
        if (c->method->flags & ES_METHOD_SECRET)
            in_kind.compress = ES_COMPRESS_NEVER;
        how = &in_kind;
    }
    pack_payload(s, how, payload, len, &k);
    r.flags = (c->method->flags & ES_METHOD_IDEMPOTENT ? ES_FLAG_METHOD_IDEMPOTENT : 0) | k.flags;
    r.trailers = trailers_of(c);
    es_buf_clear(b);
    rc = es_response_encode_head(b, &r, packed_len(&k));
    return rc == 0 ? pack_write(s, c->st.ls, &k, 1, release, arg) : rc;
}

int es_call_respond(struct es_call *c, int codec, const uint8_t *payload, size_t len, void (*release)(void *),
                    void *arg)
{
    struct es_session *s = c->st.session;
    struct es_failure f;
    uint64_t wire;
    int rc;

    if (!is_wanted(c)) {
        call_in_end_unwanted(c);
        return ES_ERR_CLOSED;
    }
    if (codec_out(s, (uint64_t)codec, &wire) != 0) {
        failure_set(&f, ES_STATUS_INVALID_ARGUMENT, ES_PROCESSED_YES,
                    "the caller did not announce the codec of its request");
        c->method->errors++;
        (void)answer_failure(s, c->st.ls, c->st.fin, &f, ES_APP_NO_MORE_WANTED);
        count_end(c, ES_STATUS_INVALID_ARGUMENT);
        rc = ES_ERR_UNSUPPORTED;
    } else if (len > s->peer_max_message) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_YES,
                    "the answer is larger than the caller's max_message");
        f.codec = c->codec;
        c->method->errors++;
        (void)answer_failure(s, c->st.ls, c->st.fin, &f, ES_APP_NO_MORE_WANTED);
        count_end(c, ES_STATUS_RESOURCE_EXHAUSTED);
        rc = ES_ERR_TOO_LARGE;
    } else {
        rc = write_success(c, wire, payload, len, release, arg);
        close_stream(c->st.ls, c->st.fin, rc, ES_APP_NO_MORE_WANTED);
        reset_forgiven(s);
        count_end(c, ES_STATUS_OK);
    }
    call_in_end(c);
    return rc;
}

int es_call_fail(struct es_call *c, const struct es_failure *f)
{
    struct es_kv trailers = trailers_of(c);
    struct es_failure with = *f;
    int rc;

    c->method->errors++;
    if (!is_wanted(c)) {
        call_in_end_unwanted(c);
        return ES_ERR_CLOSED;
    }
    with.trailers = &trailers;
    count_end(c, f->status);
    rc = answer_failure(c->st.session, c->st.ls, c->st.fin, &with, ES_APP_NO_MORE_WANTED);
    if (f->unreadable)
        session_glitch(c->st.session, 1 + HONEST_POINTS, "too many requests that cannot be read");
    else
        reset_forgiven(c->st.session);
    call_in_end(c);
    return rc;
}

/* ---- what may be asked about any call ---- */

uint64_t es_call_request_id(const struct es_call *c)
{
    return c->request_id;
}

void *es_call_user(const struct es_call *c)
{
    return c->user;
}

void es_call_set_user(struct es_call *c, void *user)
{
    c->user = user;
    if (c->record != NULL)
        ((struct es_ev_failed *)c->record)->user = user; /* RESPONSE has it at the same place */
    if (c->rec_cancel != NULL)
        c->rec_cancel->user = user;
}

struct es_session *es_call_session(const struct es_call *c)
{
    return c->st.session;
}

uint64_t es_call_deadline(const struct es_call *c)
{
    return c->deadline;
}

int es_call_attempt(const struct es_call *c)
{
    return c->retry ? 2 : 1;
}

int es_call_cancelled(const struct es_call *c)
{
    return c->cancelled;
}

int es_call_idempotent(const struct es_call *c)
{
    return c->idempotent && (c->method->flags & ES_METHOD_IDEMPOTENT);
}

int es_call_limited(const struct es_call *c)
{
    return c->limited;
}

const uint8_t *es_call_metadata(const struct es_call *c, size_t *len)
{
    *len = c->metadata.n;
    return c->metadata.n > 0 ? c->metadata.p : NULL;
}
