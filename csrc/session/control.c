/* The control stream: CANCEL, GOAWAY, PING, and the account of resets. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

#define RESET_WINDOW (10 * ES_SECOND)

/* ---- sending ---- */

/* Queues what is in the host's scratch buffer. */
static int control_write(struct es_session *s)
{
    struct es_buf *b = &s->host->scratch;

    if (s->link == NULL || s->control_out.ls == NULL)
        return ES_ERR_CLOSED;
    return es_link_write(s->control_out.ls, b->p, b->n, 0);
}

void control_send_cancel(struct es_session *s, uint64_t request_id, uint64_t code)
{
    struct es_cancel c = {request_id, code};

    /* Without memory the STOP_SENDING and RESET_STREAM that go with it have to do. */
    es_buf_clear(&s->host->scratch);
    if (es_cancel_encode(&s->host->scratch, &c) == 0)
        (void)control_write(s);
}

static void send_pong(struct es_session *s, const struct es_ping *ping)
{
    const struct es_host_config *cfg = &s->host->cfg;
    struct es_ping pong;

    /* A peer that floods PINGs and reads no PONGs is answered when it reads again. */
    if (s->control_out.ls == NULL || es_link_queued(s->control_out.ls) > ES_CONTROL_HIGH)
        return;
    pong.t1 = ping->t1;
    pong.t2 = pong.t3 = cfg->wall(cfg->ctx) / ES_MICRO;
    es_buf_clear(&s->host->scratch);
    if (es_ping_encode(&s->host->scratch, &pong, 1) == 0)
        (void)control_write(s);
}

int es_session_goaway(struct es_session *s, uint64_t grace_ms, uint64_t retry_after_ms, const char *reason)
{
    struct es_goaway g = {grace_ms, retry_after_ms, {NULL, 0}};
    int rc;

    if (!session_may_send(s))
        return ES_ERR_CLOSED;
    if (s->draining)
        return 0;
    if (reason != NULL) {
        g.reason.p = (const uint8_t *)reason;
        g.reason.n = utf8_cut(reason, strlen(reason), ES_MAX_MESSAGE_TEXT);
    }
    if (s->control_out.ls != NULL) { /* before the end of the handshake there is nobody to tell */
        es_buf_clear(&s->host->scratch);
        rc = es_goaway_encode(&s->host->scratch, &g);
        if (rc == 0)
            rc = control_write(s);
        if (rc != 0)
            return rc;
    }
    s->draining = 1;
    s->retry_after_ms = retry_after_ms;
    session_check_idle(s);
    return 0;
}

/* ---- CANCEL that came before its request ---- */

static void overtaken_put(struct es_session *s, uint64_t request_id, uint64_t code)
{
    if (s->overtaken == NULL) {
        s->overtaken = es_calloc(ES_OVERTAKEN, sizeof *s->overtaken);
        if (s->overtaken == NULL)
            return; /* the request will run; its answer is not wanted, which is allowed */
    }
    s->overtaken[s->next_overtaken].request_id = request_id;
    s->overtaken[s->next_overtaken].code = code;
    s->next_overtaken = (s->next_overtaken + 1) % ES_OVERTAKEN;
    if (s->n_overtaken < ES_OVERTAKEN)
        s->n_overtaken++;
}

int overtaken_take(struct es_session *s, uint64_t request_id, uint64_t *code)
{
    for (uint32_t i = 0; i < s->n_overtaken; i++) {
        struct es_overtaken *o = &s->overtaken[i];

        if (o->request_id == request_id && o->code != UINT64_MAX) {
            *code = o->code;
            o->code = UINT64_MAX; /* more than a varint holds: taken */
            return 1;
        }
    }
    return 0;
}

static void cancel_received(struct es_session *s, const struct es_raw_frame *f)
{
    struct es_cancel c;
    struct es_strand *st;
    const char *why = NULL;

    if (es_cancel_decode(&c, f->body, f->len, &why) != 0) {
        session_violation(s, ES_APP_PROTOCOL, why);
        return;
    }
    if (s->resets > 0)
        s->resets--;
    else if (s->cancels < ES_MAX_CANCELS)
        s->cancels++; /* it overtook its reset */
    st = es_idmap_get(&s->by_id, c.request_id);
    if (st == NULL) {
        overtaken_put(s, c.request_id, c.code); /* or it ended already: then it is forgotten in turn */
        session_glitch(s, 1, "too many CANCELs of nothing");
        return;
    }
    if (st->kind == ES_STRAND_CALL_IN) { /* what may follow was allowed for when it came */
        call_in_cancel((struct es_call *)st, c.code);
        return;
    }
    session_honest(s);
    channel_cancelled((struct es_channel *)st, c.code);
}

/* ---- GOAWAY, PING ---- */

void goaway_received(struct es_session *s, const struct es_raw_frame *f)
{
    struct es_goaway g;
    struct es_ev_goaway *e;
    const char *why = NULL;
    size_t n;

    if (es_goaway_decode(&g, f->body, f->len, &why) != 0) {
        session_violation(s, ES_APP_PROTOCOL, why);
        return;
    }
    if (s->refused)
        return;
    e = session_push(s, ES_EV_SESSION_GOAWAY, sizeof *e);
    if (e == NULL)
        return;
    s->refused = 1;
    s->peer_retry_after_ms = g.retry_after_ms;
    e->grace_ms = g.grace_ms;
    e->retry_after_ms = g.retry_after_ms;
    n = utf8_cut((const char *)g.reason.p, g.reason.n, sizeof e->reason - 1);
    if (n > 0)
        memcpy(e->reason, g.reason.p, n);
    e->reason[n] = '\0';
    pending_refuse(s);
}

#define PING_FORGOTTEN (60 * ES_SECOND)

/* Ids are times, as the protocol wants them, made different where two would be the same. */
static uint64_t ping_id(const struct es_session *s, uint64_t now_us)
{
    for (int i = 0; i < ES_MAX_PINGS; i++)
        if (s->pings[i].sent != 0 && s->pings[i].t1 >= now_us)
            now_us = s->pings[i].t1 + 1;
    return now_us;
}

int es_session_ping(struct es_session *s, uint64_t *id)
{
    const struct es_host_config *cfg = &s->host->cfg;
    struct es_ping ping = {0};
    int rc, at = -1;

    if (!session_may_send(s) || s->control_out.ls == NULL)
        return ES_ERR_CLOSED;
    if (!s->hello_seen)
        return ES_ERR_AGAIN;
    if ((s->caps & ES_CAP_CLOCK) == 0)
        return ES_ERR_UNSUPPORTED;
    for (int i = 0; i < ES_MAX_PINGS; i++)
        if (s->pings[i].sent == 0 || session_now(s) - s->pings[i].sent > PING_FORGOTTEN)
            at = i;
    if (at < 0)
        return ES_ERR_LIMIT;
    ping.t1 = ping_id(s, cfg->wall(cfg->ctx) / ES_MICRO);
    es_buf_clear(&s->host->scratch);
    rc = es_ping_encode(&s->host->scratch, &ping, 0);
    if (rc == 0)
        rc = control_write(s);
    if (rc != 0)
        return rc;
    s->pings[at].t1 = *id = ping.t1;
    s->pings[at].sent = session_now(s);
    return 0;
}

static void pong_received(struct es_session *s, const struct es_ping *pong)
{
    const struct es_host_config *cfg = &s->host->cfg;
    uint64_t now_us = cfg->wall(cfg->ctx) / ES_MICRO;
    struct es_ev_pong *e;
    uint64_t all, theirs;

    for (int i = 0; i < ES_MAX_PINGS; i++) {
        if (s->pings[i].sent == 0 || s->pings[i].t1 != pong->t1)
            continue;
        e = session_push(s, ES_EV_SESSION_PONG, sizeof *e);
        if (e == NULL)
            return;
        all = session_now(s) - s->pings[i].sent;
        /* What the peer says about itself is only believed as far as it can be true. */
        theirs = pong->t3 > pong->t2 && pong->t3 - pong->t2 < all / ES_MICRO
                     ? (pong->t3 - pong->t2) * ES_MICRO
                     : 0;
        e->id = pong->t1;
        e->rtt = all - theirs;
        e->clock_us = ((int64_t)(pong->t2 - pong->t1) + (int64_t)(pong->t3 - now_us)) / 2;
        s->pings[i].sent = 0;
        return;
    }
    session_glitch(s, 1, "too many PONGs of nothing");
}

static void ping_received(struct es_session *s, const struct es_raw_frame *f)
{
    struct es_ping ping;
    const char *why = NULL;

    if (es_ping_decode(&ping, f->body, f->len, f->type == ES_FRAME_PONG, &why) != 0)
        session_violation(s, ES_APP_PROTOCOL, why);
    else if (f->type == ES_FRAME_PING) {
        if ((s->caps & ES_CAP_CLOCK) != 0)
            send_pong(s, &ping);
        session_glitch(s, 1, "too many PINGs");
    } else {
        pong_received(s, &ping);
    }
}

/* ---- receiving ---- */

static void control_frame(struct es_session *s, const struct es_raw_frame *f)
{
    if (!s->hello_seen) {
        if (f->type == ES_FRAME_HELLO)
            hello_received(s, f);
        else
            session_violation(s, ES_APP_HELLO, "the first frame is not HELLO");
        return;
    }
    switch (f->type) {
    case ES_FRAME_HELLO:
        session_violation(s, ES_APP_HELLO, "a second HELLO");
        break;
    case ES_FRAME_CANCEL:
        cancel_received(s, f);
        break;
    case ES_FRAME_GOAWAY:
        goaway_received(s, f);
        break;
    case ES_FRAME_PING:
    case ES_FRAME_PONG:
        ping_received(s, f);
        break;
    default:
        session_violation(s, ES_APP_PROTOCOL, "a frame that does not belong on the control stream");
    }
}

void control_data(struct es_strand *st, const uint8_t *p, size_t n, int fin)
{
    struct es_session *s = st->session;
    struct es_raw_frame f;
    int rc;

    while ((rc = strand_feed(st, &p, &n, &f)) == 1) {
        control_frame(s, &f);
        if (s->closing)
            return;
    }
    if (rc == ES_ERR_NOMEM)
        session_oom(s);
    else if (rc < 0 && !s->hello_seen)
        session_violation(s, ES_APP_HELLO, st->reader.why);
    else if (rc < 0)
        session_violation(s, rc == ES_ERR_TOO_LARGE ? ES_APP_TOO_LARGE : ES_APP_PROTOCOL, st->reader.why);
    else if (fin)
        session_violation(s, ES_APP_CLOSED_CRITICAL, "the control stream was closed");
    else
        strand_settle(st, 0, 0, 1);
}

/* ---- the account of resets ---- */

/* Opening streams and resetting them costs the peer nothing and us a handler's start each. A client that
 * cancels as it should sends CANCEL, which takes the reset off the account again. */
void reset_counted(struct es_session *s)
{
    uint64_t now = session_now(s);

    if (s->cancels > 0) {
        s->cancels--;
        return;
    }
    if (now - s->resets_since > RESET_WINDOW) {
        s->resets_since = now;
        s->resets /= 2;
    }
    if (++s->resets > ES_MAX_RESETS)
        session_violation(s, ES_APP_EXCESSIVE_LOAD, "too many streams were reset");
}

void reset_forgiven(struct es_session *s)
{
    if (s->resets > 0)
        s->resets--;
}
