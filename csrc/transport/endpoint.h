/* An endpoint: one UDP socket and every connection on it, accepted or dialled.
 *
 *   struct es_endpoint_config cfg = { .bind = &addr, .tls = tls, .apps = apps, .n_apps = 1 };
 *   es_endpoint_config_default(&cfg) first, then set what differs.
 *   es_endpoint_new(poller, &cfg, &ep, err, sizeof err);
 *   es_endpoint_connect(ep, &cc, &link);      // cc.app->attach() runs inside
 *
 * Connection ids are ours to choose: 1 byte worker, then 15 random or derived bytes (16 in all). Stateless
 * reset tokens are HKDF/HMAC of `secret` over the id.
 */
#ifndef ES_TRANSPORT_ENDPOINT_H
#define ES_TRANSPORT_ENDPOINT_H

#include <stddef.h>
#include <stdint.h>
#include "../link/link.h"
#include "io.h"
#include "tls.h"

struct es_poller;
struct es_endpoint;

enum es_cc { ES_CC_CUBIC = 0, ES_CC_BBR, ES_CC_NEWRENO };

/* Must newcomers show that they receive at their address before anything is kept for them (Retry, RFC 9000
 * 8.1.2)? It costs them a round trip. */
enum es_retry {
    ES_RETRY_AUTO = 0, /* while more than retry_above connections are half open that did not show it */
    ES_RETRY_ALWAYS,
    ES_RETRY_NEVER
};

struct es_transport_config { /* per connection */
    uint64_t idle_timeout; /* ns; default 30 s; 0: none. The negotiated value is the smaller of both sides' */
    uint64_t keep_alive;   /* ns; 0: none; default ES_KEEP_ALIVE_AUTO: a quarter of the negotiated idle
                              time-out,   at most 25 s, while the protocol asks for it (client side) */
    uint64_t handshake_timeout; /* ns; default server 10 s, client 30 s */
    uint64_t max_streams_bidi;  /* the peer's allowance; default 1,024 */
    uint64_t max_streams_uni;   /* default 16 */
    uint64_t stream_window;     /* bytes; default 256 KiB: initial credit of each stream. While the protocol
                                   takes bytes as fast as the path brings them, it doubles, up to 4 MiB */
    uint64_t connection_window; /* bytes; default 8 MiB */
    uint64_t hold_cap;          /* bytes; default ES_LINK_HOLD_CAP */
    uint64_t max_datagram;      /* bytes accepted; default 65,535; 0: no datagrams */
    uint64_t glitch_budget;     /* points, see base/glitch.h; default ES_GLITCH_BUDGET; 0: no matter what */
    uint64_t memory_cap; /* bytes: what ngtcp2 may need to follow one peer, beyond twice the window; default
                            32 MiB */
    /* What is queued waits until there are batch_bytes of it or batch_delay ns have passed since something
     * was sent last: after a pause it goes at once. Control frames do not wait. Default 1,200 bytes and 0:
     * never */
    uint64_t batch_bytes, batch_delay;
    uint64_t stall_timeout; /* ns; default 60 s; 0: none: how long a peer may take nothing, see stall.c */
    enum es_cc cc;          /* default cubic */
    int version; /* of QUIC, 1 or 2. Client: the one to begin with, default 1; when the server says that it
                    does not know it, another one both know. Server: the one it asks a client for that offers
                    it; default 0, the client's choice */
    int version_only; /* server: it speaks `version` and no other */
    int disable_mtu_discovery;
    int ignore_preferred;        /* client: the server's preferred address is not followed */
    int wait_for_ready;          /* client: goes on trying where nobody listens */
    int enable_0rtt;             /* client: early data where the ticket allows it; server: takes early data */
    uint64_t key_update_packets; /* packets sent after which the keys are changed; default 2^20, far below
                                    what AEADs allow (RFC 9001 6.6) */
};
#define ES_KEEP_ALIVE_AUTO UINT64_MAX

struct es_endpoint_config {
    const union es_addr *bind;  /* port 0: any */
    struct es_tls *tls;         /* for accepting; NULL: this endpoint only dials */
    struct es_app *const *apps; /* offered ALPNs in order of preference; borrowed pointers that outlive the
                                   endpoint; array copied */
    size_t n_apps;
    struct es_transport_config transport; /* for accepted connections */
    uint8_t worker;                       /* first byte of our connection ids */
    uint8_t secret[32];                   /* all zero: random */
    enum es_retry retry;
    size_t retry_above; /* for ES_RETRY_AUTO; default 128, at least 1. Off again at half of it */
    /* Half-open connections, accepted and not through their handshake yet: in all (default 4,096), and of one
     * IPv4 address or IPv6 /64 (default 1,024; those that showed their address, or all with ES_RETRY_NEVER,
     * lest somebody else's forged packets shut an address out). More are refused (CONNECTION_REFUSED). */
    size_t max_half_open, max_half_open_each;
    const char *qlog_dir; /* NULL: none; else every connection writes a qlog file there; copied */
    int (*on_log)(void *user, int level, const char *text); /* may be NULL */
    void *log_user;
};

struct es_connect_config {
    const union es_addr *remote;
    const union es_addr *local; /* over TCP: where to come from, port 0: any; NULL: the kernel's choice. An
                                   endpoint has its own */
    struct es_tls *tls;         /* referenced */
    struct es_app *app;         /* exactly one ALPN is offered */
    void *app_arg;              /* handed to app->attach */
    /* A ticket that on_ticket was given for the same server, protocol and trust; borrowed, NULL: none. What
     * cannot be used is ignored. */
    const uint8_t *ticket;
    size_t ticket_len;
    /* Gets tickets for later, inside a library callback; NULL: none wanted. Once es_endpoint_connect() was
     * successful, ticket_free(ticket_user) is called exactly once, when no more will come. */
    void (*on_ticket)(void *user, const uint8_t *block, size_t n);
    void (*ticket_free)(void *user);
    void *ticket_user;
    struct es_transport_config transport;
};

struct es_endpoint_stats {
    uint64_t datagrams_in, datagrams_out, bytes_in, bytes_out, batches_in, batches_out;
    uint64_t connections, accepted, dialled, refused, dropped_datagrams;
    uint64_t half_open;            /* now, accepted ones */
    uint64_t retries;              /* Retry packets sent */
    uint64_t tokens_accepted;      /* good ones that newcomers showed, of both kinds */
    uint64_t tokens_rejected;      /* others: forged, too old, another address's or another secret's */
    uint64_t version_negotiations; /* Version Negotiation packets sent */
    uint64_t resets_sent;          /* stateless resets */
    uint64_t forgotten;            /* newcomers whose first packet came to nothing: no trace was kept */
    int retrying;                  /* Retry is asked for now */
    int gso, gro, ecn, pktinfo;    /* what the kernel gave us */
    int rcvbuf, sndbuf;            /* bytes obtained */
};

void es_transport_config_default(struct es_transport_config *c, int is_server);
void es_endpoint_config_default(struct es_endpoint_config *c);
/* 32 bytes are the secret, any other number is hashed to one. */
void es_endpoint_config_secret(struct es_endpoint_config *c, const void *data, size_t n);

/* err_text gets the reason ("bind 127.0.0.1:80: Permission denied"). */
int es_endpoint_new(struct es_poller *p, const struct es_endpoint_config *cfg, struct es_endpoint **out,
                    char *err_text, size_t n);
/* Every connection left gets CONNECTION_CLOSE (application 0) once, closed() is delivered to its protocol,
 * the socket is closed. */
void es_endpoint_del(struct es_endpoint *ep);
void es_endpoint_address(const struct es_endpoint *ep, union es_addr *out); /* the real port */
void es_endpoint_accepting(struct es_endpoint *ep,
                           int yes); /* 0: new connections are refused (CONNECTION_REFUSED) */
int es_endpoint_set_tls(struct es_endpoint *ep, struct es_tls *tls); /* for connections to come */
size_t es_endpoint_connections(const struct es_endpoint *ep);
void es_endpoint_stats_get(const struct es_endpoint *ep, struct es_endpoint_stats *out);
int es_endpoint_connect(struct es_endpoint *ep, const struct es_connect_config *cc, struct es_link **out,
                        char *err_text, size_t n);

/* Rebinds the socket to a new local port without telling anybody: what a NAT does. For tests. */
int es_endpoint_rebind(struct es_endpoint *ep);

/* A further socket at `addr` that clients are told to move to once they are connected (RFC 9000 9.6): one of
 * each family. Before the first connection. err gets the reason. */
int es_endpoint_prefer(struct es_endpoint *ep, const union es_addr *addr, char *err, size_t n);

/* The dialling side moves to another local address or port: a new socket, bound to `bind` (port 0: any),
 * whose path is validated before anything but probes goes there (RFC 9000 9). 0: it began, moved() says how
 * it ended; until then, and when it fails, the old path is in use. ES_ERR_UNSUPPORTED, ES_ERR_CLOSED,
 * ES_ERR_EXISTS (one is under way), ES_ERR_INVAL (family), ES_ERR_IO; err gets the reason. */
int es_link_migrate(struct es_link *l, const union es_addr *bind, char *err, size_t n);

/* The peer's certificate, for a link made by an endpoint: SPKI hash. ES_ERR_NOT_FOUND when it sent none. */
int es_link_peer_pin(struct es_link *l, uint8_t spki[32]);
/* The certificate itself, DER; borrowed from the connection. Likewise. */
int es_link_peer_cert(struct es_link *l, const uint8_t **der, size_t *n);
/* Has new packet keys come into use (RFC 9001 6). ES_ERR_AGAIN: the update before, or the handshake, is too
 * recent. */
int es_link_update_key(struct es_link *l);
/* Versions of the libraries loaded in this process, such as "0.12.1" and "3.7.9". */
/* Is this version of QUIC (1 or 2) spoken by the library loaded? */
int es_transport_speaks(int version);
const char *es_transport_ngtcp2_version(void);
const char *es_transport_gnutls_version(void);
/* Keepalive on or off for this connection (a session with an idle handler wants it on). */
void es_link_keep_alive(struct es_link *l, int on);

#endif
