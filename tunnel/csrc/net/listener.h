/* Accepts connections on a TCP port or a unix socket. */
#ifndef ET_NET_LISTENER_H
#define ET_NET_LISTENER_H

#include "sock.h"

struct et_listener;

struct et_listener_events {
    /* A connection is there; with TLS its handshake is over. The callee takes it with et_sock_set_user() and
     * starts; or closes it. */
    void (*accepted)(void *user, struct et_sock *s, const char *alpn);
    /* Only with `peek`: the ClientHello came and nothing was answered. The callee either lets TLS go on here
     * (et_sock_start_tls), takes the raw bytes (et_sock_take_raw: the first data() is the ClientHello), or
     * closes. */
    void (*peeked)(void *user, struct et_sock *s, const char *sni);
};

struct et_listener_options {
    const char *ip;             /* numeric */
    uint16_t port;              /* 0: any free one */
    const char *path;           /* unix socket, instead */
    struct et_tls_server *tls;  /* shared; NULL: plain */
    int peek;                   /* look at the ClientHello first (SNI routing, passthrough) */
    unsigned max_connections;   /* 0: 10,000; above, accepting pauses */
    uint64_t handshake_timeout; /* ns for TLS; 0: 10 s */
    unsigned max_handshakes;    /* under way at once; 0: 1,000 */
};

/* ES_ERR_ADDR_IN_USE is told as ES_ERR_IO with a reason. */
int et_listener_open(struct et_poller *p, const struct et_listener_options *o,
                     const struct et_listener_events *ev, void *user, struct et_listener **out, char *reason,
                     size_t reason_n);
void et_listener_close(struct et_listener *l); /* accepted connections stay */
void et_listener_local(const struct et_listener *l, char *buf, size_t n);
void et_sock_start_tls(struct et_sock *s, struct et_tls_server *tls);
void et_sock_take_raw(struct et_sock *s);

#endif
