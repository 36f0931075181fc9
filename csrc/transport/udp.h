/* One UDP socket of the real poller: es_io over the kernel. */
#ifndef ES_TRANSPORT_UDP_H
#define ES_TRANSPORT_UDP_H

#include <stddef.h>
#include <stdint.h>
#include "driver.h"
#include "io.h"

#define ES_UDP_BATCH   8 /* messages of one recvmmsg; with GRO each holds up to 64 KiB */
#define ES_UDP_MESSAGE (64 * 1024)

struct es_udp {
    struct es_poll_source source; /* first: epoll's pointer; ready is NULL */
    int fd;
    int epfd;               /* borrowed: the poller's */
    struct es_endpoint *ep; /* borrowed */
    union es_addr addr;
    int wildcard;
    int gso, gro, pktinfo, ecn;
    int listening;      /* to what ICMP says */
    int want_out;       /* waiting for EPOLLOUT */
    uint32_t rxq_drops; /* the kernel's counter as last seen */
};

int es_udp_open(int epfd, struct es_endpoint *ep, union es_addr *addr, struct es_udp **out);
void es_udp_close(struct es_udp *u);
int es_udp_send(struct es_udp *u, const struct es_dgram *v, size_t n); /* as es_io.send */
/* Receives at most about `budget` datagrams into rx (ES_UDP_BATCH * ES_UDP_MESSAGE bytes) and feeds them to
 * the endpoint. Returns how many. */
int es_udp_receive(struct es_udp *u, uint8_t *rx, size_t budget);
void es_udp_listen(struct es_udp *u, int on); /* as es_io.listen */
void es_udp_writable(struct es_udp *u);       /* EPOLLOUT came */

#endif
