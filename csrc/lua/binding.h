/* The inside of the C module `echostream.core`: the structs that its files share.
 *
 * One es_lua per Lua state (the coroutines that are tasks, the log function), one es_lloop per loop (a
 * poller, its event queue, its tasks). Userdata are small: they point to malloc'd structs that are reference
 * counted, because at lua_close() finalizers run in reverse order of creation and each must bear that the
 * others are gone already (a dead loop has `closed` set).
 *
 * How Lua gets to run: loop:step() (core's only entry) -> es_poller_step fills the event queue -> drain.c
 * pops each event and resumes a task for it -> es_poller_flush sends what the tasks wrote. Library callbacks
 * never reach this folder, except quic.c's, which only append events.
 */
#ifndef ES_LUA_BINDING_H
#define ES_LUA_BINDING_H

#include <lua.h>
#include <lauxlib.h>
#include <stdint.h>
#include "../base/buf.h"
#include "../base/event.h"
#include "../base/list.h"
#include "../base/map.h"
#include "../base/timer.h"
#include "../dispatch/dispatcher.h"
#include "../link/link.h"
#include "../session/session.h"
#include "../sim/sim.h"
#include "../tcp/tcp.h"
#include "../transport/endpoint.h"
#include "../transport/poller.h"

/* Payloads from this size on are handed to the transport as they are instead of being copied. */
#define ES_ANCHOR_BYTES 4096

struct es_lua { /* one per Lua state; freed when the last loop and the registry's userdata are gone */
    lua_State *main;
    struct es_idmap tasks; /* coroutine (lua_State *) -> struct es_task */
    int log_ref;           /* set_log's function; LUA_NOREF: stderr */
    unsigned refs;
    int closing;                  /* lua_close() has begun */
    struct es_codec_names codecs; /* registered; hosts borrow it */
};

enum es_waiter_kind { ES_WAITER_TASK, ES_WAITER_CALLBACK };

struct es_waiter { /* who gets the result of an outgoing call: the `user` of es_call */
    enum es_waiter_kind kind;
    struct es_call *call; /* borrowed while it is under way, else NULL */
};

enum es_task_state { ES_TASK_IDLE, ES_TASK_READY, ES_TASK_RUNNING, ES_TASK_PARKED };
enum es_task_job { ES_JOB_NONE, ES_JOB_SPAWNED, ES_JOB_CALL, ES_JOB_EVENT, ES_JOB_CHANNEL, ES_JOB_HOOK };

struct es_ltask_ud;

struct es_task {
    struct es_waiter waiter; /* first: a waiter of kind TASK is the task */
    struct es_list node;     /* in loop->ready, loop->idle or loop->parked */
    struct es_lloop *loop;   /* shared */
    lua_State *co;           /* anchored by co_ref; reused after a job that ended well */
    int co_ref;
    enum es_task_state state;
    enum es_task_job job;
    int nargs; /* READY: values on top of co's stack to resume with; a fresh job has its function below them
                */
    uint64_t ticket; /* of the announced or current park; 0: none */
    int early_ref;   /* values of a wake that came before its park (a table), LUA_NOREF else */
    uint8_t parking; /* set just before a yield that is ours */
    uint8_t cancelled;
    uint8_t started_call; /* es_call_started was told */
    uint8_t refused;    /* the handler was not begun: a middleware answered, or nobody can read the request */
    uint8_t unreadable; /* that nobody can */
    uint8_t worn;       /* the coroutine serves no second job: it was reset in the middle of a yield */
    /* the job */
    struct es_session *session;  /* CALL, EVENT: referenced */
    struct es_call *call;        /* CALL: to be ended by us */
    struct es_method *method;    /* EVENT, CALL, CHANNEL: for its name in logs */
    struct es_lchannel *channel; /* CHANNEL: referenced */
    uint8_t lane, codec;
    uint64_t event_seq, event_gap; /* EVENT */
    int cancel_fns_ref;            /* table of functions for call_on_cancel, LUA_NOREF */
    int keep_ref;         /* function: is told instead when the caller is lost (again.c), LUA_NOREF */
    uint32_t payload_len; /* CALL, EVENT: of the arguments, as they came */
    uint64_t fingerprint; /* CALL: of the arguments' bytes, when the host wants it */
    int meta_ref;         /* table: metadata of an EVENT, or what middleware made of it; LUA_NOREF */
    int trailers_ref;     /* table: what goes with the answer to the call it serves; LUA_NOREF */
    int came_ref;         /* table: what came with the answer to its last request; LUA_NOREF */
    struct es_task *
        *holder; /* borrowed: where somebody keeps this pointer, which is cleared at the end of the job */
    struct es_ltask_ud *ud; /* its handle when one was made; anchored by ud_ref */
    int ud_ref;
};

struct es_ltask_ud { /* userdata "echostream.task"; user values: 1 result table, 2 list of on_end functions */
    struct es_task *task; /* NULL once ended */
    uint8_t ended;        /* 0, 'd'one, 'f'ailed, 'c'ancelled */
};

struct es_lloop {
    unsigned refs;
    struct es_lua *lua;                 /* referenced */
    struct es_poller *poller;           /* owned (by sim when there is one); NULL when closed */
    struct es_sim *sim;                 /* owned; NULL for the real one */
    struct es_lsim_log *sim_log;        /* owned; sim.c: what happened to datagrams; NULL: nobody asked */
    struct es_evq *events;              /* owned */
    struct es_list ready, idle, parked; /* of es_task.node */
    size_t n_idle, n_tasks;             /* tasks with a job: ready, running, parked */
    struct es_list timers;              /* es_ltimer.node that run */
    struct es_list fired;               /* es_ltimer.node that are due */
    size_t n_timers;
    struct es_list endpoints;         /* es_lendpoint.node */
    struct es_list channels;          /* es_lchannel.node of those not released */
    struct es_list doors, busy_doors; /* es_ldoor.node; es_ldoor.busy of those with something to move */
    struct es_list flush_waiters; /* es_lsession.flush_node: sessions somebody waits on to be acknowledged */
    struct es_idmap hosts;        /* struct es_host * -> struct es_lhost */
    struct es_idmap callbacks;    /* handle -> struct es_lcallback */
    struct es_buf scratch;        /* encoding */
    struct es_timer kick;         /* runs when something is ready outside a step */
    uint64_t next_ticket, next_handle;
    struct es_task *current;
    uint64_t stamp, watch, warned_at; /* watchdog.c: when the last resume ended; the shortest limit; ns */
    uint64_t slice_began;             /* drain.c: the stamp when its slice of time began */
    uint8_t busy, closed;
    /* what the event being handled would lose if Lua ran out of memory now (drain.c) */
    struct es_call *unowned_call;
    struct es_waiter *unended_waiter;
};

/* ---- core.c ---- */
struct es_lua *es_lua_get(lua_State *L);
void es_lua_unref(struct es_lua *l);
/* Calls the log function (or writes to stderr). Never raises. traceback, method may be NULL. */
void es_lua_log(lua_State *L, struct es_lua *lua, const char *level, const char *message,
                const char *traceback, const char *method);

/* ---- loop.c ---- */
struct es_lloop *es_lua_check_loop(lua_State *L, int idx); /* raises when closed */
struct es_lloop *es_lloop_ref(struct es_lloop *lp);
void es_lloop_unref(struct es_lloop *lp);
void es_lloop_wake(struct es_lloop *lp);                    /* make sure a step comes soon */
size_t es_lua_run_fired(lua_State *L, struct es_lloop *lp); /* due timers: their functions become tasks */
void es_lua_open_loop(lua_State *L, int core);
struct es_lloop *es_lloop_new(lua_State *L, const struct es_sim_config *sim); /* pushed; raises */

/* ---- sim.c ---- */
/* core.sim, and what only simulated loops can do, added to the loop's methods. */
void es_lua_open_sim(lua_State *L, int core, int methods);
void es_lsim_log_free(struct es_lloop *lp);

/* ---- task.c ---- */
void es_lua_open_task(lua_State *L, int core);
struct es_task *es_task_current(lua_State *L); /* NULL: not in a task */
/* A task for `job`; NULL: out of memory. The caller pushes function and arguments on t->co (or on L and moves
 * them), then runs or readies it. */
struct es_task *es_task_new(lua_State *L, struct es_lloop *lp, enum es_task_job job);
/* Resumes it with the nargs values on its stack and ends it when its function returned. Only from drain. */
void es_task_run(lua_State *L, struct es_task *t, int nargs);
/* Puts it in the ready list with its nargs values. */
void es_task_ready(struct es_task *t, int nargs);
/* Function and nargs arguments on top of L run in a task of their own, soon (ready list). Pops them. */
struct es_task *es_task_call(lua_State *L, struct es_lloop *lp, int nargs);
void es_task_cancel(lua_State *L, struct es_task *t);
/* The caller of the handler that t runs has given up: its on_cancel functions run, then it is cancelled. */
void es_task_give_up(lua_State *L, struct es_task *t, uint64_t code);
/* Forgets every task of a loop that closes. */
void es_task_close_all(lua_State *L, struct es_lloop *lp);
/* job.c: what the end of a task means for the call, event or channel it served. n results on top of L; or ok
 * = 0 and the error value on top. */
void es_job_end(lua_State *L, struct es_task *t, int ok, int n);
/* The loop closes under a task: what it served is ended without running anything. */
void es_job_abandon(struct es_task *t);
/* A task that never ran its function: back to the pool (its job was ended by the caller). */
void es_task_discard(lua_State *L, struct es_task *t);
/* When the scratch buffer is worth it, gives it away: fills release and arg for the transport and empties it.
 * 1: given. */
int es_lua_give_scratch(struct es_lloop *lp, void (**release)(void *), void **arg);
/* Clear text for a value raised by user code: pushes a string. */
const char *es_lua_error_text(lua_State *L, int idx);

/* ---- watchdog.c ---- */
void es_lua_watch_loop(struct es_lloop *lp); /* a new loop: its limit */
/* ns; what stamp and `held` are measured by */
uint64_t es_lua_watch_clock(struct es_lloop *lp);
/* t held the loop longer than the loop's limit: says so, unless its host allows it or it was said lately. */
void es_lua_watch_held(lua_State *L, struct es_task *t, uint64_t held);
int es_lua_host_watchdog(lua_State *L); /* host:watchdog(seconds | false) */

/* ---- drain.c ---- */
/* Runs queued events, due timers and ready tasks once through; after some milliseconds the rest of the events
 * waits. Returns how many. Never raises. */
size_t es_lua_drain(lua_State *L, struct es_lloop *lp);
/* The loop closes: takes every event without running user code. */
void es_lua_drop_events(lua_State *L, struct es_lloop *lp);

/* ---- host.c ---- */
struct es_lhost { /* userdata "echostream.host" points here */
    unsigned refs;
    struct es_lloop *loop;     /* referenced */
    struct es_host *host;      /* referenced; NULL when closed */
    struct es_app app;         /* ES_ALPN */
    struct es_packing packing; /* as in the host's configuration */
    int app_ready;
    int open_ref, accept_ref, closed_ref, goaway_ref, idle_ref, moved_ref, pong_ref; /* hooks; LUA_NOREF */
    int wrapper_ref;
    int fingerprints;          /* 1: of calls that may be sent again the arguments get one */
    uint64_t watch;            /* ns a handler may hold the loop; 0: the loop's limit */
    struct es_buf method_refs; /* ints: the registry references of the handlers */
    /* Of a simulation: how wrong this side's wall clock is. Ahead by so many ns at `skewed_at` (ns since
     * 1970, the right time), and gaining `drift` ns in each. */
    int64_t ahead;
    double drift;
    uint64_t skewed_at;
};
uint64_t es_lhost_wall(const struct es_lhost *h); /* ns since 1970, as this side's clock has it */
struct es_lhost *es_lua_check_host(lua_State *L, int idx);
struct es_lhost *es_lhost_ref(struct es_lhost *h);
void es_lhost_unref(lua_State *L, struct es_lhost *h); /* L NULL: the state is closing */
void es_lua_open_host(lua_State *L, int core);

/* ---- figures.c ---- */
int es_lua_host_figures(lua_State *L);
int es_lua_host_outcomes(lua_State *L); /* host:outcomes() */

/* ---- histogram.c ---- */
struct es_histogram;
void es_lua_open_histogram(lua_State *L, int core);
/* Pushes a copy, or an empty one for NULL. */
void es_lua_push_histogram(lua_State *L, const struct es_histogram *h);

/* ---- probe.c ---- */
void es_lua_open_probe(lua_State *L, int core);

/* ---- local.c ---- */
void es_lua_open_local(lua_State *L, int core);

/* ---- session.c ---- */
struct es_lsession { /* userdata "echostream.session" points here; es_session_user() too */
    unsigned refs;
    struct es_lloop *loop; /* referenced */
    struct es_lhost *host; /* referenced */
    struct es_session *s;  /* referenced; NULL after CLOSED was handled */
    int obj_ref;           /* the Lua session object; anchored until CLOSED was handled */
    int ud_ref;            /* our userdata; the same */
    int done_ref;          /* dial's done */
    int incoming, opened;
    struct es_list flush_node; /* in loop->flush_waiters */
    int flush_ref;             /* table of functions */
    int writable_ref;          /* table of functions */
    int migrate_ref;           /* migrate's done; LUA_NOREF: none is under way */
    int refusal_ref;           /* error object: the peer did not accept us; LUA_NOREF */
};
void es_lua_open_session(lua_State *L, int core);
/* The binding's side of a session that a peer opened: the open hook runs. NULL: it failed (logged), s was
 * closed. */
/* The link of its whole connection; NULL after CLOSED. */
struct es_link *es_lsession_connection(struct es_lsession *ls);
struct es_lsession *es_lsession_accept(lua_State *L, struct es_lhost *h, struct es_session *s);
/* The same of one that dials: the function at index `done` is told when it is open or failed. The caller sets
 * `s` and then runs the hook, or forgets it. NULL: logged. */
struct es_lsession *es_lsession_new(lua_State *L, struct es_lhost *h, int done);
int es_lsession_run_open_hook(lua_State *L, struct es_lsession *ls); /* < 0: it failed, and s was closed */
struct es_lsession *es_lsession_check(lua_State *L);                 /* argument 1; NULL: closed */
int es_lsession_closed_error(lua_State *L);                          /* nil, err; 2 */
void es_lsession_unref(lua_State *L, struct es_lsession *ls);
void es_lsession_closed(lua_State *L, struct es_lsession *ls, const struct es_ev_closed *ev);
void es_lsession_forget(lua_State *L, struct es_lsession *ls); /* closed, without telling anybody */
void es_lsession_opened(lua_State *L, struct es_lsession *ls);
void es_lsession_check_flushed(lua_State *L, struct es_lloop *lp);
/* ---- request.c ---- */
void es_lua_open_request(lua_State *L, int core);
int es_lsession_request(lua_State *L);
int es_lsession_request_cb(lua_State *L);
int es_lsession_cancel(lua_State *L);
int es_lua_read_codec(lua_State *L, int idx); /* field "codec" of an option table */
/* Reads call options at idx (nil or a table) into *o; metadata into kv (room for ES_MAX_META_PAIRS). Raises
 * on misuse. */
struct es_lcall_opts {
    struct es_call_opts o;
    struct es_packing packing;
    struct es_pair_kv kv[64];
};
void es_lua_call_opts(lua_State *L, int idx, struct es_lsession *ls, struct es_lcall_opts *out);
/* Fields "compress" and "checksum" of the option table at idx; *p keeps what they do not say. 1: one was
 * there. */
int es_lua_read_packing(lua_State *L, int idx, struct es_packing *p);
int es_lua_codec_unknown(lua_State *L, const char *what, int codec); /* nil, err; 2 */
/* When the call or stream that the running task serves must be over; ES_NEVER: no matter. */
uint64_t es_lua_handler_deadline(lua_State *L);
size_t es_lua_read_kv(lua_State *L, int idx, const char *field, struct es_pair_kv *kv,
                      size_t max); /* raises */
void es_lua_push_kv(lua_State *L, const uint8_t *p, size_t n);
/* Adds the function at idx to the list in *ref and runs the list (each in a task) and drops it. */
void es_lua_list_add(lua_State *L, int *ref, int idx);
void es_lua_list_run(lua_State *L, struct es_lloop *lp, int *ref);

struct es_lcallback {        /* request_cb */
    struct es_waiter waiter; /* first */
    struct es_lloop *loop;
    int done_ref;
    uint64_t handle;
};
/* Ends an outgoing call's waiter with the n results on top of L (popped). */
void es_lua_waiter_end(lua_State *L, struct es_waiter *w, int n);

/* ---- again.c ---- */
void es_lua_open_again(lua_State *L, int core);
int es_lsession_request_id(lua_State *L);   /* session:request_id() */
int es_lua_host_request_id(lua_State *L);   /* host:request_id() */
int es_lua_host_fingerprints(lua_State *L); /* host:fingerprints(on) */
int es_lua_task_give_up(lua_State *L);      /* task:give_up(code) */
/* The caller of the handler that t runs is lost: 1, and the handler goes on, because somebody waits for it to
 * ask again. */
int es_lua_call_kept(lua_State *L, struct es_task *t, uint64_t code);
uint64_t es_lua_fingerprint(const uint8_t *p, size_t n);

/* ---- middleware.c ---- */
void es_lua_open_middleware(lua_State *L, int core);

/* ---- encoded.c ---- */
void es_lua_open_encoded(lua_State *L, int core);
int es_lsession_emit_encoded(lua_State *L);

/* ---- door.c ---- */
void es_lua_open_door(lua_State *L, int core);
/* Moves what the two ends of doors have for each other, and frees those that are over. Returns how many doors
 * were busy. */
int es_lua_doors_pump(lua_State *L, struct es_lloop *lp);
void es_lua_doors_close(lua_State *L, struct es_lloop *lp); /* the loop closes */

/* ---- channel.c ---- */
struct es_lchannel { /* userdata "echostream.channel" points here; es_channel_user() too */
    unsigned refs;
    struct es_list node;   /* in loop->channels until released */
    struct es_lloop *loop; /* referenced */
    struct es_channel *c;  /* NULL once released */
    struct es_task *task;  /* borrowed: of the handler while it runs, else NULL */
    int incoming;
    int finished;                               /* finish or close was called here */
    int codec;                                  /* of the messages that are sent: enum es_codec */
    int blocked;                                /* send said "again" and WRITABLE has not come since */
    int readable_ref, writable_ref, closed_ref; /* tables of functions */
};
void es_lua_open_channel(lua_State *L, int core);
struct es_lchannel *es_lchannel_new(lua_State *L, struct es_lloop *lp,
                                    struct es_channel *c); /* pushes the userdata; raises on no memory */
void es_lchannel_unref(lua_State *L, struct es_lchannel *lc);
void es_lchannel_release(struct es_lchannel *lc); /* last word to the session room */
void es_lchannel_event(lua_State *L, struct es_lchannel *lc, unsigned type);
int es_lsession_open_call(lua_State *L);

/* ---- tls_peer.c ---- */
#define ES_TICKET_EVENT 0x280 /* owner: whoever gets the ticket */
/* Fields "ticket" and "on_ticket" of the option table at idx. 0 or ES_ERR_NOMEM. When the connection is not
 * made, cc->ticket_free is the caller's to call. */
int es_lua_ticket_options(lua_State *L, int idx, struct es_lloop *lp, struct es_connect_config *cc);
void es_lua_ticket_event(lua_State *L, struct es_event *ev);
void es_lua_ticket_drop(struct es_event *ev);
void es_lua_push_cert(lua_State *L, const struct es_cert_info *info);
int es_lua_push_peer_cert(lua_State *L, struct es_link *link); /* a table or nil; 1 */
/* (self, label, length, context?) -> the bytes, or nil, err */
int es_lua_export_key(lua_State *L, struct es_link *link);
int es_lsession_export_key(lua_State *L); /* the same of a session */
int es_lsession_peer_pin(lua_State *L);   /* session:peer_pin() -> 32 bytes, or nil */
int es_lua_update_key(lua_State *L, struct es_link *link, struct es_lloop *lp);

/* ---- endpoint.c, crypto.c, prompt.c ---- */
struct es_lendpoint {
    struct es_list node; /* in loop->endpoints */
    struct es_lloop *loop;
    struct es_endpoint *ep; /* NULL when closed */
    struct es_tcp *tcp;     /* owned; NULL: nothing of it is over TCP (yet) */
    int anchor_ref;         /* the userdata while open: an open server is not collected */
};
struct es_lendpoint *es_lua_check_endpoint(lua_State *L,
                                           int idx); /* raises when it is none; ep may be NULL */
void es_lendpoint_close(lua_State *L, struct es_lendpoint *le);
/* Dials, over TCP or QUIC: as es_endpoint_connect. */
int es_lendpoint_dial(struct es_lendpoint *le, int tcp, const struct es_connect_config *cc,
                      struct es_link **out, char *err, size_t n);
void es_lua_open_endpoint(lua_State *L, int core);
struct es_tls *es_lua_check_tls(lua_State *L, int idx);
void es_lua_open_crypto(lua_State *L, int core);
void es_lua_open_prompt(lua_State *L, int core);
void es_lua_open_coding(lua_State *L, int core);
void es_lua_open_decoding(lua_State *L, int core);
void es_lua_transport_config(lua_State *L, int idx,
                             struct es_transport_config *c); /* nil or a table; raises */

/* ---- path.c ---- */
/* es_link_stats as a table with times in seconds. */
void es_lua_push_link_stats(lua_State *L, struct es_link *link);
/* Argument 2, an address to move to: starts it. 0, or pushes nil, err and returns 2. Raises on misuse. */
int es_lua_migrate(lua_State *L, struct es_link *link);
/* true, or nil and why a migration failed; returns how many values. */
int es_lua_push_move(lua_State *L, const struct es_link_move *m);
int es_lsession_migrate(lua_State *L); /* session:migrate(bind, done) */
void es_lsession_moved(lua_State *L, struct es_lsession *ls, const struct es_link_move *m);

#endif
