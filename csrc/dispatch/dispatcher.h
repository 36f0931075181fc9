/* Hosts: what a server or a client offers (methods, events, streams), the limits that protect it, and the
 * deadlines and counters of its calls. A host is shared by all sessions of one server, or belongs to one
 * client.
 *
 * The tables are keyed by name; a value is a `ref` that means something to the binding (a Lua registry
 * reference). The host never calls it: it appends an event with the ref and the binding runs it. Unknown
 * names and limits are answered here, without entering Lua.
 */
#ifndef ES_DISPATCH_DISPATCHER_H
#define ES_DISPATCH_DISPATCHER_H

#include <stddef.h>
#include <stdint.h>
#include "../base/event.h"
#include "../base/list.h"
#include "../base/pool.h"
#include "../base/tally.h"
#include "../base/timer.h"
#include "meter.h"
#include "wheel.h"

enum es_kind { ES_KIND_RPC = 0, ES_KIND_EVENT = 1, ES_KIND_STREAM = 2, ES_KINDS = 3 };

enum es_method_flags {
    ES_METHOD_IDEMPOTENT = 1,
    ES_METHOD_SECRET = 8, /* what it sends is never compressed */
    /* Of kind RPC; none of them: a plain method, both: two-way. */
    ES_METHOD_STREAM_IN = 2, /* the caller sends messages after its arguments */
    ES_METHOD_STREAM_OUT = 4 /* the handler sends messages before its results */
};
#define ES_METHOD_STREAM (ES_METHOD_STREAM_IN | ES_METHOD_STREAM_OUT)

#define ES_NO_REF                                                                                            \
    (-2) /* = LUA_NOREF: the method was removed while a call to it was queued; refuse the call */

struct es_method {
    int ref;                /* the binding's; ES_NO_REF after removal while calls still run */
    unsigned flags;         /* es_method_flags */
    uint32_t concurrent;    /* events: handlers of one lane at once; 0 and 1: one after another */
    uint32_t max_calls;     /* calls inside at once, of all sessions together; more are refused; 0: any */
    uint64_t timeout;       /* ns a call may take whatever its caller allows; 0: as long as that */
    uint32_t running;       /* calls inside now */
    uint32_t uses;          /* events queued or calls open that point here: freed when removed and 0 */
    uint64_t calls, errors; /* counters */
    struct es_meter *meter; /* owned, by the last of the versions; NULL until the first call:
                               es_method_meter() */
    uint64_t warned_at;     /* the binding's: when it last complained about the handler; 0: never */
    /* Of one name, by es_host_replace(): the registration that calls to come get is the last, and earlier
     * ones live while something uses them. Borrowed; they take themselves out of this list. */
    struct es_method *newer, *older;
    uint32_t version; /* the registrar's number; 1 at first */
    uint16_t name_len;
    uint8_t
        priority; /* urgency of what the handler sends, 0 to 7; ES_CALLERS_PRIORITY: as its caller asked */
    char name[];  /* NUL-terminated too */
};
#define ES_CALLERS_PRIORITY 8

struct es_limits {
    uint64_t max_message;       /* bytes; default 4 MiB; announced in HELLO */
    uint64_t max_metadata;      /* bytes; default 16 KiB */
    uint32_t max_calls;         /* handlers running per session; default 100; announced */
    uint32_t max_total_calls;   /* of all sessions together, queued or running; default 0: any */
    uint32_t max_named_streams; /* per session, each direction; default 256; announced */
    uint32_t max_pending;     /* calls waiting for the peer's stream allowance per session; default 16,384 */
    uint64_t request_timeout; /* ns; default 30 s; 0: none */
    /* ns that the peer's requests, messages and events may take to become whole, and a second more for every
     * 64 bytes that came; default 30 s; 0: as long as they like */
    uint64_t assembly_timeout;
    /* Unsent bytes: of a named stream (256 KiB), of an event lane (1 MiB), of a session (4 MiB), of all
     * sessions (64 MiB); the low marks are half of that. The latter two may be 0: any. */
    struct es_marks stream_queue, event_queue, session_queue, total_queue;
};

/* What is done to a payload before it is sent, when the peer can undo it and it helps. */
enum es_compress {
    ES_COMPRESS_UNSAID = 0, /* no; but what was asked in a compressed way may be answered so */
    ES_COMPRESS_ON = 1,
    ES_COMPRESS_NEVER = 2
};
struct es_packing {
    uint8_t compress;   /* enum es_compress */
    uint8_t checksum;   /* 1: with a CRC-32C */
    uint8_t level;      /* zstd's; 0: the default */
    uint32_t threshold; /* bytes: shorter payloads are sent as they are */
};

/* Codecs beyond the protocol's own, by number: name[i] has the number ES_FIRST_CODEC + i here. */
#define ES_FIRST_CODEC    16
#define ES_MAX_CODECS     48
#define ES_MAX_CODEC_NAME 63
struct es_codec_names {
    size_t n;
    char name[ES_MAX_CODECS][ES_MAX_CODEC_NAME + 1]; /* valid names */
};

struct es_host_config {
    struct es_timers *timers; /* borrowed */
    struct es_evq *events;    /* borrowed */
    void (*rand)(void *ctx, uint8_t *out, size_t n);
    uint64_t (*wall)(void *ctx); /* ns since 1970 */
    void *ctx;
    struct es_limits limits;
    int hold_until_accept; /* 1: a session's incoming calls wait for es_session_accept() (a server with
                              on_connect hooks); 0: sessions accept themselves when HELLO has come */
    int early_open;        /* 1: a session may open, and be accepted, on early data: whatever decides about
                              it may be asked twice about one that is replayed */
    char agent[64];        /* HELLO parameter 5, "" for none */
    struct es_packing packing;           /* of everything that does not say otherwise */
    const struct es_codec_names *codecs; /* borrowed, may grow; announced as it is then. NULL: none */
};

struct es_host_stats {
    uint64_t sessions, sessions_total;
    uint64_t calls_in, calls_in_running, calls_in_refused, calls_out, calls_out_running, calls_timed_out,
        calls_cancelled;
    uint64_t events_in, events_out, events_unhandled, streams_in, streams_out, bad_frames;
    uint64_t compressed_in, compressed_out; /* payloads */
    uint64_t compression_saved;             /* bytes that were not sent */
    uint64_t checksum_errors;
    uint64_t queued;      /* unsent bytes now */
    uint64_t send_waits;  /* times that a sender of a stream or of events had to wait, ... */
    uint64_t send_waited; /* ... and for how long together, in ns */
};

/* Of connections, added up since the start. */
struct es_link_totals {
    uint64_t bytes_sent, bytes_received, packets_sent, packets_received, packets_lost, ecn_ce, migrations,
        mtu_reductions, key_updates, resumed, early_accepted, early_rejected;
};

struct es_host; /* opaque above session/; its struct is in host.h */

void es_limits_default(struct es_limits *l);
int es_host_new(struct es_host **out, const struct es_host_config *cfg);
/* Sessions keep the host alive: it is freed when the last session and the owner are gone. */
void es_host_ref(struct es_host *h);
void es_host_unref(struct es_host *h);

/* Names: 1-256 bytes of [A-Za-z0-9._/:-]. ES_ERR_EXISTS (a streaming method and a named stream cannot share a
 * name either: a peer could not say which it means), ES_ERR_INVAL, ES_ERR_NOMEM. */
int es_host_add(struct es_host *h, enum es_kind kind, const char *name, size_t len, int ref, unsigned flags,
                uint32_t concurrent);
/* Limits of one method or named stream: see struct es_method. Calls under way keep theirs. ES_ERR_NOT_FOUND.
 */
int es_host_limit(struct es_host *h, enum es_kind kind, const char *name, size_t len, uint64_t timeout,
                  uint32_t max_calls);
/* The urgency of what the handlers of one method or named stream send. ES_ERR_NOT_FOUND. */
int es_host_prioritize(struct es_host *h, enum es_kind kind, const char *name, size_t len, unsigned priority);
/* Another registration for a name, under the same ref: the binding puts another function behind it. Calls to
 * come get the new one; so do those that are queued, unless one is streaming and the other is not (then they
 * are refused). Those that run go on as they began, and are counted by version. Limits and priority are those
 * of a new registration. ES_ERR_NOT_FOUND, ES_ERR_EXISTS as for es_host_add(), ES_ERR_NOMEM: nothing changed.
 */
int es_host_replace(struct es_host *h, enum es_kind kind, const char *name, size_t len, unsigned flags,
                    uint32_t concurrent, uint32_t version);
/* Calls inside, of all versions together. */
static inline uint32_t es_method_inside(const struct es_method *m)
{
    uint32_t n = m->running;

    while ((m = m->older) != NULL)
        n += m->running;
    return n;
}
/* The ref that was there (to be released by the binding), or ES_ERR_NOT_FOUND. Calls under way finish. */
int es_host_remove(struct es_host *h, enum es_kind kind, const char *name, size_t len, int *ref);
struct es_method *es_host_find(struct es_host *h, enum es_kind kind, const char *name, size_t len);
/* An id for a request that may only be sent over a session to come: of those that dialled sessions which
 * share one instance take theirs from. */
uint64_t es_host_request_id(struct es_host *h);
/* The ids to come begin here: hosts that share an instance must not share ids. */
void es_host_request_ids_from(struct es_host *h, uint64_t first);
void es_host_early_open(struct es_host *h, int on); /* for sessions to come */
void es_host_stats_get(const struct es_host *h, struct es_host_stats *out);

#endif
