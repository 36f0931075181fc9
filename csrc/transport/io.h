/* How an endpoint reaches the world: injected, so that the same connections run over sockets or in the
 * simulator. */
#ifndef ES_TRANSPORT_IO_H
#define ES_TRANSPORT_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <netinet/in.h>

union es_addr {
    struct sockaddr sa;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

static inline socklen_t es_addr_len(const union es_addr *a)
{
    return a->sa.sa_family == AF_INET6 ? sizeof a->in6 : sizeof a->in4;
}

/* "127.0.0.1:5000", "[::1]:5000", "0.0.0.0:0"; numeric only (names are resolved above). 0 or ES_ERR_INVAL. */
int es_addr_parse(union es_addr *out, const char *text);
/* The inverse; buf of at least 64 bytes. Returns buf. */
char *es_addr_format(const union es_addr *a, char *buf, size_t n);
/* Makes an IPv4 address one that an IPv6 socket understands, where `family` asks for that. 0, or ES_ERR_INVAL
 * when the address cannot be had in that family. */
int es_addr_fit(union es_addr *a, int family);
int es_addr_equal(const union es_addr *a, const union es_addr *b);

/* One or more datagrams of equal size (the last may be shorter) to one address: what UDP_SEGMENT takes. */
struct es_dgram {
    const union es_addr *local; /* NULL: the kernel's choice; else source address (IP_PKTINFO) */
    const union es_addr *remote;
    const uint8_t *data;
    size_t len;
    size_t segment; /* bytes of each datagram; len when there is one */
    uint8_t ecn;    /* 0-3 */
};

struct es_endpoint;

struct es_io {
    uint64_t (*now)(void *ctx);                      /* ns, monotonic or virtual */
    uint64_t (*wall)(void *ctx);                     /* ns since 1970 */
    void (*rand)(void *ctx, uint8_t *out, size_t n); /* unpredictable, or seeded in the simulator */
    int (*bind)(void *ctx, struct es_endpoint *ep, union es_addr *addr,
                void **sock); /* port 0 filled in; *sock for send */
    /* Sends a batch. Returns how many of v were taken (a short count: the socket is full, `writable` will be
     * called on the endpoint), or an es_err. EMSGSIZE, ECONNREFUSED and the like of one datagram count as
     * taken: QUIC's loss recovery answers them. */
    int (*send)(void *ctx, void *sock, const struct es_dgram *v, size_t n);
    void (*close)(void *ctx, void *sock);
    /* From now on (`on`), or no longer: es_endpoint_refused() for what nobody takes. NULL: nobody can tell.
     */
    void (*listen)(void *ctx, void *sock, int on);
    void *ctx;
};

#endif
