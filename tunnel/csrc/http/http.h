/* What can be asked of a connection, whatever its codec is. A codec embeds struct et_http first. */
#ifndef ET_HTTP_HTTP_H
#define ET_HTTP_HTTP_H

#include "exchange.h"

struct et_http_ops {
    /* Backend role: begins an exchange; its events and user are set, then ops->head sends the request.
     * ES_ERR_LIMIT: not now (see room), ES_ERR_CLOSED, ES_ERR_NOMEM. */
    int (*begin)(struct et_http *, const struct et_exchange_events *ev, void *user, struct et_exchange **out);
    unsigned (*room)(const struct et_http *);  /* exchanges that may be begun now */
    unsigned (*count)(const struct et_http *); /* exchanges that are there */
    /* Visitor: no new requests, those there end (GOAWAY twice as RFC 9113 6.8 says; "Connection: close").
     * Backend: no new ones. Closed when the last one is over. */
    void (*drain)(struct et_http *);
    void (*close)(struct et_http *); /* at once: each exchange is reset; closed() follows from a later step */
    const char *name;                /* "http/1.1", "h2" */
};

struct et_http {
    const struct et_http_ops *ops;       /* borrowed, static */
    const struct et_http_events *events; /* borrowed, static */
    void *user;                          /* borrowed */
    struct et_sock *sock;                /* owned */
};

#endif
