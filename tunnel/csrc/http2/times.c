#include "session.h"

#define RATE_PERIOD (10 * ES_SECOND)
#define LAST_WORDS  (2 * ES_SECOND) /* for a GOAWAY to reach the kernel */

void h2_arm(struct h2_conn *c, uint64_t at)
{
    if ((c->timer_at == 0 || at < c->timer_at) && !c->sock_closing) {
        c->timer_at = at;
        et_sock_timer_in(c->h.sock, at > c->now ? at - c->now : 1);
    }
}

void h2_refused(struct h2_conn *c, int status, const char *why)
{
    if (c->role == ET_HTTP_VISITOR && c->h.events->refused != NULL) {
        c->told_refused = 1;
        c->h.events->refused(c->h.user, status, why);
    }
}

void h2_charge(struct h2_conn *c, struct es_glitch *account, uint64_t points)
{
    if (es_glitch_charge(account, c->now, points)) {
        h2_terminate(c, NGHTTP2_ENHANCE_YOUR_CALM, "too many frames that are of no use");
    }
}

/* 1: `at` has passed, the caller acts. Else it may be the next thing to wait for. */
static int due(const struct h2_conn *c, uint64_t at, uint64_t *next)
{
    if (at <= c->now) {
        return 1;
    }
    if (at < *next) {
        *next = at;
    }
    return 0;
}

/* 1: something was done, which may have changed the list. */
static int exchange_times(struct h2_conn *c, struct h2_exchange *e, uint64_t *next)
{
    int credit = e->x.unread < (uint64_t)e->window;

    if (e->out.n > e->off && e->sent && due(c, e->out_tick + c->limits.body_timeout, next)) {
        h2_fail(e, ET_RESET_TIMEOUT, "the peer does not read the body");
        return 1;
    }
    /* An upload that stops. What flows both ways (gRPC, WebSocket, after the response began) may be silent.
     */
    if (c->role != ET_HTTP_VISITOR || !e->opened || e->released || e->end_in || e->head_out || e->grpc ||
        e->connect || !credit) {
        return 0;
    }
    if (due(c, e->in_tick + c->limits.body_timeout, next)) {
        h2_answer(e, 408, ET_RESET_TIMEOUT, "the request's body does not come");
        return 1;
    }
    if (c->limits.min_body_rate != 0 && due(c, e->rate_at + RATE_PERIOD, next)) {
        uint64_t wanted = c->limits.min_body_rate * (RATE_PERIOD / ES_SECOND);

        if (e->rate_n < wanted && e->x.unread == 0) {
            h2_answer(e, 408, ET_RESET_TIMEOUT, "the request's body comes too slowly");
            return 1;
        }
        e->rate_at = c->now;
        e->rate_n = 0;
        (void)due(c, e->rate_at + RATE_PERIOD, next);
    }
    return 0;
}

static void second_goaway(struct h2_conn *c)
{
    c->drain_at = 0;
    if (nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR, NULL,
                              0) != 0) {
        c->failed = 1;
    }
    h2_dirty(c);
}

static void connection_times(struct h2_conn *c, uint64_t *next)
{
    if (c->drain_at != 0 && due(c, c->drain_at, next)) {
        second_goaway(c);
    }
    if (!c->settings_in && due(c, c->started + c->limits.head_timeout, next)) {
        h2_refused(c, 408, "the connection's first frames do not come");
        h2_terminate(c, NGHTTP2_SETTINGS_TIMEOUT, "the peer's settings do not come");
    } else if (c->head_since != 0 && due(c, c->head_since + c->limits.head_timeout, next)) {
        h2_refused(c, 408, "a head comes too slowly");
        h2_terminate(c, NGHTTP2_ENHANCE_YOUR_CALM, "a head comes too slowly");
    } else if (c->n_exchanges == 0 && c->limits.idle_timeout != 0 &&
               due(c, c->idle_since + c->limits.idle_timeout, next)) {
        h2_terminate(c, NGHTTP2_NO_ERROR, "idle");
    }
    if (c->role != ET_HTTP_BACKEND || c->limits.ping_interval == 0) {
        return;
    }
    if (c->ping_at != 0) {
        if (due(c, c->ping_at + c->limits.ping_timeout, next)) {
            h2_kill(c, ES_ERR_TIMEOUT, "no answer to a PING", 0);
        }
    } else if (due(c, c->last_in + c->limits.ping_interval, next)) {
        c->ping_at = c->now;
        if (nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL) != 0) {
            c->failed = 1;
        }
        (void)due(c, c->ping_at + c->limits.ping_timeout, next);
        h2_dirty(c);
    }
}

void h2_timer(struct h2_conn *c)
{
    uint64_t next = ES_NEVER;

    c->timer_at = 0;
    if (c->close_at != 0) {
        if (due(c, c->close_at, &next)) {
            h2_kill(c, c->err, c->why, 0);
            return;
        }
    } else {
        connection_times(c, &next);
        struct es_list *it = c->exchanges.next;

        while (it != &c->exchanges && !c->sock_closing) {
            int acted = exchange_times(c, es_container_of(it, struct h2_exchange, link), &next);

            it = acted ? c->exchanges.next : it->next;
        }
        if (c->close_at != 0) {
            (void)due(c, c->close_at, &next);
        }
    }
    if (next != ES_NEVER) {
        h2_arm(c, next);
    }
}

/* The last frames are on their way; a peer that does not take them does not hold us up. */
void h2_close_soon(struct h2_conn *c)
{
    if (c->close_at == 0) {
        c->close_at = c->now + LAST_WORDS;
        h2_arm(c, c->close_at);
    }
}
