/* Connections: their life, their socket's events and their clock. */
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "internal.h"

static void on_timer(struct es_timer *t);

static void init_lists(struct tcp_conn *c)
{
    struct es_list *lists[] = {&c->node,      &c->half,      &c->streams,   &c->dead,
                               &c->ops,       &c->blocked,   &c->unacked,   &c->released,
                               &c->datagrams, &c->parked[0], &c->parked[1], &c->work.node};

    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        es_list_init(lists[i]);
    }
    for (int i = 0; i <= ES_PRIO_LAST; i++) {
        es_list_init(&c->ready[i]);
    }
}

int tcp_conn_new(struct es_tcp *t, int is_server, struct es_tls *tls, const struct es_transport_config *cfg,
                 int fd, const union es_addr *remote, struct tcp_conn **out)
{
    static const struct es_link_door door = {"tcp", "", "", ""};
    struct tcp_conn *c = es_calloc(1, sizeof *c);
    int on = 1, low = 128 * 1024;

    *out = NULL;
    if (c == NULL) {
        close(fd);
        return ES_ERR_NOMEM;
    }
    init_lists(c);
    c->t = t;
    c->fd = fd;
    c->cfg = *cfg;
    c->remote = *remote;
    c->link.ops = &tcp_link_ops;
    c->link.is_server = is_server;
    c->link.hold_cap = cfg->hold_cap;
    c->link.door = &door;
    c->link.base = &c->link; /* what the peer does counts before the protocol is there */
    c->link.glitch_code = ES_APP_EXCESSIVE_LOAD;
    es_glitch_init(&c->link.glitch, (uint32_t)cfg->glitch_budget, tcp_now(c));
    c->source.ready = tcp_conn_ready;
    c->work.run = tcp_flush;
    c->idle = cfg->idle_timeout;
    c->park[ES_DIR_BIDI] = 16;
    c->park[ES_DIR_UNI] = 4;
    c->started = c->heard_at = c->moved_at = tcp_now(c);
    es_timer_init(&c->timer, on_timer, c);
    es_tls_ref(tls);
    c->peer.tls = tls;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* The kernel says that there is room when it has little left to send, so that what is urgent need not
     * queue behind much that is not. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof low);
    es_list_push(&t->conns, &c->node);
    t->stats.connections++;
    if (is_server) {
        es_list_push(&t->half, &c->half);
        t->n_half++;
    }
    c->state = is_server ? TCP_SHAKING : TCP_CONNECTING;
    c->watched = is_server ? EPOLLIN : EPOLLIN | EPOLLOUT;
    if (es_poller_watch(t->p, fd, c->watched, &c->source) != 0) {
        c->watched = 0;
        tcp_conn_del(c);
        return ES_ERR_IO;
    }
    *out = c;
    return 0;
}

static void not_half_open(struct tcp_conn *c)
{
    if (!es_list_empty(&c->half)) {
        es_list_remove(&c->half);
        c->t->n_half--;
    }
}

static void drop_datagrams(struct tcp_conn *c)
{
    while (!es_list_empty(&c->datagrams)) {
        struct tcp_datagram *d = es_container_of(c->datagrams.next, struct tcp_datagram, node);
        es_list_remove(&d->node);
        es_free(d);
    }
    c->n_datagrams = 0;
}

static void drop_streams(struct tcp_conn *c)
{
    struct es_list *lists[] = {&c->streams, &c->parked[0], &c->parked[1]};

    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        while (!es_list_empty(lists[i])) {
            tcp_stream_retire(es_container_of(lists[i]->next, struct tcp_stream, all));
        }
    }
}

/* The socket goes its own way, or is shut at once when something is left that it does not take. */
static void drop_socket(struct tcp_conn *c)
{
    if (c->fd < 0) {
        return;
    }
    if (c->watched != 0) {
        es_poller_unwatch(c->t->p, c->fd);
    }
    if (c->h2 != NULL && c->out.n == c->out_off && !c->again) {
        tcp_tls_bye(c);
        tcp_linger(c->t->p, c->fd);
    } else if (c->tls != NULL) {
        tcp_linger(c->t->p, c->fd); /* an alert may be on its way */
    } else {
        close(c->fd);
    }
    c->fd = -1;
}

void tcp_conn_del(struct tcp_conn *c)
{
    drop_streams(c);
    tcp_run_releases(c);
    tcp_stream_sweep(c);
    drop_datagrams(c);
    drop_socket(c);
    es_timer_stop(&c->t->p->timers, &c->timer);
    nghttp2_session_del(c->h2);
    if (c->tls != NULL) {
        gnutls_deinit(c->tls);
    }
    not_half_open(c);
    es_list_remove(&c->node);
    es_list_remove(&c->work.node);
    c->t->stats.connections--;
    es_buf_free(&c->out);
    es_buf_free(&c->ext);
    es_buf_free(&c->peer.der);
    es_tls_unref(c->peer.tls);
    es_free(c);
}

/* ---- the end ---- */

void tcp_set_info(struct tcp_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
                  const char *reason)
{
    memset(&c->info, 0, sizeof c->info);
    c->info.cause = cause;
    c->info.err = err;
    c->info.app = app != 0;
    c->info.code = code;
    snprintf(c->info.reason, sizeof c->info.reason, "%s", reason != NULL ? reason : "");
}

void tcp_end(struct tcp_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
             const char *reason)
{
    if (c->state >= TCP_ENDED) {
        return;
    }
    if (!c->close_asked) { /* else it says why already */
        tcp_set_info(c, cause, err, app, code, reason);
    }
    c->state = TCP_ENDED;
    c->turn = NULL;
    not_half_open(c);
    (void)es_timer_start(&c->t->p->timers, &c->timer, tcp_now(c));
    es_poller_rearm(c->t->p);
}

void tcp_fail(struct tcp_conn *c, const char *reason)
{
    if (c->state < TCP_ENDED && !c->close_asked) {
        tcp_set_info(c, c->established ? ES_CLOSE_ERROR : ES_CLOSE_HANDSHAKE, ES_ERR_PROTOCOL, 1,
                     ES_APP_PROTOCOL, reason);
        c->close_asked = 1;
        tcp_mark(c);
    }
}

void tcp_finish(struct tcp_conn *c)
{
    c->told = 1;
    drop_datagrams(c);
    if (c->attached) {
        c->link.events->closed(c->link.user, &c->info);
    }
    drop_streams(c);
    tcp_mark(c); /* freed then */
}

/* ---- established ---- */

void tcp_established(struct tcp_conn *c)
{
    unsigned idle;

    if (c->state != TCP_GREETING) {
        return;
    }
    if (c->link.is_server) {
        if (c->app->attach(c->app, &c->link, NULL) != 0) {
            tcp_end(c, ES_CLOSE_HANDSHAKE, ES_ERR_CLOSED, 1, ES_APP_REFUSED, "refused by the protocol");
            return;
        }
        c->attached = 1;
        c->t->stats.accepted++;
    }
    c->state = TCP_OPEN;
    c->established = 1;
    c->established_at = tcp_now(c);
    not_half_open(c);
    idle = (unsigned)(c->idle / ES_MILLI);
    if (idle > 0) {
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &idle, sizeof idle);
    }
    c->link.events->established(c->link.user);
}

/* ---- the clock ---- */

static uint64_t keep_alive_at(const struct tcp_conn *c)
{
    uint64_t after = c->cfg.keep_alive;

    if (c->link.is_server || !c->keep_alive_on || after == 0 || c->pinged != 0) {
        return ES_NEVER;
    }
    if (after == ES_KEEP_ALIVE_AUTO) {
        if (c->idle == 0) {
            return ES_NEVER;
        }
        after = c->idle / 4 < 25 * ES_SECOND ? c->idle / 4 : 25 * ES_SECOND;
    }
    return c->heard_at + after;
}

static uint64_t stall_at(const struct tcp_conn *c)
{
    return c->cfg.stall_timeout == 0 || c->link.held < c->link.hold_cap ? ES_NEVER
                                                                        : c->moved_at + c->cfg.stall_timeout;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void tcp_arm(struct tcp_conn *c)
{
    uint64_t at;

    if (c->state == TCP_ENDED) {
        return; /* set by tcp_end */
    }
    if (c->close_asked && c->linger_until != 0) {
        at = c->linger_until;
    } else if (c->state != TCP_OPEN) {
        at = c->cfg.handshake_timeout == 0 ? ES_NEVER : c->started + c->cfg.handshake_timeout;
    } else {
        at = c->idle == 0 ? ES_NEVER : c->heard_at + c->idle;
        at = least(at, least(keep_alive_at(c), stall_at(c)));
        if (c->ask_at != 0 && c->pinged == 0) {
            at = least(at, c->ask_at);
        }
        if (c->link.held >= c->link.hold_cap) {
            at = least(at, tcp_now(c) + ES_SECOND);
        }
    }
    if (at == ES_NEVER) {
        es_timer_stop(&c->t->p->timers, &c->timer);
    } else {
        (void)es_timer_start(&c->t->p->timers, &c->timer, at);
    }
}

static void on_open_timer(struct tcp_conn *c)
{
    uint64_t now = tcp_now(c);

    if (c->idle != 0 && now >= c->heard_at + c->idle) {
        tcp_end(c, ES_CLOSE_IDLE, ES_ERR_TIMEOUT, 0, 0,
                "nothing was heard of the peer for the idle time-out");
    } else if (now >= stall_at(c)) {
        tcp_set_info(c, ES_CLOSE_LOCAL, ES_ERR_LIMIT, 1, c->link.glitch_code,
                     "the peer takes nothing of what it asked for");
        c->close_asked = 1;
        tcp_mark(c);
    } else if (c->pinged == 0 && (now >= keep_alive_at(c) || (c->ask_at != 0 && now >= c->ask_at))) {
        c->ask_at = now;
        tcp_mark(c);
    }
    tcp_arm(c);
}

static void on_timer(struct es_timer *t)
{
    struct tcp_conn *c = t->user;

    if (c->state == TCP_ENDED) {
        if (!c->told) {
            tcp_finish(c);
        }
    } else if (c->close_asked) {
        tcp_end(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, 0, ""); /* the peer takes not even that */
    } else if (c->state == TCP_OPEN) {
        on_open_timer(c);
    } else {
        tcp_end(c, ES_CLOSE_HANDSHAKE, ES_ERR_TIMEOUT, 0, 0, "the handshake took too long: no answer");
    }
}

/* ---- the socket ---- */

void tcp_watch(struct tcp_conn *c)
{
    uint32_t want = c->state == TCP_CONNECTING || c->no_room ? EPOLLIN | EPOLLOUT : EPOLLIN;

    if (want != c->watched && c->fd >= 0 && es_poller_rewatch(c->t->p, c->fd, want, &c->source) == 0) {
        c->watched = want;
    }
}

static void connected(struct tcp_conn *c)
{
    int err = 0;
    socklen_t n = sizeof err;
    char text[160], to[64];

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0 || err != 0) {
        snprintf(text, sizeof text, "TCP connection to %s: %s", es_addr_format(&c->remote, to, sizeof to),
                 strerror(err));
        tcp_end(c, ES_CLOSE_HANDSHAKE, ES_ERR_CLOSED, 0, 0, text);
        return;
    }
    c->state = TCP_SHAKING;
    if (tcp_tls_start(c) != 0) {
        tcp_end(c, ES_CLOSE_HANDSHAKE, ES_ERR_TLS, 0, 0, "TLS cannot be set up");
        return;
    }
    tcp_tls_shake(c);
}

static void receive(struct tcp_conn *c)
{
    for (int i = 0; i < TCP_READS && c->state < TCP_ENDED; i++) {
        ssize_t n = recv(c->fd, c->t->rx, TCP_IN_BYTES, MSG_DONTWAIT);

        if (n > 0) {
            c->bytes_in += (uint64_t)n;
            c->t->stats.bytes_in += (uint64_t)n;
            c->reads++;
            c->heard_at = tcp_now(c);
            tcp_tls_read(c, (size_t)n);
            if (n < TCP_IN_BYTES) {
                return;
            }
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return;
        } else {
            char text[128];
            snprintf(text, sizeof text, "the peer broke off the TCP connection%s%s", n < 0 ? ": " : "",
                     n < 0 ? strerror(errno) : "");
            tcp_end(c, c->established ? ES_CLOSE_ERROR : ES_CLOSE_HANDSHAKE, ES_ERR_CLOSED, 0, 0, text);
        }
    }
}

static void tell_credit(struct tcp_conn *c)
{
    for (int dir = 0; dir < 2; dir++) {
        if (c->credit_due & 1u << dir) {
            c->credit_due &= ~(1u << dir);
            c->short_of &= ~(1u << dir);
            if (tcp_listens(c) && c->established) {
                c->link.events->stream_credit(c->link.user, dir);
            }
        }
    }
}

void tcp_conn_ready(struct es_poll_source *source, uint32_t events)
{
    struct tcp_conn *c = es_container_of(source, struct tcp_conn, source);

    if (c->state >= TCP_ENDED || c->fd < 0) {
        return;
    }
    if (c->state == TCP_CONNECTING) {
        connected(c);
    } else if (events & EPOLLOUT) {
        c->no_room = 0;
        if (c->state == TCP_SHAKING) {
            tcp_tls_shake(c);
        }
    }
    if (c->state > TCP_CONNECTING && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        receive(c);
    }
    tell_credit(c);
    if (c->state < TCP_ENDED) {
        tcp_watch(c);
        tcp_arm(c);
        tcp_mark(c);
    } else if (c->watched != 0) { /* level-triggered: it would be told again and again */
        es_poller_unwatch(c->t->p, c->fd);
        c->watched = 0;
    }
}
