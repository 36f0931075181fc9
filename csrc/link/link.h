/* The one interface between a protocol (session/, http3/, a raw QUIC user) and what carries it.
 *
 * A link is one connection. transport/ implements it over QUIC, link/pair.c as a plain in-memory pair for
 * unit specs, and http3/webtransport over a part of another link (its `base`). The protocol calls DOWN
 * through es_link_* ; the carrier calls UP through es_link_events.
 *
 * Rules:
 *  - Up-calls run inside the carrier's library callbacks. The protocol may call any es_link_* function from
 * them (they only queue, mark and count; nothing is sent and nothing is freed before the library has
 * returned), but must not run Lua: it appends es_events instead.
 *  - Bytes given to data() and datagram() are borrowed for the call; copy what must stay.
 *  - es_link_stream pointers are valid until stream_closed() for that stream, or closed(), whichever comes
 * first; the protocol drops them there. The es_link itself is valid until closed() has returned. closed()
 * comes exactly once.
 *  - Receive credit. STREAM credit returns only when the protocol says so with es_link_credit(). CONNECTION
 * credit returns by itself as bytes arrive, as long as what the connection holds (sent and
 * unacknowledged bytes, counted by the carrier, plus what the protocol reported with es_link_hold()) is below
 * the cap (default 8 MiB); above it, it is withheld until it falls. So one slow reader cannot freeze the
 * others, and no peer can make us hold more than the cap.
 *  - The peer's allowance of NEW streams returns when the protocol calls es_link_stream_done() (when the
 * answer is queued), at the latest when the stream is closed; never at a peer's reset alone. Calling it twice
 * is harmless. A protocol whose handler outlives the stream (the peer gave up both directions) says so in
 * stream_closed() with es_link_stream_keep(), and gives the allowance back with es_link_allow() when it
 * ended.
 */
#ifndef ES_LINK_LINK_H
#define ES_LINK_LINK_H

#include <stddef.h>
#include <stdint.h>
#include "../base/err.h"
#include "../base/glitch.h"
#include "../base/tally.h"

struct es_link;

/* Base of every carrier's stream object: the carrier embeds it as the first member. */
struct es_link_stream {
    struct es_link *link; /* borrowed */
    int64_t id;           /* QUIC stream id; -1 until the carrier has one */
    void *user;           /* the protocol's object; borrowed */
    size_t high, low;     /* marks of the send queue, in unsent bytes; the protocol may set its own */
    size_t wake;          /* kept by the carrier: writable() is owed when the queue is below; 0: not owed */
    struct es_link_stream *below; /* borrowed: the stream of another link that carries this one, whose marks
                                     count; NULL: none */
    uint64_t stop_code; /* kept by the carrier: of the peer's STOP_SENDING, before stream_stopped() tells it;
                           0: none came */
};

enum { ES_DIR_BIDI = 0, ES_DIR_UNI = 1 };

/* Send priority classes. Lower is first; streams of one class share in turns. */
enum {
    ES_PRIO_CONTROL = 0,
    ES_PRIO_FIRST = 1,
    ES_PRIO_DEFAULT = 4,
    ES_PRIO_LAST = 8
}; /* urgency u is class 1 + u */

enum es_close_cause {
    ES_CLOSE_LOCAL = 1, /* es_link_close() here */
    ES_CLOSE_PEER,      /* the peer sent CONNECTION_CLOSE */
    ES_CLOSE_IDLE,      /* idle time-out */
    ES_CLOSE_RESET,     /* stateless reset: the peer lost its state */
    ES_CLOSE_HANDSHAKE, /* the handshake failed (TLS, ALPN, version, time-out) */
    ES_CLOSE_ERROR      /* a transport or internal error here */
};

struct es_close_info {
    enum es_close_cause cause;
    int err; /* enum es_err that fits best: ES_ERR_TIMEOUT, ES_ERR_TLS, ES_ERR_CLOSED, ... */
    int app; /* 1: `code` is an application error code, 0: a QUIC transport error (0x100 + alert for TLS) */
    uint64_t code;
    char reason[256]; /* text for people, NUL-terminated, printable; "" when there is none */
};

/* One side did not like the other's certificate, or missed one: a TLS alert that says so (RFC 8446 6.2, RFC
 * 9001 4.8). */
static inline int es_close_is_certificate(const struct es_close_info *i)
{
    uint64_t alert = i->code - 0x100;

    return !i->app && i->code >= 0x100 &&
           ((alert >= 41 && alert <= 46) || alert == 48 || alert == 49 || alert == 51 || alert == 116);
}

/* The path of a connection changed, or a change that was asked for did not come about. */
struct es_link_move {
    int peer; /* 1: the peer's address changed (and was validated); 0: ours, as was asked for */
    int err;  /* 0, or an es_err: everything goes on over the old path */
    char from[64], to[64];
    char reason[128]; /* when err: for people */
};

enum es_link_ecn {
    ES_LINK_ECN_TESTING, /* too early to tell */
    ES_LINK_ECN_CAPABLE, /* the path carries our marks, and the peer reports them */
    ES_LINK_ECN_FAILED   /* it does not: nothing is marked any more */
};
/* What became of early data (0-RTT) on this connection. */
enum es_link_early { ES_LINK_EARLY_NONE = 0, ES_LINK_EARLY_ACCEPTED, ES_LINK_EARLY_REJECTED };

struct es_link_stats {
    uint64_t rtt_latest, rtt_min, rtt_smoothed; /* ns */
    uint64_t cwnd, bytes_in_flight;             /* bytes */
    uint64_t bytes_sent, bytes_received, packets_sent, packets_received;
    uint64_t packets_lost; /* later ones were acknowledged; counted from the end of the handshake */
    enum es_link_ecn ecn;
    uint64_t ecn_sent;     /* packets that we marked ECT(0) */
    uint64_t ecn_acked;    /* of these, arrived with the mark, as the peer says */
    uint64_t ecn_ce_acked; /* ours that a router marked "congestion experienced", as the peer says */
    uint64_t ecn_received, ecn_ce_received; /* the peer's that arrived with ECT, with CE */
    uint64_t migrations;                    /* changes of either address that were validated */
    uint64_t mtu_reductions;                /* times the packets' size fell because full ones vanished */
    uint64_t credit;         /* bytes that the peer lets us send now, on all streams together */
    uint64_t held;           /* bytes counted against the cap now */
    uint64_t handshake_time; /* ns from the first packet to completion; 0: not complete */
    uint64_t idle_timeout;   /* ns, the negotiated value; 0: none */
    uint32_t path_mtu;       /* bytes of UDP payload */
    uint32_t max_datagram;   /* largest datagram payload that may be sent now; 0: the peer takes none */
    uint32_t streams_bidi_left, streams_uni_left; /* that we may still open now */
    int resumed;                                  /* the handshake went on from an earlier session */
    enum es_link_early early_data;
    uint32_t key_updates;  /* changes of packet keys, ours and the peer's, that are over */
    uint32_t quic_version; /* 1 or 2; 0: not QUIC */
};

/* What a carrier offers. Protocols use the es_link_* wrappers below. */
struct es_link_ops {
    int (*open)(struct es_link *, int dir, void *user, struct es_link_stream **out);
    int (*write)(struct es_link_stream *, const void *data, size_t n, int fin);
    int (*write_ref)(struct es_link_stream *, const void *data, size_t n, int fin, void (*release)(void *),
                     void *arg);
    size_t (*queued)(const struct es_link_stream *);
    void (*priority)(struct es_link_stream *, int prio);
    void (*credit)(struct es_link_stream *, size_t n);
    void (*stream_done)(struct es_link_stream *);
    int (*stream_keep)(struct es_link_stream *);
    void (*allow)(struct es_link *, int dir);
    void (*stop)(struct es_link_stream *, uint64_t app_code);
    void (*reset)(struct es_link_stream *, uint64_t app_code);
    void (*hold)(struct es_link *, int64_t delta);
    int (*datagram)(struct es_link *, const void *data, size_t n);
    void (*close)(struct es_link *, int app, uint64_t code, const char *reason);
    void (*stats)(struct es_link *, struct es_link_stats *out);
    /* "127.0.0.1:5000" or "[::1]:5000" into buf; the peer's current address */
    void (*peer_addr)(struct es_link *, char *buf, size_t n);
    uint64_t (*allowed)(const struct es_link_stream *); /* may be NULL */
    /* May be NULL: the link has no TLS of its own. */
    int (*export_key)(struct es_link *, const char *label, const void *context, size_t context_n, void *out,
                      size_t n);
    /* Of carriers that are whole connections without being QUIC; may be NULL. The certificate the peer
     * showed, borrowed, and the SHA-256 of its public key: 0 or ES_ERR_NOT_FOUND; keepalive on or off. */
    int (*peer_cert)(struct es_link *, const uint8_t **der, size_t *n);
    int (*peer_pin)(struct es_link *, uint8_t spki[32]);
    void (*keep_alive)(struct es_link *, int on);
};

/* What the protocol is told. Every member must be set. */
struct es_link_events {
    void (*established)(
        void *user); /* handshake complete: streams may be opened (client: 1-RTT keys are there) */
    /* The peer opened a stream; set s->user. Always followed by data(), reset() or stream_closed(). */
    void (*stream_opened)(void *user, struct es_link_stream *s, int dir);
    /* In order, without gaps. n may be 0 with fin = 1. After fin no more data() for that stream. */
    void (*data)(void *user, struct es_link_stream *s, const uint8_t *p, size_t n, int fin);
    void (*stream_reset)(void *user, struct es_link_stream *s, uint64_t app_code); /* peer's RESET_STREAM */
    void (*stream_stopped)(void *user, struct es_link_stream *s,
                           uint64_t app_code); /* peer's STOP_SENDING, where known */
    /* The send queue of s fell to its low mark after having been above its high mark, or to what
     * es_link_wake_at() said. */
    void (*writable)(void *user, struct es_link_stream *s);
    /* Everything we wrote on s including FIN was acknowledged. */
    void (*sent)(void *user, struct es_link_stream *s);
    void (*stream_closed)(void *user, struct es_link_stream *s); /* both directions over; last word about s */
    void (*datagram)(void *user, const uint8_t *p, size_t n);
    void (*stream_credit)(void *user, int dir); /* the peer lets us open more streams */
    void (*hold_low)(void *user); /* held bytes fell below the cap again after es_link_would_hold() said no */
    void (*closed)(void *user, const struct es_close_info *info);
    /* The path changed or failed to. May be NULL, alone of all. */
    void (*moved)(void *user, const struct es_link_move *move);
    /* May be NULL. Before established(): streams may be used already, with early data. What a client sends
     * before established() may be read by the server before it knows that nobody replays it: only what is
     * harmless when run twice may go. What a server receives before established() is of that kind; it may
     * answer it. Should the server not take it, it is sent again after the handshake without anybody
     * noticing. */
    void (*early)(void *user);
};

/* A stream's send queue above this, or above the mark it was given instead: stop writing. The low mark is
 * half of it. */
#define ES_LINK_HIGH     ((size_t)256 * 1024)
#define ES_LINK_HOLD_CAP ((uint64_t)8 * 1024 * 1024) /* default cap of held bytes per connection */

/* How a session came that is not a whole QUIC connection. NUL-terminated; "" where nothing was said. */
struct es_link_door {
    const char *name;      /* "webtransport", "h3", "tcp" */
    const char *authority; /* whom the client asked for, "example.org:443" */
    const char *path;      /* with its query */
    const char *origin;    /* of the page that asked */
};

struct es_link {
    const struct es_link_ops *ops;       /* borrowed, static */
    const struct es_link_events *events; /* borrowed, static; set by es_link_attach */
    void *user;                          /* borrowed: the protocol's connection object */
    struct es_link *base; /* borrowed: the link that is a whole connection: its figures and its budget count.
                             Itself, for most; set by es_link_attach, unless the carrier has */
    const struct es_link_door *door; /* borrowed; NULL: the whole connection is the session's */
    int is_server;                   /* we accepted it */
    int early;                       /* between the up-calls early() and established(); kept by the carrier */
    uint64_t held, hold_cap;         /* bytes; kept by the carrier */
    uint64_t unsent;                 /* bytes queued on all streams; kept by the carrier */
    struct es_tally *tally;          /* borrowed; counts them too, with those of other links. NULL: none */
    int hold_refused;                /* es_link_would_hold() said no: the carrier owes a hold_low() */
    struct es_glitch glitch;         /* what the peer sent that is of no use; the carrier sets the budget */
    uint64_t glitch_code;            /* application code that a peer is closed with whose budget is used up */
};

/* The protocol takes the link. Called once, before any up-call. */
static inline void es_link_attach(struct es_link *l, const struct es_link_events *ev, void *user)
{
    l->events = ev;
    l->user = user;
    if (l->base == NULL)
        l->base = l;
}

/* Opens a stream. ES_ERR_LIMIT: the peer's allowance is used up, wait for stream_credit(). ES_ERR_CLOSED,
 * ES_ERR_NOMEM. */
static inline int es_link_open(struct es_link *l, int dir, void *user, struct es_link_stream **out)
{
    return l->ops->open(l, dir, user, out);
}

/* Sets the marks of a send queue. */
static inline void es_link_marks(struct es_link_stream *s, size_t high, size_t low)
{
    struct es_link_stream *carrier = s->below != NULL ? s->below : s;

    s->high = carrier->high = high;
    s->low = carrier->low = low < high ? low : high;
    if (carrier->wake != 0)
        carrier->wake = carrier->low + 1;
}

/* Queues a copy of n bytes, then FIN if fin. Never partial. 0, ES_ERR_NOMEM, or ES_ERR_CLOSED after fin or
 * reset. The queue is not bounded here: the protocol looks at es_link_queued() and waits for writable(). */
static inline int es_link_write(struct es_link_stream *s, const void *data, size_t n, int fin)
{
    return s->link->ops->write(s, data, n, fin);
}

/* As es_link_write, without the copy: release(arg) is called exactly once, when the bytes were acknowledged
 * or given up, never from inside this call nor from a library callback (the carrier defers it to the end of
 * its step). On error nothing is kept and release is not called. */
static inline int es_link_write_ref(struct es_link_stream *s, const void *data, size_t n, int fin,
                                    void (*release)(void *), void *arg)
{
    return s->link->ops->write_ref(s, data, n, fin, release, arg);
}

/* Bytes written and not yet handed to a packet. */
static inline size_t es_link_queued(const struct es_link_stream *s)
{
    return s->link->ops->queued(s);
}

/* Bytes that the peer lets us send on this stream now, what is queued included; UINT64_MAX: the carrier
 * cannot tell. */
static inline uint64_t es_link_allowed(const struct es_link_stream *s)
{
    return s->link->ops->allowed != NULL ? s->link->ops->allowed(s) : UINT64_MAX;
}

/* The carrier's: the bytes queued on a link rise or fall. */
static inline void es_link_count_unsent(struct es_link *l, int64_t delta)
{
    l->unsent += (uint64_t)delta;
    if (l->tally != NULL)
        l->tally->bytes += (uint64_t)delta;
}

/* What is unsent counts in `t` from now on; NULL: nowhere any more. */
static inline void es_link_set_tally(struct es_link *l, struct es_tally *t)
{
    l = l->base;
    if (l->tally != NULL)
        l->tally->bytes -= l->unsent;
    l->tally = t;
    if (t != NULL)
        t->bytes += l->unsent;
}

/* The carrier's, after queued bytes rose to n. */
static inline void es_link_queue_rose(struct es_link_stream *s, size_t n)
{
    if (n > s->high && s->wake == 0)
        s->wake = s->low + 1;
}

/* The carrier's, after they fell to n: 1: writable() is due. */
static inline int es_link_queue_fell(struct es_link_stream *s, size_t n)
{
    if (n >= s->wake)
        return 0;
    s->wake = 0;
    return 1;
}

/* writable() is to come once the queue, which is longer, has fallen to n bytes. */
static inline void es_link_wake_at(struct es_link_stream *s, size_t n)
{
    if (s->below != NULL)
        s = s->below;
    s->wake = n + 1;
}

static inline void es_link_priority(struct es_link_stream *s, int prio)
{
    s->link->ops->priority(s, prio);
}

/* The protocol consumed n bytes of s: the peer may send n more on it. */
static inline void es_link_credit(struct es_link_stream *s, size_t n)
{
    s->link->ops->credit(s, n);
}

/* The answer is queued: the peer may open one more stream of this kind. Only for streams the peer opened. */
static inline void es_link_stream_done(struct es_link_stream *s)
{
    s->link->ops->stream_done(s);
}

/* In stream_closed(), for a stream that the peer opened: the allowance does not return now. 1:
 * es_link_allow() gives it back later; 0: it was given back before. */
static inline int es_link_stream_keep(struct es_link_stream *s)
{
    return s->link->ops->stream_keep(s);
}
static inline void es_link_allow(struct es_link *l, int dir)
{
    l->ops->allow(l, dir);
}

/* STOP_SENDING and RESET_STREAM with an application code. reset drops what is queued. Both harmless when too
 * late. */
static inline void es_link_stop(struct es_link_stream *s, uint64_t app_code)
{
    s->link->ops->stop(s, app_code);
}
static inline void es_link_reset(struct es_link_stream *s, uint64_t app_code)
{
    s->link->ops->reset(s, app_code);
}

/* The protocol holds `delta` more (or fewer) received bytes in memory. */
static inline void es_link_hold(struct es_link *l, int64_t delta)
{
    l->ops->hold(l, delta);
}

/* Would n more held bytes stay within the cap? A no is remembered: hold_low() follows when bytes were given
 * back (perhaps not enough of them yet: ask again). */
static inline int es_link_would_hold(struct es_link *l, size_t n)
{
    l = l->base;
    if (l->held + n <= l->hold_cap) {
        return 1;
    }
    l->hold_refused = 1;
    return 0;
}

/* Queues one unreliable datagram (copied; dropped silently if never sendable). ES_ERR_TOO_LARGE: over
 * stats.max_datagram; ES_ERR_UNSUPPORTED: the peer takes none; ES_ERR_LIMIT: 256 already wait. */
static inline int es_link_datagram(struct es_link *l, const void *data, size_t n)
{
    return l->ops->datagram(l, data, n);
}

/* Closes with CONNECTION_CLOSE. closed() follows from a later step, also when called before the handshake.
 * Harmless twice. */
static inline void es_link_close(struct es_link *l, int app, uint64_t code, const char *reason)
{
    l->ops->close(l, app, code, reason);
}

/* The peer did something of no use, that is no error as long as it is rare: `points` of it. 1: it was once
 * too much, the link is being closed; `what` says why. */
static inline int es_link_glitch(struct es_link *l, uint64_t now, uint64_t points, const char *what)
{
    l = l->base;
    if (!es_glitch_charge(&l->glitch, now, points)) {
        return 0;
    }
    es_link_close(l, 1, l->glitch_code, what);
    return 1;
}

static inline void es_link_stats_get(struct es_link *l, struct es_link_stats *out)
{
    l->ops->stats(l, out);
}

/* n bytes that only the two ends of this link's TLS can compute (RFC 8446 7.5): the same at both, others with
 * every connection, label and context. ES_ERR_AGAIN before established(), ES_ERR_CLOSED, ES_ERR_INVAL: label
 * or n too long, ES_ERR_UNSUPPORTED: the link shares its TLS with others, or has none. */
static inline int es_link_export_key(struct es_link *l, const char *label, const void *context,
                                     size_t context_n, void *out, size_t n)
{
    if (l->ops->export_key == NULL)
        return ES_ERR_UNSUPPORTED;
    return l->ops->export_key(l, label, context, context_n, out, n);
}

static inline void es_link_peer_addr(struct es_link *l, char *buf, size_t n)
{
    l->ops->peer_addr(l, buf, n);
}

/* A protocol offered on an endpoint under one ALPN (or taken by a client). */
struct es_app {
    const char *alpn; /* owned by the app; 1-255 bytes */
    /* A connection with this ALPN appears: attach to the link (es_link_attach) and return 0, or refuse with
     * an es_err, upon which the carrier closes it. Server: runs when the handshake has completed, inside a
     * library callback; established() follows at once. Client: runs inside es_endpoint_connect, established()
     * comes later. */
    int (*attach)(struct es_app *app, struct es_link *link, void *arg);
    void *user; /* borrowed */
    /* Accepting side: the protocol heeds what the up-call early() means. It may then be attached before the
     * end of the handshake. 0: its clients get no early data through. */
    int takes_early;
};

#endif
