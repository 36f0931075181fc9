/* HTTP/1.1 (RFC 9112) over a struct et_sock, both roles, read by llhttp in its strict mode after a scan of
 * the buffered head for what llhttp lets through. One exchange at a time; a pipelined request waits unread
 * until the one before is over. */
#ifndef ET_HTTP1_HTTP1_H
#define ET_HTTP1_HTTP1_H

#include "../http/exchange.h"
#include "../net/sock.h"

/* Takes the socket over (it is closed with the connection). `scheme`: "http" or "https", of requests that
 * come. */
int et_http1_new(struct et_sock *s, enum et_http_role role, const char *scheme,
                 const struct et_http_limits *limits, const struct et_http_events *ev, void *user,
                 struct et_http **out);

#endif
