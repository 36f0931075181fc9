/* The inside of the session room. One es_session per connection; everything that lives on one of its streams
 * begins with an es_strand, which is what es_link_stream.user and the deadline wheel point at.
 *
 * Nothing here is called back into the binding: results are records in the host's event queue. So no function
 * of this room can be re-entered, and objects die only in functions that the binding or the link called.
 */
#ifndef ES_SESSION_INTERNAL_H
#define ES_SESSION_INTERNAL_H

#include "../dispatch/host.h"
#include "../framing/frame.h"
#include "session.h"

#define ES_HELLO_TIMEOUT       (10 * ES_SECOND)  /* and 60 round trips, ... */
#define ES_HELLO_TIMEOUT_MAX   (120 * ES_SECOND) /* ... but never more */
#define ES_STARVED_RETRY       (20 * ES_MILLI)
#define ES_SMALL_FRAME         ((uint64_t)64 * 1024) /* longer ones reserve their length before they are let in */
#define ES_FRAME_OVERHEAD      4096                  /* of a frame beyond payload and metadata */
#define ES_OVERTAKEN           256                   /* CANCELs remembered for requests that have not come */
#define ES_MAX_RESETS          500  /* streams reset beyond answered calls before the peer is cut */
#define ES_MAX_CANCELS         1024 /* CANCELs remembered whose resets have not come: as many as streams */
#define ES_MAX_DATAGRAM_EVENTS 1024 /* unreliable events whose handlers have not ended; more are dropped */
#define ES_CONTROL_HIGH        ((size_t)64 * 1024) /* unsent control bytes above which PINGs are not answered */

enum es_strand_kind {
    ES_STRAND_CALL_OUT = 1,
    ES_STRAND_CALL_IN,
    ES_STRAND_CHANNEL,
    ES_STRAND_CONTROL_IN,
    ES_STRAND_LANE_IN,
    ES_STRAND_UNI_IN, /* its first varint has not come */
    ES_STRAND_CONTROL_OUT,
    ES_STRAND_LANE_OUT,
    ES_STRAND_HELLO_TIMER,   /* no stream: the peer's HELLO must come */
    ES_STRAND_STARVED_TIMER, /* no stream: look again at frames that wait for room */
    ES_STRAND_SWEEP_TIMER    /* no stream: look for requests and messages that do not become whole */
};

struct es_strand {
    uint8_t kind;
    uint8_t fin;                /* the peer's FIN came */
    uint8_t gave;               /* strand_feed gave out a frame that may lie in the reader */
    uint8_t was_backed;         /* the frame that strand_feed gave out last was backed */
    struct es_session *session; /* borrowed */
    struct es_link_stream *ls;  /* borrowed; NULL: none yet or none any more */
    struct es_deadline deadline;
    /* receiving */
    struct es_reader reader;
    uint64_t received, credited; /* bytes of the stream that came, and whose credit was returned */
    uint64_t hold;               /* bytes reported with es_link_hold() */
    uint64_t backed; /* length of the frame under way, if its bytes' credit returns as they arrive; else 0 */
    struct es_list starved; /* in session->starved while a long frame waits for room */
};

struct es_call {
    struct es_strand st;
    struct es_list node;    /* in session->calls_out, pending, calls_in, parked, fresh or postponed */
    uint64_t opened_at;     /* ns */
    struct es_meter *meter; /* borrowed; NULL: not counted. Incoming: from its admission on */
    void *user;             /* borrowed: the binding's */
    uint64_t request_id;
    uint64_t deadline; /* ns; ES_NEVER: none */
    uint8_t codec, priority, idempotent, retry;
    uint8_t peer_flags; /* incoming: ES_FLAG_ZSTD and ES_FLAG_CRC of the request: the answer may have them */
    struct es_packing packing; /* outgoing */
    /* outgoing */
    uint8_t pending;         /* waits in session->pending: `stash` has what is to be sent */
    uint8_t head_seen;       /* HEAD came */
    uint8_t fin_acked;       /* the peer has the whole request */
    struct es_event *record; /* borrowed: RESPONSE or CALL_FAILED in the queue; the call is off every list */
    struct es_buf stash;     /* owned: method, metadata, payload (pending); or a REQUEST's body (parked) */
    uint32_t method_len;     /* pending */
    uint32_t kv_len, kv_count; /* pending */
    const uint8_t *payload;    /* pending and anchored: the binding's bytes */
    size_t payload_len;        /* pending */
    size_t request_len;        /* bytes of the whole request on the wire */
    void (*release)(void *);   /* pending and anchored */
    void *release_arg;
    /* incoming */
    uint8_t got_request; /* the REQUEST frame came */
    uint8_t parked;      /* waits for HELLO or es_session_accept() */
    uint8_t delivered;   /* ES_EV_REQUEST was appended: the call holds a reference to the session */
    uint8_t admitted, running, cancelled;
    uint8_t owes;      /* its stream is gone: the end of the handler gives the peer's allowance back */
    uint8_t postponed; /* `stash` has the payload, until the peer takes the answers it has */
    uint8_t in_map;    /* session->by_id points here */
    uint8_t limited;   /* `deadline` is the method's own limit, which its caller does not know */
    uint64_t cancel_code;
    struct es_method *method;          /* used */
    struct es_ev_message *rec_request; /* borrowed: in the queue */
    struct es_ev_message *rec_cancel;
    struct es_buf metadata; /* owned */
    struct es_buf late;     /* owned: parked: what came after the REQUEST */
    struct es_buf trailers; /* owned: for the answer, pairs without the count */
    size_t n_trailers;
};

struct es_uni_in { /* the control stream of the peer, or a one-way stream whose type has not come */
    struct es_strand st;
    struct es_list node; /* in session->unis */
    uint8_t head[8];     /* of the first varint */
    uint8_t head_len;
};

struct es_lane_in {
    struct es_strand st;
    uint8_t index;       /* in session->lanes_in */
    uint8_t exclusive;   /* an event that is handled alone is under way */
    uint32_t limit;      /* events under way at once */
    uint32_t running;    /* events appended or whose handlers run */
    uint64_t next_seq;   /* the number expected */
    uint64_t unconsumed; /* bytes of their frames: the lane's credit that is still to return */
    uint64_t frames;     /* that came whole */
    /* The frame under way when the sweep saw one first: 0: none. */
    uint64_t partial_since, partial_received, partial_frame;
    struct es_buf backlog; /* owned: bytes behind an event that runs alone */
    size_t backlog_off;
};

struct es_lane_out {
    struct es_strand st;
    uint64_t seq;
};

struct es_block { /* received messages of a channel, one after another */
    struct es_list node;
    struct es_buf buf;   /* owned */
    size_t off;          /* of the first message not consumed */
    uint8_t whole;       /* buf is the body of one DATA frame; else records of a head and a body */
    uint32_t uncredited; /* whole: bytes whose credit is still to return */
};

struct es_channel {
    struct es_strand st;
    /* The message under way when the sweep saw one first: 0: none. */
    uint64_t partial_since, partial_received, partial_message;
    uint8_t owes;        /* as in es_call */
    struct es_list node; /* in session->channels */
    void *user;          /* borrowed: the binding's */
    uint64_t request_id;
    uint64_t deadline;
    struct es_method *method; /* incoming: used; NULL: ours */
    struct es_event
        *rec[4];           /* borrowed: records in the queue, by kind (REQUEST, READABLE, WRITABLE, CLOSED) */
    struct es_list blocks; /* of es_block */
    uint64_t queued_bytes; /* of messages not consumed */
    uint64_t uncredited;   /* of them: credit still to return */
    struct es_buf metadata;   /* owned: the opener's */
    struct es_buf error_text; /* owned: code, message and details of the failure */
    struct es_buf result;     /* owned: ours: the payload of RESPONSE */
    struct es_buf trailers;   /* owned: of RESPONSE, pairs without the count */
    size_t n_trailers;
    struct es_failure error;
    uint64_t opened_at;        /* ns */
    struct es_meter *meter;    /* borrowed; NULL: not counted, or counted already */
    uint64_t active;           /* ns: a message was sent, or something came, last */
    uint64_t idle_limit;       /* ns that nothing may move; 0: any */
    uint64_t moved;            /* bytes that had gone when that was looked at */
    uint64_t blocked_at;       /* ns; blocked: since when */
    uint64_t waits, waited;    /* times that it was, and ns */
    uint64_t cancel_code;      /* cancelled: why */
    struct es_buf plain;       /* owned: the first message, decompressed, while it is being read */
    struct es_packing packing; /* of what we send */
    uint8_t codec, priority, result_codec, result_packed;
    uint8_t ours;      /* we opened it */
    uint8_t call;      /* of a streaming method; 0: a named stream */
    uint8_t sends;     /* messages go out ... */
    uint8_t receives;  /* ... and come in: the REQUEST's flags and the method allow it */
    uint8_t mute;      /* the peer's call: no more messages from us, the answer is still to come */
    uint8_t cancelled; /* the peer's: the opener gave up */
    uint8_t counted;   /* in session->n_channels_* */
    uint8_t in_map;    /* session->by_id points here */
    uint8_t head_seen; /* ours: HEAD came */
    uint8_t answered;  /* ours: RESPONSE came; the peer's: RESPONSE was queued */
    uint8_t send_over; /* we sent FIN or reset, or nothing more is wanted */
    uint8_t recv_over; /* the peer's end, a failure, or nobody reads */
    uint8_t failed;    /* `error` says how */
    uint8_t blocked;   /* es_channel_send said AGAIN */
    uint8_t armed;     /* the next message appends READABLE */
    uint8_t current;   /* es_channel_recv gave out the first message */
    uint8_t fin_acked;
    uint8_t released, ended, closed_told;
    uint8_t deaf; /* released or ended: what comes in is dropped */
    uint64_t messages_in, messages_out, bytes_in, bytes_out;
};

enum { ES_REC_REQUEST, ES_REC_READABLE, ES_REC_WRITABLE, ES_REC_CLOSED };

struct es_overtaken {
    uint64_t request_id, code;
};

struct es_session {
    unsigned refs;
    uint64_t id;
    struct es_host *host; /* shared */
    struct es_link *link; /* borrowed; NULL after closed() */
    void *user;           /* borrowed: the binding's */
    uint64_t created;
    uint64_t established_at; /* ns on the timers' clock: the end of the handshake */
    uint8_t is_server;
    uint8_t established, hello_seen, accepted;
    uint8_t early;               /* between the link's early() and established() */
    uint8_t opened;              /* OPEN was appended */
    uint8_t closing;             /* es_link_close() was asked for: input is ignored */
    uint8_t dead;                /* closed() came; close_info is set */
    uint8_t reported;            /* CLOSED was appended */
    uint8_t draining, idle_told; /* we sent GOAWAY; IDLE was appended */
    uint8_t refused;             /* the peer sent GOAWAY */
    uint8_t emit_blocked;        /* es_session_emit said AGAIN */
    uint8_t crowded;             /* as in es_host, of the session's own queues */
    uint8_t shared_ids;          /* request ids come from the host */
    uint8_t instance[16], peer_instance[16];
    uint64_t caps;         /* that both sides have: what we may use; 0 before the peer's HELLO */
    uint64_t caps_in;      /* what the peer may use: before its HELLO was seen, all that ours offers */
    uint64_t *peer_codecs; /* owned: the peer's number of each codec that we announced; NULL: none */
    uint8_t n_codecs;      /* that we announced */
    uint64_t peer_max_message, peer_max_metadata, peer_max_named_streams;
    uint64_t retry_after_ms;      /* of our GOAWAY */
    uint64_t peer_retry_after_ms; /* of the peer's */
    uint64_t next_request_id;
    uint64_t held, reserved; /* bytes reported as held; of them for long frames */
    struct es_close_info close_info;
    struct es_buf credentials; /* owned: ours until HELLO is sent (dialling) */
    size_t n_credentials;
    struct es_buf peer_credentials; /* owned */
    char agent[64];                 /* the peer's */

    struct es_strand control_out;
    struct es_strand hello_timer, starved_timer, sweep_timer;
    struct es_strand *control_in;                /* borrowed: one of unis */
    struct es_list unis;                         /* of es_uni_in.node, owned */
    struct es_lane_out *lanes_out[ES_MAX_LANES]; /* owned */
    struct es_lane_in *lanes_in[ES_MAX_LANES];   /* owned */
    uint32_t datagram_events;                    /* unreliable events under way */
    uint64_t datagram_seq;

    struct es_list calls_out, pending, calls_in, parked; /* of es_call.node */
    struct es_list postponed;  /* of es_call.node: calls_in that wait until the peer takes answers */
    struct es_list fresh;      /* of es_call.node: streams of the peer whose REQUEST has not come */
    struct es_list channels;   /* of es_channel.node */
    struct es_list starved;    /* of es_strand.starved */
    struct es_list unreported; /* in host->unreported */
    struct es_list all;        /* in host->sessions while there is a link */
    size_t n_calls_out, n_pending, n_calls_in, n_running;
    size_t n_channels_in, n_channels_out, n_channels, n_events;
    struct es_idmap by_id;          /* request id -> incoming es_call or es_channel (es_strand) */
    struct es_overtaken *overtaken; /* owned: a ring; NULL until the first */
    uint32_t n_overtaken, next_overtaken;
    uint64_t resets, resets_since, cancels;
    uint32_t empty_resets; /* streams of which nothing but the reset came */
    struct {
        uint64_t t1, sent; /* its id, and when; 0: free */
    } pings[ES_MAX_PINGS];
    uint64_t emit_blocked_at;              /* ns */
    uint64_t datagram_next, datagram_seen; /* the number expected; which of the 64 before it came */
    uint64_t events_missing, events_duplicated, events_late;
    uint64_t send_waits, send_waited;
};

/* ---- session.c ---- */
/* Appends a record with a reference to the session. NULL: no memory; the connection is being closed then. */
void *session_push(struct es_session *s, unsigned type, size_t size);
/* Closes because the peer did what it must not. */
void session_violation(struct es_session *s, uint64_t code, const char *why);
void session_oom(struct es_session *s);
/* The peer did something of no use: so many points of its budget. The session may be closing after. */
void session_glitch(struct es_session *s, unsigned points, const char *what);
/* The peer did something of use, which it may give up again: its CANCEL, RESET_STREAM and STOP_SENDING, one
 * of them repeated, are no glitches. */
#define HONEST_POINTS 3
void session_honest(struct es_session *s);
void session_check_idle(struct es_session *s);
int session_may_send(const struct es_session *s); /* 0: closed or closing */
uint64_t session_now(const struct es_session *s);
void session_hold(struct es_session *s, int64_t delta);

void session_bury(struct es_session *s);  /* the link is gone: no stream is ours any more */
int session_report(struct es_session *s); /* the session is dead: appends what is still to be told */

/* ---- totals.c: for the figures of the host ---- */
void totals_established(struct es_session *s);
void totals_closed(struct es_session *s); /* with the link that is about to go */

/* ---- pack.c: what is done to payloads on their way ---- */
#define ES_OUR_CAPS (ES_CAP_ZSTD | ES_CAP_CRC | ES_CAP_DATAGRAM | ES_CAP_CLOCK)
#define ES_PACKED   (ES_FLAG_ZSTD | ES_FLAG_CRC)
#define ES_NO_CODEC UINT64_MAX

struct es_packed { /* a payload as it goes out */
    const uint8_t *p;
    size_t n;       /* without the checksum */
    uint64_t flags; /* of ES_PACKED */
};
void pack_more(struct es_session *s, const struct es_packing *how, struct es_packed *k);
/* Compresses p when `how` says so, the peer can undo it and it helps. k->p is then valid until the next one.
 */
static inline void pack_payload(struct es_session *s, const struct es_packing *how, const uint8_t *p,
                                size_t n, struct es_packed *k)
{
    k->p = p;
    k->n = n;
    k->flags = 0;
    if (how->compress == ES_COMPRESS_ON || how->checksum)
        pack_more(s, how, k);
}
static inline size_t packed_len(const struct es_packed *k)
{
    return k->n + (k->flags & ES_FLAG_CRC ? ES_CHECKSUM_BYTES : 0);
}
/* Appends the payload and its checksum to the frame whose head is the end of b, from frame_at on. */
int pack_append(struct es_buf *b, size_t frame_at, int datagram, const struct es_packed *k);
/* Queues the head in the host's scratch buffer and the payload. release: as es_link_write_ref; called before
 * it returns when the payload had to be copied. */
int pack_write(struct es_session *s, struct es_link_stream *ls, const struct es_packed *k, int fin,
               void (*release)(void *), void *arg);
/* How to answer something that came with these flags. */
struct es_packing pack_mirror(const struct es_packing *how, uint64_t flags);

int unpack_more(struct es_session *s, const struct es_raw_frame *f, int rc, uint64_t flags,
                struct es_bytes *payload, const char **why);
/* After a decoder said rc: compares the checksum, cuts it off, and checks what a compressed payload says of
 * its size. It stays compressed. rc, or ES_ERR_CORRUPT, ES_ERR_TOO_LARGE, ES_ERR_PROTOCOL. */
static inline int unpack_check(struct es_session *s, const struct es_raw_frame *f, int rc, uint64_t flags,
                               struct es_bytes *payload, const char **why)
{
    return rc == 0 && (flags & ES_PACKED) == 0 ? 0 : unpack_more(s, f, rc, flags, payload, why);
}

/* Codecs from 16 up: a frame carries the number that its receiver gave the codec. */
static inline int codec_known(const struct es_session *s, uint64_t codec)
{
    return codec <= ES_CODEC_JSON || (codec >= ES_FIRST_CODEC && codec - ES_FIRST_CODEC < s->n_codecs);
}
/* Our number as the peer's: 0; ES_ERR_AGAIN: its HELLO has not come; ES_ERR_UNSUPPORTED: it has none of that
 * name; ES_ERR_INVAL: no number of ours. */
int codec_out_more(const struct es_session *s, uint64_t codec, uint64_t *wire);
static inline int codec_out(const struct es_session *s, uint64_t codec, uint64_t *wire)
{
    if (codec > ES_CODEC_JSON)
        return codec_out_more(s, codec, wire);
    *wire = codec;
    return 0;
}
int codecs_announce(struct es_session *s, struct es_buf *out); /* fills HELLO parameter 4 */
int codecs_received(struct es_session *s, const struct es_bytes *theirs);

/* ---- up.c: what the link calls ---- */
extern const struct es_link_events session_link_events;
void session_expired(struct es_deadline *d);

/* ---- strand.c: receiving on one stream ---- */
void strand_init(struct es_strand *st, enum es_strand_kind kind, struct es_session *s,
                 struct es_link_stream *ls, uint64_t max_body);
/* es_reader_feed on st's reader. */
int strand_feed(struct es_strand *st, const uint8_t **p, size_t *n, struct es_raw_frame *out);
/* After input or consumption: returns what credit is due and reports what is held. queued: bytes of whole
 * messages that wait, uncredited: of them, not credited; may_back: a frame under way may be let in. */
void strand_settle(struct es_strand *st, uint64_t queued, uint64_t uncredited, int may_back);
/* Lets go of the stream and of what was received. The stream lives on without us. */
void strand_detach(struct es_strand *st);
/* Nothing more is read from the stream: the frame under way is dropped. */
void strand_forget(struct es_strand *st);
void strand_free(struct es_strand *st); /* detach, deadline and memory */
void strand_retry(struct es_strand *st);
void session_feed_starved(struct es_session *s);
void session_look_again(struct es_session *s); /* by the clock, for frames and calls that wait for room */
uint64_t session_max_body(const struct es_session *s);

/* ---- hello.c, control.c, goaway.c ---- */
/* Opens our control stream and sends HELLO. ES_ERR_LIMIT: the peer allows no such stream. */
int hello_send(struct es_session *s);
void hello_expired(struct es_session *s);
void hello_received(struct es_session *s, const struct es_raw_frame *f);
void session_let_in(
    struct es_session *s); /* HELLO has come and the session is accepted: parked calls go on */
int session_lets_in(const struct es_session *s);
int session_lets_in_early(
    const struct es_session *s); /* calls that may be run twice, while nothing else may */
void control_data(struct es_strand *st, const uint8_t *p, size_t n, int fin);
void control_send_cancel(struct es_session *s, uint64_t request_id, uint64_t code);
int overtaken_take(struct es_session *s, uint64_t request_id, uint64_t *code);
void goaway_received(struct es_session *s, const struct es_raw_frame *f);
void reset_counted(struct es_session *s);  /* the peer reset a stream whose call was not answered */
void reset_forgiven(struct es_session *s); /* one was answered, or cancelled as it should be */

/* ---- calls_out.c, pending.c ---- */
void call_out_data(struct es_call *c, const uint8_t *p, size_t n, int fin);
void call_out_reset(struct es_call *c, uint64_t code);
void call_out_expired(struct es_call *c);
/* Appends CALL_FAILED and takes the call off its list. Without memory it stays on calls_out, to be reported
 * with the end of the session. */
int call_out_fail(struct es_call *c, const struct es_failure *f);
void call_out_free(struct es_call *c);
int call_out_send(struct es_call *c, const struct es_bytes *method, const struct es_kv *kv,
                  const uint8_t *payload, size_t len, void (*release)(void *), void *arg);
int call_out_report(struct es_call *c); /* the session is dead */
void pending_run(struct es_session *s);
void pending_refuse(struct es_session *s); /* the peer sent GOAWAY */
uint64_t session_next_request_id(struct es_session *s);

/* ---- calls_in.c, answer.c ---- */
void call_in_opened(struct es_session *s, struct es_link_stream *ls);
void call_in_data(struct es_call *c, const uint8_t *p, size_t n, int fin);
void call_in_reset(struct es_call *c, uint64_t code);
void call_in_expired(struct es_call *c);
void call_in_cancel(struct es_call *c, uint64_t code);
void call_in_let_in(struct es_call *c);
void call_in_too_slow(struct es_call *c); /* its REQUEST does not become whole */
/* postpone.c */
int call_in_must_wait(const struct es_session *s); /* the peer takes no answers */
int call_in_postpone(struct es_call *c);           /* 0, or ES_ERR_NOMEM */
void postponed_run(struct es_session *s);          /* there may be room */
void postponed_drop(struct es_session *s);         /* the session is dead */
void call_in_end_unwanted(struct es_call *c);      /* nobody waits for the answer; c is gone after */
/* sweep.c */
void sweep_start(struct es_session *s);
void sweep_run(struct es_session *s);
int call_in_report(struct es_call *c); /* the session is dead; 0 or ES_ERR_NOMEM */
void call_in_free(struct es_call *c);
void session_glitch_refusal(struct es_session *s, const struct es_failure *f);
void call_in_end(struct es_call *c); /* frees it; the session may be gone after */
void call_in_refuse(struct es_call *c, const struct es_failure *f, uint64_t stop_code); /* the same */
/* The method's own limit passed: the caller is told at once, the handler ends the call when it ends. */
void call_in_answer_expired(struct es_call *c);
/* Queues RESPONSE + FIN on ls, STOP_SENDING unless the peer has finished, and gives the stream back. */
int answer_failure(struct es_session *s, struct es_link_stream *ls, int fin, const struct es_failure *f,
                   uint64_t stop_code);
/* The method that a request means, or 1 and why it is refused. text: room for the message. */
#define REFUSAL_TEXT (ES_MAX_NAME + 96)
int refuse_reason(struct es_session *s, const struct es_request *r, struct es_failure *f,
                  char text[REFUSAL_TEXT], struct es_method **method);

/* ---- lanes.c, emit.c ---- */
void uni_opened(struct es_session *s, struct es_link_stream *ls);
void uni_data(struct es_strand *st, const uint8_t *p, size_t n, int fin);
void uni_over(struct es_strand *st); /* reset or closed */
void uni_free(struct es_uni_in *u);
void lane_data(struct es_lane_in *l, const uint8_t *p, size_t n, int fin);
void lane_run(struct es_lane_in *l); /* goes on with the backlog */
void lane_settle(struct es_lane_in *l);
int lane_is_blocked(const struct es_lane_in *l); /* by its own events */
void lane_free(struct es_lane_in *l);
void lane_out_free(struct es_lane_out *l);
void datagram_received(struct es_session *s, const uint8_t *p, size_t n);
void emit_writable(struct es_session *s);

/* ---- flow.c: send queues, and streams on which nothing moves ---- */
/* 1: nothing more may be queued on ls now; writable() follows. */
int flow_full(struct es_session *s, struct es_link_stream *ls);
void flow_marks(struct es_link_stream *ls, const struct es_marks *m);
int flow_block_channel(struct es_channel *c); /* ES_ERR_AGAIN; WRITABLE is owed */
void flow_unblock_channel(struct es_channel *c);
int flow_block_events(struct es_session *s); /* ES_ERR_AGAIN; SESSION_WRITABLE is owed */
void flow_unblock_events(struct es_session *s);
/* The wheel fired before the deadline: 1: nothing moved for idle_limit; else it fires again. */
int flow_is_idle(struct es_channel *c);

/* ---- channel.c, channel_open.c, channel_in.c ---- */
/* The REQUEST of a named stream came on c's stream: refuses it, or makes a channel of it. c is gone after. */
void channel_accept(struct es_call *c, const struct es_request *r);
void channel_data(struct es_channel *c, const uint8_t *p, size_t n, int fin);
void channel_reset_received(struct es_channel *c, uint64_t code);
void channel_stopped(struct es_channel *c, uint64_t code);
void channel_cancelled(struct es_channel *c, uint64_t code);
void channel_expired(struct es_channel *c);
void channel_writable(struct es_channel *c);
void channel_stream_closed(struct es_channel *c);
void channel_settle(struct es_channel *c);
int channel_report(struct es_channel *c);   /* the session is dead; 0 or ES_ERR_NOMEM */
void channel_unblock(struct es_channel *c); /* the peer's HELLO came */
void channel_popped(struct es_channel *c, int kind);

/* ---- text.c ---- */
/* The failure that an application error code of the peer means. text: room for the message. */
void failure_of_code(struct es_failure *f, uint64_t code, int processed, char *text, size_t n);
void failure_set(struct es_failure *f, int status, int processed, const char *message);
/* What a call is told whose connection ended; text must live as long as *f. */
#define CLOSE_TEXT_ROOM (sizeof(((struct es_close_info *)0)->reason) + 32)
void failure_of_close(struct es_failure *f, const struct es_close_info *info, int processed,
                      char text[CLOSE_TEXT_ROOM]);
/* A user's code (ES_APP_USER and up) becomes the details { reset = n }, written into room. Else nothing. */
#define RESET_DETAILS_ROOM 16
void failure_reset_code(struct es_failure *f, uint64_t code, uint8_t room[RESET_DETAILS_ROOM]);
/* Writes pairs into the empty *b (without the count) and describes them. As es_kv_add. */
int kv_put(struct es_buf *b, const struct es_pair_kv *pairs, size_t n, struct es_kv *out);
/* As kv_put, and ES_ERR_METADATA: more than the peer takes, as far as its HELLO has said so yet. */
int kv_put_for(const struct es_session *s, struct es_buf *b, const struct es_pair_kv *pairs, size_t n,
               struct es_kv *out);
/* Replaces the pairs in *b by ones for the peer; on failure it is empty. */
int kv_replace(const struct es_session *s, struct es_buf *b, size_t *count, const struct es_pair_kv *pairs,
               size_t n);
size_t utf8_cut(const char *s, size_t n, size_t max);

/* Of what the handler sends: the method's own urgency, or the one that its caller asked for. */
static inline void set_urgency(struct es_link_stream *ls, const struct es_method *m,
                               const struct es_request *r)
{
    unsigned urgency = m->priority != ES_CALLERS_PRIORITY ? m->priority : (unsigned)r->priority;

    if (urgency != 3)
        es_link_priority(ls, ES_PRIO_FIRST + (int)urgency);
}

#endif
