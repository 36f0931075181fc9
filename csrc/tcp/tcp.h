/* Links over TCP, for where UDP does not get through: TLS 1.3, and in it HTTP/2, whose requests are the
 * streams. One more implementation of link/link.h; docs/PROTOCOL.md says what goes over the wire.
 *
 *   struct es_tcp_config cfg = { .bind = &addr, .tls = tls, .apps = apps, .n_apps = 1 };
 *   es_tcp_config_default(&cfg) first, then set what differs.
 *   es_tcp_new(poller, &cfg, &t, err, sizeof err);
 *   es_tcp_connect(t, &cc, &link, err, sizeof err);      // cc.app->attach() runs inside
 *
 * The sockets are watched by the same poller as the endpoints'; nothing is sent outside its flush. A poller
 * of a simulation has no sockets: ES_ERR_UNSUPPORTED. */
#ifndef ES_TCP_TCP_H
#define ES_TCP_TCP_H

#include "../link/link.h"
#include "../transport/endpoint.h"

/* What TLS calls a protocol here: its own name ("echostream/1") and this. */
#define ES_TCP_ALPN_SUFFIX "+h2"

struct es_tcp;

struct es_tcp_config {
    const union es_addr *bind;  /* where to listen, port 0: any; NULL: this one only dials */
    struct es_tls *tls;         /* for accepting; referenced */
    struct es_app *const *apps; /* offered, in order of preference: at most 8; borrowed pointers that outlive
                                   it, array copied */
    size_t n_apps;
    struct es_transport_config transport; /* for accepted connections; what is QUIC's alone is ignored */
    /* Accepted connections that are not through their handshake: in all (default 4,096), and of one address
     * (default 1,024). More are closed at once. */
    size_t max_half_open, max_half_open_each;
};

struct es_tcp_stats {
    uint64_t connections, accepted, dialled, refused; /* now; since the start */
    uint64_t half_open;                               /* now, accepted ones */
    uint64_t bytes_in, bytes_out;
};

void es_tcp_config_default(struct es_tcp_config *c);
/* err_text gets the reason ("listen on 127.0.0.1:80: Permission denied"). */
int es_tcp_new(struct es_poller *p, const struct es_tcp_config *cfg, struct es_tcp **out, char *err_text,
               size_t n);
/* Every connection left is closed (application 0), closed() is delivered to its protocol. Never from an
 * up-call. */
void es_tcp_del(struct es_tcp *t);
void es_tcp_address(const struct es_tcp *t, union es_addr *out); /* the real port */
void es_tcp_accepting(struct es_tcp *t, int yes);                /* 0: who comes is closed at once */
int es_tcp_set_tls(struct es_tcp *t, struct es_tls *tls);        /* for connections to come */
void es_tcp_stats_get(const struct es_tcp *t, struct es_tcp_stats *out);

/* As es_endpoint_connect; tickets are not used, ticket_free is called before it returns successfully. */
int es_tcp_connect(struct es_tcp *t, const struct es_connect_config *cc, struct es_link **out, char *err_text,
                   size_t n);

#endif
