/* The flush: what is due becomes frames, most urgent first, and the socket gets as many as it takes.
 *
 * nghttp2 would share the connection among streams by rules of its own. Here it is told each time whose turn
 * it is: a stream's bytes are given only when it is (h2.c: read_queue). */
#include <string.h>
#include "internal.h"

static size_t waiting(const struct tcp_conn *c)
{
    return c->out.n - c->out_off;
}

static int alive(const struct tcp_conn *c)
{
    return c->state == TCP_GREETING || c->state == TCP_OPEN;
}

static void no_memory(struct tcp_conn *c)
{
    tcp_end(c, ES_CLOSE_ERROR, ES_ERR_NOMEM, 1, ES_APP_INTERNAL, "out of memory");
}

/* A frame of our own, between two of nghttp2's. */
int tcp_frame(struct tcp_conn *c, uint8_t type, int32_t id, const void *a, size_t an, const void *b,
              size_t bn)
{
    size_t n = an + bn;
    uint8_t head[9] = {(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, type, 0};

    for (int i = 0; i < 4; i++) {
        head[5 + i] = (uint8_t)((uint32_t)id >> (24 - 8 * i));
    }
    if (es_buf_reserve(&c->out, sizeof head + n) != 0) {
        no_memory(c);
        return ES_ERR_NOMEM;
    }
    (void)es_buf_put(&c->out, head, sizeof head);
    (void)es_buf_put(&c->out, a, an);
    if (bn > 0) {
        (void)es_buf_put(&c->out, b, bn);
    }
    return 0;
}

static void frame_code(struct tcp_conn *c, int32_t id, uint8_t kind, uint64_t code)
{
    uint8_t p[9] = {kind};

    tcp_put64(p + 1, code);
    (void)tcp_frame(c, FRAME_TYPE, id, p, sizeof p, NULL, 0);
}

/* One frame of nghttp2's. 1: there was one. */
static int pump_one(struct tcp_conn *c)
{
    const uint8_t *p;
    ssize_t n = nghttp2_session_mem_send(c->h2, &p);

    if (c->close_asked) { /* meanwhile: there is only one thing left to say, and fill() says it */
        return 0;
    }
    if (n > 0 && es_buf_put(&c->out, p, (size_t)n) == 0) {
        return 1;
    }
    if (n != 0) {
        no_memory(c);
    }
    return 0;
}

static void pump(struct tcp_conn *c)
{
    while (alive(c) && waiting(c) < TCP_OUT_MAX && pump_one(c)) {
    }
}

/* ---- what streams have asked for ---- */

static void give_credit(struct tcp_conn *c, struct tcp_stream *s)
{
    if (s->credit > 0 && s->id != 0 && !s->over) {
        (void)nghttp2_session_consume_stream(c->h2, s->id, s->credit);
        s->credit = 0;
        if (s->window > s->window_told) {
            (void)nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, s->id,
                                                        (int32_t)s->window + 1);
        }
        s->window_told = s->window;
    }
}

static void do_op(struct tcp_conn *c, struct tcp_stream *s)
{
    int one_way_in = s->dir == ES_DIR_UNI && s->remote && c->link.is_server;

    if (!s->head && !s->parked && (s->unsent > 0 || s->fin || s->want_reset || s->want_stop || one_way_in) &&
        tcp_h2_submit(c, s) == ES_ERR_NOMEM) {
        no_memory(c);
        return;
    }
    give_credit(c, s);
    if (s->headed && s->want_stop) {
        s->want_stop = 0;
        if (!s->recv_over && !s->over) {
            frame_code(c, s->id, KIND_STOP, s->stop_code);
        }
    }
    if (s->headed && s->want_reset) {
        s->want_reset = 0;
        if (!s->over) {
            frame_code(c, s->id, KIND_RESET, s->reset_code);
            s->fin = 1;
            es_list_remove(&s->ready); /* the end needs no window */
            tcp_stream_make_ready(s);
        }
    }
    if (s->want_writable) {
        s->want_writable = 0;
        if (s->known && !s->shut && !s->closed && tcp_listens(c)) {
            c->t->p->again = 1;
            c->link.events->writable(c->link.user, &s->s);
        }
    }
}

static void do_ops(struct tcp_conn *c)
{
    struct es_list work;

    es_list_take(&c->ops, &work);
    while (!es_list_empty(&work)) {
        struct tcp_stream *s = es_container_of(work.next, struct tcp_stream, ops);
        es_list_remove(&s->ops);
        if (alive(c)) {
            do_op(c, s);
        }
    }
}

/* ---- what the connection has to say ---- */

/* Client: requests for the server to take, since it cannot open any. */
static void make_offers(struct tcp_conn *c)
{
    for (int dir = 0; dir < 2; dir++) {
        while (alive(c) && c->n_parked[dir] < c->park[dir] && c->may_park[dir] > 0) {
            struct tcp_stream *s = tcp_stream_new(c, dir, 0);
            if (s == NULL) {
                no_memory(c);
                return;
            }
            s->parked = 1;
            s->recv_over = 0;
            c->may_park[dir]--;
            c->n_parked[dir]++;
            es_list_remove(&s->all);
            es_list_push(&c->parked[dir], &s->all);
            if (tcp_h2_submit(c, s) != 0) {
                tcp_stream_retire(s);
                return;
            }
        }
    }
}

static void give_allowances(struct tcp_conn *c)
{
    for (int dir = 0; dir < 2 && c->established; dir++) {
        if (c->give[dir] > 0) {
            uint8_t p[10] = {KIND_STREAMS, (uint8_t)dir};
            c->granted[dir] += c->give[dir];
            c->give[dir] = 0;
            tcp_put64(p + 2, c->granted[dir]);
            (void)tcp_frame(c, FRAME_TYPE, 0, p, sizeof p, NULL, 0);
        }
    }
}

static void send_datagrams(struct tcp_conn *c)
{
    const uint8_t kind = KIND_DATAGRAM;

    while (alive(c) && !es_list_empty(&c->datagrams) && waiting(c) < TCP_OUT_MAX) {
        struct tcp_datagram *d = es_container_of(c->datagrams.next, struct tcp_datagram, node);
        es_list_remove(&d->node);
        c->n_datagrams--;
        (void)tcp_frame(c, FRAME_TYPE, 0, &kind, 1, d->data, d->n);
        es_free(d);
    }
}

static void say_control(struct tcp_conn *c)
{
    if (!c->link.is_server) {
        make_offers(c);
    }
    if (!alive(c)) {
        return;
    }
    if (c->conn_credit > 0 && tcp_may_credit(c)) {
        (void)nghttp2_session_consume_connection(c->h2, (size_t)c->conn_credit);
        c->conn_credit = 0;
    }
    if (c->ask_at != 0 && tcp_now(c) >= c->ask_at && c->pinged == 0 && c->established) {
        c->ask_at = 0;
        if (tcp_h2_ping(c) != 0) {
            no_memory(c);
        }
    }
    pump(c);
    if (alive(c) && !c->link.is_server && !c->ready_out && waiting(c) < TCP_OUT_MAX) {
        uint8_t kind = KIND_READY;
        c->ready_out = 1;
        (void)tcp_frame(c, FRAME_TYPE, 0, &kind, 1, NULL, 0);
    }
    give_allowances(c);
    if (c->want_hold_low && tcp_listens(c)) {
        c->want_hold_low = 0;
        c->t->p->again = 1;
        c->link.events->hold_low(c->link.user);
    }
}

/* ---- bytes of streams ---- */

void tcp_unblock(struct tcp_conn *c, struct tcp_stream *s)
{
    if (s != NULL) {
        if (!es_list_empty(&s->ready)) {
            es_list_remove(&s->ready);
        }
        tcp_stream_make_ready(s);
        return;
    }
    while (!es_list_empty(&c->blocked)) {
        s = es_container_of(c->blocked.next, struct tcp_stream, ready);
        es_list_remove(&s->ready);
        tcp_stream_make_ready(s);
    }
}

static struct tcp_stream *next_ready(struct tcp_conn *c)
{
    for (int i = 0; i <= ES_PRIO_LAST; i++) {
        if (!es_list_empty(&c->ready[i])) {
            struct tcp_stream *s = es_container_of(c->ready[i].next, struct tcp_stream, ready);
            es_list_remove(&s->ready);
            return s;
        }
    }
    return NULL;
}

/* One frame of its bytes; then it stands at the end of its class. */
static void send_turn(struct tcp_conn *c, struct tcp_stream *s)
{
    int32_t conn = nghttp2_session_get_remote_window_size(c->h2),
            own = nghttp2_session_get_stream_remote_window_size(c->h2, s->id);

    if (conn <= 0 || own <= (s->unsent > 0 ? 1 : 0)) {
        es_list_push(&c->blocked, &s->ready);
        return;
    }
    c->turn = s;
    (void)nghttp2_session_resume_data(c->h2, s->id); /* the first time it is not put off: no matter */
    while (c->turn == s && alive(c) && pump_one(c)) {
    }
    if (c->turn == s) {
        c->turn = NULL;
        if (alive(c)) {
            es_list_push(&c->blocked, &s->ready);
        }
        return;
    }
    tcp_stream_make_ready(s);
}

static void send_data(struct tcp_conn *c)
{
    struct tcp_stream *s;

    while (alive(c) && waiting(c) < TCP_OUT_MAX && (s = next_ready(c)) != NULL) {
        if (s->headed && !s->over && (s->unsent > 0 || (s->fin && !s->fin_out))) {
            send_turn(c, s);
        }
    }
}

/* ---- the end ---- */

static void say_goodbye(struct tcp_conn *c)
{
    /* The last of the receiver's streams, which is any; an error of HTTP/2's; then ours. */
    uint8_t p[17] = {0x7f, 0xff, 0xff, c->link.is_server ? 0xff : 0xfe};
    size_t n = strlen(c->info.reason);

    p[7] = c->info.cause == ES_CLOSE_ERROR ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_NO_ERROR;
    p[8] = (uint8_t)c->info.app;
    tcp_put64(p + 9, c->info.code);
    c->close_framed = 1;
    (void)tcp_frame(c, NGHTTP2_GOAWAY, 0, p, sizeof p, c->info.reason, n);
}

static void fill(struct tcp_conn *c)
{
    if (c->close_asked) {
        if (!c->close_framed) {
            say_goodbye(c);
        }
        return;
    }
    if (waiting(c) >= TCP_OUT_MAX) {
        return;
    }
    do_ops(c);
    if (alive(c)) {
        say_control(c);
    }
    if (alive(c) && !es_list_empty(&c->ops)) {
        do_ops(c);
    }
    if (alive(c)) {
        send_datagrams(c);
        send_data(c);
    }
}

static void drain(struct tcp_conn *c)
{
    while (alive(c) && !c->no_room && waiting(c) > 0) {
        ssize_t n = tcp_tls_write(c, c->out.p + c->out_off, waiting(c));
        if (n <= 0) {
            break;
        }
        c->out_off += (size_t)n;
    }
    if (waiting(c) == 0) {
        c->out.n = c->out_off = 0;
        es_buf_shrink(&c->out, 2048);
    } else if (c->out_off > TCP_OUT_MAX / 2) {
        es_buf_drop(&c->out, c->out_off);
        c->out_off = 0;
    }
}

static void flush_open(struct tcp_conn *c)
{
    int i;

    c->flushing = 1;
    for (i = 0; i < TCP_WRITES && alive(c); i++) {
        int closing = c->close_asked;
        fill(c);
        if (c->close_asked && !closing) {
            fill(c);
        }
        if (waiting(c) == 0 || c->no_room) {
            break;
        }
        drain(c);
        if (c->no_room) {
            break;
        }
    }
    if (i == TCP_WRITES && alive(c)) {
        tcp_mark(c); /* others' turn */
    }
    if (alive(c) && c->close_asked) {
        if (waiting(c) == 0) {
            tcp_end(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, 0, "");
        } else if (c->linger_until == 0) {
            c->linger_until = tcp_now(c) + TCP_LINGER;
        }
    }
    c->flushing = 0;
}

void tcp_flush(struct es_poll_work *w)
{
    struct tcp_conn *c = es_container_of(w, struct tcp_conn, work);

    if (c->told) {
        tcp_conn_del(c);
        return;
    }
    if (alive(c)) {
        flush_open(c);
    } else if (c->close_asked && c->state < TCP_GREETING) {
        tcp_end(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, 0, "");
    }
    tcp_stream_sweep(c);
    tcp_run_releases(c);
    if (c->state < TCP_ENDED) {
        tcp_watch(c);
        tcp_arm(c);
    }
}
