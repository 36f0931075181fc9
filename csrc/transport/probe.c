#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/errqueue.h>
#include "../base/err.h"
#include "../base/mem.h"
#include "probe.h"

static int option(int fd, int level, int opt, int value)
{
    return setsockopt(fd, level, opt, &value, sizeof value);
}

static int set_up(struct es_probe *p)
{
    if (p->family == AF_INET6) {
        (void)option(p->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
        return option(p->fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    }
    (void)option(p->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    return option(p->fd, IPPROTO_IP, IP_RECVERR, 1);
}

int es_probe_open(const union es_addr *remote, struct es_probe **out)
{
    struct es_probe *p = es_calloc(1, sizeof *p);
    int saved;

    if (p == NULL) {
        return ES_ERR_NOMEM;
    }
    p->family = remote->sa.sa_family;
    p->fd = socket(p->family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
    if (p->fd < 0 || set_up(p) != 0 || connect(p->fd, &remote->sa, es_addr_len(remote)) != 0) {
        saved = errno;
        es_probe_del(p);
        errno = saved;
        return ES_ERR_IO;
    }
    *out = p;
    return 0;
}

int es_probe_send(struct es_probe *p, const uint8_t *data, size_t len, int ttl)
{
    int v6 = p->family == AF_INET6;

    /* -1: the system's default. */
    if (option(p->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_UNICAST_HOPS : IP_TTL, ttl > 0 ? ttl : -1) !=
        0) {
        return ES_ERR_IO;
    }
    return send(p->fd, data, len, MSG_NOSIGNAL) < 0 ? ES_ERR_IO : 0;
}

/* Who sent the ICMP message; the kernel puts the address behind the error. */
static void read_offender(const struct sock_extended_err *ee, struct es_probe_news *news)
{
    const struct sockaddr *sa = SO_EE_OFFENDER(ee);

    memset(&news->from, 0, sizeof news->from);
    if (sa->sa_family == AF_INET) {
        memcpy(&news->from.in4, sa, sizeof news->from.in4);
        news->from.in4.sin_port = 0;
        news->has_from = 1;
    } else if (sa->sa_family == AF_INET6) {
        memcpy(&news->from.in6, sa, sizeof news->from.in6);
        news->from.in6.sin6_port = 0;
        news->has_from = 1;
    }
}

/* 1: there was an error in the socket's queue. */
static int read_error(struct es_probe *p, struct es_probe_news *news)
{
    uint8_t data[64];
    union {
        struct cmsghdr align;
        uint8_t bytes[512];
    } control;
    struct iovec iov = {data, sizeof data};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};

    if (recvmsg(p->fd, &m, MSG_ERRQUEUE) < 0) {
        return 0;
    }
    news->kind = ES_PROBE_ERROR;
    news->error = EIO;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
        const struct sock_extended_err *ee = (const void *)CMSG_DATA(c);
        int wanted = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                     (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);

        if (!wanted) {
            continue;
        }
        news->error = (int)ee->ee_errno;
        news->type = ee->ee_type;
        news->code = ee->ee_code;
        news->info = ee->ee_info;
        news->icmp = ee->ee_origin == SO_EE_ORIGIN_ICMP ? 4 : ee->ee_origin == SO_EE_ORIGIN_ICMP6 ? 6 : 0;
        if (news->icmp) {
            read_offender(ee, news);
        }
    }
    return 1;
}

void es_probe_recv(struct es_probe *p, uint8_t *buf, size_t cap, struct es_probe_news *news)
{
    ssize_t n;

    memset(news, 0, sizeof *news);
    if (read_error(p, news)) {
        return;
    }
    n = recv(p->fd, buf, cap, 0);
    if (n >= 0) {
        news->kind = ES_PROBE_DATA;
        news->len = (size_t)n;
    } else if (errno != EAGAIN && errno != EINTR) {
        int error = errno;

        /* The same error, now also in the queue, where it says more. */
        if (!read_error(p, news)) {
            news->kind = ES_PROBE_ERROR;
            news->error = error;
        }
    }
}

void es_probe_del(struct es_probe *p)
{
    if (p->fd >= 0) {
        close(p->fd);
    }
    es_free(p);
}
