/* Named streams and streaming calls: what the peer does with them, and the messages that wait for their
 * reader.
 *
 * A message that came in pieces was put together by the reader, whose buffer becomes its block: its bytes are
 * copied once. Small messages that came whole are copied one after another into a common block. Blocks'
 * buffers go round through the host's spares. */
#include <stdio.h>
#include <string.h>
#include "channel.h"

#define STEAL_BYTES 4096                  /* messages from here on take the reader's buffer with them */
#define BLOCK_BYTES ((size_t)16 * 1024)   /* of a block of small messages */
#define QUEUE_BYTES ((uint64_t)64 * 1024) /* unread messages above this: no further frame is let in */
#define RECORD_HEAD 8 /* length and uncredited bytes, before each message of a common block */

/* ---- messages that wait ---- */

static void block_free(struct es_channel *c, struct es_block *b)
{
    struct es_host *h = c->st.session->host;

    es_list_remove(&b->node);
    es_host_give_buf(h, &b->buf);
    es_pool_put(&h->blocks, b);
}

void channel_drop_blocks(struct es_channel *c)
{
    while (!es_list_empty(&c->blocks))
        block_free(c, es_container_of(c->blocks.next, struct es_block, node));
    c->queued_bytes = c->uncredited = 0;
    c->current = 0;
}

static struct es_block *block_new(struct es_channel *c)
{
    struct es_block *b = es_pool_get(&c->st.session->host->blocks);

    if (b == NULL)
        return NULL;
    es_list_init(&b->node);
    es_list_push(&c->blocks, &b->node);
    return b;
}

static int put_record(struct es_channel *c, const struct es_raw_frame *f, uint32_t uncredited)
{
    struct es_block *b =
        es_list_empty(&c->blocks) ? NULL : es_container_of(c->blocks.prev, struct es_block, node);
    uint32_t head[2] = {(uint32_t)f->len, uncredited};
    size_t need = RECORD_HEAD + f->len;

    if (b == NULL || b->whole || b->buf.cap - b->buf.n < need) {
        b = block_new(c);
        if (b == NULL)
            return ES_ERR_NOMEM;
        es_host_take_buf(c->st.session->host, &b->buf);
        if (es_buf_reserve(&b->buf, need > BLOCK_BYTES ? need : BLOCK_BYTES) != 0) {
            block_free(c, b);
            return ES_ERR_NOMEM;
        }
    }
    memcpy(b->buf.p + b->buf.n, head, RECORD_HEAD);
    if (f->len > 0)
        memcpy(b->buf.p + b->buf.n + RECORD_HEAD, f->body, f->len);
    b->buf.n += need;
    return 0;
}

static int put_whole(struct es_channel *c, const struct es_raw_frame *f, uint32_t uncredited)
{
    struct es_block *b = block_new(c);

    if (b == NULL)
        return ES_ERR_NOMEM;
    b->buf = c->st.reader.body; /* the reader goes on with another one */
    b->buf.n = f->len;
    b->whole = 1;
    b->uncredited = uncredited;
    memset(&c->st.reader.body, 0, sizeof c->st.reader.body);
    return 0;
}

static int put_message(struct es_channel *c, const struct es_raw_frame *f)
{
    uint32_t uncredited = c->st.was_backed ? 0 : (uint32_t)f->len;
    int rc;

    if (f->body == c->st.reader.body.p && f->len >= STEAL_BYTES)
        rc = put_whole(c, f, uncredited);
    else
        rc = put_record(c, f, uncredited);
    if (rc != 0)
        return rc;
    c->queued_bytes += f->len + RECORD_HEAD;
    c->uncredited += uncredited;
    c->messages_in++;
    return 0;
}

/* The first message: its body, length and uncredited bytes. NULL: none waits. */
static const uint8_t *first_message(const struct es_channel *c, size_t *len, uint32_t *uncredited)
{
    const struct es_block *b;
    uint32_t head[2];

    if (es_list_empty(&c->blocks))
        return NULL;
    b = es_container_of(c->blocks.next, struct es_block, node);
    if (b->whole) {
        *len = b->buf.n;
        *uncredited = b->uncredited;
        return b->buf.p;
    }
    memcpy(head, b->buf.p + b->off, RECORD_HEAD);
    *len = head[0];
    *uncredited = head[1];
    return b->buf.p + b->off + RECORD_HEAD;
}

int es_channel_readable(struct es_channel *c)
{
    if (c->deaf || !es_list_empty(&c->blocks) || c->failed || c->recv_over)
        return 1;
    c->armed = 1;
    return 0;
}

/* The plain bytes of the first message, made once. A peer that sends what cannot be undone ends the stream.
 */
static int first_plain(struct es_channel *c, struct es_bytes *payload)
{
    struct es_host *h = c->st.session->host;
    int rc = 0;

    if (!c->current || c->plain.n == 0) {
        if (c->plain.cap == 0)
            es_host_take_buf(h, &c->plain);
        es_buf_clear(&c->plain);
        rc = es_zstd_unpack(&h->zstd, &c->plain, payload);
    }
    if (rc == 0) {
        payload->p = c->plain.p;
        payload->n = c->plain.n;
        return 0;
    }
    es_host_give_buf(h, &c->plain);
    channel_drop_blocks(c);
    if (rc == ES_ERR_NOMEM)
        channel_give_up(c, ES_STATUS_INTERNAL, NULL, "out of memory", ES_APP_INTERNAL);
    else
        channel_give_up(c, ES_STATUS_INVALID_ARGUMENT, "serialization", "a message cannot be decompressed",
                        ES_APP_CANCELLED);
    return ES_ERR_CLOSED;
}

int es_channel_recv(struct es_channel *c, struct es_msg_in *m)
{
    struct es_data d;
    const uint8_t *p;
    uint32_t uncredited;
    size_t len;

    if (c->deaf)
        return ES_ERR_CLOSED;
    p = first_message(c, &len, &uncredited);
    if (p == NULL) {
        if (c->failed)
            return ES_ERR_CLOSED;
        if (c->recv_over)
            return ES_ERR_NOT_FOUND;
        c->armed = 1;
        return ES_ERR_AGAIN;
    }
    /* It was decoded when it came, so this cannot fail. */
    (void)es_data_decode(&d, p, len, c->st.session->caps_in, NULL);
    if (d.flags & ES_FLAG_CRC)
        d.payload.n -= ES_CHECKSUM_BYTES; /* compared when it came */
    if ((d.flags & ES_FLAG_ZSTD) && first_plain(c, &d.payload) != 0)
        return ES_ERR_CLOSED;
    c->current = 1;
    m->data = d.payload.p;
    m->len = d.payload.n;
    m->seq = d.seq;
    m->wall_time_us = d.wall_time_us;
    m->has_seq = (d.flags & ES_FLAG_SEQ) != 0;
    m->has_wall = (d.flags & ES_FLAG_WALL) != 0;
    m->codec = (uint8_t)d.codec;
    return 0;
}

void es_channel_consume(struct es_channel *c)
{
    struct es_block *b;
    uint32_t uncredited;
    size_t len;

    if (!c->current || first_message(c, &len, &uncredited) == NULL)
        return;
    c->current = 0;
    if (c->plain.cap != 0)
        es_host_give_buf(c->st.session->host, &c->plain);
    b = es_container_of(c->blocks.next, struct es_block, node);
    c->queued_bytes -= len + RECORD_HEAD;
    c->uncredited -= uncredited;
    b->off += len + RECORD_HEAD;
    if (b->whole || b->off == b->buf.n)
        block_free(c, b);
    channel_settle(c);
    session_feed_starved(c->st.session);
}

void channel_settle(struct es_channel *c)
{
    strand_settle(&c->st, c->queued_bytes, c->uncredited, c->queued_bytes < QUEUE_BYTES);
}

/* ---- accepting ---- */

static int refuse_channel(struct es_call *c, const struct es_request *r, struct es_method **m)
{
    struct es_session *s = c->st.session;
    struct es_failure f;
    char text[REFUSAL_TEXT];

    if (refuse_reason(s, r, &f, text, m)) {
        session_glitch_refusal(s, &f);
    } else {
        int full = (*m)->max_calls != 0 && es_method_inside(*m) >= (*m)->max_calls;

        if (s->n_channels_in < s->host->cfg.limits.max_named_streams && !full)
            return 0;
        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO,
                    full ? "as many calls of this method are running as may"
                         : "too many named streams are open");
    }
    f.codec = c->codec;
    call_in_refuse(c, &f, ES_APP_NO_MORE_WANTED);
    return 1;
}

static int push_request(struct es_channel *ch, const struct es_request *r)
{
    struct es_ev_message *e =
        session_push(ch->st.session, ES_EV_CHANNEL_REQUEST, sizeof *e + r->metadata.n + r->payload.n);

    if (e == NULL)
        return ES_ERR_NOMEM;
    e->channel = ch;
    e->method = ch->method;
    e->codec = ch->codec;
    e->idempotent = (r->flags & ES_FLAG_IDEMPOTENT) != 0;
    e->packed = (r->flags & ES_FLAG_ZSTD) != 0;
    e->metadata_len = (uint32_t)r->metadata.n;
    e->payload_len = (uint32_t)r->payload.n;
    if (r->metadata.n > 0)
        memcpy(e->data, r->metadata.p, r->metadata.n);
    if (r->payload.n > 0)
        memcpy(e->data + r->metadata.n, r->payload.p, r->payload.n);
    ch->rec[ES_REC_REQUEST] = &e->h;
    return 0;
}

static int write_head(struct es_channel *ch)
{
    struct es_buf *b = &ch->st.session->host->scratch;
    struct es_head head = {0};
    int rc;

    es_buf_clear(b);
    rc = es_head_encode(b, &head);
    return rc == 0 ? es_link_write(ch->st.ls, b->p, b->n, 0) : rc;
}

/* Everything of the request is copied into the channel. Without memory the session is closed. */
static int fill_channel(struct es_channel *ch, const struct es_request *r, struct es_method *m)
{
    struct es_session *s = ch->st.session;
    int rc;

    ch->method = m;
    es_method_use(m);
    m->running++;
    m->calls++;
    ch->meter = es_method_meter(m);
    s->host->stats.streams_in++;
    ch->counted = 1;
    s->n_channels_in++;
    ch->call = (m->flags & ES_METHOD_STREAM) != 0;
    ch->sends = !ch->call || m->flags & ES_METHOD_STREAM_OUT;
    ch->receives = (r->flags & ES_FLAG_MORE) != 0;
    ch->request_id = r->request_id;
    ch->codec = (uint8_t)r->codec;
    ch->priority = (uint8_t)r->priority;
    ch->packing = pack_mirror(&s->host->cfg.packing, r->flags);
    if (m->flags & ES_METHOD_SECRET)
        ch->packing.compress = ES_COMPRESS_NEVER;
    set_urgency(ch->st.ls, m, r);
    flow_marks(ch->st.ls, &s->host->cfg.limits.stream_queue);
    if ((rc = es_buf_put(&ch->metadata, r->metadata.p, r->metadata.n)) != 0 ||
        (rc = es_idmap_put(&s->by_id, r->request_id, &ch->st)) != 0)
        return rc;
    ch->in_map = 1;
    if (m->timeout != 0 && session_now(s) + m->timeout < ch->deadline)
        ch->deadline = session_now(s) + m->timeout;
    rc = es_wheel_add(&s->host->wheel, &ch->st.deadline, ch->deadline);
    if (rc == 0)
        rc = write_head(ch);
    if (rc == ES_ERR_CLOSED) { /* an opener that only sends told us to stop before we began */
        ch->send_over = 1;
        rc = 0;
    }
    if (rc == 0 && ch->call && ch->receives && !(m->flags & ES_METHOD_STREAM_IN)) {
        /* The opener was ready to send, the method takes nothing. */
        ch->recv_over = 1;
        if (!ch->st.fin)
            es_link_stop(ch->st.ls, ES_APP_NO_MORE_WANTED);
    }
    return rc == 0 ? push_request(ch, r) : rc;
}

void channel_accept(struct es_call *c, const struct es_request *r)
{
    struct es_session *s = c->st.session;
    struct es_method *m = NULL;
    struct es_channel *ch;

    if (refuse_channel(c, r, &m))
        return;
    ch = channel_new(s, c->st.ls);
    if (ch == NULL) {
        session_oom(s);
        return;
    }
    ch->st.fin = c->st.fin;
    ch->st.received = c->st.received;
    ch->st.credited = c->st.credited;
    ch->deadline = c->deadline;
    sweep_start(s);
    c->st.ls = NULL; /* the channel's now */
    if (fill_channel(ch, r, m) != 0) {
        session_oom(s);
        if (ch->rec[ES_REC_REQUEST] == NULL)
            channel_free(ch); /* the binding has not heard of it */
    }
    call_in_free(c); /* r points into it */
}

/* ---- receiving ---- */

static void fail_text(struct es_channel *c, int status, int processed, const char *message)
{
    channel_set_error_text(c, status, processed, message);
    c->send_over = c->recv_over = 1;
    strand_forget(&c->st);
    channel_settle(c);
    (void)channel_tell_over(c);
}

void channel_give_up(struct es_channel *c, int status, const char *code, const char *why, uint64_t app_code)
{
    struct es_failure f;

    failure_set(&f, status, ES_PROCESSED_MAYBE, why);
    if (code != NULL) {
        f.code = code;
        f.code_len = strlen(code);
    }
    if (c->st.ls != NULL && session_may_send(c->st.session)) {
        if (c->ours) {
            channel_abandon(c, app_code, why);
        } else if (!c->send_over) {
            (void)answer_failure(c->st.session, c->st.ls, 0, &f, app_code);
            c->answered = 1;
        } else {
            es_link_stop(c->st.ls, app_code);
        }
    }
    (void)channel_set_error(c, &f);
    fail_text(c, status, ES_PROCESSED_MAYBE, why); /* the first error stands */
    c->st.fin = 1;                                 /* what still comes is not looked at */
}

static void too_large(struct es_channel *c)
{
    channel_give_up(c, ES_STATUS_RESOURCE_EXHAUSTED, NULL, "a message is larger than max_message",
                    ES_APP_TOO_LARGE);
}

/* Details of a failure that came compressed, when they are few. */
static void plain_details(struct es_channel *c, struct es_failure *f)
{
    if (es_session_plain(c->st.session, f->details, f->details_len, &f->details, &f->details_len) != 0 ||
        f->details_len > ES_SMALL_FRAME)
        f->details_len = 0;
}

/* RESPONSE ended what the peer sends. Nothing of ours is wanted either when it says how the stream failed, or
 * when it ends a call: its handler is done. 0 or ES_ERR_NOMEM. */
static int answered(struct es_channel *c, const struct es_response *r)
{
    uint8_t codec = (uint8_t)r->codec;
    struct es_failure f = {0};
    int rc;

    c->answered = c->recv_over = 1;
    if (r->trailers.n > 0 && (rc = es_buf_put(&c->trailers, r->trailers.p, r->trailers.n)) != 0)
        return rc;
    if (r->status == ES_STATUS_OK) {
        c->result_codec = codec;
        c->result_packed = (r->flags & ES_FLAG_ZSTD) != 0;
        if ((rc = es_buf_put(&c->result, r->payload.p, r->payload.n)) != 0)
            return rc;
    } else {
        f.status = (int)r->status;
        f.code = (const char *)r->code.p;
        f.code_len = r->code.n;
        f.message = (const char *)r->message.p;
        f.message_len = r->message.n;
        f.processed = (int)r->processed;
        f.retry_after_ms = r->retry_after_ms;
        f.codec = codec;
        f.details = r->payload.p;
        f.details_len = r->payload.n;
        if (r->flags & ES_FLAG_ZSTD)
            plain_details(c, &f);
        (void)channel_set_error(c, &f);
    }
    if (c->failed || c->call) {
        if (!c->send_over)
            es_link_reset(c->st.ls, ES_APP_NO_MORE_WANTED);
        c->send_over = 1;
    }
    es_wheel_remove(&c->st.session->host->wheel, &c->st.deadline);
    (void)channel_tell_over(c);
    return 0;
}

static int data_frame(struct es_channel *c, const struct es_raw_frame *f, const char **why)
{
    struct es_session *s = c->st.session;
    struct es_data d;
    int rc = es_data_decode(&d, f->body, f->len, s->caps_in, why);

    rc = unpack_check(s, f, rc, d.flags, &d.payload, why);
    if (rc != 0)
        return rc;
    if (!codec_known(s, d.codec)) {
        *why = "a message in an unknown codec";
        return ES_ERR_PROTOCOL;
    }
    if (d.payload.n > s->host->cfg.limits.max_message)
        return ES_ERR_TOO_LARGE;
    c->bytes_in += d.payload.n;
    if (d.flags & ES_PACKED)
        c->packing = pack_mirror(&c->packing, d.flags);
    if (c->deaf)
        return 0;
    rc = put_message(c, f);
    return rc == 0 ? channel_wake_reader(c) : rc;
}

/* 1: go on; 0: the session is closing or nothing more is to be read. */
static int channel_frame(struct es_channel *c, const struct es_raw_frame *f)
{
    const char *why = "a frame that does not belong on a named stream";
    struct es_response r;
    struct es_head head;
    int rc = ES_ERR_PROTOCOL;

    if (c->answered && c->ours) {
        why = "a frame after RESPONSE";
    } else if (f->type == ES_FRAME_DATA && !c->receives) {
        why = "DATA on a stream whose REQUEST does not allow it";
    } else if (f->type == ES_FRAME_DATA) {
        c->head_seen = 1; /* HEAD may come before DATA only */
        rc = data_frame(c, f, &why);
    } else if (c->ours && f->type == ES_FRAME_HEAD && !c->head_seen) {
        c->head_seen = 1;
        rc = es_head_decode(&head, f->body, f->len, &why);
    } else if (c->ours && f->type == ES_FRAME_RESPONSE) {
        rc = es_response_decode(&r, f->body, f->len, c->st.session->caps_in, &why);
        rc = unpack_check(c->st.session, f, rc, r.flags, &r.payload, &why);
        if (rc == 0 && !codec_known(c->st.session, r.codec)) {
            why = "an answer in an unknown codec";
            rc = ES_ERR_PROTOCOL;
        }
        if (rc == 0)
            rc = answered(c, &r);
    }
    if (rc == 0)
        return !c->st.session->closing;
    if (rc == ES_ERR_TOO_LARGE)
        too_large(c);
    else if (rc == ES_ERR_CORRUPT)
        channel_give_up(c, ES_STATUS_DATA_LOSS, NULL, why, ES_APP_CANCELLED);
    else if (rc == ES_ERR_NOMEM)
        session_oom(c->st.session);
    else
        session_violation(c->st.session, ES_APP_PROTOCOL, why);
    return 0;
}

static void peer_finished(struct es_channel *c)
{
    if (c->ours && !c->answered) {
        if (!c->send_over)
            es_link_reset(c->st.ls, ES_APP_NO_MORE_WANTED);
        fail_text(c, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "the stream ended without an answer");
        return;
    }
    c->recv_over = 1;
    (void)channel_tell_over(c);
}

void channel_data(struct es_channel *c, const uint8_t *p, size_t n, int fin)
{
    struct es_session *s = c->st.session;
    struct es_raw_frame f;
    int rc;

    if (c->recv_over && !(c->ours && c->answered && !c->failed))
        return; /* failed, reset or ended here: the rest is of no interest */
    c->active = session_now(s);
    while ((rc = strand_feed(&c->st, &p, &n, &f)) == 1) {
        if (!channel_frame(c, &f))
            return;
    }
    if (rc == ES_ERR_NOMEM)
        session_oom(s);
    else if (rc == ES_ERR_TOO_LARGE)
        too_large(c);
    else if (rc < 0)
        session_violation(s, ES_APP_PROTOCOL, c->st.reader.why);
    else if (fin && es_reader_missing(&c->st.reader) + es_reader_buffered(&c->st.reader) > 0)
        session_violation(s, ES_APP_PROTOCOL, "a stream ended within a frame");
    else if (fin)
        peer_finished(c);
    if (rc >= 0 && !s->closing)
        channel_settle(c);
}

/* ---- the peer gives up ---- */

static void set_cancelled(struct es_channel *c, uint64_t code)
{
    if (c->ours || c->ended)
        return;
    c->cancelled = 1;
    c->cancel_code = code;
}

static void given_up(struct es_channel *c, uint64_t code)
{
    struct es_failure f;
    uint8_t room[RESET_DETAILS_ROOM];
    char text[80];

    if (c->recv_over && c->send_over)
        return;
    failure_of_code(&f, code, ES_PROCESSED_MAYBE, text, sizeof text);
    failure_reset_code(&f, code, room);
    (void)channel_set_error(c, &f);
    set_cancelled(c, code);
    if (!c->ours) {
        channel_abandon(c, code, "cancelled");
    } else {
        es_link_stop(c->st.ls, ES_APP_NO_MORE_WANTED);
        if (!c->send_over)
            es_link_reset(c->st.ls, ES_APP_NO_MORE_WANTED);
        c->recv_over = c->send_over = 1;
    }
    strand_forget(&c->st);
    channel_settle(c);
    es_wheel_remove(&c->st.session->host->wheel, &c->st.deadline);
    (void)channel_tell_over(c);
}

void channel_reset_received(struct es_channel *c, uint64_t code)
{
    if (c->recv_over)
        return; /* its answer came, or ours made it reset the rest */
    if (!c->ours && !c->answered)
        reset_counted(c->st.session);
    if (!c->st.session->closing)
        given_up(c, code);
}

void channel_cancelled(struct es_channel *c, uint64_t code)
{
    c->st.session->host->stats.calls_cancelled++;
    if (c->in_map) /* a retry may come under the same id */
        es_idmap_remove(&c->st.session->by_id, c->request_id);
    c->in_map = 0;
    given_up(c, code);
}

/* Nothing more of ours is wanted; what the peer sends goes on to its end. A caller that has sent everything
 * and does not want the answer has given up: its CANCEL may come later, or did not get through. */
void channel_stopped(struct es_channel *c, uint64_t code)
{
    if (c->send_over)
        return;
    if (c->call && !c->ours && c->recv_over) {
        given_up(c, code);
        return;
    }
    c->send_over = 1;
    (void)channel_tell_over(c);
}

void channel_expired(struct es_channel *c)
{
    struct es_session *s = c->st.session;
    struct es_failure f;

    failure_set(&f, ES_STATUS_TIMEOUT, ES_PROCESSED_MAYBE, "the deadline passed");
    if (session_now(s) < c->deadline) { /* the time that nothing may move on it is over, perhaps */
        if (!flow_is_idle(c))
            return;
        failure_set(&f, ES_STATUS_TIMEOUT, ES_PROCESSED_MAYBE, "the stream was idle for too long");
    }
    s->host->stats.calls_timed_out++;
    if (c->st.ls != NULL && session_may_send(s)) {
        channel_abandon(c, ES_APP_DEADLINE, f.message);
    }
    set_cancelled(c, ES_APP_DEADLINE);
    c->answered = 1;
    fail_text(c, f.status, f.processed, f.message);
}

void channel_stream_closed(struct es_channel *c)
{
    strand_detach(&c->st);
    if (!c->recv_over) {
        channel_set_error_text(c, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "the stream was closed");
        set_cancelled(c, ES_APP_CANCELLED);
    }
    c->recv_over = c->send_over = 1;
    (void)channel_tell_over(c);
}

int channel_report(struct es_channel *c)
{
    struct es_failure f;

    if (!c->recv_over || !c->send_over) {
        char text[CLOSE_TEXT_ROOM];

        failure_of_close(&f, &c->st.session->close_info, ES_PROCESSED_MAYBE, text);
        (void)channel_set_error(c, &f);
        set_cancelled(c, ES_APP_SESSION_CLOSED);
        c->recv_over = c->send_over = 1;
    }
    es_wheel_remove(&c->st.session->host->wheel, &c->st.deadline);
    return channel_tell_over(c);
}
