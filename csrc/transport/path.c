/* Paths: more sockets for an endpoint, moving a connection to one of them, following the peer's moves,
 * preferred addresses, and keeping the way through middleboxes open.
 *
 * The peer's address as others see it (es_link_peer_addr, moved()) is always a validated one. ngtcp2 itself
 * answers a peer that seems to have moved at once, under the limit of RFC 9000 8.1, and goes back when the
 * new path does not validate.
 *
 * A client that moved takes its new socket for the endpoint's first one when nobody else uses that: so
 * es_endpoint_address() is where it is, and the old port is given back. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"

/* How long a move waits for a connection id of the peer's and a confirmed handshake. */
#define MOVE_PATIENCE (3 * ES_SECOND)
/* Packets to a socket that was left are taken at least that long. */
#define LATE ES_SECOND
/* Some middleboxes forget a UDP flow after 30 s (RFC 9000 10.1.2). */
#define KEEP_ALIVE_MAX (25 * ES_SECOND)
#define KEEP_ALIVE_MIN ES_SECOND

/* ---- sockets ---- */

static int is_wildcard(const union es_addr *a)
{
    return a->sa.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr)
                                       : a->in4.sin_addr.s_addr == htonl(INADDR_ANY);
}

static void close_sock(struct es_sock *s)
{
    struct es_endpoint *ep = s->ep;

    if (ep->pending.len > 0 && ep->pending_sock == s->sock) { /* a batch that never went out is lost */
        ep->pending.len = 0;
    }
    es_timer_stop(&ep->p->timers, &s->retire);
    es_list_remove(&s->node);
    ep->p->io.close(ep->p->io.ctx, s->sock);
    es_free(s);
}

static void on_retire(struct es_timer *t)
{
    struct es_sock *s = t->user;

    if (s->ep->blocked && s->ep->pending_sock == s->sock) { /* nobody will say that it is writable */
        s->ep->pending.len = 0;
        es_endpoint_writable(s->ep);
    }
    close_sock(s);
}

/* `delay`: ns. Never at once: packets of this very socket may be in hand. */
static void retire(struct es_sock *s, uint64_t delay)
{
    struct es_timers *ts = &s->ep->p->timers;

    (void)es_timer_start(ts, &s->retire,
                         ts->now + delay); /* without memory it stays until the endpoint goes */
}

static int open_sock(struct es_endpoint *ep, const union es_addr *addr, struct es_sock **out)
{
    struct es_sock *s = es_calloc(1, sizeof *s);
    int rv;

    if (s == NULL) {
        return ES_ERR_NOMEM;
    }
    s->ep = ep;
    s->addr = *addr;
    es_timer_init(&s->retire, on_retire, s);
    errno = 0;
    rv = ep->p->io.bind(ep->p->io.ctx, ep, &s->addr, &s->sock);
    if (rv != 0) {
        es_free(s);
        return rv;
    }
    s->wildcard = is_wildcard(&s->addr);
    es_list_push(&ep->socks, &s->node);
    *out = s;
    return 0;
}

void es_endpoint_free_socks(struct es_endpoint *ep)
{
    while (!es_list_empty(&ep->socks)) {
        close_sock(es_container_of(ep->socks.next, struct es_sock, node));
    }
}

static int same_port(const union es_addr *a, const union es_addr *b)
{
    return (a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in4.sin_port) ==
           (b->sa.sa_family == AF_INET6 ? b->in6.sin6_port : b->in4.sin_port);
}

struct es_sock *es_endpoint_sock(struct es_endpoint *ep, const union es_addr *local)
{
    es_list_foreach(it, &ep->socks)
    {
        struct es_sock *s = es_container_of(it, struct es_sock, node);
        if (s->wildcard ? same_port(&s->addr, local) : es_addr_equal(&s->addr, local)) {
            return s;
        }
    }
    return NULL;
}

/* ---- moving ---- */

static void tell(struct es_conn *c, int peer, int err, const union es_addr *from, const union es_addr *to,
                 const char *reason)
{
    struct es_link_move m;

    if (c->link.events == NULL || c->link.events->moved == NULL || c->refused) {
        return;
    }
    memset(&m, 0, sizeof m);
    m.peer = peer;
    m.err = err;
    es_addr_format(from, m.from, sizeof m.from);
    es_addr_format(to, m.to, sizeof m.to);
    snprintf(m.reason, sizeof m.reason, "%s", reason);
    c->ep->p->again |= c->ep->flushing;
    c->link.events->moved(c->link.user, &m);
}

static const union es_addr *where(const struct es_conn *c)
{
    return c->sock != NULL ? &c->sock->addr : &c->ep->addr;
}

static void fail(struct es_conn *c, int err, const char *reason)
{
    struct es_sock *s = c->moving;

    c->moving = NULL;
    c->move_until = 0;
    retire(s, 0);
    tell(c, 0, err, where(c), &s->addr, reason);
}

void es_path_give_up(struct es_conn *c)
{
    if (c->moving != NULL) {
        fail(c, ES_ERR_CLOSED, "the connection was closed");
    }
}

int es_link_migrate(struct es_link *l, const union es_addr *bind, char *err, size_t n)
{
    struct es_conn *c = es_conn_of(l);
    const ngtcp2_transport_params *remote;
    union es_addr addr = *bind;
    int rv;

    if (l->ops != &es_conn_link_ops && l->ops->peer_cert != NULL) {
        snprintf(err, n, "only QUIC connections can move, this one is over TCP");
        return ES_ERR_UNSUPPORTED;
    }
    if (l->ops != &es_conn_link_ops || l->is_server) {
        snprintf(err, n, "only the side that dialled can move");
        return ES_ERR_UNSUPPORTED;
    }
    if (c->state != ES_CONN_OPEN || c->close_asked) {
        snprintf(err, n, "the connection is not open");
        return ES_ERR_CLOSED;
    }
    if (c->moving != NULL) {
        snprintf(err, n, "a migration is under way already");
        return ES_ERR_EXISTS;
    }
    remote = ngtcp2_conn_get_remote_transport_params(c->nc);
    if (remote != NULL && remote->disable_active_migration) {
        snprintf(err, n, "the server does not allow migration");
        return ES_ERR_UNSUPPORTED;
    }
    if (es_addr_fit(&addr, c->remote.sa.sa_family) != 0) {
        snprintf(err, n, "the new address is of another family than the server's");
        return ES_ERR_INVAL;
    }
    rv = open_sock(c->ep, &addr, &c->moving);
    if (rv != 0) {
        char text[64];
        snprintf(err, n, "bind %s: %s", es_addr_format(&addr, text, sizeof text),
                 errno != 0 ? strerror(errno) : es_strerror(rv));
        return rv;
    }
    c->move_until = es_conn_now(c) + MOVE_PATIENCE;
    es_conn_mark(c);
    return 0;
}

void es_path_begin_move(struct es_conn *c)
{
    ngtcp2_path path = {{0}, {0}, NULL};
    union es_addr remote;
    const ngtcp2_path *now;
    int rv;

    if (c->moving == NULL || c->move_until == 0) {
        return;
    }
    now = ngtcp2_conn_get_path(c->nc);
    memset(&remote, 0, sizeof remote);
    memcpy(&remote, now->remote.addr, now->remote.addrlen);
    path.local = es_nt_addr(&c->moving->addr);
    path.remote = es_nt_addr(&remote);
    rv = ngtcp2_conn_initiate_migration(c->nc, &path, es_conn_now(c));
    if (rv == 0) {
        c->move_until = 0;
    } else if (es_conn_now(c) >= c->move_until) {
        fail(c, rv == NGTCP2_ERR_CONN_ID_BLOCKED ? ES_ERR_LIMIT : ES_ERR_TIMEOUT,
             rv == NGTCP2_ERR_CONN_ID_BLOCKED ? "the server gave no connection id for another path"
                                              : "the handshake was not confirmed in time");
    } /* else: again, when something came or the time is over */
}

/* Does anybody but c stand on the endpoint's first socket? */
static int first_is_used(const struct es_conn *c)
{
    if (c->ep->tls != NULL) {
        return 1;
    }
    es_list_foreach(it, &c->ep->conns)
    {
        const struct es_conn *o = es_container_of(it, struct es_conn, node);
        if (o != c && o->state < ES_CONN_ENDED && (!o->link.is_server && o->sock == NULL)) {
            return 1;
        }
    }
    return 0;
}

static int is_used(const struct es_sock *s)
{
    es_list_foreach(it, &s->ep->conns)
    {
        const struct es_conn *o = es_container_of(it, struct es_conn, node);
        if (o->state < ES_CONN_ENDED && (o->sock == s || o->moving == s)) {
            return 1;
        }
    }
    return 0;
}

/* The two exchange what they hold: `s` is the endpoint's first socket from now on. Connections know sockets
 * by the name that ngtcp2 has for the path. */
static void make_first(struct es_endpoint *ep, struct es_sock *s, const union es_addr *old_name)
{
    void *sock = ep->sock;

    es_list_foreach(it, &ep->conns)
    {
        struct es_conn *o = es_container_of(it, struct es_conn, node);
        if (o->sock == s) {
            o->sock = NULL;
            o->local = s->addr;
        }
    }
    ep->sock = s->sock;
    ep->addr = s->addr;
    ep->wildcard = s->wildcard;
    s->sock = sock;
    s->addr = *old_name;
    s->wildcard = is_wildcard(old_name);
}

static void arrived(struct es_conn *c)
{
    struct es_sock *new = c->moving, *old = c->sock;
    union es_addr from = *where(c), to = new->addr, name = c->local;
    uint64_t late = 3 * ngtcp2_conn_get_pto(c->nc);

    late = late > LATE ? late : LATE;
    c->moving = NULL;
    c->sock = new;
    c->alias.sa.sa_family = 0;
    c->migrations++;
    es_acks_moved(&c->acks);
    if (old != NULL && !is_used(old)) {
        retire(old, late);
    } else if (old == NULL && !first_is_used(c)) {
        make_first(c->ep, new, &name);
        retire(new, late);
    }
    tell(c, 0, 0, &from, &to, "");
}

int es_path_validated(struct es_conn *c, unsigned flags, const ngtcp2_path *path,
                      ngtcp2_path_validation_result res)
{
    union es_addr remote, from = c->remote;

    if (c->state != ES_CONN_OPEN) {
        return 0;
    }
    if (c->moving != NULL && c->move_until == 0 &&
        es_addr_equal((const union es_addr *)(const void *)path->local.addr, &c->moving->addr)) {
        if (res == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS) {
            arrived(c);
        } else {
            fail(c, res == NGTCP2_PATH_VALIDATION_RESULT_ABORTED ? ES_ERR_LIMIT : ES_ERR_TIMEOUT,
                 res == NGTCP2_PATH_VALIDATION_RESULT_ABORTED ? "another change of path came between"
                                                              : "no answer came over the new path");
        }
        return 0;
    }
    memset(&remote, 0, sizeof remote);
    if (path->remote.addrlen > sizeof remote) {
        return 0;
    }
    memcpy(&remote, path->remote.addr, path->remote.addrlen);
    if (c->link.is_server) {
        es_name_read(c, &remote);
        es_names_settled(c);
    }
    if (res == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS && !es_addr_equal(&remote, &from)) {
        c->remote = remote;
        c->migrations++;
        es_acks_moved(&c->acks);
        tell(c, 1, 0, &from, &remote, "");
    }
    return 0;
}

/* ---- preferred addresses ---- */

int es_endpoint_prefer(struct es_endpoint *ep, const union es_addr *addr, char *err, size_t n)
{
    struct es_sock *s;
    char text[64];
    int rv, six = addr->sa.sa_family == AF_INET6;

    if (is_wildcard(addr)) {
        snprintf(err, n, "a preferred address must say which address it is");
        return ES_ERR_INVAL;
    }
    rv = open_sock(ep, addr, &s);
    if (rv != 0) {
        snprintf(err, n, "bind %s: %s", es_addr_format(addr, text, sizeof text),
                 errno != 0 ? strerror(errno) : es_strerror(rv));
        return rv;
    }
    ep->preferred[six] = s->addr;
    return 0;
}

int es_path_offer(struct es_conn *c, ngtcp2_transport_params *p)
{
    const struct es_endpoint *ep = c->ep;
    ngtcp2_preferred_addr *a = &ES_COMPAT_PREFERRED_ADDR(p);

    if (ep->preferred[0].sa.sa_family == 0 && ep->preferred[1].sa.sa_family == 0) {
        return 0;
    }
    ES_COMPAT_PREFERRED_PRESENT(p) = 1;
    if (ep->preferred[0].sa.sa_family == AF_INET) {
        a->ipv4_present = 1;
        memcpy(&a->ipv4, &ep->preferred[0].in4, sizeof a->ipv4);
    }
    if (ep->preferred[1].sa.sa_family == AF_INET6) {
        a->ipv6_present = 1;
        memcpy(&a->ipv6, &ep->preferred[1].in6, sizeof a->ipv6);
    }
    es_endpoint_new_cid(c->ep, &a->cid);
    if (es_endpoint_reset_token(c->ep, &a->cid, a->stateless_reset_token) != 0) {
        return ES_ERR_NOMEM;
    }
    return es_conn_add_cid(c, a->cid.data, a->cid.datalen);
}

int es_path_preferred(struct es_conn *c, ngtcp2_path *dest, const ngtcp2_preferred_addr *paddr)
{
    union es_addr to;

    memset(&to, 0, sizeof to);
    if (c->cfg.ignore_preferred) {
        return 0;
    }
    if (paddr->ipv4_present) {
        memcpy(&to.in4, &paddr->ipv4, sizeof to.in4);
        to.sa.sa_family = AF_INET;
    }
    /* An IPv6 socket can do both; what the connection was made with is known to work. */
    if (paddr->ipv6_present && c->remote.sa.sa_family == AF_INET6 &&
        !IN6_IS_ADDR_V4MAPPED(&c->remote.in6.sin6_addr)) {
        memcpy(&to.in6, &paddr->ipv6, sizeof to.in6);
        to.sa.sa_family = AF_INET6;
    }
    if (to.sa.sa_family == 0 || es_addr_fit(&to, c->remote.sa.sa_family) != 0) {
        return 0;
    }
    memcpy(dest->remote.addr, &to, es_addr_len(&to));
    dest->remote.addrlen = es_addr_len(&to);
    return 0;
}

/* ---- the path's size ---- */

size_t es_path_mtu(const struct es_conn *c)
{
    size_t mtu = ngtcp2_conn_get_path_max_tx_udp_payload_size(c->nc);

    return c->acks.small && mtu > ES_ACKS_SMALL ? ES_ACKS_SMALL : mtu;
}

/* ---- middleboxes ---- */

static uint64_t negotiated_idle(const struct es_conn *c)
{
    const ngtcp2_transport_params *remote = ngtcp2_conn_get_remote_transport_params(c->nc);
    uint64_t theirs = remote != NULL ? remote->max_idle_timeout : 0, ours = c->cfg.idle_timeout;

    return theirs == 0 ? ours : ours == 0 || theirs < ours ? theirs : ours;
}

/* ngtcp2 speaks when nothing was sent or heard for the time it is given. A quarter of the idle time-out
 * leaves room for three more; what stays unanswered is repeated faster, since the packet may have been lost
 * and the library does not send it again. */
void es_conn_set_keep_alive(struct es_conn *c)
{
    uint64_t t = c->cfg.keep_alive, idle = negotiated_idle(c), pto;

    if (t == ES_KEEP_ALIVE_AUTO) {
        t = idle != 0 && idle / 4 < KEEP_ALIVE_MAX ? idle / 4 : KEEP_ALIVE_MAX;
    }
    c->keep_alive = c->keep_alive_on ? t : 0;
    if (c->urgent_keep_alive) {
        pto = 3 * ngtcp2_conn_get_pto(c->nc);
        pto = pto > KEEP_ALIVE_MIN ? pto : KEEP_ALIVE_MIN;
        t = pto < t ? pto : t;
    }
    ngtcp2_conn_set_keep_alive_timeout(c->nc, c->keep_alive != 0 ? t : ES_COMPAT_KEEP_ALIVE_OFF);
}

void es_path_keep_alive_sent(struct es_conn *c)
{
    c->urgent_keep_alive = 1;
    es_conn_set_keep_alive(c);
}

void es_path_answered(struct es_conn *c)
{
    c->urgent_keep_alive = 0;
    es_conn_set_keep_alive(c);
}

/* ngtcp2 sends a PING by itself only when its keep-alive is due: it is, for one flush. Half as long again
 * until the next, up to the keep-alive itself, unless data comes; never in step with whatever takes the way
 * away. */
void es_path_ask(struct es_conn *c)
{
    uint64_t pto = 3 * ngtcp2_conn_get_pto(c->nc), wait = c->ask_wait * 5 / 4;
    uint8_t jitter;

    c->ep->p->io.rand(c->ep->p->io.ctx, &jitter, 1);
    wait += wait / 2 * jitter / 256;
    wait = wait > pto ? wait : pto;
    c->ask_wait = wait < c->keep_alive ? wait : c->keep_alive;
    c->asked_at = es_conn_now(c);
    es_path_ping(c);
    es_conn_mark(c);
}

void es_path_ping(struct es_conn *c)
{
    c->asking = 1;
    ngtcp2_conn_set_keep_alive_timeout(c->nc, 1);
}

void es_path_asked(struct es_conn *c)
{
    c->asking = 0;
    es_conn_set_keep_alive(c);
}
