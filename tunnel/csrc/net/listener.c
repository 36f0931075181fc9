/* Listeners. What they accept belongs to them until its handshake is over. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "addr.h"
#include "hello.h"

#define ACCEPTS 32               /* in one step */
#define PAUSE   (100 * ES_MILLI) /* when there are no descriptors left */
#define BACKLOG 4096

static void watch(struct et_listener *l, int on)
{
    struct epoll_event ev = {on ? EPOLLIN : 0, {.ptr = &l->source}};

    if (l->watching != on && epoll_ctl(l->p->epfd, EPOLL_CTL_MOD, l->fd, &ev) == 0) {
        l->watching = on;
    }
}

static int is_full(const struct et_listener *l)
{
    return l->connections >= l->max_connections || l->handshakes >= l->max_handshakes;
}

static void pause_accepting(struct et_listener *l)
{
    l->p->stats.accept_pauses++;
    watch(l, 0);
}

static void go_on(struct et_listener *l)
{
    if (!l->watching && !is_full(l) && !es_timer_running(&l->again)) {
        watch(l, 1);
    }
}

static void on_again(struct es_timer *t)
{
    go_on(t->user);
}

/* ---- its connections ---- */

void et_listener_settled(struct et_sock *s)
{
    if (s->pending) {
        s->pending = 0;
        if (s->from != NULL) {
            s->from->handshakes--;
            go_on(s->from);
        }
    }
}

void et_listener_left(struct et_sock *s)
{
    struct et_listener *l = s->from;

    et_listener_settled(s);
    if (l != NULL) {
        es_list_remove(&s->member);
        s->from = NULL;
        l->connections--;
        go_on(l);
    }
}

void et_listener_opened(struct et_sock *s, const char *alpn)
{
    struct et_listener *l = s->from;

    if (!s->pending && s->ev != NULL) { /* a peeked one that somebody took with its bytes as they are */
        return;
    }
    et_listener_settled(s);
    l->ev->accepted(l->user, s, alpn);
    if (s->ev == NULL && s->state != ET_DEAD) {
        et_sock_close(s, 0);
    }
}

static void accepted(struct et_listener *l, int fd, const union et_addr *peer)
{
    struct et_sock *s = et_sock_new(l->p, fd);

    if (s == NULL) {
        return;
    }
    l->p->stats.accepted++;
    s->peer = *peer;
    s->is_unix = l->path != NULL;
    s->from = l;
    l->connections++;
    es_list_push(&l->socks, &s->member);
    if (l->tls == NULL && !l->peek) {
        et_sock_opened(s, "");
        return;
    }
    s->pending = 1;
    l->handshakes++;
    et_poller_timer(l->p, &s->guard, l->handshake_timeout);
    if (l->peek) {
        s->state = ET_PEEKING;
    } else {
        s->state = ET_HANDSHAKE;
        if (et_tls_accept(s, l->tls) != 0) {
            et_sock_close(s, 0);
            return;
        }
    }
    et_sock_watch(s, EPOLLIN);
}

static void on_ready(struct et_source *source, uint32_t events)
{
    struct et_listener *l = (struct et_listener *)source;

    for (int i = 0; i < ACCEPTS && l->fd >= 0; i++) {
        union et_addr peer;
        socklen_t n = sizeof peer;
        int fd;

        if (is_full(l)) {
            pause_accepting(l);
            return;
        }
        memset(&peer, 0, sizeof peer);
        fd = accept4(l->fd, l->path == NULL ? &peer.sa : NULL, l->path == NULL ? &n : NULL,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accepted(l, fd, &peer);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            et_poller_timer(l->p, &l->again, PAUSE);
            pause_accepting(l);
            return;
        } /* else that connection was gone already: the next one */
    }
}

/* ---- the name that a client asks for ---- */

void et_listener_peek(struct et_sock *s)
{
    char name[ET_HELLO_NAME];
    int rv;

    for (;;) {
        ssize_t n = recv(s->fd, s->p->rx, ET_RX, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            et_sock_fail(s, ES_ERR_CLOSED, "the connection ended before the ClientHello");
            return;
        }
        s->received += (uint64_t)n;
        s->p->stats.received += (uint64_t)n;
        if (es_buf_put(&s->in, s->p->rx, (size_t)n) != 0) {
            et_sock_fail(s, ES_ERR_NOMEM, NULL);
            return;
        }
        rv = et_hello_name(s->in.p, s->in.n, name);
        if (rv != ES_ERR_AGAIN || s->in.n > ET_PEEK_MAX) {
            break;
        }
    }
    if (rv != 0 || s->from == NULL) {
        s->p->stats.handshakes_lost++;
        et_sock_fail(s, ES_ERR_PROTOCOL, "that is no ClientHello");
        return;
    }
    if (name[0] != '\0' && (s->sni = es_malloc(strlen(name) + 1)) != NULL) {
        strcpy(s->sni, name);
    }
    s->state = ET_PEEKED;
    et_sock_watch(s, 0);
    s->from->ev->peeked(s->from->user, s, name);
}

void et_sock_start_tls(struct et_sock *s, struct et_tls_server *tls)
{
    if (s->state != ET_PEEKED) {
        return;
    }
    s->state = ET_HANDSHAKE;
    if (et_tls_accept(s, tls) != 0) {
        et_sock_fail(s, ES_ERR_NOMEM, "out of memory");
        return;
    }
    et_sock_watch(s, EPOLLIN);
    et_sock_touch(s);
}

void et_sock_take_raw(struct et_sock *s)
{
    if (s->state != ET_PEEKED) {
        return;
    }
    et_listener_settled(s);
    s->state = ET_OPEN;
    es_timer_stop(&s->p->timers, &s->guard);
    et_sock_watch(s, EPOLLIN);
    et_sock_touch(s);
}

/* ---- opening and closing ---- */

static int trouble(char *reason, size_t n, const char *what, int error)
{
    if (reason != NULL) {
        snprintf(reason, n, "%s: %s", what, strerror(error));
    }
    return ES_ERR_IO;
}

/* A socket that a process left behind when it was killed is in nobody's way. */
static void remove_stale(const struct sockaddr_un *un)
{
    struct stat st;
    int fd;

    if (lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) {
        if (connect(fd, (const struct sockaddr *)un, sizeof *un) != 0 && errno == ECONNREFUSED) {
            (void)unlink(un->sun_path);
        }
        close(fd);
    }
}

static int open_fd(struct et_listener *l, const struct et_listener_options *o, char *reason, size_t n)
{
    union et_addr a;
    struct sockaddr_un un;
    socklen_t len = sizeof un;
    int on = 1, rv, family;

    rv = o->path != NULL ? et_addr_unix(o->path, &un)
                         : et_addr_parse(o->ip != NULL ? o->ip : "", o->port, &a, &len);
    if (rv != 0) {
        if (reason != NULL) {
            snprintf(reason, n, "%s is no %s",
                     o->path != NULL ? o->path
                     : o->ip != NULL ? o->ip
                                     : "nothing",
                     o->path != NULL ? "path of a unix socket" : "numeric address");
        }
        return rv;
    }
    family = o->path != NULL ? AF_UNIX : a.sa.sa_family;
    l->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0) {
        return trouble(reason, n, "socket", errno);
    }
    if (o->path != NULL) {
        remove_stale(&un);
        l->path = es_malloc(strlen(o->path) + 1);
        if (l->path == NULL) {
            return ES_ERR_NOMEM;
        }
        strcpy(l->path, o->path);
    } else {
        (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        et_addr_options(l->fd);
    }
    if (bind(l->fd, o->path != NULL ? (struct sockaddr *)&un : &a.sa, len) != 0) {
        int error = errno;
        es_free(l->path); /* it is somebody else's */
        l->path = NULL;
        return trouble(reason, n, "bind", error);
    }
    return listen(l->fd, BACKLOG) == 0 ? 0 : trouble(reason, n, "listen", errno);
}

static void bury(struct et_listener *l)
{
    if (l->fd >= 0) {
        close(l->fd);
        l->fd = -1;
    }
    if (l->path != NULL) {
        (void)unlink(l->path);
        es_free(l->path);
        l->path = NULL;
    }
    et_tls_server_unref(l->tls);
    l->tls = NULL;
}

int et_listener_open(struct et_poller *p, const struct et_listener_options *o,
                     const struct et_listener_events *ev, void *user, struct et_listener **out, char *reason,
                     size_t reason_n)
{
    struct et_listener *l = es_calloc(1, sizeof *l);
    struct epoll_event e = {EPOLLIN, {.ptr = l}};
    int rv;

    *out = NULL;
    if (l == NULL) {
        return ES_ERR_NOMEM;
    }
    l->source.ready = on_ready;
    l->p = p;
    l->fd = -1;
    l->ev = ev;
    l->user = user;
    l->peek = o->peek;
    l->max_connections = o->max_connections != 0 ? o->max_connections : 10000;
    l->max_handshakes = o->max_handshakes != 0 ? o->max_handshakes : 1000;
    l->handshake_timeout = o->handshake_timeout != 0 ? o->handshake_timeout : 10 * ES_SECOND;
    l->watching = 1;
    es_list_init(&l->socks);
    es_timer_init(&l->again, on_again, l);
    rv = open_fd(l, o, reason, reason_n);
    if (rv == 0 && epoll_ctl(p->epfd, EPOLL_CTL_ADD, l->fd, &e) != 0) {
        rv = trouble(reason, reason_n, "epoll", errno);
    }
    if (rv != 0) {
        bury(l);
        es_free(l);
        return rv;
    }
    if (o->tls != NULL) {
        l->tls = o->tls;
        et_tls_server_ref(l->tls);
    }
    es_list_push(&p->listeners, &l->node);
    p->stats.listeners++;
    *out = l;
    return 0;
}

void et_listener_close(struct et_listener *l)
{
    while (!es_list_empty(&l->socks)) {
        struct et_sock *s = es_container_of(l->socks.next, struct et_sock, member);
        es_list_remove(&s->member);
        s->from = NULL;
        if (s->pending && s->state != ET_DEAD) { /* its handshake would be for nobody */
            et_sock_close(s, 0);
        }
    }
    es_timer_stop(&l->p->timers, &l->again);
    l->p->stats.listeners--;
    bury(l);
    es_list_remove(&l->node);
    es_list_push(&l->p->graves, &l->node);
    et_poller_kick(l->p);
}

void et_listener_local(const struct et_listener *l, char *buf, size_t n)
{
    union et_addr a;
    socklen_t len = sizeof a;

    memset(&a, 0, sizeof a);
    if (l->path != NULL) {
        snprintf(buf, n, "%s", l->path);
    } else if (l->fd >= 0 && getsockname(l->fd, &a.sa, &len) == 0) {
        et_addr_text(&a, buf, n);
    } else {
        snprintf(buf, n, "%s", "");
    }
}
