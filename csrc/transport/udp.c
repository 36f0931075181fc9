/* UDP sockets: opening them with whatever the kernel offers, receiving and sending in batches.
 *
 * Every feature may be missing (old kernels, containers, odd devices) and has a way to do without: no GSO,
 * one sendmsg per datagram; no GRO, one datagram per message; no packet info, the address the socket is bound
 * to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <linux/errqueue.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "internal.h"
#include "udp.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

#define BUFFER_WANTED (4 * 1024 * 1024)

/* ---- opening ---- */

static int buffer_size(int fd, int opt, int opt_force)
{
    int want = BUFFER_WANTED, got = 0;
    socklen_t n = sizeof got;

    /* FORCE passes net.core.rmem_max but needs CAP_NET_ADMIN. */
    if (setsockopt(fd, SOL_SOCKET, opt_force, &want, sizeof want) != 0) {
        (void)setsockopt(fd, SOL_SOCKET, opt, &want, sizeof want);
    }
    (void)getsockopt(fd, SOL_SOCKET, opt, &got, &n);
    return got;
}

static int option(int fd, int level, int opt, int value)
{
    return setsockopt(fd, level, opt, &value, sizeof value) == 0;
}

static void set_features(struct es_udp *u, int family)
{
    struct es_endpoint_stats *st = es_endpoint_stats_ref(u->ep);

    u->gso = option(u->fd, SOL_UDP, UDP_SEGMENT, 0);
    u->gro = option(u->fd, SOL_UDP, UDP_GRO, 1);
    (void)option(u->fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
    u->ecn = option(u->fd, IPPROTO_IP, IP_RECVTOS, 1);
    /* DF on every packet without the kernel's own idea of the path's MTU: ngtcp2 probes it. */
    (void)option(u->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    if (family == AF_INET6) {
        u->ecn = option(u->fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        (void)option(u->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    }
    if (u->wildcard) {
        u->pktinfo = family == AF_INET6 ? option(u->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
                                        : option(u->fd, IPPROTO_IP, IP_PKTINFO, 1);
    }
    st->gso = u->gso;
    st->gro = u->gro;
    st->ecn = u->ecn;
    st->pktinfo = u->pktinfo;
    st->rcvbuf = buffer_size(u->fd, SO_RCVBUF, SO_RCVBUFFORCE);
    st->sndbuf = buffer_size(u->fd, SO_SNDBUF, SO_SNDBUFFORCE);
}

static int is_wildcard(const union es_addr *a)
{
    return a->sa.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr)
                                       : a->in4.sin_addr.s_addr == htonl(INADDR_ANY);
}

/* On failure errno says why. */
int es_udp_open(int epfd, struct es_endpoint *ep, union es_addr *addr, struct es_udp **out)
{
    struct es_udp *u = es_calloc(1, sizeof *u);
    struct epoll_event ev = {.events = EPOLLIN};
    socklen_t n = sizeof *addr;
    int saved;

    if (u == NULL) {
        errno = ENOMEM;
        return ES_ERR_NOMEM;
    }
    u->epfd = epfd;
    u->ep = ep;
    u->wildcard = is_wildcard(addr);
    u->fd = socket(addr->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
    if (u->fd < 0) {
        goto fail;
    }
    if (addr->sa.sa_family == AF_INET6) {
        (void)option(u->fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    }
    if (bind(u->fd, &addr->sa, es_addr_len(addr)) != 0 || getsockname(u->fd, &addr->sa, &n) != 0) {
        goto fail;
    }
    u->addr = *addr;
    set_features(u, addr->sa.sa_family);
    ev.data.ptr = u;
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, u->fd, &ev) != 0) {
        goto fail;
    }
    *out = u;
    return 0;
fail:
    saved = errno;
    if (u->fd >= 0) {
        close(u->fd);
    }
    es_free(u);
    errno = saved;
    return ES_ERR_IO;
}

void es_udp_close(struct es_udp *u)
{
    (void)epoll_ctl(u->epfd, EPOLL_CTL_DEL, u->fd, NULL);
    close(u->fd);
    es_free(u);
}

/* ---- receiving ---- */

struct arrival {
    union es_addr local;
    uint8_t ecn;
    size_t segment;
};

static void read_control(struct es_udp *u, struct msghdr *m, struct arrival *a)
{
    a->local = u->addr;
    a->ecn = 0;
    a->segment = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            a->local.in4.sin_addr = info.ipi_addr;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            a->local.in6.sin6_addr = info.ipi6_addr;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            a->ecn = *CMSG_DATA(c) & 3;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int v;
            memcpy(&v, CMSG_DATA(c), sizeof v);
            a->ecn = (uint8_t)(v & 3);
        } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int v;
            memcpy(&v, CMSG_DATA(c), sizeof v);
            a->segment = v > 0 ? (size_t)v : 0;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
            uint32_t v;
            memcpy(&v, CMSG_DATA(c), sizeof v);
            es_endpoint_stats_ref(u->ep)->dropped_datagrams += v - u->rxq_drops;
            u->rxq_drops = v;
        }
    }
}

static int deliver(struct es_udp *u, struct msghdr *m, size_t len)
{
    const union es_addr *remote = m->msg_name;
    const uint8_t *p = m->msg_iov->iov_base;
    struct arrival a;
    int n = 0;

    read_control(u, m, &a);
    if (a.segment == 0 || a.segment > len) {
        a.segment = len;
    }
    do {
        size_t k = len < a.segment ? len : a.segment;
        es_endpoint_input(u->ep, &a.local, remote, a.ecn, p, k);
        p += k;
        len -= k;
        n++;
    } while (len > 0);
    return n;
}

/* Who was sent what ICMP says was refused, which the kernel keeps in a queue of its own. Only that nobody
 * listens is told: other messages may be about a path that is back in a moment. */
static void read_errors(struct es_udp *u)
{
    for (int i = 0; i < 64; i++) {
        union es_addr to;
        union {
            char b[512];
            struct cmsghdr align;
        } control;
        struct msghdr m = {.msg_name = &to,
                           .msg_namelen = sizeof to,
                           .msg_control = control.b,
                           .msg_controllen = sizeof control};

        if (recvmsg(u->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            return;
        }
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
            struct sock_extended_err ee;
            int one = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                      (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);

            if (!one) {
                continue;
            }
            memcpy(&ee, CMSG_DATA(c), sizeof ee);
            if (ee.ee_errno == ECONNREFUSED) {
                es_endpoint_refused(u->ep, &to, ECONNREFUSED);
            }
        }
    }
}

void es_udp_listen(struct es_udp *u, int on)
{
    int err;
    socklen_t n = sizeof err;

    u->listening = option(u->fd, IPPROTO_IP, IP_RECVERR, on) && on;
    if (u->addr.sa.sa_family == AF_INET6) {
        u->listening = option(u->fd, IPPROTO_IPV6, IPV6_RECVERR, on) && on;
    }
    if (!on) { /* what came since would be told to the next one who sends */
        (void)getsockopt(u->fd, SOL_SOCKET, SO_ERROR, &err, &n);
    }
}

int es_udp_receive(struct es_udp *u, uint8_t *rx, size_t budget)
{
    struct mmsghdr v[ES_UDP_BATCH];
    struct iovec iov[ES_UDP_BATCH];
    union es_addr from[ES_UDP_BATCH];
    union {
        char b[256];
        struct cmsghdr align;
    } control[ES_UDP_BATCH];
    int total = 0;

    if (u->listening) {
        read_errors(u);
    }
    while ((size_t)total < budget) {
        unsigned want =
            budget - (size_t)total < ES_UDP_BATCH ? (unsigned)(budget - (size_t)total) : ES_UDP_BATCH;
        for (unsigned i = 0; i < want; i++) {
            iov[i].iov_base = rx + (size_t)i * ES_UDP_MESSAGE;
            iov[i].iov_len = ES_UDP_MESSAGE;
            memset(&v[i], 0, sizeof v[i]);
            v[i].msg_hdr.msg_name = &from[i];
            v[i].msg_hdr.msg_namelen = sizeof from[i];
            v[i].msg_hdr.msg_iov = &iov[i];
            v[i].msg_hdr.msg_iovlen = 1;
            v[i].msg_hdr.msg_control = control[i].b;
            v[i].msg_hdr.msg_controllen = sizeof control[i].b;
        }
        int got = recvmmsg(u->fd, v, want, MSG_DONTWAIT, NULL);
        if (got <= 0) { /* nothing there, or an ICMP error of some peer, which the timers deal with */
            break;
        }
        es_endpoint_stats_ref(u->ep)->batches_in++;
        for (int i = 0; i < got; i++) {
            total += deliver(u, &v[i].msg_hdr, v[i].msg_len);
        }
        if ((unsigned)got < want) {
            break;
        }
    }
    return total;
}

/* ---- sending ---- */

static void add_control(struct msghdr *m, size_t *used, int level, int type, const void *data, size_t n)
{
    struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)m->msg_control + *used);

    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(n);
    memcpy(CMSG_DATA(c), data, n);
    *used += CMSG_SPACE(n);
}

static void add_source(struct msghdr *m, size_t *used, const union es_addr *local)
{
    if (local->sa.sa_family == AF_INET6) {
        struct in6_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi6_addr = local->in6.sin6_addr;
        add_control(m, used, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    } else {
        struct in_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi_spec_dst = local->in4.sin_addr;
        add_control(m, used, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
}

static int is_full(int e)
{
    return e == EAGAIN || e == EWOULDBLOCK;
}

/* One sendmsg; segment 0: a single datagram. Returns 0 or an errno. */
static int send_one(struct es_udp *u, const struct es_dgram *d, const uint8_t *p, size_t len, size_t segment)
{
    struct iovec iov = {(void *)(uintptr_t)p, len};
    struct msghdr m;
    union {
        char b[128];
        struct cmsghdr align;
    } control;
    size_t used = 0;

    memset(&m, 0, sizeof m);
    m.msg_name = (void *)(uintptr_t)&d->remote->sa;
    m.msg_namelen = es_addr_len(d->remote);
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control.b;
    memset(&control, 0, sizeof control);
    if (segment != 0) {
        uint16_t v = (uint16_t)segment;
        add_control(&m, &used, SOL_UDP, UDP_SEGMENT, &v, sizeof v);
    }
    if (d->local != NULL && u->pktinfo) {
        add_source(&m, &used, d->local);
    }
    if (d->ecn != 0 && u->ecn) {
        int v = d->ecn;
        int mapped = d->remote->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&d->remote->in6.sin6_addr);
        if (d->remote->sa.sa_family == AF_INET6 && !mapped) {
            add_control(&m, &used, IPPROTO_IPV6, IPV6_TCLASS, &v, sizeof v);
        } else {
            add_control(&m, &used, IPPROTO_IP, IP_TOS, &v, sizeof v);
        }
    }
    m.msg_controllen = used;
    if (used == 0) {
        m.msg_control = NULL;
    }
    for (int stale = u->listening;;) {
        if (sendmsg(u->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return 0;
        }
        if (errno == EINTR) {
            continue;
        }
        if (!stale || is_full(errno)) {
            return errno;
        }
        stale = 0; /* what ICMP said of an earlier one may be told here, instead of sending this */
    }
}

/* There is no way there from this machine, whatever is sent. */
static int is_unreachable(int e)
{
    return e == ENETUNREACH || e == EHOSTUNREACH || e == ENETDOWN || e == EADDRNOTAVAIL || e == EACCES ||
           e == EPERM;
}

static void wait_for_room(struct es_udp *u)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = u};

    if (!u->want_out && epoll_ctl(u->epfd, EPOLL_CTL_MOD, u->fd, &ev) == 0) {
        u->want_out = 1;
    }
}

void es_udp_writable(struct es_udp *u)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = u};

    if (u->want_out && epoll_ctl(u->epfd, EPOLL_CTL_MOD, u->fd, &ev) == 0) {
        u->want_out = 0;
    }
    es_endpoint_writable(u->ep);
}

/* Without GSO. When the socket fills up in the middle, the rest is dropped as a full router would: the batch
 * as a whole was begun and cannot be handed back. Only a full socket before the first datagram is reported.
 */
static int send_apart(struct es_udp *u, const struct es_dgram *d)
{
    int e = 0;

    for (size_t off = 0; off < d->len; off += d->segment) {
        size_t n = d->len - off < d->segment ? d->len - off : d->segment;
        e = send_one(u, d, d->data + off, n, 0);
        if (is_full(e)) {
            return off == 0 ? e : 0;
        }
    }
    return e;
}

int es_udp_send(struct es_udp *u, const struct es_dgram *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct es_dgram *d = &v[i];
        int e;

        if (d->len <= d->segment) {
            e = send_one(u, d, d->data, d->len, 0);
        } else if (!u->gso) {
            e = send_apart(u, d);
        } else {
            e = send_one(u, d, d->data, d->len, d->segment);
            if (e == EIO || e == EINVAL) {
                /* The device or the path cannot: from now on one by one. */
                u->gso = 0;
                es_endpoint_stats_ref(u->ep)->gso = 0;
                e = send_apart(u, d);
            }
        }
        if (is_full(e)) {
            wait_for_room(u);
            return (int)i;
        }
        if (u->listening && is_unreachable(e)) {
            es_endpoint_refused(u->ep, d->remote, e);
        }
        /* Whatever else the kernel says of one datagram (too big, unreachable, refused by a filter) is a loss
         * like any other. */
    }
    return (int)n;
}
