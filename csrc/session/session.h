/* The native protocol echostream/1 over any link: sessions, calls, events, named streams (docs/PROTOCOL.md).
 *
 * Down: link/link.h. Up: es_events in the host's queue, listed below. Nothing here knows Lua or QUIC.
 *
 * Life of a session:  es_session_app's attach -> [ES_EV_SESSION_OPEN] -> calls, events, channels ->
 * ES_EV_SESSION_CLOSED (last, exactly once, also when OPEN never came). OPEN comes, on the accepting side,
 * with the peer's HELLO (so that credentials are known): calls of the peer that arrived before it wait for
 * it, and with host.hold_until_accept also for es_session_accept(). On the dialling side OPEN comes with the
 * end of the handshake, without waiting for HELLO.
 *
 * Life of an outgoing call:  es_session_request -> exactly one of ES_EV_RESPONSE / ES_EV_CALL_FAILED, unless
 * es_call_cancel came first (then none). es_call pointers are dead after that event was popped or after
 * es_call_cancel. Life of an incoming call: ES_EV_REQUEST -> the binding ends it with exactly one
 * es_call_respond or es_call_fail, however late; the pointer is dead after that. A cancelled or expired
 * incoming call first gets ES_EV_CALL_CANCELLED (at most once); it still has to be ended (the answer is
 * dropped if nobody waits). When the session dies every open incoming call gets ES_EV_CALL_CANCELLED too,
 * with code ES_APP_SESSION_CLOSED. Channels (named streams): see below.
 *
 * Sessions are reference counted: the session itself holds one until CLOSED was popped, every event in the
 * queue one (given back by es_session_pop), every incoming call that the binding has not ended, event whose
 * handler has not ended and channel that was not released one, the binding's own handle one
 * (es_session_ref). After CLOSED every function on it returns ES_ERR_CLOSED and is safe.
 *
 * The loop of whoever drains the queue:
 *
 *   while ((ev = es_evq_peek(q)) != NULL) {
 *       switch (ev->type) {
 *       case ES_EV_REQUEST: if (es_call_admit(e->call) == 0) run(...); break;   // others: as listed below
 *       default: break;                                                         // ES_EV_DROPPED: nothing
 *       }
 *       es_session_pop(q);      // and not es_evq_pop: it gives back what the record held
 *   }
 *
 * Before the queue is deleted it has to be drained like that, or what its records hold is lost.
 *
 * Whatever is called while draining (answers, cancels, closes, releases), records further back that became
 * pointless by it turn into ES_EV_DROPPED, so no record ever holds a dead es_call or es_channel.
 */
#ifndef ES_SESSION_SESSION_H
#define ES_SESSION_SESSION_H

#include <stddef.h>
#include <stdint.h>
#include "../base/err.h"
#include "../base/event.h"
#include "../dispatch/dispatcher.h"
#include "../link/link.h"

struct es_session;
struct es_call;    /* one RPC, ours or the peer's */
struct es_channel; /* one named stream, ours or the peer's */

enum es_codec { ES_CODEC_RAW = 0, ES_CODEC_MSGPACK = 1, ES_CODEC_JSON = 2 };

struct es_pair_kv {
    const char *key, *value; /* borrowed */
    size_t key_len, value_len;
};

/* ---- events to the binding; `owner` of every record is the es_session (a reference is held until popped)
 * ---- */
enum es_session_event {
    ES_EV_SESSION_OPEN = 0x100, /* struct es_event only; credentials: es_session_credentials() */
    ES_EV_SESSION_CLOSED,       /* struct es_ev_closed */
    ES_EV_SESSION_GOAWAY,       /* struct es_ev_goaway: the peer is draining */
    ES_EV_SESSION_IDLE,   /* after our es_session_goaway(): no call, event or channel is under way any more */
    ES_EV_REQUEST,        /* struct es_ev_message: run method->ref, then end e->call */
    ES_EV_CALL_CANCELLED, /* struct es_ev_message without payload: e->call (incoming) is no longer wanted;
                             e->code says why */
    ES_EV_RESPONSE,       /* struct es_ev_message: e->call (ours) succeeded; payload = results */
    ES_EV_CALL_FAILED,    /* struct es_ev_failed: e->call (ours) failed */
    ES_EV_EVENT, /* struct es_ev_message: run method->ref, then es_session_event_done(session, e->lane,
                    method) */
    ES_EV_CHANNEL_REQUEST,  /* struct es_ev_message: the peer opened a named stream; run method->ref, then
                               es_channel_end() */
    ES_EV_CHANNEL_READABLE, /* struct es_ev_channel: a message, the end or an error can be read; edge: not
                               again before es_channel_recv said AGAIN */
    ES_EV_CHANNEL_WRITABLE, /* struct es_ev_channel: es_channel_send said AGAIN before and would not now */
    ES_EV_CHANNEL_CLOSED,   /* struct es_ev_channel: nothing more can be sent or received (what is queued can
                               still be read) */
    ES_EV_EVENT_UNHANDLED,  /* struct es_ev_unhandled: the first event of a name that nobody handles */
    ES_EV_SESSION_WRITABLE, /* es_session_emit said AGAIN before and would not now */
    ES_EV_SESSION_PONG,     /* struct es_ev_pong: the answer to es_session_ping() */
    ES_EV_SESSION_MOVED,    /* struct es_ev_moved: the connection's path changed, or failed to */
    ES_EV_DROPPED           /* a record that something overtook: nothing to do but pop it */
};

/* Pops the record at the front of the queue, one of enum es_session_event, and gives back what it held: the
 * session's reference, the es_call of a RESPONSE or CALL_FAILED, and so on. Pointers in it are dead after. */
void es_session_pop(struct es_evq *q);

struct es_ev_message {
    struct es_event h;
    union {
        struct es_call *call;
        struct es_channel *channel;
    };
    void *user;               /* the call's `user` (outgoing) */
    struct es_method *method; /* REQUEST, EVENT, CHANNEL_REQUEST; alive until the call/event/channel ended */
    uint64_t code;            /* CALL_CANCELLED: enum es_app_error */
    uint64_t wall_time_us;    /* EVENT: 0 when absent */
    uint64_t seq;             /* EVENT */
    uint64_t gap;             /* EVENT: as many of its lane, or of the datagrams, are missing before it */
    uint8_t codec;            /* enum es_codec */
    uint8_t lane;             /* EVENT; ES_LANE_DATAGRAM for an unreliable one */
    uint8_t idempotent;       /* RESPONSE: the method is idempotent; REQUEST: the caller marked it */
    uint8_t packed;           /* the payload is compressed: es_session_plain() */
    uint32_t metadata_len;    /* bytes of raw kv at data[0]: pairs without the count; es_kv_next() of
                                 framing/frame.h reads them: struct es_kv kv = {data, metadata_len, SIZE_MAX} */
    uint32_t payload_len;     /* bytes at data[metadata_len] */
    uint8_t data[];
};

struct es_ev_unhandled {
    struct es_event h;
    int last;    /* later names are not told of */
    char name[]; /* NUL-terminated */
};

struct es_ev_failed {
    struct es_event h;
    struct es_call *call;
    void *user;
    uint16_t status;                             /* enum es_status */
    uint8_t processed;                           /* enum es_processed */
    uint8_t codec;                               /* of details */
    uint8_t packed;                              /* the details are compressed: es_session_plain() */
    uint64_t retry_after_ms;                     /* 0: not said */
    uint32_t code_len, message_len, details_len; /* one after another in data, */
    uint32_t trailers_len;                       /* and after them raw kv, without its count */
    uint8_t data[];                              /* code is a stable string such as "timeout" */
};

struct es_ev_channel {
    struct es_event h;
    struct es_channel *channel;
    void *user; /* es_channel_set_user() */
};

struct es_ev_closed {
    struct es_event h;
    struct es_close_info info;
    int opened; /* ES_EV_SESSION_OPEN came before */
};

struct es_ev_pong {
    struct es_event h;
    uint64_t id;      /* what es_session_ping() gave */
    uint64_t rtt;     /* ns on the way there and back, without the peer's part */
    int64_t clock_us; /* by how much the peer's clock is ahead of ours, give or take half of rtt */
};

struct es_ev_goaway {
    struct es_event h;
    uint64_t grace_ms, retry_after_ms;
    char reason[256];
};

struct es_ev_moved {
    struct es_event h;
    struct es_link_move move;
};

#define ES_LANE_DATAGRAM 0xff

/* ---- sessions ---- */

/* Fills an es_app that makes sessions of `host` (referenced until es_session_app_free). attach's arg, on the
 * dialling side, is a struct es_session_dial; NULL on the accepting side. */
int es_session_app_init(struct es_app *app, struct es_host *host);
void es_session_app_free(struct es_app *app);
#define ES_ALPN "echostream/1"

struct es_session_dial {
    const struct es_pair_kv *credentials; /* HELLO parameter 6; copied */
    size_t n_credentials;
    const uint8_t *instance;    /* 16 bytes kept across reconnects of one client; NULL: random */
    void *user;                 /* es_session_user() from the first event on */
    struct es_session *session; /* out: with a reference for the caller */
};

void es_session_ref(struct es_session *s);
void es_session_unref(struct es_session *s);
void *es_session_user(const struct es_session *s);
void es_session_set_user(struct es_session *s, void *user);
uint64_t es_session_id(const struct es_session *s); /* unique in the process, from 1 */
struct es_host *es_session_host(struct es_session *s);
struct es_link *es_session_link(struct es_session *s);   /* NULL after CLOSED */
int es_session_is_open(const struct es_session *s);      /* OPEN came, CLOSED did not, no close asked for */
uint64_t es_session_created(const struct es_session *s); /* wall clock, ns since 1970 */
/* Raw kv (pairs without the count) of the peer's HELLO credentials; borrowed from the session. NULL, 0 when
 * there are none. */
const uint8_t *es_session_credentials(const struct es_session *s, size_t *len);
const char *es_session_agent(const struct es_session *s); /* the peer's; "" unknown */
/* 16 bytes that stand for the peer through every reconnection, a secret between us; NULL before its HELLO. */
const uint8_t *es_session_peer_instance(const struct es_session *s);
/* An id for a request of ours, to be given to each of its attempts; 0 once the session is closed. */
uint64_t es_session_request_id(struct es_session *s);
/* The plain bytes of a payload that its record says is packed. Its size was checked when it came, so this is
 * bounded by limits.max_message. They stay valid until the next call for any session of the host.
 * ES_ERR_PROTOCOL: they cannot be made; ES_ERR_NOMEM. */
int es_session_plain(struct es_session *s, const uint8_t *packed, size_t len, const uint8_t **plain,
                     size_t *plain_len);
/* Whether the peer takes a codec: 1, 0, or ES_ERR_AGAIN before its HELLO. */
int es_session_takes_codec(const struct es_session *s, int codec);
/* hold_until_accept: lets the peer's calls in. Refusing is es_session_close(s, ES_APP_REFUSED, "code:
 * sentence"); the peer's calls fail with that code. */
int es_session_accept(struct es_session *s);
const struct es_close_info *es_session_closed_by(const struct es_session *s); /* NULL: its link lives */
/* 1: the peer closed the session because it did not accept it, and said why: info->reason begins with
 * *code_len bytes of code. */
int es_session_refusal(const struct es_close_info *info, size_t *code_len, const char **message);
/* CONNECTION_CLOSE with an application code, after what is queued was given one flush. CLOSED follows.
 * Harmless twice. */
void es_session_close(struct es_session *s, uint64_t code, const char *reason);
/* GOAWAY: the peer's new calls are answered unavailable / processed no from now on; ours are refused here.
 * Those under way end. */
int es_session_goaway(struct es_session *s, uint64_t grace_ms, uint64_t retry_after_ms, const char *reason);
/* Asks the peer for a sign of life: ES_EV_SESSION_PONG follows, unless the connection ends before.
 * ES_ERR_AGAIN: its HELLO has not come; ES_ERR_UNSUPPORTED: it does not answer such questions; ES_ERR_LIMIT:
 * ES_MAX_PINGS were not answered yet (the oldest is forgotten by the next one that is older than a minute);
 * ES_ERR_CLOSED, ES_ERR_NOMEM. */
#define ES_MAX_PINGS 16
int es_session_ping(struct es_session *s, uint64_t *id);
size_t
es_session_in_flight(const struct es_session *s); /* incoming + outgoing calls, channels, events not done */
/* 1 when every byte written (lanes, control, calls) was acknowledged: what close() waits for. */
int es_session_flushed(const struct es_session *s);

struct es_session_flow {
    uint64_t queued;                  /* unsent bytes */
    uint64_t send_waits, send_waited; /* as in es_host_stats */
    /* What the numbers of the peer's events say: not come (yet), come twice (dropped), or behind later ones
     */
    uint64_t events_missing, events_duplicated, events_late;
};
void es_session_flow(const struct es_session *s, struct es_session_flow *out);

/* ---- outgoing calls ---- */
struct es_call_opts {
    uint64_t deadline; /* ns on timers->now's clock; ES_DEADLINE_DEFAULT: now + limits.request_timeout;
                          ES_NEVER: none */
    uint8_t priority;  /* 0-7, RFC 9218 urgency; default 3 */
    uint8_t codec;
    uint8_t idempotent;
    uint8_t retry;       /* RETRY flag, with request_id of the first attempt */
    uint64_t request_id; /* 0: a new one */
    const struct es_pair_kv *metadata;
    size_t n_metadata;
    const struct es_packing *packing; /* NULL: the host's. A stream's: of the messages sent on it */
};
#define ES_DEADLINE_DEFAULT 0

void es_call_opts_default(struct es_call_opts *o);

/* Sends a request; the payload is copied (or anchored when release is given: release(arg) is called exactly
 * once, later, and from inside only when the payload was compressed or got a checksum; not called when this
 * fails). `user` comes back in the event. Errors (nothing was sent): ES_ERR_CLOSED, ES_ERR_TOO_LARGE (over
 * the peer's max_message; metadata limits), ES_ERR_METADATA (over the peer's max_metadata),
 * ES_ERR_UNSUPPORTED (the peer does not have the codec), ES_ERR_LIMIT (max_pending calls wait for the peer's
 * stream allowance), ES_ERR_INVAL (name, metadata), ES_ERR_NOMEM. The call waits inside, within its deadline
 * and in order, for the end of the handshake, for the peer's HELLO (payloads over 64 KiB), for the peer's
 * stream allowance, and while three quarters of the link's cap of held bytes are unacknowledged. After the
 * peer's GOAWAY it fails at once, with an event (unavailable, processed no). */
int es_session_request(struct es_session *s, const char *method, size_t method_len,
                       const struct es_call_opts *opts, const uint8_t *payload, size_t payload_len,
                       void (*release)(void *), void *arg, void *user, struct es_call **out);
/* Nobody waits any more: CANCEL goes out, no event comes. code: ES_APP_CANCELLED, ES_APP_DEADLINE, ... */
void es_call_cancel(struct es_call *c, uint64_t code);

/* ---- any call ---- */
uint64_t es_call_request_id(const struct es_call *c);
void *es_call_user(const struct es_call *c);
void es_call_set_user(struct es_call *c, void *user);
struct es_session *es_call_session(const struct es_call *c);
uint64_t es_call_deadline(const struct es_call *c); /* ns on timers->now's clock; ES_NEVER: none */
int es_call_attempt(const struct es_call *c);       /* incoming: 1, or 2 when RETRY was set */
int es_call_cancelled(const struct es_call *c);     /* incoming */
int es_call_idempotent(const struct es_call *c);    /* incoming: caller and method both say so */
int es_call_limited(
    const struct es_call *c); /* incoming: its deadline is the method's, and not the caller's */
/* incoming: raw kv (pairs without the count), kept while the call lives */
const uint8_t *es_call_metadata(const struct es_call *c, size_t *len);

/* ---- incoming calls ---- */
/* The binding calls it when it gets ES_EV_REQUEST, before it runs the handler. 0: run it. Else it must not be
 * run and the pointer is dead: ES_ERR_LIMIT (limits.max_calls handlers of this session are suspended already;
 * it was answered resource_exhausted, processed no), ES_ERR_CLOSED (cancelled, expired or lost while it was
 * queued; no CALL_CANCELLED comes). ES_ERR_AGAIN: not now, the peer does not take the answers it has; another
 * ES_EV_REQUEST comes. A burst of requests is not refused for standing in the queue: only
 * suspended handlers count, see es_call_started. */
int es_call_admit(struct es_call *c);
/* The handler did not finish at once but waits for something: from now to its end it counts against
 * limits.max_calls. Harmless twice. */
void es_call_started(struct es_call *c);
/* In both functions below the call is over and the pointer dead whatever they return. ES_ERR_CLOSED: nobody
 * waits any more. When they fail, release is not called. */
/* Results: a payload that is an array of n values in `codec`. Over the peer's max_message: the caller gets
 * resource_exhausted, ES_ERR_TOO_LARGE is returned and the call is over all the same. */
int es_call_respond(struct es_call *c, int codec, const uint8_t *payload, size_t len, void (*release)(void *),
                    void *arg);
struct es_kv; /* framing/frame.h */
struct es_failure {
    int status;       /* enum es_status */
    const char *code; /* NULL: es_status_code(status) */
    size_t code_len;
    const char *message; /* cut to 1 KiB at a UTF-8 boundary */
    size_t message_len;
    int processed;  /* enum es_processed */
    int unreadable; /* the peer's request was of no use, which counts against it */
    uint64_t retry_after_ms;
    int codec; /* of details */
    const uint8_t *details;
    size_t details_len;
    const struct es_kv *trailers; /* borrowed: read pairs; NULL: none. Set by this room */
};
/* Metadata that goes with the answer, whichever it is; what was set before is replaced. Copied.
 * ES_ERR_INVAL: keys, ES_ERR_TOO_LARGE: more than metadata may have, ES_ERR_METADATA: more than the peer
 * takes; then nothing is set. */
int es_call_set_trailers(struct es_call *c, const struct es_pair_kv *pairs, size_t n);
int es_call_fail(struct es_call *c, const struct es_failure *f);

/* ---- events ---- */
/* Queues one event. lane 0-7 (a lane is opened on first use), or ES_LANE_DATAGRAM. wall_time_us 0: absent.
 * ES_ERR_AGAIN: the lane's queue is over its high mark (limits.event_queue), or the handshake, or the peer's
 * HELLO where it matters, has not come: wait for ES_EV_SESSION_WRITABLE. ES_ERR_TOO_LARGE (a datagram:
 * es_link_stats.max_datagram less the frame's head), ES_ERR_METADATA, ES_ERR_LIMIT (256 datagrams wait
 * already: drop it), ES_ERR_CLOSED, ES_ERR_UNSUPPORTED, ES_ERR_INVAL. */
int es_session_emit(struct es_session *s, const char *name, size_t name_len, int lane, int codec,
                    const struct es_pair_kv *metadata, size_t n_metadata, uint64_t wall_time_us,
                    const uint8_t *payload, size_t len);
/* n events of a lane (or ES_LANE_DATAGRAM) were dropped before they were queued: their numbers are left out,
 * so that the receiver can tell. */
void es_session_skip_events(struct es_session *s, int lane, uint64_t n);
/* The same with a packing of its own; NULL: the host's. ES_ERR_UNSUPPORTED also: the peer does not have the
 * codec. */
int es_session_emit_packed(struct es_session *s, const struct es_packing *packing, const char *name,
                           size_t name_len, int lane, int codec, const struct es_pair_kv *metadata,
                           size_t n_metadata, uint64_t wall_time_us, const uint8_t *payload, size_t len);
/* The same without a copy where that can be done: release(arg) is called exactly once when this succeeds, at
 * once if the payload had to be copied, and not at all when it fails. One payload may be on its way to many.
 */
int es_session_emit_ref(struct es_session *s, const struct es_packing *packing, const char *name,
                        size_t name_len, int lane, int codec, const struct es_pair_kv *metadata,
                        size_t n_metadata, uint64_t wall_time_us, const uint8_t *payload, size_t len,
                        void (*release)(void *), void *arg);
/* The handler of one ES_EV_EVENT ended: the lane's credit returns and its next event is delivered. Exactly
 * once for every ES_EV_EVENT, also after CLOSED; m may be dead after. */
void es_session_event_done(struct es_session *s, int lane, struct es_method *m);

/* ---- channels: named streams, and streaming calls ---- */
/* Opens a named stream (REQUEST with MORE|STREAM). ES_ERR_LIMIT: max_named_streams of the peer or its stream
 * allowance are used up; ES_ERR_AGAIN: before ES_EV_SESSION_OPEN, and with a codec from 16 up before the
 * peer's HELLO (ES_EV_SESSION_WRITABLE follows); ES_ERR_UNSUPPORTED: the peer does not have the codec;
 * ES_ERR_CLOSED, ES_ERR_INVAL, ES_ERR_METADATA, ES_ERR_NOMEM. opts may be NULL; ES_DEADLINE_DEFAULT means
 * none here, a deadline is that of the whole stream. `user`: es_channel_set_user. The opener may send at
 * once. An error of the other side (no such stream, refused) is what es_channel_recv reports. codec is that
 * of every message on it: ES_CODEC_RAW unless both ends agreed on another. */
int es_channel_open(struct es_session *s, const char *name, size_t len, const struct es_call_opts *opts,
                    void *user, struct es_channel **out);
/* Calls a streaming method: as es_channel_open, with arguments (copied) and with flags: ES_CHANNEL_IN, we are
 * going to send messages, ES_CHANNEL_OUT, we take messages; both suit every streaming method. The codec of
 * opts is that of arguments, messages and results. The answer ends both directions; then es_channel_result()
 * has the results. ES_ERR_TOO_LARGE: the arguments are over the peer's max_message; ES_ERR_AGAIN also: over
 * 64 KiB while the peer's HELLO has not come. */
enum es_channel_flags { ES_CHANNEL_IN = 1, ES_CHANNEL_OUT = 2 }; /* = ES_FLAG_MORE, ES_FLAG_STREAM */
int es_channel_call(struct es_session *s, const char *name, size_t len, const struct es_call_opts *opts,
                    unsigned flags, const uint8_t *payload, size_t payload_len, void *user,
                    struct es_channel **out);
/* The peer's: as es_call_set_trailers, for its RESPONSE. */
int es_channel_set_trailers(struct es_channel *c, const struct es_pair_kv *pairs, size_t n);
/* Ours: what came with the RESPONSE, raw kv without the count; NULL, 0 before it, or without any. */
const uint8_t *es_channel_trailers(const struct es_channel *c, size_t *len);
void es_channel_set_user(struct es_channel *c, void *user);
void *es_channel_user(const struct es_channel *c);
struct es_session *es_channel_session(const struct es_channel *c);
const uint8_t *es_channel_metadata(const struct es_channel *c, size_t *len); /* incoming: the opener's */
uint64_t es_channel_id(const struct es_channel *c);                          /* its request id */
int es_channel_is_call(const struct es_channel *c);       /* of a streaming method, not a named stream */
int es_channel_codec(const struct es_channel *c);         /* of the request */
uint64_t es_channel_deadline(const struct es_channel *c); /* ns on timers->now's clock; ES_NEVER: none */
/* Incoming: 1 when the opener gave up (cancelled, reset, its deadline or its connection is over) before the
 * handler's end; *code (may be NULL): enum es_app_error. ES_EV_CHANNEL_CLOSED tells of it. */
int es_channel_cancelled(const struct es_channel *c, uint64_t *code);

struct es_msg_out {
    const uint8_t *data;
    size_t len;
    uint64_t seq;          /* used when has_seq */
    uint64_t wall_time_us; /* used when has_wall */
    uint8_t has_seq, has_wall, codec;
    void (*release)(void *); /* NULL: copied; else as es_link_write_ref, or as es_session_request */
    void *arg;
};
/* One message. ES_ERR_AGAIN: the queue is above its mark, or the session's, or the host's, nothing was
 * taken, ES_EV_CHANNEL_WRITABLE follows; ES_ERR_TOO_LARGE (peer's max_message); ES_ERR_CLOSED (finished,
 * reset, session gone, or the peer wants no more); ES_ERR_UNSUPPORTED: no messages go this way in a call of
 * this kind. */
int es_channel_send(struct es_channel *c, const struct es_msg_out *m);

struct es_msg_in {
    const uint8_t *data; /* valid until es_channel_consume */
    size_t len;
    uint64_t seq, wall_time_us;
    uint8_t has_seq, has_wall, codec;
};
/* The next message. ES_OK: *m is filled; call es_channel_consume() when its bytes were taken (credit returns
 * then). ES_ERR_AGAIN: none yet; ES_EV_CHANNEL_READABLE follows. ES_ERR_NOT_FOUND: the end (the peer
 * finished). ES_ERR_CLOSED: failed; es_channel_error() says how. */
int es_channel_recv(struct es_channel *c, struct es_msg_in *m);
void es_channel_consume(struct es_channel *c);
/* 1: es_channel_recv would not say AGAIN. 0: it would, and ES_EV_CHANNEL_READABLE follows. */
int es_channel_readable(struct es_channel *c);
/* How it failed; *f's pointers are valid while the channel lives. ES_ERR_NOT_FOUND: it did not. */
int es_channel_error(const struct es_channel *c, struct es_failure *f);
/* Our call: its results, valid while the channel lives (data, len and codec are set). ES_ERR_AGAIN: the
 * answer has not come; ES_ERR_CLOSED: the call failed, es_channel_error() says how; ES_ERR_INVAL: not ours.
 * The answer comes behind the messages: while they are not read it may not get through. */
int es_channel_result(struct es_channel *c, struct es_msg_in *m);
/* No more from us: FIN (the responder: RESPONSE status 0 + FIN; of a call: nothing yet, the answer is still
 * to come). What is queued is delivered. Harmless twice. */
int es_channel_finish(struct es_channel *c);
/* Responder: the handler ended. f NULL: like finish if not done, and STOP_SENDING when the peer has not
 * finished; f: fails with that status. The channel is still readable by nobody: recv gives ES_ERR_CLOSED. */
int es_channel_end(struct es_channel *c, const struct es_failure *f);
/* The same for a call whose handler succeeded: RESPONSE with its results. Copied, or anchored when release is
 * given (not called when this fails). ES_ERR_TOO_LARGE: over the peer's max_message, the caller is told;
 * ES_ERR_CLOSED: answered, reset or given up before. */
int es_channel_respond(struct es_channel *c, int codec, const uint8_t *payload, size_t len,
                       void (*release)(void *), void *arg);
/* A call of the peer's: messages are over in both directions, only the answer is still to come. */
void es_channel_shut(struct es_channel *c);
/* Abandon both directions with a code (ES_APP_USER + n for a user's n). The opener sends CANCEL and resets,
 * the responder answers with status cancelled and tells the peer to stop. n reaches the other side in the
 * details of its error, { reset = n } in MessagePack. */
void es_channel_reset(struct es_channel *c, uint64_t code);
/* The binding's last word, the pointer is dead after. One that did not finish sending, or a call of ours that
 * was not answered, is reset with ES_APP_CANCELLED; else what was sent before es_channel_finish() arrives. */
void es_channel_release(struct es_channel *c);

/* ---- the figures of a host, of all its connections together ---- */
struct es_host_figures {
    uint64_t open, pending, running, channels_in, channels_out, events; /* now */
    uint64_t unsent, unread;             /* bytes of messages on streams, now */
    struct es_link_totals link;          /* since the start */
    struct es_histogram rtt, cwnd, held; /* now, one value of each connection: ns, bytes, bytes */
};
/* Costs a look at every connection and stream. */
void es_session_figures(struct es_host *h, struct es_host_figures *out);

struct es_channel_stats {
    uint64_t messages_in, messages_out, bytes_in, bytes_out;
    uint64_t queued;        /* unsent bytes */
    uint64_t unread;        /* bytes of messages that came and were not consumed */
    uint64_t idle;          /* ns since a message was sent or came last, or since the opening */
    int full;               /* whoever sends now has to wait */
    uint64_t waits, waited; /* times that es_channel_send said AGAIN, and ns until it would not again */
    uint64_t high, low;     /* marks of the send queue */
    uint64_t credit;        /* bytes that the peer lets us send on it now; UINT64_MAX: not known */
    int finished, peer_finished, open, failed;
};
/* Other marks for this stream's send queue than the host's. */
void es_channel_set_queue(struct es_channel *c, size_t high, size_t low);
/* It fails (timeout) when nothing came or went for so many ns; 0: it may be idle. 0 or ES_ERR_NOMEM. */
int es_channel_set_idle_timeout(struct es_channel *c, uint64_t ns);
void es_channel_stats_get(const struct es_channel *c, struct es_channel_stats *out);

#endif
