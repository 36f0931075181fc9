/* The flush of one connection: what was asked for since the last one, then packets, in batches, then the
 * up-calls that had to wait.
 *
 * Batches adapt. Small calls go out two or three packets at a time, so that the peer works while we write on;
 * with one big send per wake-up the two sides would take turns. When much is queued, whole GSO batches cost a
 * thirtieth per datagram. In between the pacer decides: a batch is never more than a millisecond of its rate,
 * and never less than the ten packets that RFC 9002 7.7 allows in a burst.
 */
#include <assert.h>
#include <string.h>
#include "internal.h"

#define SMALL_BATCH      3           /* packets */
#define BULK_FROM        (24 * 1024) /* queued bytes that make it bulk */
#define BURST_PACKETS    10
#define FLUSH_MAX        (256 * 1024) /* bytes of one flush; reading and the other connections get their turn */
#define VECS             8
#define SEGMENTS_MAX     60 /* of one GSO send; the kernel takes 64 */
#define BBR_LEAST_WINDOW (4 * ES_PACKET_MAX)
#define TICKET_PATIENCE  ES_SECOND

struct batch {
    size_t len, segment, limit;
    ngtcp2_path_storage ps;
    uint8_t ecn;
};

/* ---- before ---- */

/* 1: the stream is over with it. */
static int apply_stream(struct es_conn *c, struct es_qstream *s)
{
    if (s->credit > 0) {
        (void)ngtcp2_conn_extend_max_stream_offset(c->nc, s->s.id, s->credit);
        s->credit = 0;
    }
    /* STOP_SENDING has to stand before RESET_STREAM in the packet, and 0.12 puts what it is told last first:
     * a 0.12 peer that sees a reset before anything else of a stream never opens it, ignores the STOP_SENDING
     * behind it, and we would wait for its half of the stream for ever. */
    if (s->want_reset && !s->did_reset) {
        s->did_reset = 1;
        (void)es_compat_shutdown_write(c->nc, s->s.id, s->reset_code);
    }
    if (s->want_stop && !s->did_stop) {
        s->did_stop = 1;
        (void)es_compat_shutdown_read(c->nc, s->s.id, s->stop_code);
        if (s->uni && ES_COMPAT_REMOTE_UNI_LINGERS) {
            es_conn_forget_uni(c, s);
            return 1;
        }
    }
    if (ES_COMPAT_STOPPED_LINGERS && !s->remote && s->did_stop && s->did_reset) {
        es_conn_forget_given_up(c, s);
        return 1;
    }
    return 0;
}

static void apply(struct es_conn *c)
{
    struct es_list work;

    es_list_take(&c->ops, &work);
    while (!es_list_empty(&work)) {
        struct es_qstream *s = es_container_of(work.next, struct es_qstream, ops);
        es_list_remove(&s->ops);
        if (apply_stream(c, s)) {
            continue;
        }
        if (s->want_writable || s->want_stopped) {
            es_list_push(&c->ops, &s->ops); /* for after the packets */
        }
    }
    if (c->conn_credit > 0 && es_conn_may_credit(c)) {
        ngtcp2_conn_extend_max_offset(c->nc, c->conn_credit);
        c->conn_credit = 0;
    }
    if (c->credit_bidi > 0) {
        ngtcp2_conn_extend_max_streams_bidi(c->nc, c->credit_bidi);
        c->credit_bidi = 0;
    }
    if (c->credit_uni > 0) {
        ngtcp2_conn_extend_max_streams_uni(c->nc, c->credit_uni);
        c->credit_uni = 0;
    }
    if (c->move_until != 0) {
        es_path_begin_move(c);
    }
}

/* ---- one packet ---- */

static struct es_qstream *pick(struct es_conn *c)
{
    int last = c->batching ? ES_PRIO_CONTROL : ES_PRIO_LAST;

    for (int i = 0; i <= last; i++) {
        if (!es_list_empty(&c->ready[i])) {
            return es_container_of(c->ready[i].next, struct es_qstream, ready);
        }
    }
    return NULL;
}

static void after_write(struct es_qstream *s, size_t n, size_t offered, int with_fin)
{
    struct es_conn *c = es_conn_of(s->s.link);

    if (with_fin && n == offered) {
        s->fin_sent = 1;
        s->fin_alone = offered == 0;
    }
    if (n > 0) {
        es_qstream_advance(s, n);
    }
    es_list_remove(&s->ready);
    if (s->unsent > 0 || (s->fin && !s->fin_sent)) {
        es_list_push(&c->ready[s->prio], &s->ready); /* behind the others of its class */
    }
}

static void drop_datagram(struct es_conn *c)
{
    struct es_chunk *k = c->dgram_head;

    c->dgram_head = k->next;
    if (c->dgram_head == NULL) {
        c->dgram_tail = NULL;
    }
    c->n_dgrams--;
    c->dgram_tries = 0;
    es_chunk_put(c->ep, k);
}

/* ngtcp2 stops everything but probes when the congestion window is full, and probes only for some packets.
 * Twice that makes a dead end, when what fills the window is not probed for and its acknowledgements do not
 * come. Then such packets get half of the window, less a packet: after a loss has halved it there is still
 * room for what gets the connection going again. */
static int in_its_share(struct es_conn *c, size_t n, ngtcp2_conn_info *info)
{
    ngtcp2_conn_get_conn_info(c->nc, info);
    return info->bytes_in_flight == 0 || info->bytes_in_flight + ES_PACKET_MAX + n <= info->cwnd / 2;
}

/* A client whose last handshake message was lost cannot repeat it while its first requests fill the window,
 * and they stay unacknowledged because the server cannot read them without that message.
 * BBR shrinks its window to four packets when no acknowledgement has come for ten seconds. */
static int stream_may_go(struct es_conn *c)
{
    ngtcp2_conn_info info;

    if (c->link.is_server || c->confirmed) {
        return 1;
    }
    return in_its_share(c, ES_PACKET_MAX, &info) &&
           (c->cfg.cc != ES_CC_BBR || info.bytes_in_flight < BBR_LEAST_WINDOW / 2);
}

/* 0.12 does not probe for packets with nothing but datagrams in them. When nothing was heard for three round
 * trips one more may go, and then at intervals that double, so that datagrams alone get going again too. A
 * window that has become too small for that has room for a PING: its acknowledgement says as much. */
static int datagram_may_go(struct es_conn *c)
{
    uint64_t now = es_conn_now(c);
    ngtcp2_conn_info info;

    if (!ES_COMPAT_DATAGRAMS_UNPROBED && (c->link.is_server || c->confirmed)) {
        return 1;
    }
    if (in_its_share(c, c->dgram_head->len, &info)) {
        c->dgram_until = 0;
        return 1;
    }
    if (c->dgram_until == 0) {
        c->dgram_wait = 3 * (info.smoothed_rtt > ES_MILLI ? info.smoothed_rtt : ES_MILLI);
        c->dgram_until = now + c->dgram_wait;
    }
    if (now < c->dgram_until) {
        return 0;
    }
    c->dgram_wait *= c->dgram_wait < ES_SECOND * 30 ? 2 : 1;
    c->dgram_until = now + c->dgram_wait;
    if (info.bytes_in_flight + ES_PACKET_MAX + c->dgram_head->len <= info.cwnd) {
        return 1;
    }
    if (ES_COMPAT_DATAGRAMS_UNPROBED) {
        es_path_ping(c);
    }
    return 0;
}

/* As ngtcp2_conn_writev_datagram, or NGTCP2_ERR_WRITE_MORE when the datagram is dealt with. */
static ngtcp2_ssize write_datagram(struct es_conn *c, ngtcp2_path *path, ngtcp2_pkt_info *pi, uint8_t *dest,
                                   size_t room)
{
    struct es_chunk *k = c->dgram_head;
    ngtcp2_vec v = {(uint8_t *)(uintptr_t)k->p, k->len};
    ngtcp2_ssize n;
    int accepted = 0;

    if (k->len > es_conn_max_datagram(c)) { /* the path became narrower */
        drop_datagram(c);
        return NGTCP2_ERR_WRITE_MORE;
    }
    n = ngtcp2_conn_writev_datagram(c->nc, path, pi, dest, room, &accepted, NGTCP2_WRITE_DATAGRAM_FLAG_MORE,
                                    0, &v, 1, es_conn_now(c));
    if (accepted) {
        drop_datagram(c);
    } else if (n == NGTCP2_ERR_INVALID_STATE || n == NGTCP2_ERR_INVALID_ARGUMENT) {
        drop_datagram(c);
        return NGTCP2_ERR_WRITE_MORE;
    } else if (n > 0 && ++c->dgram_tries > 2) {
        drop_datagram(c); /* fits into no packet after all */
    }
    return n;
}

/* Bytes of a packet written to dest; 0: nothing to send, or not allowed to now; negative: a library error. */
static ngtcp2_ssize write_packet(struct es_conn *c, ngtcp2_path *path, ngtcp2_pkt_info *pi, uint8_t *dest)
{
    uint64_t now = es_conn_now(c);
    size_t room = es_acks_size(&c->acks, ES_PACKET_MAX, now);
    int blocked = 0; /* the connection's credit is used up */

    for (;;) {
        struct es_qstream *s;
        ngtcp2_vec v[VECS];
        ngtcp2_ssize n, ndata = -1;
        size_t nv, bytes;
        uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE;
        int fin;

        if (c->dgram_head != NULL && c->established && datagram_may_go(c)) {
            n = write_datagram(c, path, pi, dest, room);
            if (n == NGTCP2_ERR_WRITE_MORE) {
                continue;
            }
            return n;
        }
        s = blocked || !stream_may_go(c) ? NULL : pick(c);
        if (s == NULL) {
            return ngtcp2_conn_writev_stream(c->nc, path, pi, dest, room, NULL, NGTCP2_WRITE_STREAM_FLAG_MORE,
                                             -1, NULL, 0, now);
        }
        nv = es_qstream_vec(s, v, VECS, &bytes);
        fin = s->fin && bytes == s->unsent;
        if (fin) {
            flags |= NGTCP2_WRITE_STREAM_FLAG_FIN;
        }
        n = ngtcp2_conn_writev_stream(c->nc, path, pi, dest, room, &ndata, flags, s->s.id, v, nv, now);
        if (ndata >= 0) {
            after_write(s, (size_t)ndata, bytes, fin);
        }
        switch (n) {
        case NGTCP2_ERR_WRITE_MORE:
            break;
        case NGTCP2_ERR_STREAM_DATA_BLOCKED:
            if (ngtcp2_conn_get_max_data_left(c->nc) == 0) {
                blocked = 1;
            } else {
                s->blocked = 1;
                es_list_remove(&s->ready);
            }
            break;
        case NGTCP2_ERR_STREAM_SHUT_WR:
        case NGTCP2_ERR_STREAM_NOT_FOUND:
            es_qstream_stopped(s, 0); /* stopped before it was opened here: the code was not kept */
            break;
        default:
            return n;
        }
    }
}

/* ---- batches ---- */

static size_t batch_limit(struct es_conn *c)
{
    ngtcp2_conn_info info;
    uint64_t ms_of_rate, limit;

    if (c->link.unsent <= BULK_FROM) {
        return SMALL_BATCH * ES_PACKET_MAX;
    }
    ngtcp2_conn_get_conn_info(c->nc, &info);
    ms_of_rate = info.smoothed_rtt != 0 ? (info.cwnd + info.cwnd / 4) * ES_MILLI / info.smoothed_rtt : 0;
    limit = ms_of_rate < BURST_PACKETS * ES_PACKET_MAX ? BURST_PACKETS * ES_PACKET_MAX : ms_of_rate;
    if (limit > ngtcp2_conn_get_send_quantum(c->nc)) {
        limit = ngtcp2_conn_get_send_quantum(c->nc);
    }
    return limit > ES_SEND_MAX ? ES_SEND_MAX : (size_t)limit;
}

/* 1: the socket is full. */
static int send_batch(struct es_conn *c, struct batch *b)
{
    int rv = 0;

    if (b->len > 0) {
        es_conn_read_path(c, &b->ps.path);
        rv = es_endpoint_send(c->ep, &b->ps.path, b->ecn, c->ep->out, b->len, b->segment, !c->link.is_server);
        b->len = 0;
        if (c->established) { /* earlier, ngtcp2 would pace with a guessed RTT of 333 ms */
            ngtcp2_conn_update_pkt_tx_time(c->nc, es_conn_now(c));
        }
    }
    return rv;
}

/* A packet of n bytes was written at ep->out + b->len. */
static int add_packet(struct es_conn *c, struct batch *b, size_t n, const ngtcp2_path_storage *ps,
                      uint8_t ecn)
{
    uint8_t *out = c->ep->out;

    c->packets_out++;
    c->bytes_out += n;
    if (ecn != 0) {
        c->ecn_sent++;
        c->ecn_last = c->packets_out;
    }
    if (c->keep_alive != 0 && !c->urgent_keep_alive && es_conn_now(c) - c->heard_at >= c->keep_alive) {
        es_path_keep_alive_sent(c);
    }
    if (b->len > 0 && (n > b->segment || ecn != b->ecn || !ngtcp2_path_eq(&ps->path, &b->ps.path))) {
        size_t off = b->len;
        if (send_batch(c, b) != 0) {
            return 1; /* this one packet is lost with the batch's place; recovery will notice */
        }
        memmove(out, out + off, n);
    }
    if (b->len == 0) {
        b->segment = n;
        b->ecn = ecn;
        ngtcp2_path_copy(&b->ps.path, &ps->path);
    }
    b->len += n;
    if (n < b->segment || b->len + b->segment > b->limit || b->len >= SEGMENTS_MAX * b->segment) {
        return send_batch(c, b);
    }
    return 0;
}

static int write_packets(struct es_conn *c)
{
    struct batch b;
    size_t total = 0;
    int full = 0;

    memset(&b, 0, sizeof b.len + sizeof b.segment + sizeof b.limit);
    ngtcp2_path_storage_zero(&b.ps);
    b.limit = batch_limit(c);
    while (!full) {
        ngtcp2_path_storage ps;
        ngtcp2_pkt_info pi = {0};
        ngtcp2_ssize n;

        if (total >= FLUSH_MAX && b.len == 0) {
            c->flush_again = 1;
            break;
        }
        ngtcp2_path_storage_zero(&ps);
        n = write_packet(c, &ps.path, &pi, c->ep->out + b.len);
        if (n < 0) {
            full = send_batch(c, &b);
            if (n != NGTCP2_ERR_NO_VIABLE_PATH || !es_names_failed(c)) {
                (void)es_conn_fail(c, (int)n);
            }
            return full;
        }
        if (n == 0) {
            break;
        }
        total += (size_t)n;
        full = add_packet(c, &b, (size_t)n, &ps, (uint8_t)pi.ecn);
    }
    return send_batch(c, &b) || full;
}

/* ---- after ---- */

static void deliver_due(struct es_conn *c)
{
    struct es_list work;

    if (es_list_empty(&c->ops) && !c->want_hold_low) {
        return;
    }
    es_list_take(&c->ops, &work);
    while (!es_list_empty(&work)) {
        struct es_qstream *s = es_container_of(work.next, struct es_qstream, ops);
        unsigned writable = s->want_writable, stopped = s->want_stopped;

        es_list_remove(&s->ops);
        s->want_writable = s->want_stopped = 0;
        if (s->credit > 0 || (s->want_stop && !s->did_stop) || (s->want_reset && !s->did_reset)) {
            es_qstream_op(s);
        }
        if ((writable || stopped) && !c->refused) {
            c->ep->p->again = 1;
        }
        if (stopped && !c->refused) {
            c->link.events->stream_stopped(c->link.user, &s->s, s->s.stop_code);
        } else if (writable && !s->shut && !c->refused) {
            c->link.events->writable(c->link.user, &s->s);
        }
    }
    if (c->conn_credit > 0 && es_conn_may_credit(c)) {
        es_conn_mark(c); /* what was packed made room: the next flush says so to the peer */
    }
    if (c->want_hold_low && c->link.held < c->link.hold_cap) {
        c->want_hold_low = 0;
        if (!c->refused && c->link.events != NULL) {
            c->ep->p->again = 1;
            c->link.events->hold_low(c->link.user);
        }
    }
}

/* A ticket comes right behind the handshake if it comes at all. */
static int waits_for_ticket(struct es_conn *c)
{
    if (!c->await_ticket) {
        return 0;
    }
    if (c->ticket_until == 0) {
        c->ticket_until = es_conn_now(c) + TICKET_PATIENCE + 8 * ngtcp2_conn_get_pto(c->nc);
    }
    return es_conn_now(c) < c->ticket_until;
}

/* So little was queued so soon after the last packets that it waits for more (the option batch_delay). */
static int is_little(const struct es_conn *c)
{
    return c->cfg.batch_delay != 0 && c->established && c->link.unsent > 0 &&
           c->link.unsent < c->cfg.batch_bytes && es_conn_now(c) < c->batch_until;
}

int es_conn_flush(struct es_conn *c)
{
    uint64_t unsent;
    int full;

    c->flush_again = 0;
    if (c->state >= ES_CONN_ENDED) {
        return 0;
    }
    apply(c);
    if (c->packets_out - c->key_packets >= c->cfg.key_update_packets) {
        es_conn_renew_key(c);
    }
    if (c->close_asked) {
        es_conn_end(c, 1);
        return 0;
    }
    c->batching = is_little(c);
    unsent = c->link.unsent;
    if (c->names.busy) {
        es_names_writing(c);
    }
    es_conn_crypting(c);
    full = write_packets(c);
    es_conn_crypting(NULL);
    if (c->cfg.batch_delay != 0 && c->link.unsent < unsent && !c->batching) {
        c->batch_until = es_conn_now(c) + c->cfg.batch_delay;
    }
    if (c->names.busy && c->state < ES_CONN_ENDED) {
        es_names_written(c);
    }
    if (c->asking && c->state < ES_CONN_ENDED) {
        es_path_asked(c);
    }
    if (c->state < ES_CONN_ENDED) {
        deliver_due(c);
        es_conn_end_if_stuck(c);
        es_conn_end_if_stalled(c);
    }
    es_qstream_sweep(c);
    if (c->tls_due && c->tls != NULL && c->state == ES_CONN_OPEN && !waits_for_ticket(c)) {
        /* 19 KiB that nothing needs any more: packet keys are ngtcp2's, and CRYPTO data no longer gets
         * through. */
        ngtcp2_conn_set_tls_native_handle(c->nc, NULL);
        gnutls_deinit(c->tls);
        c->tls = NULL;
    }
    if (c->state < ES_CONN_ENDED) {
        es_conn_arm(c);
    }
    return full;
}
