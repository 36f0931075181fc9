/* The inside of sim_campaign: one seed's world, its two kinds of peers and what they do to each other.
 *
 * Both ends live in one process, so an operation is one struct that both look at: the side that starts it
 * keeps what it asked for, the handler on the other side finds it by its number (in the payload or the
 * metadata) and notes that it ran. Whatever does not fit is a violation, counted and printed with the seed.
 */
#ifndef ES_SPEC_C_CAMPAIGN_H
#define ES_SPEC_C_CAMPAIGN_H

#include "../../csrc/base/event.h"
#include "../../csrc/base/timer.h"
#include "../../csrc/dispatch/dispatcher.h"
#include "../../csrc/session/session.h"
#include "../../csrc/sim/rand.h"
#include "../../csrc/sim/sim.h"
#include "../../csrc/transport/endpoint.h"

#define MAX_CLIENTS 3
#define MAX_OPS     400
#define N_LANES     8
#define WIDE        4                     /* events of "campaign.wide" at once */
#define TABLE_SIZE  ((size_t)1024 * 1024) /* random bytes that every payload is a slice of */
#define MAX_SLICE   ((size_t)512 * 1024)

struct world;
struct peer;

enum op_kind { OP_CALL, OP_EVENTS, OP_DATAGRAMS, OP_CHANNEL };

enum call_mode { CALL_NOW, CALL_LATER, CALL_FAIL, CALL_MISSING, CALL_NEVER };
enum chan_mode { CHAN_ECHO, CHAN_SINK, CHAN_SOURCE, CHAN_EARLY, CHAN_FAIL, CHAN_MISSING, CHAN_RESET };

struct op {
    enum op_kind kind;
    uint32_t id;
    int mode;              /* enum call_mode, enum chan_mode */
    struct peer *peer;     /* who starts it */
    struct es_timer timer; /* its start, then whatever it waits for */
    uint64_t start;        /* ns after OPEN */
    int started, done;
    int by_close; /* it ended because the session did */

    /* calls */
    uint32_t req_len, resp_len, slice; /* slice: where in the table its bytes begin */
    uint64_t timeout;                  /* ns; 0: default; ES_NEVER */
    uint64_t cancel_after, delay;      /* ns; cancel_after 0: never */
    int anchored, idempotent, big_metadata;
    struct es_timer cancel_timer;
    struct es_call *call; /* ours while it runs */
    uint64_t deadline;
    int runs;      /* of the handler */
    int answered;  /* the handler responded with success */
    int cancelled; /* by us */
    int ok, failed, processed;
    uint8_t *anchor; /* owned until release */
    int released;
    struct es_call *job; /* the handler's, while it is suspended */
    struct es_timer job_timer;
    int job_cancelled;

    /* events and datagrams */
    int n, sent; /* how many, how many were queued */
    int lane, wide;
    uint64_t seen; /* datagrams: bits */

    /* channels: [0] the opener's end, [1] the responder's */
    struct es_channel *chan[2];
    int out[2], in[2];         /* messages sent and received */
    int fin_out[2], fin_in[2]; /* we finished; the end was read */
    int reading[2], read_failed[2], slow[2], closed_told[2], wants_out[2], late_release[2];
    struct es_timer read_timer[2];
    int chan_runs, expect_error;
};

struct lane_in {
    uint32_t next;          /* number of the next event */
    int sender;             /* its number at the sender */
    int exclusive, running; /* handlers under way */
};

struct peer { /* one end of one session */
    struct world *w;
    int server;
    struct peer *other;         /* the other end */
    struct es_session *session; /* with a reference */
    struct es_endpoint *ep;     /* dialling side: owned; accepting: the server's */
    int opened, closed, close_asked, writable_due;
    int draining, idle_told,
        goaway_got; /* we sent GOAWAY and nothing is under way any more; the peer sent one */
    struct es_close_info info;
    struct op *op[MAX_OPS];
    int n_op;
    uint32_t lane_next[N_LANES]; /* events queued per lane */
    struct lane_in lane[N_LANES];
    int events_running;
};

struct late_event { /* a handler of an event that takes its time */
    struct es_list node;
    struct es_timer timer;
    struct peer *peer;
    struct es_method *method;
    int lane, exclusive;
};

#define IDLE_TIMEOUT (1200 * ES_SECOND)
#define DARKS        4

struct world {
    uint64_t seed;
    int verbose;
    struct es_sim_rand r, more;
    int bursty; /* the network has bad times */
    struct es_sim *sim;
    struct es_poller *poller;
    struct es_timers *timers;
    struct es_endpoint *server;
    struct es_host *host[2]; /* [1] the server's; [0] of all clients */
    struct es_evq *q[2];
    struct es_app app[2];
    struct peer client[MAX_CLIENTS], accepted[MAX_CLIENTS];
    int n_clients, n_accepted;
    struct op ops[MAX_OPS];
    int n_ops;
    struct es_list late_events;
    struct es_timer rebind_timer, abrupt_timer, drain_timer;
    /* what this seed promises */
    int must_survive; /* no session may die by itself */
    int small_limits; /* resource_exhausted is an honest answer */
    int rebinds_drawn;
    int blackout;    /* the network is gone for a while */
    int rebinds;     /* how many times a client's address still changes */
    int abrupt;      /* a session is closed in the middle */
    double lossy;    /* share of datagrams that are lost or corrupted */
    uint64_t rtt;    /* ns */
    size_t max_size; /* of payloads */
    /* outcome */
    int violations;
    unsigned jobs; /* suspended handlers */
    uint64_t steps;
    uint64_t dark_at[DARKS]; /* ns: when the last datagrams met a path that was gone; the oldest at [dark %
                                DARKS] */
    unsigned dark;
};

struct totals {
    uint64_t packed, seeds, calls, ok, failed, cancelled, events, datagrams, datagrams_got, messages,
        channels, sessions, died, still, virtual_ms, packets;
};
extern struct totals totals;
extern uint8_t campaign_table[TABLE_SIZE + MAX_SLICE];

int every_probe_met_the_dark(const struct world *w); /* lately */
__attribute__((format(printf, 2, 3))) void violation(struct world *w, const char *fmt, ...);
__attribute__((format(printf, 2, 3))) void say(struct world *w, const char *fmt, ...); /* with --verbose */

static inline uint64_t below(struct world *w, uint64_t n)
{
    return es_sim_rand_below(&w->r, n);
}
static inline int chance(struct world *w, int percent)
{
    return (int)below(w, 100) < percent;
}
static inline int chance_more(struct world *w, int percent)
{
    return (int)es_sim_rand_below(&w->more, 100) < percent;
}
static inline const uint8_t *slice_at(uint64_t at)
{
    return campaign_table + at % TABLE_SIZE;
}
uint64_t now_of(const struct world *w);
size_t draw_size(struct world *w);
/* Is it excusable that something between these two failed? */
int session_is_over(const struct peer *p);
/* Has one of the two announced its end, so that new calls are refused? */
static inline int is_draining(const struct peer *p)
{
    return p->draining || p->other->draining;
}
struct op *op_by_id(struct world *w, uint64_t id);
/* The operation that metadata "op" names; NULL and a violation when there is none. */
struct op *op_of_metadata(struct world *w, const uint8_t *kv, size_t n);
/* The bytes of a payload as they were before they were packed; valid until the next call. */
void plain_of(struct world *w, struct es_session *s, int packed, const uint8_t **p, uint32_t *n);
/* Runs op after ns; a running timer is moved. */
void later(struct world *w, struct es_timer *t, uint64_t ns);

/* campaign_random.c */
void campaign_random_seed(uint64_t seed);

/* campaign_world.c */
int campaign_credentials(void);
void campaign_credentials_free(void);
int world_make(struct world *w);
void world_close(struct world *w); /* the endpoints; what they still tell is to be drained */
void world_free(struct world *w);
void start_script(struct peer *p);
void ask_close(struct peer *p, uint64_t code);

/* campaign_calls.c */
void call_draw(struct world *w, struct op *op);
void call_start(struct op *op);
void call_request(struct peer *p, struct es_ev_message *e);
void call_cancelled(struct peer *p, struct es_ev_message *e);
void call_response(struct peer *p, struct es_ev_message *e);
void call_failed(struct peer *p, struct es_ev_failed *e);
void call_check(struct op *op); /* at the end of the seed */
void call_timers(struct op *op);

/* campaign_events.c */
void events_draw(struct world *w, struct op *op);
void events_start(struct op *op); /* and goes on after SESSION_WRITABLE */
void events_got(struct peer *p, struct es_ev_message *e);
void events_settle(struct world *w); /* the session is over: late handlers end at once */

/* campaign_channels.c */
void chan_draw(struct world *w, struct op *op);
void chan_start(struct op *op);
void chan_request(struct peer *p, struct es_ev_message *e);
void chan_readable(struct es_ev_channel *e);
void chan_writable(struct es_ev_channel *e);
void chan_closed(struct es_ev_channel *e);
void chan_check(struct op *op);
void chan_timers(struct op *op);

#endif
