// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session csrc/transport csrc/sim
// needs: spec/c/campaign_random.c spec/c/campaign_world.c spec/c/campaign_calls.c
// needs: spec/c/campaign_events.c spec/c/campaign_channels.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls libzstd

/* The campaign: sessions between a server and one to three clients over a bad simulated network, seed by
 * seed.
 *
 *   sim_campaign FIRST COUNT [--verbose | --packets]
 *
 * Each seed draws a network (loss, bursts, duplication, reordering, corruption, delay, rate, rebinding) and a
 * mixed script of calls, events and named streams in both directions. Then it must hold: every call ends
 * exactly once and in time, no handler runs twice, success means that it ran once, no byte is wrong, events
 * of a lane come in order without gaps, everything ends within bounded virtual time, and no memory is left.
 * See campaign.h. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../csrc/base/clock.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"
#include "../../csrc/transport/compat.h"
#include "../../csrc/transport/poller.h"
#include "campaign.h"

#define TIME_LIMIT (4 * 3600 * ES_SECOND) /* virtual */
#define STEP_LIMIT 20000000u

struct totals totals;
uint8_t campaign_table[TABLE_SIZE + MAX_SLICE];

/* ---- what the other files use ---- */

void violation(struct world *w, const char *fmt, ...)
{
    va_list ap;

    if (w->violations++ == 20)
        fprintf(stderr, "seed %llu: more of it is not shown\n", (unsigned long long)w->seed);
    if (w->violations > 20)
        return;
    fprintf(stderr, "seed %llu at %.6f s: ", (unsigned long long)w->seed, (double)now_of(w) / 1e9);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void say(struct world *w, const char *fmt, ...)
{
    va_list ap;

    if (!w->verbose)
        return;
    printf("%12.6f ", (double)now_of(w) / 1e9);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

uint64_t now_of(const struct world *w)
{
    return w->timers ? w->timers->now : 0;
}

void later(struct world *w, struct es_timer *t, uint64_t ns)
{
    es_timer_start(w->timers, t, now_of(w) + ns);
}

size_t draw_size(struct world *w)
{
    switch (below(w, 10)) {
    case 0:
        return 0;
    case 1:
    case 2:
    case 3:
        return (size_t)below(w, 100);
    case 4:
    case 5:
    case 6:
        return (size_t)below(w, 2000 < w->max_size ? 2000 : w->max_size);
    case 7:
    case 8:
        return (size_t)below(w, 20000 < w->max_size ? 20000 : w->max_size);
    default:
        return (size_t)below(w, w->max_size);
    }
}

void plain_of(struct world *w, struct es_session *s, int packed, const uint8_t **p, uint32_t *n)
{
    size_t len = *n;
    int rc;

    if (!packed)
        return;
    totals.packed++;
    rc = es_session_plain(s, *p, len, p, &len);
    if (rc != 0)
        violation(w, "es_session_plain gave %d", rc);
    *n = rc == 0 ? (uint32_t)len : 0;
}

static int is_over(const struct peer *p)
{
    /* The end of its calls is told before CLOSED, so the session itself is asked too. */
    return p->closed || p->close_asked || (p->opened && !es_session_is_open(p->session));
}

int session_is_over(const struct peer *p)
{
    return is_over(p) || is_over(p->other);
}

struct op *op_by_id(struct world *w, uint64_t id)
{
    return id < (uint64_t)w->n_ops ? &w->ops[id] : NULL;
}

struct op *op_of_metadata(struct world *w, const uint8_t *p, size_t n)
{
    struct es_kv kv = {p, n, SIZE_MAX};
    struct es_bytes key, value;
    size_t at = 0;

    while (es_kv_next(&kv, &at, &key, &value) == 1) {
        char text[16] = "";
        struct op *op;

        if (key.n != 2 || memcmp(key.p, "op", 2) != 0 || value.n == 0 || value.n >= sizeof text)
            continue;
        memcpy(text, value.p, value.n);
        op = op_by_id(w, strtoull(text, NULL, 10));
        if (op)
            return op;
    }
    violation(w, "a request that names no operation");
    return NULL;
}

/* ---- peers ---- */

/* The accepted session's script is the one of the client whose session it is: the credentials say which. */
static void on_open_accepted(struct world *w, struct es_session *s)
{
    struct es_kv kv = {NULL, 0, SIZE_MAX};
    struct es_bytes key, value;
    size_t at = 0, n;
    int i;

    kv.p = es_session_credentials(s, &n);
    kv.n = n;
    if (es_kv_next(&kv, &at, &key, &value) != 1 || value.n != 1) {
        violation(w, "an accepted session without credentials");
        return;
    }
    i = value.p[0] - '0';
    if (i < 0 || i >= w->n_clients || w->accepted[i].session) {
        violation(w, "an accepted session of nobody");
        return;
    }
    es_session_ref(s);
    es_session_set_user(s, &w->accepted[i]);
    w->accepted[i].session = s;
    w->n_accepted++;
}

static void on_open(struct world *w, struct es_session *s)
{
    struct peer *p;

    if (!es_session_user(s))
        on_open_accepted(w, s);
    p = es_session_user(s);
    if (!p)
        return;
    if (p->opened++)
        violation(w, "a session opened twice");
    say(w, "%s opened", p->server ? "server" : "client");
    if (p->server && chance(w, 50))
        es_session_accept(s);
    else if (p->server)
        es_session_accept(s);
    start_script(p);
}

static void op_lost(struct op *op)
{
    if (op->started)
        return;
    op->done = op->by_close = 1;
    es_timer_stop(op->peer->w->timers, &op->timer);
}

/* May the wait for HELLO have been too short? Repetitions of what is lost back off to minutes. */
static int hello_may_be_late(const struct world *w)
{
    return !w->must_survive || w->blackout || w->rebinds_drawn || w->lossy > 0.1;
}

/* One of the two may have cut the other: what it sent was lost as often as a deaf peer would leave it
 * unanswered. */
static int may_be_cut(const struct peer *p, const struct es_close_info *info)
{
    const struct world *w = p->w;

    return info->app && info->code == ES_APP_EXCESSIVE_LOAD && strstr(info->reason, "acknowledges nothing") &&
           (!w->must_survive || w->blackout || w->bursty || w->lossy > 0.15 || p->other->closed ||
            p->other->close_asked || (w->rebinds_drawn && w->rtt > ES_SECOND));
}

/* Its window is full and nobody asked for what is in it, which is no excuse: see csrc/transport/stuck.c. */
static int stands_still(const struct peer *p)
{
    struct es_link_stats st;

    if (!p->session || p->closed)
        return 0;
    es_link_stats_get(es_session_link(p->session), &st);
    return st.bytes_in_flight >= st.cwnd;
}

/* Is there a reason why this session may have died by itself? */
static int death_is_excused(const struct peer *p)
{
    const struct world *w = p->w;
    const struct es_close_info *info = &p->info;

    if (!w->must_survive)
        return 1;
    if (!p->other->opened && (w->blackout || w->lossy > 0.15)) /* its end is not ours to see */
        return 1;
    if (info->app)
        return (info->code == ES_APP_HELLO && hello_may_be_late(w)) || may_be_cut(p, info);
    totals.still += info->cause == ES_CLOSE_IDLE && stands_still(p->other);
    return info->cause == ES_CLOSE_IDLE &&
           (w->rebinds_drawn || w->lossy > 0.25 || w->bursty || every_probe_met_the_dark(w));
}

static void on_closed(struct world *w, struct es_session *s, struct es_ev_closed *e)
{
    struct peer *p = es_session_user(s);
    int i;

    if (!p) { /* an accepted session that never opened: its client gave up in the handshake */
        if (e->opened)
            violation(w, "CLOSED of a session that nobody knows");
        return;
    }
    if (p->closed++)
        violation(w, "a session closed twice");
    p->info = e->info;
    say(w, "%s closed: cause %d err %d app %d code %llu %s", p->server ? "server" : "client", e->info.cause,
        e->info.err, e->info.app, (unsigned long long)e->info.code, e->info.reason);
    if (!p->close_asked && !p->other->close_asked && !p->other->closed) {
        totals.died++;
        if (!death_is_excused(p))
            violation(w, "the %s's session died: cause %d err %d app %d code %llu %s",
                      p->server ? "server" : "client", e->info.cause, e->info.err, e->info.app,
                      (unsigned long long)e->info.code, e->info.reason);
    }
    if (e->info.app && e->info.code != ES_APP_NONE && e->info.code != ES_APP_USER &&
        !may_be_cut(p, &e->info) &&
        !(p->other->closed && p->other->info.cause == ES_CLOSE_IDLE) && /* which was judged by itself */
        !(e->info.code == ES_APP_HELLO &&
          (hello_may_be_late(w) || p->other->closed || p->other->close_asked)))
        violation(w, "the %s's session was closed with application code %llu: %s",
                  p->server ? "server" : "client", (unsigned long long)e->info.code, e->info.reason);
    for (i = 0; i < p->n_op; i++)
        op_lost(p->op[i]);
    for (i = 0; i < p->n_op; i++) {
        struct op *op = p->op[i];

        if ((op->kind == OP_EVENTS || op->kind == OP_DATAGRAMS) && !op->done)
            op->done = op->by_close = 1;
        if (op->kind == OP_CALL && op->started && !op->done && !op->call)
            op->done = op->by_close = 1;
    }
}

static void resume_events(struct peer *p)
{
    int i;

    if (!p->writable_due)
        violation(p->w, "SESSION_WRITABLE without need");
    p->writable_due = 0;
    for (i = 0; i < p->n_op; i++) {
        struct op *op = p->op[i];

        if ((op->kind == OP_EVENTS || op->kind == OP_DATAGRAMS) && op->started && !op->done &&
            !es_timer_running(&op->timer))
            events_start(op);
    }
}

static void on_goaway(struct peer *p, const struct es_ev_goaway *e)
{
    if (p->goaway_got++ || !p->other->draining || e->grace_ms != 10000 || e->retry_after_ms != 500 ||
        strcmp(e->reason, "drain") != 0)
        violation(p->w, "a GOAWAY that was not sent so");
}

static void drain_one(struct world *w, struct es_event *ev)
{
    struct peer *p = es_session_user(ev->owner);

    switch (ev->type) {
    case ES_EV_SESSION_OPEN:
        on_open(w, ev->owner);
        break;
    case ES_EV_SESSION_CLOSED:
        on_closed(w, ev->owner, (struct es_ev_closed *)ev);
        break;
    case ES_EV_REQUEST:
        call_request(p, (struct es_ev_message *)ev);
        break;
    case ES_EV_CALL_CANCELLED:
        call_cancelled(p, (struct es_ev_message *)ev);
        break;
    case ES_EV_RESPONSE:
        call_response(p, (struct es_ev_message *)ev);
        break;
    case ES_EV_CALL_FAILED:
        call_failed(p, (struct es_ev_failed *)ev);
        break;
    case ES_EV_EVENT:
        events_got(p, (struct es_ev_message *)ev);
        break;
    case ES_EV_CHANNEL_REQUEST:
        chan_request(p, (struct es_ev_message *)ev);
        break;
    case ES_EV_CHANNEL_READABLE:
        chan_readable((struct es_ev_channel *)ev);
        break;
    case ES_EV_CHANNEL_WRITABLE:
        chan_writable((struct es_ev_channel *)ev);
        break;
    case ES_EV_CHANNEL_CLOSED:
        chan_closed((struct es_ev_channel *)ev);
        break;
    case ES_EV_SESSION_WRITABLE:
        resume_events(p);
        break;
    case ES_EV_SESSION_GOAWAY:
        on_goaway(p, (struct es_ev_goaway *)ev);
        break;
    case ES_EV_SESSION_IDLE:
        if (!p->draining || p->idle_told++)
            violation(w, "SESSION_IDLE without GOAWAY, or twice");
        break;
    default:
        break;
    }
}

/* Returns 1 when there was anything. */
static int drain(struct world *w)
{
    struct es_event *ev;
    int i, moved, any = 0;

    do {
        moved = 0;
        for (i = 0; i < 2; i++) {
            while ((ev = es_evq_peek(w->q[i])) != NULL) {
                drain_one(w, ev);
                es_session_pop(w->q[i]);
                moved = any = 1;
            }
        }
    } while (moved);
    return any;
}

/* One turn of the loop: 0 when there is nothing more to come, or too much has. */
static int turn(struct world *w)
{
    int n = es_poller_step(w->poller, 64);

    if (n < 0) {
        violation(w, "es_poller_step gave %d", n);
        return 0;
    }
    n += drain(w);
    es_poller_flush(w->poller);
    w->steps++;
    if (now_of(w) > TIME_LIMIT || w->steps > STEP_LIMIT) {
        violation(w, "hangs: %.0f s of virtual time, %llu steps", (double)now_of(w) / 1e9,
                  (unsigned long long)w->steps);
        return 0;
    }
    return n != 0;
}

static int peers_over(const struct world *w)
{
    int i;

    for (i = 0; i < w->n_clients; i++) {
        if (!w->client[i].closed || (w->accepted[i].session && !w->accepted[i].closed))
            return 0;
    }
    return 1;
}

/* Has everything that `from` emitted on lanes come? */
static int lanes_settled(const struct peer *from)
{
    int i, came[N_LANES] = {0};

    for (i = 0; i < N_LANES; i++) {
        if (from->other->lane[i].next)
            came[from->other->lane[i].sender] = (int)from->other->lane[i].next;
    }
    for (i = 0; i < N_LANES; i++) {
        if (came[i] != (int)from->lane_next[i])
            return 0;
    }
    return 1;
}

static int pair_settled(const struct world *w, int i)
{
    const struct peer *c = &w->client[i], *s = &w->accepted[i];
    int j;

    if (c->closed && (s->closed || !s->session))
        return 1;
    if (c->close_asked || s->close_asked || c->closed || s->closed)
        return 0;
    if (!c->opened || !s->opened || c->events_running || s->events_running)
        return 0;
    for (j = 0; j < c->n_op; j++) {
        if (!c->op[j]->done || c->op[j]->job || c->op[j]->chan[1])
            return 0;
    }
    for (j = 0; j < s->n_op; j++) {
        if (!s->op[j]->done || s->op[j]->job || s->op[j]->chan[1])
            return 0;
    }
    if (c->draining != c->idle_told || s->draining != s->idle_told || c->draining != s->goaway_got ||
        s->draining != c->goaway_got)
        return 0;
    if (!lanes_settled(c) || !lanes_settled(s))
        return 0;
    return es_session_flushed(c->session) && es_session_flushed(s->session);
}

static void tell_link(struct world *w, const struct peer *p)
{
    struct es_link_stats st;

    if (!p->session || p->closed)
        return;
    es_link_stats_get(es_session_link(p->session), &st);
    violation(
        w,
        "stuck link: %llu of %llu bytes in flight, held %llu, rtt %.1f ms, %llu lost, %u and %u streams left",
        (unsigned long long)st.bytes_in_flight, (unsigned long long)st.cwnd, (unsigned long long)st.held,
        (double)st.rtt_smoothed / 1e6, (unsigned long long)st.packets_lost, st.streams_bidi_left,
        st.streams_uni_left);
}

static void tell_stuck(struct world *w)
{
    int i, j, lane;

    for (i = 0; i < w->n_clients; i++) {
        const struct peer *pair[2] = {&w->client[i], &w->accepted[i]};

        if (pair_settled(w, i))
            continue;
        for (j = 0; j < 2; j++) {
            const struct peer *p = pair[j];
            int k;

            violation(
                w,
                "stuck %s %d: opened %d closed %d flushed %d in flight %zu, events under way %d, draining %d",
                j ? "server" : "client", i, p->opened, p->closed,
                p->session ? es_session_flushed(p->session) : -1,
                p->session ? es_session_in_flight(p->session) : 0, p->events_running, p->draining);
            tell_link(w, p);
            for (k = 0; k < p->n_op; k++) {
                if (!p->op[k]->done || p->op[k]->job || p->op[k]->chan[1])
                    violation(w, "stuck op %u kind %d mode %d started %d done %d sent %d of %d lane %d",
                              p->op[k]->id, p->op[k]->kind, p->op[k]->mode, p->op[k]->started, p->op[k]->done,
                              p->op[k]->sent, p->op[k]->n, p->op[k]->lane);
            }
            for (lane = 0; lane < N_LANES; lane++) {
                if (p->lane_next[lane] || p->lane[lane].next)
                    violation(w,
                              "stuck: %u events sent on lane %d; %u came on lane %d of the other side's %d",
                              p->lane_next[lane], lane, p->lane[lane].next, lane, p->lane[lane].sender);
            }
        }
    }
}

static void run_script(struct world *w)
{
    uint64_t checks = 0;

    for (;;) {
        int i, settled = 1;

        if (checks++ % 4 == 0) {
            for (i = 0; i < w->n_clients && settled; i++)
                settled = pair_settled(w, i);
            if (settled)
                return;
        }
        if (!turn(w)) {
            for (i = 0; i < w->n_clients && settled; i++)
                settled = pair_settled(w, i);
            if (!settled) {
                violation(w, "nothing moves any more, but not everything has ended");
                tell_stuck(w);
            }
            return;
        }
        if (w->violations)
            return;
    }
}

static void close_all(struct world *w)
{
    int i;

    es_timer_stop(w->timers, &w->rebind_timer);
    es_timer_stop(w->timers, &w->abrupt_timer);
    es_timer_stop(w->timers, &w->drain_timer);
    for (i = 0; i < w->n_clients; i++)
        ask_close(chance(w, 70) || !w->accepted[i].session ? &w->client[i] : &w->accepted[i], ES_APP_NONE);
    while (!peers_over(w) && !w->violations) {
        if (!turn(w)) {
            if (!peers_over(w))
                violation(w, "a session was never told its end");
            break;
        }
    }
    events_settle(w);
    while (!w->violations && w->jobs) { /* handlers that do not listen come to their end */
        if (!turn(w))
            break;
    }
}

static void check_all(struct world *w)
{
    int i;

    for (i = 0; i < w->n_ops; i++) {
        if (w->ops[i].kind == OP_CALL)
            call_check(&w->ops[i]);
        else if (w->ops[i].kind == OP_CHANNEL)
            chan_check(&w->ops[i]);
        else if (w->ops[i].started && !w->ops[i].done)
            violation(w, "events %u never ended", w->ops[i].id);
    }
}

/* Whoever wakes up again and again without anything to send or receive burns a processor. */
static void check_steps(struct world *w)
{
    struct es_sim_stats st;

    es_sim_stats_get(w->sim, &st);
    if (w->steps > 20000 + 20 * st.sent)
        violation(w, "%llu steps for %llu datagrams", (unsigned long long)w->steps,
                  (unsigned long long)st.sent);
}

static int run_seed(uint64_t seed, int verbose)
{
    static struct world w;
    struct es_mem_stats before, after;
    int bad;

    es_mem_stats(&before);
    memset(&w, 0, sizeof w);
    w.seed = seed;
    w.verbose = verbose;
    totals.seeds++;
    if (world_make(&w) == 0) {
        run_script(&w);
        if (!w.violations)
            close_all(&w);
        if (!w.violations)
            check_all(&w);
    } else {
        violation(&w, "the world could not be made");
    }
    if (!w.violations)
        check_steps(&w);
    bad = w.violations != 0;
    if (bad) {
        printf("seed %llu failed; again with: sim_campaign %llu 1 --verbose\n", (unsigned long long)seed,
               (unsigned long long)seed);
        fflush(stdout);
        return 1; /* its world is left as it is: taking it apart could hide or repeat the fault */
    }
    world_close(&w);
    drain(&w);
    events_settle(&w);
    world_free(&w);
    es_mem_stats(&after);
    if (after.in_use != before.in_use || after.allocs - before.allocs != after.frees - before.frees) {
        printf("seed %llu failed: %lld bytes in %lld blocks are left; again with: sim_campaign %llu 1 "
               "--verbose\n",
               (unsigned long long)seed, (long long)(after.in_use - before.in_use),
               (long long)(after.allocs - before.allocs - after.frees + before.frees),
               (unsigned long long)seed);
        bad = 1;
    }
    return bad;
}

struct job {
    uint64_t seed;
    int verbose, bad;
};

static void *seed_thread(void *arg)
{
    struct job *j = arg;

    campaign_random_seed(j->seed);
    j->bad = run_seed(j->seed, j->verbose);
    return NULL;
}

/* In a thread of its own: see campaign_random.c. */
static int run_apart(uint64_t seed, int verbose)
{
    struct job j = {seed, verbose, 1};
    pthread_t t;

    if (pthread_create(&t, NULL, seed_thread, &j) != 0) {
        fprintf(stderr, "sim_campaign: no thread\n");
        exit(2);
    }
    pthread_join(t, NULL);
    return j.bad;
}

int main(int argc, char **argv)
{
    uint64_t first, count, i, failed = 0, t0;
    struct es_sim_rand r;
    int verbose = argc <= 3 ? 0 : strcmp(argv[3], "--packets") == 0 ? 2 : strcmp(argv[3], "--verbose") == 0;
    size_t j;
    double secs;

    if (argc < 3) {
        fprintf(stderr, "usage: sim_campaign FIRST COUNT [--verbose | --packets]\n");
        return 2;
    }
    first = strtoull(argv[1], NULL, 10);
    count = strtoull(argv[2], NULL, 10);
    es_sim_rand_seed(&r, 1, 99);
    for (j = 0; j < sizeof campaign_table; j++) /* half of it can be compressed */
        campaign_table[j] = j < TABLE_SIZE / 2
                                ? (uint8_t)es_sim_rand_next(&r)
                                : (uint8_t) "the same few words again and again "[j % 35 ^ (j / 512 % 3)];
    if (campaign_credentials() != 0)
        return 2;
    t0 = es_clock_monotonic();
    for (i = 0; i < count; i++)
        failed += (uint64_t)run_apart(first + i, verbose);
    secs = (double)(es_clock_monotonic() - t0) / 1e9;
    campaign_credentials_free();
    printf("%llu seeds in %.1f s (%.1f a second), %.0f s of virtual time, %llu datagrams\n",
           (unsigned long long)count, secs, (double)count / secs, (double)totals.virtual_ms / 1e3,
           (unsigned long long)totals.packets);
    printf("%llu sessions (%llu died, %llu stood still), %llu calls: %llu ok, %llu failed as they should, "
           "%llu cancelled; "
           "%llu events, %llu of %llu datagrams, %llu streams with %llu messages; %llu payloads came "
           "compressed\n",
           (unsigned long long)totals.sessions, (unsigned long long)totals.died,
           (unsigned long long)totals.still, (unsigned long long)totals.calls, (unsigned long long)totals.ok,
           (unsigned long long)totals.failed, (unsigned long long)totals.cancelled,
           (unsigned long long)totals.events, (unsigned long long)totals.datagrams_got,
           (unsigned long long)totals.datagrams, (unsigned long long)totals.channels,
           (unsigned long long)totals.messages, (unsigned long long)totals.packed);
    printf("%llu passed, %llu failed\n", (unsigned long long)(count - failed), (unsigned long long)failed);
    return failed != 0;
}
