/* The listener, dialling, and the life of them all. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "internal.h"

#define ACCEPTS 64               /* in one step */
#define REST    (100 * ES_MILLI) /* when no descriptors are left */

void es_tcp_config_default(struct es_tcp_config *c)
{
    memset(c, 0, sizeof *c);
    es_transport_config_default(&c->transport, 1);
    c->max_half_open = 4096;
    c->max_half_open_each = 1024;
}

static int same_host(const union es_addr *a, const union es_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family) {
        return 0;
    }
    return a->sa.sa_family == AF_INET6
               ? memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 8) == 0 /* a /64 is one host's */
               : a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
}

static int may_come(const struct es_tcp *t, const union es_addr *from)
{
    size_t n = 0;

    if (t->refusing || t->deleting || t->tls == NULL || t->n_half >= t->max_half_open) {
        return 0;
    }
    if (t->n_half < t->max_half_open_each) {
        return 1;
    }
    es_list_foreach(it, &t->half)
    {
        n += (size_t)same_host(&es_container_of(it, struct tcp_conn, half)->remote, from);
    }
    return n < t->max_half_open_each;
}

static void offer(struct tcp_conn *c, struct es_app *const *apps, size_t n)
{
    for (size_t i = 0; i < n && i < 8; i++) {
        snprintf(c->alpn[i], sizeof c->alpn[i], "%s%s", apps[i]->alpn, ES_TCP_ALPN_SUFFIX);
    }
}

static void take(struct es_tcp *t, int fd, const union es_addr *from)
{
    struct tcp_conn *c;

    if (!may_come(t, from)) {
        t->stats.refused++;
        close(fd);
        return;
    }
    if (tcp_conn_new(t, 1, t->tls, &t->transport, fd, from, &c) != 0) {
        return;
    }
    offer(c, t->apps, t->n_apps);
    if (tcp_tls_start(c) != 0) {
        tcp_end(c, ES_CLOSE_HANDSHAKE, ES_ERR_TLS, 0, 0, "TLS cannot be set up");
        return;
    }
    tcp_arm(c);
}

static void on_rest(struct es_timer *timer)
{
    struct es_tcp *t = timer->user;

    (void)es_poller_watch(t->p, t->fd, EPOLLIN, &t->source);
}

static void on_accept(struct es_poll_source *s, uint32_t events)
{
    struct es_tcp *t = es_container_of(s, struct es_tcp, source);

    for (int i = 0; i < ACCEPTS && t->fd >= 0; i++) {
        union es_addr from;
        socklen_t n = sizeof from;
        int fd = accept4(t->fd, &from.sa, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            take(t, fd, &from);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* Who waits would wake us at once, again and again. */
            es_poller_unwatch(t->p, t->fd);
            (void)es_timer_start(&t->p->timers, &t->rest, t->p->timers.now + REST);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static int listen_at(struct es_tcp *t, const union es_addr *addr, char *err, size_t n)
{
    char text[64];
    int on = 1, off = 0;
    socklen_t len = sizeof t->addr;

    t->addr = *addr;
    es_addr_format(addr, text, sizeof text);
    if (t->p->ops->watch == NULL) {
        snprintf(err, n, "listen on %s: a simulated network has no TCP", text);
        return ES_ERR_UNSUPPORTED;
    }
    t->fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (t->fd >= 0) {
        (void)setsockopt(t->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (addr->sa.sa_family == AF_INET6) {
            (void)setsockopt(t->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        }
    }
    if (t->fd < 0 || bind(t->fd, &addr->sa, es_addr_len(addr)) != 0 || listen(t->fd, 1024) != 0 ||
        getsockname(t->fd, &t->addr.sa, &len) != 0 ||
        es_poller_watch(t->p, t->fd, EPOLLIN, &t->source) != 0) {
        int code = errno;
        snprintf(err, n, "listen on %s (TCP): %s", text, strerror(code));
        if (t->fd >= 0) {
            close(t->fd);
        }
        t->fd = -1;
        return code == EADDRINUSE ? ES_ERR_EXISTS : ES_ERR_IO;
    }
    return 0;
}

int es_tcp_new(struct es_poller *p, const struct es_tcp_config *cfg, struct es_tcp **out, char *err_text,
               size_t n)
{
    struct es_tcp *t = es_calloc(1, sizeof *t);
    int rv = ES_ERR_NOMEM;

    *out = NULL;
    snprintf(err_text, n, "out of memory");
    if (t == NULL) {
        return rv;
    }
    t->p = p;
    t->fd = -1;
    t->source.ready = on_accept;
    es_timer_init(&t->rest, on_rest, t);
    es_list_init(&t->conns);
    es_list_init(&t->half);
    t->transport = cfg->transport;
    t->max_half_open = cfg->max_half_open;
    t->max_half_open_each = cfg->max_half_open_each;
    t->n_apps = cfg->n_apps < 8 ? cfg->n_apps : 8;
    for (size_t i = 0; i < t->n_apps; i++) {
        t->apps[i] = cfg->apps[i];
    }
    if (cfg->tls != NULL) {
        es_tls_ref(cfg->tls);
        t->tls = cfg->tls;
    }
    t->rx = es_malloc(TCP_IN_BYTES);
    if (t->rx != NULL) {
        rv = cfg->bind != NULL ? listen_at(t, cfg->bind, err_text, n) : 0;
    }
    if (rv != 0) {
        es_tcp_del(t);
        return rv;
    }
    *out = t;
    return 0;
}

static void end_at_once(struct tcp_conn *c)
{
    if (c->state < TCP_ENDED) {
        es_link_close(&c->link, 1, ES_APP_NONE, "");
        es_list_remove(&c->work.node);
        tcp_flush(&c->work); /* its CONNECTION_CLOSE, as far as the socket takes it */
    }
    tcp_end(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, ES_APP_NONE, "");
    if (!c->told) {
        tcp_finish(c);
    }
    tcp_conn_del(c);
}

void es_tcp_del(struct es_tcp *t)
{
    if (t == NULL) {
        return;
    }
    assert(!t->p->busy); /* never from an up-call */
    t->deleting = 1;
    es_poller_now(t->p);
    while (!es_list_empty(&t->conns)) {
        end_at_once(es_container_of(t->conns.next, struct tcp_conn, node));
    }
    if (t->fd >= 0) {
        if (!es_timer_running(&t->rest)) {
            es_poller_unwatch(t->p, t->fd);
        }
        close(t->fd);
    }
    es_timer_stop(&t->p->timers, &t->rest);
    es_tls_unref(t->tls);
    es_free(t->rx);
    es_free(t);
}

void es_tcp_address(const struct es_tcp *t, union es_addr *out)
{
    *out = t->addr;
}

void es_tcp_accepting(struct es_tcp *t, int yes)
{
    t->refusing = !yes;
}

int es_tcp_set_tls(struct es_tcp *t, struct es_tls *tls)
{
    es_tls_ref(tls);
    es_tls_unref(t->tls);
    t->tls = tls;
    return 0;
}

void es_tcp_stats_get(const struct es_tcp *t, struct es_tcp_stats *out)
{
    *out = t->stats;
    out->half_open = t->n_half;
}

/* ---- dialling ---- */

static int open_socket(const union es_addr *local, const union es_addr *remote, char *err, size_t n, int *out)
{
    char to[64];
    int fd = socket(remote->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);

    if (fd >= 0 && local != NULL && local->sa.sa_family == remote->sa.sa_family &&
        bind(fd, &local->sa, es_addr_len(local)) != 0) {
        snprintf(err, n, "bind %s (TCP): %s", es_addr_format(local, to, sizeof to), strerror(errno));
        close(fd);
        return ES_ERR_IO;
    }
    if (fd < 0 || (connect(fd, &remote->sa, es_addr_len(remote)) != 0 && errno != EINPROGRESS)) {
        snprintf(err, n, "TCP connection to %s: %s", es_addr_format(remote, to, sizeof to), strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return ES_ERR_IO;
    }
    *out = fd;
    return 0;
}

int es_tcp_connect(struct es_tcp *t, const struct es_connect_config *cc, struct es_link **out, char *err_text,
                   size_t n)
{
    struct tcp_conn *c;
    int fd = -1, rv;

    *out = NULL;
    if (t->p->ops->watch == NULL) {
        snprintf(err_text, n, "a simulated network has no TCP");
        return ES_ERR_UNSUPPORTED;
    }
    if (cc->transport.enable_0rtt) {
        snprintf(err_text, n, "early data (0-RTT) is not to be had over TCP");
        return ES_ERR_UNSUPPORTED;
    }
    es_poller_now(t->p);
    rv = open_socket(cc->local, cc->remote, err_text, n, &fd);
    if (rv != 0) {
        return rv;
    }
    rv = tcp_conn_new(t, 0, cc->tls, &cc->transport, fd, cc->remote, &c);
    if (rv != 0) {
        snprintf(err_text, n, "%s", es_strerror(rv));
        return rv;
    }
    c->app = cc->app;
    offer(c, &c->app, 1);
    rv = c->app->attach(c->app, &c->link, cc->app_arg);
    if (rv != 0) {
        snprintf(err_text, n, "refused by the protocol: %s", es_strerror(rv));
        tcp_conn_del(c);
        return rv;
    }
    c->attached = 1;
    t->stats.dialled++;
    if (cc->ticket_free != NULL) {
        cc->ticket_free(cc->ticket_user);
    }
    tcp_arm(c);
    es_poller_rearm(t->p);
    *out = &c->link;
    return 0;
}
