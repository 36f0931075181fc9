/* A UDP socket for finding out how far packets get: it is tied to one address, knows what ICMP says about its
 * packets and who said it (IP_RECVERR needs no privileges), and may limit how many hops a packet goes. */
#ifndef ES_TRANSPORT_PROBE_H
#define ES_TRANSPORT_PROBE_H

#include <stddef.h>
#include <stdint.h>
#include "io.h"

struct es_probe {
    int fd;
    int family;
};

enum es_probe_kind { ES_PROBE_NOTHING, ES_PROBE_DATA, ES_PROBE_ERROR };

struct es_probe_news {
    enum es_probe_kind kind;
    size_t len;         /* DATA: bytes in the buffer */
    int error;          /* ERROR: an errno */
    int icmp;           /* ERROR: 4 or 6 when ICMP or ICMPv6 said it, 0: this machine */
    uint8_t type, code; /* of that ICMP message */
    uint32_t info;      /* EMSGSIZE: the largest packet that would pass, when somebody said so */
    int has_from;
    union es_addr from; /* who said it; no port */
};

/* 0, or ES_ERR_NOMEM, ES_ERR_IO (errno says why: no route, no such family). */
int es_probe_open(const union es_addr *remote, struct es_probe **out);
/* Sends a packet that nobody may fragment. ttl: 1 to 255, 0: as the system does. 0, or ES_ERR_IO and errno
 * (EMSGSIZE: larger than the first link takes; EPERM: a packet filter of this machine). */
int es_probe_send(struct es_probe *p, const uint8_t *data, size_t len, int ttl);
/* The next packet or error that has come. Never waits. */
void es_probe_recv(struct es_probe *p, uint8_t *buf, size_t cap, struct es_probe_news *news);
void es_probe_del(struct es_probe *p);

#endif
