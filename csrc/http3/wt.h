/* The inside of WebTransport, for this folder only. */
#ifndef ES_HTTP3_WT_H
#define ES_HTTP3_WT_H

#include "internal.h"
#include "webtransport.h"

#define WT_BIDI  0x41 /* first integer of its streams; the session's number follows */
#define WT_UNI   0x54
#define WT_CLOSE 0x2843 /* the capsule that closes a session: u32 code, reason */

#define WT_MAX_REASON 1024 /* bytes */

/* HTTP/3 error codes of WebTransport */
#define WT_BUFFERED_STREAM_REJECTED UINT64_C(0x3994bd84)
#define WT_SESSION_GONE             UINT64_C(0x170d7b68)
#define WT_FIRST_CODE               UINT64_C(0x52e4a40fa8db)
#define WT_LAST_CODE                UINT64_C(0x52e5ac983162)

enum wt_state {
    WT_ASKED,   /* the CONNECT came and waits, or (client) is not answered or not even sent */
    WT_OPEN,    /* the protocol runs */
    WT_CLOSING, /* es_link_close() was called */
};

/* Capsules (RFC 9297 3.2) on a CONNECT stream, read as they come. */
struct wt_capsules {
    uint64_t skip;      /* bytes left of one that nobody knows */
    struct es_buf part; /* the head of one, and all of a WT_CLOSE */
    int closed;         /* WT_CLOSE came: */
    uint32_t code;
    char reason[256]; /* printable */
};
/* 0, or ES_ERR_PROTOCOL, ES_ERR_NOMEM. */
int wt_capsules_feed(struct wt_capsules *c, const uint8_t *p, size_t n);
int wt_capsules_whole(const struct wt_capsules *c); /* the stream may end here */
size_t wt_capsule_close(uint8_t out[16 + WT_MAX_REASON], uint32_t code, const char *reason);

struct es_wt {
    struct es_link link;   /* first: what the protocol has */
    struct es_h3 *h;       /* borrowed: outlives it */
    struct es_exchange *x; /* the CONNECT; a reference. NULL: a client's that is not sent yet */
    struct es_list node;   /* in h->sessions */
    struct es_list due;    /* in h->wt_due: es_h3_pump() is to look at it */
    struct es_list streams;
    struct es_timer timer;
    struct es_link_door door; /* texts: of the CONNECT's head; a client's: in `own` */
    char *own;                /* owned */
    struct wt_capsules capsules;
    struct es_close_info info; /* from WT_CLOSING on */
    enum wt_state state;
    int64_t held;      /* bytes that the protocol says it holds, of what the connection may */
    size_t kept[2];    /* allowances that it has still to give back */
    unsigned bits;     /* what the exchange said */
    unsigned said : 1; /* the closing capsule and FIN are written */
    unsigned over : 1; /* and acknowledged, or it took too long */
};

struct wt_stream {
    struct h3_any any;            /* first: `user` of the stream below */
    struct es_link_stream s;      /* what the protocol has */
    struct es_link_stream *below; /* borrowed: until its stream_closed() */
    struct es_wt *w;              /* NULL: its session has not come */
    struct es_list node;          /* in w->streams or h->strays */
    /* while its session has not come */
    int64_t session;
    uint64_t until;
    struct es_buf early; /* owned; counted as held */
    uint64_t reset_code, stop_code;
    unsigned fin : 1, was_reset : 1, was_stopped : 1, uni : 1;
    unsigned own : 1;  /* we opened it */
    unsigned deaf : 1; /* what comes is dropped */
};

/* webtransport.c */
struct es_wt *wt_find(struct es_h3 *h, int64_t id); /* NULL: none of that number now */
void wt_mark(struct es_wt *w);                      /* es_h3_pump() is to look at it */

/* wt_streams.c */
extern const struct es_link_ops es_wt_link_ops;
uint64_t wt_code_out(uint64_t code);
uint64_t wt_code_in(uint64_t code);
void wt_streams_deliver(struct es_wt *w); /* those that came before their session */
void wt_streams_drop(struct es_wt *w);    /* the protocol has let go of them */
void wt_strays_drop(struct es_h3 *h);

#endif
