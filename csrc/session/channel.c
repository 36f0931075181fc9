/* Named streams and streaming calls: what the binding does with them once they are open. channel_open.c opens
 * them, channel_in.c is what the peer does. */
#include "channel.h"

#include <stdio.h>
#include <string.h>

/* ---- telling the binding ---- */

int channel_tell(struct es_channel *c, int kind)
{
    struct es_ev_channel *e;

    if (c->rec[kind] != NULL)
        return 0; /* the one in the queue says it */
    e = session_push(c->st.session, ES_EV_CHANNEL_READABLE + (unsigned)(kind - ES_REC_READABLE), sizeof *e);
    if (e == NULL)
        return ES_ERR_NOMEM;
    e->channel = c;
    e->user = c->user;
    c->rec[kind] = &e->h;
    return 0;
}

int channel_wake_reader(struct es_channel *c)
{
    int rc;

    if (!c->armed)
        return 0;
    rc = channel_tell(c, ES_REC_READABLE);
    if (rc == 0)
        c->armed = 0;
    return rc;
}

static int wake_writer(struct es_channel *c)
{
    int rc;

    if (!c->blocked)
        return 0;
    rc = channel_tell(c, ES_REC_WRITABLE);
    if (rc == 0)
        flow_unblock_channel(c);
    return rc;
}

/* Once: when the handler of the peer's ended, or both directions of ours. */
static void count_end(struct es_channel *c, int status)
{
    es_meter_end(c->meter, status, session_now(c->st.session) - c->opened_at);
    c->meter = NULL;
}

static int status_of(const struct es_channel *c)
{
    if (c->failed)
        return c->error.status;
    if (c->cancelled)
        return c->cancel_code == ES_APP_DEADLINE ? ES_STATUS_TIMEOUT : ES_STATUS_CANCELLED;
    return ES_STATUS_OK;
}

int channel_tell_over(struct es_channel *c)
{
    int rc;

    if (c->recv_over && (rc = channel_wake_reader(c)) != 0)
        return rc;
    if (c->send_over && (rc = wake_writer(c)) != 0)
        return rc;
    if (!c->recv_over || !c->send_over)
        return 0;
    if (c->ours)
        count_end(c, status_of(c));
    if (c->ours || c->ended)
        channel_uncount(c);
    if (c->closed_told)
        return 0;
    rc = channel_tell(c, ES_REC_CLOSED);
    if (rc == 0)
        c->closed_told = 1;
    return rc;
}

void channel_popped(struct es_channel *c, int kind)
{
    c->rec[kind] = NULL;
}

void channel_writable(struct es_channel *c)
{
    (void)wake_writer(c);
}

void channel_unblock(struct es_channel *c)
{
    if (c->st.ls != NULL && es_link_queued(c->st.ls) <= c->st.ls->high)
        (void)wake_writer(c);
}

void channel_uncount(struct es_channel *c)
{
    if (!c->counted)
        return;
    c->counted = 0;
    if (c->ours)
        c->st.session->n_channels_out--;
    else
        c->st.session->n_channels_in--;
}

int channel_set_error(struct es_channel *c, const struct es_failure *f)
{
    const char *code = f->code != NULL ? f->code : es_status_code(f->status);
    size_t code_len = f->code != NULL ? f->code_len : strlen(code);

    if (c->failed)
        return 0; /* the first reason stands */
    c->failed = 1;
    c->error = *f;
    c->error.code = code;
    c->error.code_len = code_len;
    if (es_buf_put(&c->error_text, code, code_len) != 0 ||
        es_buf_put(&c->error_text, f->message, f->message_len) != 0 ||
        es_buf_put(&c->error_text, f->details, f->details_len) != 0) {
        /* The status without its words. */
        c->error.code = es_status_code(f->status);
        c->error.code_len = strlen(c->error.code);
        c->error.message = "";
        c->error.message_len = 0;
        c->error.details = NULL;
        c->error.details_len = 0;
        return ES_ERR_NOMEM;
    }
    c->error.code = (const char *)c->error_text.p;
    c->error.message = (const char *)c->error_text.p + code_len;
    c->error.details = c->error_text.p + code_len + f->message_len;
    return 0;
}

void channel_set_error_text(struct es_channel *c, int status, int processed, const char *message)
{
    struct es_failure f;

    failure_set(&f, status, processed, message);
    (void)channel_set_error(c, &f);
}

/* ---- the wire ---- */

/* Ends both directions as the opener does it: CANCEL is what the other side acts on. */
static void abandon_ours(struct es_channel *c, uint64_t code)
{
    control_send_cancel(c->st.session, c->request_id, code);
    es_link_stop(c->st.ls, code);
    es_glitch_expect(&c->st.session->link->base->glitch,
                     3); /* RESET_STREAM and STOP_SENDING, repeated perhaps */
    if (!c->fin_acked)
        es_link_reset(c->st.ls, code);
}

/* The responder's way: a status, which a reset would drop before it arrived. */
static void abandon_theirs(struct es_channel *c, uint64_t code, const char *message)
{
    struct es_failure f;
    uint8_t room[RESET_DETAILS_ROOM];

    if (!c->recv_over)
        es_link_stop(c->st.ls, code);
    if (c->send_over)
        return;
    failure_set(&f, code == ES_APP_DEADLINE ? ES_STATUS_TIMEOUT : ES_STATUS_CANCELLED, ES_PROCESSED_MAYBE,
                message);
    failure_reset_code(&f, code, room);
    if (answer_failure(c->st.session, c->st.ls, 1, &f, 0) != 0)
        es_link_reset(c->st.ls, code);
    c->answered = 1;
}

void channel_abandon(struct es_channel *c, uint64_t code, const char *message)
{
    if (c->st.ls != NULL && session_may_send(c->st.session)) {
        if (c->ours)
            abandon_ours(c, code);
        else
            abandon_theirs(c, code, message);
    }
    c->send_over = c->recv_over = 1;
}

/* ---- birth and death ---- */

struct es_channel *channel_new(struct es_session *s, struct es_link_stream *ls)
{
    struct es_channel *c = es_pool_get(&s->host->channels);

    if (c == NULL)
        return NULL;
    strand_init(&c->st, ES_STRAND_CHANNEL, s, ls, session_max_body(s));
    es_list_init(&c->node);
    es_list_init(&c->blocks);
    es_list_push(&s->channels, &c->node);
    c->armed = 1;
    c->deadline = ES_NEVER;
    c->packing = s->host->cfg.packing;
    c->active = c->opened_at = session_now(s);
    s->n_channels++;
    es_session_ref(s);
    return c;
}

void channel_free(struct es_channel *c)
{
    struct es_session *s = c->st.session;

    channel_uncount(c);
    count_end(c, c->failed ? c->error.status : ES_STATUS_CANCELLED);
    if (c->owes && session_may_send(s))
        es_link_allow(s->link, ES_DIR_BIDI);
    if (c->in_map)
        es_idmap_remove(&s->by_id, c->request_id);
    for (int i = 0; i < 4; i++) {
        if (c->rec[i] != NULL) {
            ((struct es_ev_channel *)c->rec[i])->channel = NULL; /* CHANNEL_REQUEST: at the same place */
            c->rec[i]->type = ES_EV_DROPPED;
        }
    }
    channel_drop_blocks(c);
    es_list_remove(&c->node);
    strand_free(&c->st);
    channel_leave_method(c);
    es_buf_free(&c->metadata);
    es_buf_free(&c->error_text);
    es_buf_free(&c->result);
    es_buf_free(&c->trailers);
    es_buf_free(&c->plain);
    s->n_channels--;
    es_pool_put(&s->host->channels, c);
    session_check_idle(s);
    es_session_unref(s); /* may be the last */
}

void channel_leave_method(struct es_channel *c)
{
    if (c->method == NULL)
        return;
    c->method->running--;
    es_method_unuse(c->method);
    c->method = NULL;
}

/* ---- sending ---- */

static int can_send(const struct es_channel *c)
{
    return c->st.ls != NULL && !c->send_over && !c->mute && session_may_send(c->st.session);
}

static int write_message(struct es_channel *c, const struct es_msg_out *m, uint64_t codec)
{
    struct es_session *s = c->st.session;
    struct es_buf *b = &s->host->scratch;
    struct es_data d = {0};
    struct es_packed k;
    int rc;

    pack_payload(s, &c->packing, m->data, m->len, &k);
    d.flags = (m->has_seq ? ES_FLAG_SEQ : 0) | (m->has_wall ? ES_FLAG_WALL : 0) | k.flags;
    d.codec = codec;
    d.seq = m->seq;
    d.wall_time_us = m->wall_time_us;
    es_buf_clear(b);
    rc = es_data_encode_head(b, &d, packed_len(&k));
    if (rc != 0)
        return rc;
    if (m->release == NULL || k.flags != 0) {
        rc = pack_write(s, c->st.ls, &k, 0, m->release, m->arg);
        /* The link copied it: a message of megabytes is not to stay here as well. */
        es_buf_clear(b);
        es_buf_shrink(b, ES_LINK_HIGH);
        return rc;
    }
    rc = es_link_write(c->st.ls, b->p, b->n, 0);
    if (rc != 0)
        return rc;
    rc = es_link_write_ref(c->st.ls, m->data, m->len, 0, m->release, m->arg);
    if (rc != 0) { /* half a message is out: the stream cannot go on */
        es_link_stop(c->st.ls, ES_APP_INTERNAL);
        es_link_reset(c->st.ls, ES_APP_INTERNAL);
        c->send_over = c->recv_over = 1;
        channel_set_error_text(c, ES_STATUS_INTERNAL, ES_PROCESSED_MAYBE, "out of memory");
        (void)channel_tell_over(c);
    }
    return rc;
}

int es_channel_send(struct es_channel *c, const struct es_msg_out *m)
{
    struct es_session *s = c->st.session;
    uint64_t codec;
    int rc;

    if (!c->sends)
        return ES_ERR_UNSUPPORTED;
    if (!can_send(c))
        return ES_ERR_CLOSED;
    rc = codec_out(s, m->codec, &codec);
    if (rc != 0 && rc != ES_ERR_AGAIN)
        return rc;
    if ((m->has_seq && m->seq > ES_VARINT_MAX) || (m->has_wall && m->wall_time_us > ES_VARINT_MAX))
        return ES_ERR_INVAL;
    if (rc != 0 || m->len > s->peer_max_message) {
        if (s->hello_seen || m->len > s->host->cfg.limits.max_message)
            return ES_ERR_TOO_LARGE;
        return flow_block_channel(c); /* the peer's HELLO may allow it */
    }
    if (flow_full(s, c->st.ls))
        return flow_block_channel(c);
    rc = write_message(c, m, codec);
    if (rc == 0) {
        c->messages_out++;
        c->bytes_out += m->len;
        c->active = session_now(s);
    } else if (rc == ES_ERR_CLOSED && session_may_send(s)) {
        channel_stopped(c, ES_APP_NO_MORE_WANTED); /* the link knows it already */
    }
    return rc;
}

struct results {
    int codec;
    const uint8_t *p;
    size_t n;
    void (*release)(void *); /* NULL: copied */
    void *arg;
};

static struct es_kv trailers_of(const struct es_channel *c)
{
    return (struct es_kv){c->trailers.p, c->trailers.n, c->n_trailers};
}

/* RESPONSE with status 0, and FIN. */
static int write_success(struct es_channel *c, const struct results *res)
{
    struct es_session *s = c->st.session;
    struct es_response r = {0};
    struct es_packed k;
    int rc;

    if (codec_out(s, (uint64_t)res->codec, &r.codec) != 0 && res->n > 0)
        return ES_ERR_UNSUPPORTED;
    pack_payload(s, &c->packing, res->p, res->n, &k);
    r.flags = c->method != NULL && c->method->flags & ES_METHOD_IDEMPOTENT ? ES_FLAG_METHOD_IDEMPOTENT : 0;
    r.flags |= k.flags;
    r.trailers = trailers_of(c);
    es_buf_clear(&s->host->scratch);
    rc = es_response_encode_head(&s->host->scratch, &r, packed_len(&k));
    return rc == 0 ? pack_write(s, c->st.ls, &k, 1, res->release, res->arg) : rc;
}

int es_channel_finish(struct es_channel *c)
{
    struct results none = {.codec = c->codec};
    int rc;

    if (c->send_over)
        return c->failed ? ES_ERR_CLOSED : 0;
    if (c->mute)
        return 0;
    if (!can_send(c))
        return ES_ERR_CLOSED;
    if (c->call && !c->ours) {
        c->mute = 1;
        return 0;
    }
    rc = c->ours ? es_link_write(c->st.ls, NULL, 0, 1) : write_success(c, &none);
    if (rc != 0 && rc != ES_ERR_CLOSED)
        return rc;
    c->send_over = 1; /* also when the peer wanted no more before */
    if (!c->ours) {
        c->answered = 1;
        es_link_stream_done(c->st.ls);
        reset_forgiven(c->st.session);
        session_honest(c->st.session);
    }
    (void)channel_tell_over(c);
    return 0;
}

/* ---- ending ---- */

/* Nothing more is read: what waits is dropped, and the peer told to stop. */
static void stop_reading(struct es_channel *c, uint64_t code)
{
    if (!c->recv_over && c->st.ls != NULL && session_may_send(c->st.session))
        es_link_stop(c->st.ls, code);
    c->deaf = c->recv_over = 1;
    channel_drop_blocks(c);
    strand_forget(&c->st);
    channel_settle(c);
}

static int write_failure(struct es_channel *c, const struct es_failure *f)
{
    struct es_kv trailers = trailers_of(c);
    struct es_failure with = *f;

    with.trailers = &trailers;
    return answer_failure(c->st.session, c->st.ls, 1, &with, 0);
}

/* The handler's end. *sent: the answer went out now. */
static int end_incoming(struct es_channel *c, const struct es_failure *f, const struct results *res,
                        int *sent)
{
    struct es_session *s = c->st.session;
    int rc = 0, live = c->st.ls != NULL && session_may_send(s);

    if (f != NULL && c->method != NULL)
        c->method->errors++;
    c->ended = 1;
    count_end(c, f != NULL && !c->cancelled ? f->status : status_of(c));
    *sent = live && !c->send_over;
    if (*sent) {
        rc = f != NULL ? write_failure(c, f) : write_success(c, res);
        if (rc != 0)
            es_link_reset(c->st.ls, ES_APP_INTERNAL);
        c->answered = 1;
        if (f == NULL || !f->unreadable) {
            reset_forgiven(s);
            session_honest(s);
        }
    }
    stop_reading(c, ES_APP_NO_MORE_WANTED);
    if (live)
        es_link_stream_done(c->st.ls);
    c->send_over = 1;
    es_wheel_remove(&s->host->wheel, &c->st.deadline);
    channel_leave_method(c);
    (void)channel_tell_over(c);
    if (f != NULL && f->unreadable)
        session_glitch(s, 1, "too many requests that cannot be read");
    return rc;
}

int es_channel_end(struct es_channel *c, const struct es_failure *f)
{
    struct results none = {.codec = c->codec};
    int rc, sent;

    if (c->ours)
        return ES_ERR_INVAL;
    if (c->ended)
        return 0;
    rc = end_incoming(c, f, &none, &sent);
    return c->answered ? rc : ES_ERR_CLOSED;
}

int es_channel_respond(struct es_channel *c, int codec, const uint8_t *payload, size_t len,
                       void (*release)(void *), void *arg)
{
    struct results res = {codec, payload, len, release, arg};
    struct es_failure f;
    int rc, sent;

    if (c->ours || !c->call)
        return ES_ERR_INVAL;
    if (c->ended)
        return ES_ERR_CLOSED;
    if (len > c->st.session->peer_max_message) {
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_YES,
                    "the answer is larger than the caller's max_message");
        (void)end_incoming(c, &f, NULL, &sent);
        return sent ? ES_ERR_TOO_LARGE : ES_ERR_CLOSED;
    }
    rc = end_incoming(c, NULL, &res, &sent);
    return sent ? rc : ES_ERR_CLOSED;
}

void es_channel_shut(struct es_channel *c)
{
    if (c->ours || c->ended)
        return;
    c->mute = 1;
    stop_reading(c, ES_APP_NO_MORE_WANTED);
    (void)channel_tell_over(c);
}

void es_channel_reset(struct es_channel *c, uint64_t code)
{
    char text[64] = "the stream was reset";

    if (c->send_over && c->recv_over)
        return;
    if (code >= ES_APP_USER)
        snprintf(text, sizeof text, "the stream was reset with code %llu",
                 (unsigned long long)(code - ES_APP_USER));
    channel_abandon(c, code, text);
    channel_set_error_text(c, ES_STATUS_CANCELLED, ES_PROCESSED_MAYBE, "the stream was reset here");
    c->deaf = 1;
    channel_drop_blocks(c);
    strand_forget(&c->st);
    channel_settle(c);
    (void)channel_tell_over(c);
}

void es_channel_release(struct es_channel *c)
{
    struct es_link_stream *ls = c->st.ls;

    if (ls != NULL && c->st.session->link != NULL) {
        if (!c->send_over || (c->ours && c->call && !c->recv_over)) {
            channel_abandon(c, ES_APP_CANCELLED, "the stream was given up");
        } else if (!c->recv_over) {
            /* What we sent is to arrive in peace; only nothing more is read. */
            es_link_stop(ls, ES_APP_NO_MORE_WANTED);
        }
        if (!c->ours)
            es_link_stream_done(ls);
    }
    channel_free(c);
}

/* ---- what may be asked ---- */

void es_channel_set_user(struct es_channel *c, void *user)
{
    c->user = user;
    for (int i = 0; i < 4; i++) {
        if (c->rec[i] != NULL)
            ((struct es_ev_channel *)c->rec[i])->user = user; /* CHANNEL_REQUEST: at the same place */
    }
}

void *es_channel_user(const struct es_channel *c)
{
    return c->user;
}

struct es_session *es_channel_session(const struct es_channel *c)
{
    return c->st.session;
}

const uint8_t *es_channel_metadata(const struct es_channel *c, size_t *len)
{
    *len = c->metadata.n;
    return c->metadata.n > 0 ? c->metadata.p : NULL;
}

int es_channel_set_trailers(struct es_channel *c, const struct es_pair_kv *pairs, size_t n)
{
    return c->ours ? ES_ERR_INVAL : kv_replace(c->st.session, &c->trailers, &c->n_trailers, pairs, n);
}

const uint8_t *es_channel_trailers(const struct es_channel *c, size_t *len)
{
    *len = c->ours ? c->trailers.n : 0;
    return *len > 0 ? c->trailers.p : NULL;
}

uint64_t es_channel_id(const struct es_channel *c)
{
    return c->request_id;
}

int es_channel_is_call(const struct es_channel *c)
{
    return c->call;
}

int es_channel_codec(const struct es_channel *c)
{
    return c->codec;
}

uint64_t es_channel_deadline(const struct es_channel *c)
{
    return c->deadline;
}

int es_channel_cancelled(const struct es_channel *c, uint64_t *code)
{
    if (code != NULL)
        *code = c->cancel_code;
    return c->cancelled;
}

int es_channel_result(struct es_channel *c, struct es_msg_in *m)
{
    if (!c->ours)
        return ES_ERR_INVAL;
    if (c->failed)
        return ES_ERR_CLOSED;
    if (!c->answered)
        return c->recv_over ? ES_ERR_CLOSED : ES_ERR_AGAIN;
    memset(m, 0, sizeof *m);
    m->data = c->result.p;
    m->len = c->result.n;
    m->codec = c->result_codec;
    if (c->result_packed &&
        es_session_plain(c->st.session, c->result.p, c->result.n, &m->data, &m->len) != 0) {
        channel_set_error_text(c, ES_STATUS_INVALID_ARGUMENT, ES_PROCESSED_YES,
                               "the results cannot be decompressed");
        return ES_ERR_CLOSED;
    }
    return 0;
}

int es_channel_error(const struct es_channel *c, struct es_failure *f)
{
    if (!c->failed)
        return ES_ERR_NOT_FOUND;
    *f = c->error;
    return 0;
}

void es_channel_stats_get(const struct es_channel *c, struct es_channel_stats *out)
{
    memset(out, 0, sizeof *out);
    out->messages_in = c->messages_in;
    out->messages_out = c->messages_out;
    out->bytes_in = c->bytes_in;
    out->bytes_out = c->bytes_out;
    out->unread = c->queued_bytes;
    out->idle = session_now(c->st.session) - c->active;
    out->queued = c->st.ls != NULL ? es_link_queued(c->st.ls) : 0;
    out->finished = c->send_over;
    out->peer_finished = c->recv_over;
    out->full = c->blocked;
    out->waits = c->waits + c->blocked;
    out->waited = c->waited + (c->blocked ? session_now(c->st.session) - c->blocked_at : 0);
    out->high = c->st.ls != NULL ? c->st.ls->high : 0;
    out->low = c->st.ls != NULL ? c->st.ls->low : 0;
    out->credit = c->st.ls != NULL && !c->send_over ? es_link_allowed(c->st.ls) : UINT64_MAX;
    out->failed = c->failed;
    out->open = !c->send_over || !c->recv_over;
}
