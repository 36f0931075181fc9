/* Addresses of TCP and unix sockets. */
#ifndef ET_NET_ADDR_H
#define ET_NET_ADDR_H

#include <net/if.h>
#include <sys/socket.h>
#include "internal.h"

/* A numeric address, "fe80::1%eth0" too. ES_ERR_INVAL. */
int et_addr_parse(const char *ip, uint16_t port, union et_addr *out, socklen_t *n);
int et_addr_unix(const char *path, struct sockaddr_un *out); /* ES_ERR_INVAL: empty or too long */
/* "127.0.0.1:80", "[::1]:80"; an IPv4 address in IPv6's clothes is shown as what it is. */
void et_addr_text(const union et_addr *a, char *buf, size_t n);
void et_addr_options(int fd); /* TCP_NODELAY, keepalive after 60 s; of a listener: inherited */

#endif
