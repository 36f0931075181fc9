/* What the files of this folder share: endpoints, connections and streams from the inside. Nobody above
 * includes it.
 *
 * Life of a connection: HANDSHAKE -> OPEN -> ENDED (what ended it is in `info`; closed() is due and comes
 * from the timer, so from a later step) -> LINGER (closed() was delivered, the library's state is gone; late
 * packets are still recognised, and answered with the saved CONNECTION_CLOSE, for three PTOs) -> freed, by
 * the timer too. Nothing is ever freed inside a library callback or an up-call.
 *
 * What protocols ask for inside up-calls is only noted (stream.h: want_*, credit) and done at the head of the
 * next flush, since ngtcp2 must not be entered again from its callbacks, nor between two writes of one
 * packet.
 */
#ifndef ES_TRANSPORT_INTERNAL_H
#define ES_TRANSPORT_INTERNAL_H

#include <gnutls/gnutls.h>
#include "../base/buf.h"
#include "../base/err.h"
#include "../base/list.h"
#include "../base/map.h"
#include "../base/mem.h"
#include "../base/pool.h"
#include "../base/timer.h"
#include "acks.h"
#include "compat.h"
#include "driver.h"
#include "endpoint.h"
#include "exporter.h"
#include "io.h"
#include "poller.h"
#include "tls.h"
#include "tls_verify.h"
#include "token.h"

struct es_early;
struct es_ticket;

#define ES_CID_LEN         16          /* of the connection ids we choose */
#define ES_SEND_MAX        (63 * 1024) /* bytes of one batch: below UDP's 65,507 in one GSO send */
#define ES_PACKET_MAX      1452        /* largest UDP payload we send */
#define ES_RETRY_LOG_EVERY (60 * ES_SECOND)
#define ES_TICKET_TOTAL    (64 * 1024) /* CRYPTO bytes a server may send us after the handshake, in all */
#define ES_UNI_LEFT_MAX    65536       /* see ES_COMPAT_REMOTE_UNI_LINGERS: no more credit after that many */
#define ES_TOKENS_MAX      6           /* stateless reset tokens of the peer that are looked for */
#define ES_WINDOW_MAX      (4 * 1024 * 1024) /* to which a stream's window grows by itself */
#define ES_DATAGRAMS_MAX   256               /* unreliable datagrams waiting to be sent */
#define ES_WATCH_WINDOW    1024              /* packet numbers back to which duplicates are known */

/* ---- streams (stream.c) ---- */

#define ES_CHUNK_BYTES 4072 /* of payload; with the head 4 KiB and a little */
#define ES_INLINE      192  /* bytes that a stream queues without any chunk */

enum es_chunk_kind { ES_CHUNK_INLINE, ES_CHUNK_POOLED, ES_CHUNK_REF };

/* A run of queued bytes. They stay where they are until the peer acknowledged them: ngtcp2 keeps pointers. */
struct es_chunk {
    struct es_chunk *next; /* owned by the queue */
    const uint8_t *p;      /* own bytes (inline, pooled) or the anchored ones (ref) */
    size_t len, cap;
    enum es_chunk_kind kind;
    void (*release)(void *); /* ref only */
    void *arg;               /* borrowed */
};

struct es_qstream {
    struct es_link_stream s; /* first member: the base */
    struct es_list all;      /* in conn->streams, or conn->dead */
    struct es_list ready;    /* in conn->ready[prio] while there is something to send */
    struct es_list ops;      /* in conn->ops while a want_* or credit is due */
    struct es_chunk *head;   /* oldest unacknowledged chunk; owned, as is the rest */
    struct es_chunk *tail;
    struct es_chunk *send;  /* first chunk with unsent bytes */
    size_t send_off;        /* bytes of `send` already in packets */
    size_t head_off;        /* bytes of `head` already acknowledged */
    size_t unsent, unacked; /* bytes */
    size_t credit;          /* stream credit to give with the next flush */
    uint64_t window;        /* bytes the peer may be ahead of the consumer; grows with a fast one */
    uint64_t round;         /* bytes consumed since round_at */
    uint64_t round_at;      /* ns */
    uint64_t reset_code, stop_code;
    uint8_t prio;
    unsigned fin : 1; /* FIN is queued */
    unsigned fin_sent : 1;
    unsigned fin_alone : 1; /* FIN went in a frame without data: its acknowledgement comes apart */
    unsigned sent : 1;      /* sent() was delivered */
    unsigned want_reset : 1, did_reset : 1;
    unsigned want_stop : 1, did_stop : 1;
    unsigned want_writable : 1, want_stopped : 1; /* up-calls due after the write loop */
    unsigned shut : 1;                            /* no more writing: the peer stopped it, or it was reset */
    unsigned remote : 1;                          /* the peer opened it */
    unsigned uni : 1;
    unsigned done : 1;    /* its allowance was given back */
    unsigned blocked : 1; /* out of stream credit; extend_max_stream_data makes it ready again */
    struct es_chunk inl;  /* heads inline_buf */
    uint8_t inline_buf[ES_INLINE];
};

/* ---- connections (conn.c, write.c, callbacks.c, link_ops.c) ---- */

/* Early data: of a client that sent some, and of a server that took some. */
enum es_early_state {
    ES_EARLY_NONE,
    ES_EARLY_TRIED,
    ES_EARLY_LOST, /* the handshake began anew, without */
    ES_EARLY_ACCEPTED,
    ES_EARLY_REJECTED
};

enum es_conn_state { ES_CONN_HANDSHAKE, ES_CONN_OPEN, ES_CONN_ENDED, ES_CONN_LINGER };

struct es_cid {
    uint8_t len;
    uint8_t b[NGTCP2_MAX_CIDLEN];
};

/* Where a level's CRYPTO stream stands between TLS messages (callbacks.c). */
struct es_tls_walk {
    uint8_t head, type; /* bytes of the message's head seen so far; its type */
    uint8_t finished;   /* Finished is complete: nothing may follow */
    uint32_t left;      /* bytes of the message still to come; its length while the head is being read */
};

#define ES_GOING_MAX 32

/* Servers: what the library is told of where the client is (names.c). */
struct es_names {
    union es_addr local, remote; /* the library's current path, as it was last seen */
    uint32_t now, next;          /* the number in its name; in the names of all other addresses */
    unsigned strange : 1;        /* the datagram in hand did not come by it */
    unsigned renew : 1;          /* its validation failed: it needs another name */
    unsigned unmet : 1;          /* ... and the datagram in hand came under another id of ours than before */
    unsigned busy : 1;           /* a validation may be under way */
    unsigned shared : 1;         /* the library talks to it under the id that it had for the path before */
    unsigned probes : 1;         /* the packet in hand has a PATH_CHALLENGE */
    unsigned follow : 1;         /* the library may retire ids of the client: it is watched */
    unsigned round;              /* PATH_CHALLENGEs of it: how often before */
    uint64_t challenged_at;      /* ns: the last of them; 0: none */
    uint64_t busy_until;         /* ns: it is over by then, once the library has written after that */
    uint64_t in_flight;          /* bytes, before it writes */
    unsigned open : 1;           /* it would write, if there is something */
    unsigned failures;           /* in a row */
    uint64_t failed_at;          /* ns: the last of them */
    ngtcp2_cid answered;         /* the client's id in use before the strange datagram */
    uint8_t dcid[ES_CID_LEN];    /* ours, of the packet that brought the client to where it is */
    uint8_t dcid_in[ES_CID_LEN]; /* of the packet in hand */
    uint64_t issued;             /* ids that the client gave out, by their largest number */
    uint64_t let_go;             /* of those, how many it knows to be retired */
    struct {
        uint64_t number;
        int64_t packet;    /* that said so */
    } going[ES_GOING_MAX]; /* retired, not acknowledged yet */
    unsigned n_going;
    int64_t sealed; /* the packet in hand, of ours */
};

/* Which packets were looked into (watch.c). */
struct es_watch {
    uint64_t secret;                     /* names.c's: what the peer cannot guess */
    uint64_t next;                       /* the largest packet number so far, and one */
    uint64_t bytes;                      /* of both directions, when points were last taken off for them */
    uint64_t seen[ES_WATCH_WINDOW / 64]; /* ring of bits */
    uint64_t number;                     /* of the packet in hand */
    uint64_t taken;                      /* the largest that the library was shown, and one */
    unsigned newest;                     /* the packet in hand has a larger one, or nobody counts */
};

struct es_conn {
    struct es_link link;     /* first member: the base */
    struct es_endpoint *ep;  /* borrowed */
    ngtcp2_conn *nc;         /* owned; NULL from LINGER on */
    gnutls_session_t tls;    /* owned; NULL once the handshake is confirmed */
    struct es_tls_peer peer; /* what TLS says of the other side, and why the handshake fails */
    struct es_app *app;      /* borrowed; server: NULL until the ALPN is known */
    ngtcp2_crypto_conn_ref ref;
    enum es_conn_state state;
    struct es_transport_config cfg;
    struct es_list node;  /* in ep->conns */
    struct es_list dirty; /* in ep->dirty while something may be there to send */
    struct es_timer timer;

    struct es_list ready[ES_PRIO_LAST + 1];
    struct es_list streams, dead, ops;
    size_t n_streams;
    struct es_idmap by_id;                    /* streams by id once `indexed`; values borrowed */
    uint64_t conn_credit;                     /* bytes arrived whose connection credit is still to be given */
    size_t credit_bidi, credit_uni;           /* new streams the peer may open, still to be given */
    size_t uni_left;                          /* one-way streams of the peer that ngtcp2 still keeps */
    struct es_chunk *dgram_head, *dgram_tail; /* owned; unreliable datagrams waiting */
    size_t n_dgrams;

    union es_addr origin;        /* server: where its first packet came from */
    union es_addr local, remote; /* local: what ngtcp2 is told for a dialled connection; remote: validated */
    struct es_sock *sock;        /* dialled: the socket that it moved to, shared; NULL: the endpoint's own */
    struct es_sock *moving;      /* owned: where it is about to move */
    union es_addr alias;  /* dialled: what ngtcp2 calls the socket it is on; of no family: its address */
    uint32_t aliases;     /* how many it has had */
    uint64_t batch_until; /* ns: what is queued may wait until then, if it is little */
    int batching;         /* it does */
    uint64_t move_until;  /* ns: it must have begun by then; 0: it has, or nobody asked */
    uint64_t migrations;
    struct es_acks acks;
    uint64_t ecn_sent, ecn_received, ecn_ce_received;
    uint64_t ecn_last;   /* packets_out when one was marked last */
    uint64_t heard_at;   /* ns: the last packet of the peer */
    uint64_t keep_alive; /* ns: after how long silence we speak; 0: never */
    uint64_t asked_at;   /* ns: when it was asked last */
    size_t n_bidi;       /* two-way streams: somebody waits for something */
    uint64_t
        ask_wait; /* ns of silence after which the peer is asked whether it is there, while somebody waits */
    struct es_qlog *qlog; /* owned; NULL: none is written */
    struct es_cid *cids;  /* owned array: the ids under which the table knows us */
    size_t n_cids, cap_cids;
    struct es_cid odcid; /* server: the id the client chose, in the table until the handshake is over */
    uint8_t tokens[ES_TOKENS_MAX][NGTCP2_STATELESS_RESET_TOKENLEN]; /* of the peer's ids in use */
    size_t n_tokens;

    struct es_close_info info;  /* valid once `ending` or state >= ENDED */
    struct es_buf close_packet; /* CONNECTION_CLOSE, to be repeated while lingering */
    unsigned close_answers;
    uint64_t linger; /* ns: three PTOs, read before the library's state was freed */

    uint64_t started, established_at; /* ns; 0: not yet */
    uint64_t bytes_in, bytes_out, packets_in, packets_out;

    struct es_timer knock; /* refused.c's, once hears_refusals was set */
    uint64_t refused_at;   /* ns: when its packets were refused first; 0: never */
    int refused_errno;     /* the last time */
    unsigned hears_refusals : 1, refused_twice : 1;

    unsigned established : 1;
    unsigned indexed : 1;         /* by_id has every stream */
    unsigned half_open : 1;       /* server: counted in ep->half_open */
    unsigned proven : 1;          /* server: the client showed a token of ours for its address */
    unsigned counted : 1;         /* server: in ep->half_open_each */
    unsigned got_token : 1;       /* client: NEW_TOKEN was kept */
    unsigned version_changed : 1; /* client: the server wanted another version, this is the second try */
    unsigned close_asked : 1;     /* es_link_close: CONNECTION_CLOSE goes with the next flush */
    unsigned got_reset : 1;       /* stateless reset */
    unsigned confirmed : 1;       /* client: the server has the whole handshake */
    unsigned tls_due : 1;         /* the TLS session may be freed at the next flush */
    unsigned keep_alive_on : 1;
    unsigned want_hold_low : 1;
    unsigned flush_again : 1;       /* the flush stopped at its limit, not because it had nothing */
    unsigned refused : 1;           /* the protocol did not want it: no up-calls */
    unsigned was_due : 1;           /* the last flush found an expiry that had passed */
    unsigned asking : 1;            /* a PING is due with the next flush */
    unsigned urgent_keep_alive : 1; /* a keep-alive stays unanswered: they come faster */
    uint64_t stuck_at;              /* ns: when bytes_in_flight changed last */
    uint64_t stuck_gap;   /* ns between that and the change before: the next probe comes within twice that */
    uint64_t stuck_bytes; /* in flight since then */
    uint64_t stuck_packets;     /* packets_in then */
    unsigned stuck_renewed : 1; /* its address got another name since then */
    uint64_t stuck_until;       /* ns: when a client begins anew if nothing changes; 0: no reason to */
    uint64_t dgram_until; /* ns: when the first waiting datagram may go beyond its share; 0: need not wait */
    uint64_t dgram_wait;  /* ns between two of those */
    unsigned dgram_tries; /* packets the first waiting datagram did not fit into */
    struct es_exporter exporter;
    uint32_t version;       /* client: what it began with, on the wire */
    uint32_t version_offer; /* client: of those that the server named, one that we speak too; 0: none */

    enum es_early_state early;
    uint64_t early_generation; /* server: see early.c */
    unsigned resumed : 1;
    unsigned owes_ticket : 1;  /* server: the client can use one */
    unsigned ticket_early : 1; /* client: the ticket that is being read allows early data */
    unsigned await_ticket : 1; /* client: the TLS session is kept for it, until ticket_until */
    uint64_t ticket_until;     /* ns */
    void (*on_ticket)(void *user, const uint8_t *block, size_t n); /* client; NULL: none wanted */
    void (*ticket_free)(void *user);
    void *ticket_user;    /* owned: ticket_free() */
    uint64_t key_packets; /* packets_out when the keys were changed last */
    uint64_t key_tried;   /* ns: when that was tried last */
    uint32_t key_updates; /* keys prepared; the first ones are not an update */

    uint64_t outstanding;   /* bytes of all streams, waiting or not acknowledged */
    uint64_t moved_at;      /* ns: when there were fewer of them last */
    uint64_t moved_packets; /* packets_in then */
    uint64_t probed_at;     /* ns: when something was sent that is not acknowledged; 0: not looked at yet */
    uint64_t probed_packets, probed_bytes; /* packets_in and bytes in flight then */
    uint32_t probes;                       /* how often before, with packets of the peer's in between */
    ngtcp2_mem mem;                        /* the library's allocator for this connection */
    uint64_t lib_held;                     /* bytes it has of it */
    struct es_watch watch;
    struct es_names names;
    struct es_tls_walk walk[2]; /* of the handshake's level, of the initial one */
    struct es_buf ticket;       /* a NewSessionTicket being collected (client) */
    size_t ticket_total;        /* CRYPTO bytes received after the handshake */
};

/* ---- endpoints (endpoint.c, accept.c, path.c) ---- */

/* A socket of an endpoint beside its first: a client moves to it, or a server offers it as its preferred
 * address. */
struct es_sock {
    struct es_list node;    /* in ep->socks */
    struct es_endpoint *ep; /* borrowed */
    void *sock;             /* owned, io.close */
    union es_addr addr;
    int wildcard;
    struct es_timer retire; /* runs once nobody uses it: late packets are still taken */
};

struct es_bucket { /* what may be sent now of something that is limited in time */
    double n;
    uint64_t at; /* ns: when n was right */
};

struct es_endpoint {
    struct es_poller *p;        /* borrowed */
    struct es_list node;        /* in p->endpoints */
    struct es_list dirty;       /* in p->dirty */
    void *sock;                 /* owned, io.close */
    union es_addr addr;         /* the real one */
    int wildcard;               /* bound to no address in particular */
    char *qlog_dir;             /* owned; NULL: no qlog */
    struct es_list socks;       /* of struct es_sock: more sockets; most endpoints have none */
    union es_addr preferred[2]; /* server: the addresses that clients are told to prefer, IPv4 and IPv6 */
    struct es_tls *tls;         /* shared; NULL: dials only */
    struct es_app **apps;       /* owned array of borrowed */
    size_t n_apps;
    struct es_transport_config transport;
    uint8_t worker;
    uint8_t reset_key[32], ticket_key[32];
    struct es_early *early; /* owned; NULL: no early data */
    struct es_tokens tokens;
    int (*on_log)(void *user, int level, const char *text);
    void *log_user; /* borrowed */
    int refusing;
    int deleting;
    size_t n_hearing; /* connections that want to know when their packets are refused */

    struct es_map by_cid;      /* connection id -> es_conn, borrowed */
    struct es_map by_token;    /* stateless reset token of a peer -> es_conn, borrowed */
    struct es_conn *last_conn; /* of the last lookup; NULL: none */
    uint8_t last_cid[ES_CID_LEN];
    struct es_list conns, dirty_conns;
    size_t n_conns;
    size_t half_open,
        unproven; /* accepted connections in their handshake; those without a token among them */
    struct es_map
        half_open_each; /* address (IPv4) or network (IPv6 /64) -> their number, see es_half_open_begin */
    enum es_retry retry;
    size_t retry_above, max_half_open, max_half_open_each;
    int retrying;
    uint64_t retry_said;              /* ns: when the log last heard of it; 0: never */
    struct es_bucket resets, replies; /* stateless resets; Version Negotiation and refusals */

    struct es_pool streams, refs;
    struct es_chunk
        *free_chunks; /* owned: idle pooled chunks. Not an es_pool, which would zero 4 KiB at each get */
    size_t n_free_chunks;
    struct es_chunk *releases, **releases_end; /* ref chunks whose release() is due at the end of the flush */

    uint8_t *out;            /* owned: ES_SEND_MAX + a packet; the batch being put together */
    struct es_dgram pending; /* the batch the socket did not take, in `out` */
    void *pending_sock;      /* borrowed: the one that did not take it */
    union es_addr pending_local, pending_remote;
    int blocked;  /* the socket is full; es_endpoint_writable lifts it */
    int flushing; /* up-calls made now are drained only after a further step: ask for one */

    struct es_endpoint_stats stats;
};

/* stream.c */
struct es_qstream *es_qstream_new(struct es_conn *c, int64_t id, int remote);
void es_qstream_retire(struct es_qstream *s); /* out of every list; memory back at the end of the flush */
void es_qstream_sweep(struct es_conn *c);     /* frees the retired ones */
struct es_qstream *es_qstream_find(struct es_conn *c, int64_t id); /* NULL: there is none */
void es_qstream_forget_ids(struct es_conn *c); /* they are about to change, or there will be none any more */
int es_qstream_write(struct es_qstream *s, const void *data, size_t n, int fin);
int es_qstream_write_ref(struct es_qstream *s, const void *data, size_t n, int fin, void (*release)(void *),
                         void *arg);
void es_qstream_make_ready(struct es_qstream *s);
size_t es_qstream_vec(const struct es_qstream *s, ngtcp2_vec *v, size_t max, size_t *bytes);
void es_qstream_advance(struct es_qstream *s, size_t n); /* n bytes went into a packet */
void es_qstream_acked(struct es_qstream *s, uint64_t n);
void es_qstream_drop_unsent(struct es_qstream *s);
/* The peer sent STOP_SENDING, which ngtcp2 answers with a reset: nothing more can be written. */
void es_qstream_stopped(struct es_qstream *s, uint64_t code);
void es_qstream_op(struct es_qstream *s);                      /* something of it is due at the next flush */
struct es_chunk *es_chunk_get(struct es_endpoint *ep);         /* pooled, with ES_CHUNK_BYTES of room */
void es_chunk_put(struct es_endpoint *ep, struct es_chunk *k); /* a ref's release is put off */
void es_endpoint_run_releases(struct es_endpoint *ep);

/* link_ops.c */
extern const struct es_link_ops es_conn_link_ops;
void es_conn_held(struct es_conn *c, int64_t delta);
/* May the peer send more on this connection? Bytes that wait here to be sent do not count: they may wait for
 * the peer's credit themselves, and two sides with full queues would wait for each other for ever. What is in
 * packets is acknowledged whatever our protocols do, and what was received is theirs to take. */
static inline int es_conn_may_credit(const struct es_conn *c)
{
    return c->link.held < c->link.hold_cap + c->link.unsent;
}
size_t es_conn_max_datagram(struct es_conn *c);

/* stats.c */
void es_conn_stats(struct es_link *l, struct es_link_stats *out);

/* conn.c */
/* verdict: of the token in hd; odcid with ES_TOKEN_RETRY only */
int es_conn_new_server(struct es_endpoint *ep, const ngtcp2_pkt_hd *hd, const ngtcp2_path *path,
                       enum es_token_verdict verdict, const ngtcp2_cid *odcid, struct es_conn **out);
int es_conn_new_client(struct es_endpoint *ep, const struct es_connect_config *cc, struct es_conn **out,
                       char *err, size_t n);
void es_conn_del(struct es_conn *c); /* no word to anybody */
/* 0, or what ngtcp2 returned; NGTCP2_ERR_DROP_CONN and NGTCP2_ERR_RETRY: the connection, a fresh one, is
 * gone. */
int es_conn_input(struct es_conn *c, const union es_addr *local, const union es_addr *remote, uint8_t ecn,
                  const uint8_t *data, size_t len);
/* Client: begins anew with the version that `version_offer` names; early data is sent again when the
 * handshake is over. ES_ERR_NOMEM: to be ended without a word. */
int es_conn_change_version(struct es_conn *c);
void es_conn_mark(struct es_conn *c); /* there may be something to send */
void es_conn_arm(struct es_conn *c);
void es_conn_finish(struct es_conn *c); /* delivers closed() now, frees the library's state */
struct es_app *es_conn_find_app(const struct es_conn *c); /* server: of the ALPN that TLS chose; NULL: none */
void es_conn_attach(struct es_conn *c);     /* server: c->app gets the connection, or refuses it */
int es_conn_established(struct es_conn *c); /* from callbacks.c: 0 or NGTCP2_ERR_CALLBACK_FAILURE */
int es_conn_add_cid(struct es_conn *c, const uint8_t *cid, size_t len);
void es_conn_add_token(struct es_conn *c, const uint8_t *token);
void es_conn_remove_token(struct es_conn *c, const uint8_t *token);
void es_conn_remove_cid(struct es_conn *c, const uint8_t *cid, size_t len);

void es_conn_renew_key(struct es_conn *c);

/* close.c */
void es_conn_set_info(struct es_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
                      const char *reason, size_t n);
void es_conn_end(struct es_conn *c, int say_so); /* as `info` says; say_so: with a CONNECTION_CLOSE */
/* What ngtcp2 returned: closes accordingly. 1: the connection is gone, with its memory (a fresh one, to be
 * dropped without a word). */
int es_conn_fail(struct es_conn *c, int liberr);
void es_conn_repeat_close(struct es_conn *c);

/* write.c: 0, or 1 when the socket is full */
int es_conn_flush(struct es_conn *c);
int es_endpoint_send(struct es_endpoint *ep, const ngtcp2_path *path, uint8_t ecn, const uint8_t *data,
                     size_t len, size_t segment, int dialled);

/* path.c */
void es_endpoint_free_socks(struct es_endpoint *ep);
/* The socket bound to `local`, beside the first one; NULL: the first one. */
struct es_sock *es_endpoint_sock(struct es_endpoint *ep, const union es_addr *local);
void es_path_begin_move(struct es_conn *c); /* from a flush */
void es_path_give_up(struct es_conn *c);    /* the connection ends: what was asked for fails */
int es_path_validated(struct es_conn *c, unsigned flags, const ngtcp2_path *path,
                      ngtcp2_path_validation_result res); /* from callbacks.c */
int es_path_preferred(struct es_conn *c, ngtcp2_path *dest, const ngtcp2_preferred_addr *paddr);
int es_path_offer(struct es_conn *c, ngtcp2_transport_params *p); /* the server's parameter; 0 or ES_ERR_* */
size_t es_path_mtu(const struct es_conn *c);                      /* bytes of UDP payload */
void es_conn_set_keep_alive(struct es_conn *c);
void es_path_keep_alive_sent(struct es_conn *c);
void es_path_answered(struct es_conn *c);
/* When nobody spoke for that long though somebody waits for an answer, the way back may be gone: a NAT that
 * took another port is noticed by the peer only when we send. */
#define ES_ASK_FIRST (800 * ES_MILLI)
static inline uint64_t es_path_ask_at(const struct es_conn *c)
{
    if (c->n_bidi == 0 || c->keep_alive == 0) {
        return ES_NEVER;
    }
    return (c->heard_at > c->asked_at ? c->heard_at : c->asked_at) + c->ask_wait;
}
void es_path_ask(struct es_conn *c);
void es_path_ping(struct es_conn *c);  /* in a flush: a PING goes with it, unless something else does */
void es_path_asked(struct es_conn *c); /* after the flush */

/* qlog.c */
struct es_qlog;
int es_qlog_open(struct es_conn *c, ngtcp2_settings *s, const ngtcp2_cid *cid);
void es_qlog_close(struct es_qlog *q);

/* callbacks.c */
/* Whose packets are sealed and opened until the next call: the library tells its crypto callbacks nothing.
 * NULL: nobody's. */
void es_conn_crypting(struct es_conn *c);
void es_conn_forget_uni(struct es_conn *c, struct es_qstream *s);
void es_conn_forget_given_up(struct es_conn *c, struct es_qstream *s);
extern const ngtcp2_callbacks es_conn_client_callbacks, es_conn_server_callbacks;
void es_conn_mem_init(struct es_conn *c);

/* frames.c */
struct es_frames_told { /* each may be NULL */
    void (*ack)(void *arg, const uint8_t *p,
                size_t n); /* the first ACK, from its type on, and all behind it */
    void (*stop)(void *arg, int64_t id, uint64_t code); /* STOP_SENDING */
    /* NEW_CONNECTION_ID (a: its number, b: retire prior to), RETIRE_CONNECTION_ID (a: the number),
     * PATH_CHALLENGE */
    void (*path)(void *arg, unsigned type, uint64_t a, uint64_t b);
};
/* Points for the frames of a packet; *what: of what kind the dearest is. Tells on the way; told: borrowed,
 * may be NULL. */
uint32_t es_frames_look(const uint8_t *p, size_t n, const struct es_frames_told *told, void *arg,
                        const char **what);

/* stuck.c */
void es_conn_end_if_stuck(struct es_conn *c);
void es_conn_read_path(const struct es_conn *c,
                       ngtcp2_path *path); /* of a packet to send: names -> addresses */

/* stall.c */
void es_conn_queued(struct es_conn *c, int64_t delta); /* bytes queued, or given up or acknowledged */
void es_conn_end_if_stalled(struct es_conn *c);

/* names.c: servers only */
void es_names_begin(struct es_conn *c, const union es_addr *local, union es_addr *remote);
/* A datagram from `remote` goes into the library: puts the name there, and says where it came to: where it
 * did, or a borrowed address. */
void es_names_in(struct es_conn *c, const union es_addr **local, union es_addr *remote, const uint8_t *data,
                 size_t len);
/* A packet of it, of a strange one, is genuine: 0: the library had better not see it. */
int es_names_let(struct es_conn *c, const uint8_t *p, size_t n, const uint8_t *head, size_t head_n);
/* With names.unmet: a packet of that datagram is genuine. */
void es_names_met(struct es_names *n, const uint8_t *head, size_t head_n);
/* In any packet of the client: a frame about connection ids or paths, as in es_frames_told. */
void es_names_issued(struct es_names *n, unsigned type, uint64_t number, uint64_t prior);
/* With names.follow: a packet of ours is being sealed, after es_acks_sent(). */
void es_names_sealed(struct es_conn *c, const uint8_t *p, size_t n);
/* With names.n_going: an ACK frame, as es_frames_told has it. */
void es_names_acked(struct es_conn *c, const uint8_t *frame, size_t len);
void es_names_taken(struct es_conn *c);      /* the library is through with a strange one */
void es_names_challenged(struct es_conn *c); /* it sends a PATH_CHALLENGE */
void es_names_settled(struct es_conn *c);    /* a path was validated, or was not */
void es_names_writing(struct es_conn *c);    /* with names.busy: it is about to write ... */
void es_names_written(struct es_conn *c);    /* ... and has written what there was to write */
/* It says NGTCP2_ERR_NO_VIABLE_PATH. 1: nothing more can be written now, but the connection goes on. */
int es_names_failed(struct es_conn *c);
void es_name_read(const struct es_conn *c, union es_addr *a); /* name -> address */

/* refused.c */
void es_refused_listen(struct es_conn *c); /* it was dialled: from here on refusals end it ... */
void es_refused_forget(struct es_conn *c); /* ... until here; harmless twice */

/* watch.c */
void es_watch_init(struct es_conn *c);
/* A packet of 1-RTT was decrypted. 1: its frames are to be charged; 0: not; NGTCP2_ERR_DECRYPT: it is too
 * late to be looked at. */
int es_watch_packet(struct es_conn *c, const uint8_t *head, size_t head_n);
/* cost, what: es_frames_look's */
void es_watch_charge(struct es_conn *c, uint32_t cost, const char *what);

/* endpoint.c, accept.c */
void es_endpoint_new_cid(struct es_endpoint *ep, ngtcp2_cid *cid);
int es_endpoint_reset_token(struct es_endpoint *ep, const ngtcp2_cid *cid, uint8_t *token);
void es_endpoint_stranger(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                          uint8_t ecn, const uint8_t *data, size_t len, const ngtcp2_version_cid *vc,
                          int unknown_version);
struct es_endpoint_stats *es_endpoint_stats_ref(struct es_endpoint *ep); /* for the io that counts */
void es_half_open_begin(struct es_conn *c); /* counts an accepted connection that is in its handshake ... */
void es_half_open_end(struct es_conn *c);   /* ... and no longer; harmless twice */
void es_endpoint_log(struct es_endpoint *ep, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* tls.c, tls_session.c; ticket: NULL for none */
gnutls_session_t es_tls_session_new(struct es_conn *c, const struct es_ticket *ticket); /* NULL: no memory */
void es_tls_key(uint8_t out[32], const uint8_t secret[32], const char *label);

/* version.c: the versions of QUIC that we speak, the one to begin with first. Their numbers on the wire. */
extern const uint32_t es_versions[];
extern const size_t es_n_versions;
int es_version_known(uint32_t wire);
uint32_t es_version_wire(int version);                            /* of 1 or 2; 0: not spoken */
int es_version_number(uint32_t wire);                             /* the inverse; 0: none of ours */
const uint32_t *es_versions_preferred(uint32_t first, size_t *n); /* a static list with that one in front */

/* ngtcp2's view of an address; borrowed */
static inline ngtcp2_addr es_nt_addr(const union es_addr *a)
{
    ngtcp2_addr r = {(ngtcp2_sockaddr *)(uintptr_t)&a->sa, es_addr_len(a)};
    return r;
}

static inline struct es_conn *es_conn_of(struct es_link *l)
{
    return (struct es_conn *)l;
}

static inline struct es_qstream *es_qstream_of(const struct es_link_stream *s)
{
    return (struct es_qstream *)(uintptr_t)s;
}

static inline uint64_t es_conn_now(const struct es_conn *c)
{
    return c->ep->p->timers.now;
}

#endif
