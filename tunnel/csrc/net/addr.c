/* Addresses as text, and connecting to them. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "addr.h"

int et_addr_parse(const char *ip, uint16_t port, union et_addr *out, socklen_t *n)
{
    char host[80];
    const char *scope = strchr(ip, '%');

    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, ip, &out->in4.sin_addr) == 1) {
        out->in4.sin_family = AF_INET;
        out->in4.sin_port = htons(port);
        *n = sizeof out->in4;
        return 0;
    }
    if (snprintf(host, sizeof host, "%.*s", scope != NULL ? (int)(scope - ip) : (int)strlen(ip), ip) >=
        (int)sizeof host) {
        return ES_ERR_INVAL;
    }
    if (inet_pton(AF_INET6, host, &out->in6.sin6_addr) != 1) {
        return ES_ERR_INVAL;
    }
    if (scope != NULL && (out->in6.sin6_scope_id = if_nametoindex(scope + 1)) == 0) {
        return ES_ERR_INVAL;
    }
    out->in6.sin6_family = AF_INET6;
    out->in6.sin6_port = htons(port);
    *n = sizeof out->in6;
    return 0;
}

int et_addr_unix(const char *path, struct sockaddr_un *out)
{
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    if (path[0] == '\0' || strlen(path) >= sizeof out->sun_path) {
        return ES_ERR_INVAL;
    }
    strcpy(out->sun_path, path);
    return 0;
}

void et_addr_text(const union et_addr *a, char *buf, size_t n)
{
    char ip[INET6_ADDRSTRLEN] = "";

    if (a->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->in4.sin_addr, ip, sizeof ip);
        snprintf(buf, n, "%s:%u", ip, ntohs(a->in4.sin_port));
    } else if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
        inet_ntop(AF_INET, a->in6.sin6_addr.s6_addr + 12, ip, sizeof ip);
        snprintf(buf, n, "%s:%u", ip, ntohs(a->in6.sin6_port));
    } else if (a->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->in6.sin6_addr, ip, sizeof ip);
        snprintf(buf, n, "[%s]:%u", ip, ntohs(a->in6.sin6_port));
    } else {
        snprintf(buf, n, "unix");
    }
}

void et_addr_options(int fd)
{
    int on = 1, idle = 60, every = 15, times = 4;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

void et_sock_peer(const struct et_sock *s, char *buf, size_t n)
{
    if (s->is_unix) {
        snprintf(buf, n, "unix");
    } else {
        et_addr_text(&s->peer, buf, n);
    }
}

void et_sock_local(const struct et_sock *s, char *buf, size_t n)
{
    union et_addr a;
    socklen_t len = sizeof a;

    memset(&a, 0, sizeof a);
    if (s->is_unix || s->fd < 0 || getsockname(s->fd, &a.sa, &len) != 0) {
        snprintf(buf, n, "%s", s->is_unix ? "unix" : "");
        return;
    }
    et_addr_text(&a, buf, n);
}

int et_sock_connect(struct et_poller *p, const struct et_sock_place *where, struct et_tls_client *tls,
                    const char *name, const struct et_sock_events *ev, void *user, struct et_sock **out)
{
    union et_addr to;
    struct sockaddr_un path;
    socklen_t n = 0;
    struct et_sock *s;
    int fd, rv;

    *out = NULL;
    rv = where->path != NULL ? et_addr_unix(where->path, &path)
                             : et_addr_parse(where->ip != NULL ? where->ip : "", where->port, &to, &n);
    if (rv != 0) {
        return rv;
    }
    fd = socket(where->path != NULL ? AF_UNIX : to.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                0);
    if (fd < 0) {
        return ES_ERR_IO;
    }
    s = et_sock_new(p, fd);
    if (s == NULL) {
        return ES_ERR_NOMEM;
    }
    s->state = ET_CONNECTING;
    s->is_unix = where->path != NULL;
    if (!s->is_unix) {
        s->peer = to;
        et_addr_options(fd);
    }
    if (tls != NULL && (rv = et_tls_dial(s, tls, name)) != 0) {
        et_sock_fail(s, rv, NULL); /* told to nobody: there is no ev */
        return rv;
    }
    et_sock_set_user(s, ev, user);
    rv = where->path != NULL ? connect(fd, (const struct sockaddr *)&path, sizeof path)
                             : connect(fd, &to.sa, n);
    p->stats.dialed++;
    *out = s;
    if (rv != 0 && errno != EINPROGRESS) {
        et_sock_fail_errno(s, "connect", errno == EAGAIN ? ECONNREFUSED : errno);
        return 0;
    }
    et_sock_watch(s, EPOLLOUT);
    et_poller_timer(p, &s->guard, where->timeout != 0 ? where->timeout : 10 * ES_SECOND);
    return 0;
}
