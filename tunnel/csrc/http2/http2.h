/* HTTP/2 (RFC 9113) over a struct et_sock, both roles, by libnghttp2. Extended CONNECT (RFC 8441) is on in
 * both, server push is off, priorities are those of RFC 9218. */
#ifndef ET_HTTP2_HTTP2_H
#define ET_HTTP2_HTTP2_H

#include "../http/http.h"
#include "../net/sock.h"

/* As et_http1_new: takes the (open) socket over, which is closed with the connection; on failure it stays the
 * caller's. The connection preface is expected from a visitor (h2 by ALPN, or h2c with prior knowledge, when
 * the first bytes are it: who looked at them gives them back with et_sock_unread()). `scheme`: of requests
 * that come, whatever the peer says; and of those we send that have none. ES_ERR_NOMEM. */
int et_http2_new(struct et_sock *s, enum et_http_role role, const char *scheme,
                 const struct et_http_limits *limits, const struct et_http_events *ev, void *user,
                 struct et_http **out);

#endif
