/* Named streams of the campaign. Every message's bytes follow from the operation, the direction and its
 * number, so the reader knows exactly what must come next. */
#include <stdio.h>
#include <string.h>

#include "campaign.h"

#define MSG_MAX 60000 /* below what a peer takes before its HELLO */

enum { OPENER, RESPONDER };

static const char refuse_text[] = "not today";

void chan_draw(struct world *w, struct op *op)
{
    static const int modes[12] = {CHAN_ECHO,   CHAN_ECHO,  CHAN_ECHO,  CHAN_SINK, CHAN_SINK,    CHAN_SOURCE,
                                  CHAN_SOURCE, CHAN_EARLY, CHAN_RESET, CHAN_FAIL, CHAN_MISSING, CHAN_ECHO};
    size_t max = draw_size(w);

    op->mode = modes[below(w, 12)];
    op->n = (int)(1 + below(w, 30));
    op->req_len = (uint32_t)(max > MSG_MAX ? MSG_MAX : max);
    if (op->req_len > 8192 && op->n > 8)
        op->n = 8;
    op->slice = (uint32_t)below(w, TABLE_SIZE);
    for (int i = 0; i < 2; i++) {
        op->slow[i] = chance(w, 25);
        op->late_release[i] = chance(w, 40);
    }
}

static uint32_t msg_hash(const struct op *op, int from, int i)
{
    uint64_t x = op->slice + (uint64_t)(from + 1) * 1000003 + (uint64_t)i * 7919;

    return (uint32_t)(es_sim_splitmix(&x) >> 16);
}

/* What the message number i from that end looks like; the echo sends the opener's own back. */
static void msg_expect(const struct op *op, int from, int i, struct es_msg_out *m)
{
    uint32_t h;

    if (op->mode == CHAN_ECHO)
        from = OPENER;
    h = msg_hash(op, from, i);
    memset(m, 0, sizeof *m);
    m->data = slice_at(h);
    m->len = i % 5 == 4 ? 0 : h % (op->req_len + 1);
    m->has_seq = i % 2;
    m->seq = m->has_seq ? h : 0;
    m->has_wall = i % 3 == 0;
    m->wall_time_us = m->has_wall ? h * UINT64_C(977) : 0;
    m->codec = ES_CODEC_RAW;
}

/* Failures that another operation cannot explain. */
static int excused(struct op *op)
{
    return session_is_over(op->peer) || session_is_over(op->peer->other);
}

static int target(const struct op *op, int end)
{
    if (end == RESPONDER)
        return op->mode == CHAN_SOURCE ? op->n : op->mode == CHAN_ECHO ? op->in[RESPONDER] : 0;
    return op->mode == CHAN_SOURCE ? 0 : op->mode == CHAN_RESET ? op->n / 2 : op->n;
}

static void read_on(struct op *op, int end);

static void let_go(struct op *op, int end)
{
    struct es_channel *c = op->chan[end];
    struct world *w = op->peer->w;

    op->chan[end] = NULL;
    es_timer_stop(w->timers, &op->read_timer[end]);
    say(w, "channel %u: %s lets go (out %d in %d)", op->id, end ? "responder" : "opener", op->out[end],
        op->in[end]);
    es_channel_release(c);
    if (end == OPENER)
        op->done = 1;
    else
        w->jobs--;
}

static void maybe_let_go(struct op *op, int end)
{
    if (!op->chan[end] || !op->fin_out[end] || !(op->fin_in[end] || op->read_failed[end]))
        return;
    if (!op->late_release[end] || op->closed_told[end])
        let_go(op, end);
}

/* The responder's handler ends; with a failure in mode CHAN_FAIL. */
static void end_handler(struct op *op)
{
    struct es_failure f;
    int rc;

    if (op->fin_out[RESPONDER])
        return;
    memset(&f, 0, sizeof f);
    f.status = ES_STATUS_PERMISSION_DENIED;
    f.message = refuse_text;
    f.message_len = sizeof refuse_text - 1;
    f.processed = ES_PROCESSED_YES;
    op->fin_out[RESPONDER] = 1;
    op->fin_in[RESPONDER] = 1;
    rc = es_channel_end(op->chan[RESPONDER], op->mode == CHAN_FAIL ? &f : NULL);
    if (rc != 0 && rc != ES_ERR_CLOSED)
        violation(op->peer->w, "channel %u: es_channel_end gave %d", op->id, rc);
}

static void finish_sending(struct op *op, int end)
{
    struct es_channel *c = op->chan[end];

    if (op->fin_out[end])
        return;
    if (end == RESPONDER) {
        if (op->mode == CHAN_SOURCE || op->fin_in[RESPONDER] || op->read_failed[RESPONDER])
            end_handler(op);
        return;
    }
    op->fin_out[OPENER] = 1;
    if (op->mode == CHAN_RESET) {
        es_channel_reset(c, ES_APP_USER + 5);
        op->read_failed[OPENER] = 1; /* nothing more is expected of it */
        return;
    }
    es_channel_finish(c);
}

static void send_on(struct op *op, int end)
{
    struct world *w = op->peer->w;

    op->wants_out[end] = 0;
    while (op->chan[end] && !op->fin_out[end] && op->out[end] < target(op, end)) {
        struct es_msg_out m;
        int rc;

        msg_expect(op, end, op->out[end], &m);
        rc = es_channel_send(op->chan[end], &m);
        if (rc == ES_ERR_AGAIN) {
            op->wants_out[end] = 1;
            return;
        }
        if (rc == ES_ERR_CLOSED) {
            if (!excused(op) && op->mode != CHAN_EARLY && op->mode != CHAN_FAIL && op->mode != CHAN_MISSING &&
                op->mode != CHAN_RESET && !w->small_limits && !is_draining(op->peer))
                violation(w, "channel %u: sending message %d gave closed", op->id, op->out[end]);
            if (end == RESPONDER)
                end_handler(op);
            op->fin_out[end] = 1;
            break;
        }
        if (rc != 0) {
            violation(w, "channel %u: es_channel_send gave %d", op->id, rc);
            break;
        }
        op->out[end]++;
        totals.messages++;
    }
    if (op->chan[end] && op->out[end] >= target(op, end) && !(end == RESPONDER && op->mode == CHAN_ECHO))
        finish_sending(op, end);
    maybe_let_go(op, end);
}

/* ---- reading ---- */

static void check_message(struct op *op, int end, const struct es_msg_in *m)
{
    struct es_msg_out x;
    int i = op->in[end];

    msg_expect(op, !end, i, &x);
    if (i >= (end == OPENER && op->mode == CHAN_ECHO ? op->n : target(op, !end)))
        violation(op->peer->w, "channel %u: message %d was never sent", op->id, i);
    else if (m->len != x.len || memcmp(m->data, x.data, x.len) != 0)
        violation(op->peer->w, "channel %u: message %d has wrong bytes (%zu, %zu)", op->id, i, m->len, x.len);
    else if (m->has_seq != x.has_seq || m->seq != x.seq || m->has_wall != x.has_wall ||
             m->wall_time_us != x.wall_time_us || m->codec != x.codec)
        violation(op->peer->w, "channel %u: message %d has a wrong head", op->id, i);
}

static void read_failure(struct op *op, int end)
{
    struct world *w = op->peer->w;
    struct es_failure f;
    int ok;

    memset(&f, 0, sizeof f);
    if (es_channel_error(op->chan[end], &f) != 0)
        violation(w, "channel %u: closed without an error", op->id);
    op->read_failed[end] = 1;
    say(w, "channel %u: %s reads status %d: %.*s", op->id, end ? "responder" : "opener", f.status,
        (int)f.message_len, f.message ? f.message : "");
    ok = excused(op) ||
         (end == OPENER && is_draining(op->peer) && f.status == ES_STATUS_UNAVAILABLE && !op->chan_runs) ||
         (w->small_limits && f.status == ES_STATUS_RESOURCE_EXHAUSTED) || op->mode == CHAN_RESET ||
         (f.status == ES_STATUS_TIMEOUT && (w->bursty || every_probe_met_the_dark(w))); /* after 20 min */
    if (end == OPENER && op->mode == CHAN_FAIL)
        ok |= f.status == ES_STATUS_PERMISSION_DENIED && f.message_len == sizeof refuse_text - 1;
    if (end == OPENER && op->mode == CHAN_MISSING)
        ok |= f.status == ES_STATUS_METHOD_NOT_FOUND && f.processed == ES_PROCESSED_NO;
    if (end == RESPONDER && (op->mode == CHAN_EARLY || op->mode == CHAN_FAIL))
        ok = 1; /* the opener let go of what nobody wants */
    if (!ok)
        violation(w, "channel %u (mode %d): %s failed with status %d: %.*s", op->id, op->mode,
                  end ? "responder" : "opener", f.status, (int)f.message_len, f.message ? f.message : "");
}

static void reading_is_over(struct op *op, int end)
{
    if (end == RESPONDER) {
        if (op->mode != CHAN_SOURCE || op->read_failed[end])
            end_handler(op);
        return;
    }
    if (op->out[OPENER] < target(op, OPENER) && !op->fin_out[OPENER]) { /* it is answered: nobody reads us */
        if (!op->read_failed[OPENER] && op->mode != CHAN_EARLY && !excused(op))
            violation(op->peer->w, "channel %u: ended before we had finished", op->id);
        op->fin_out[OPENER] = 1;
    }
    if (!op->fin_out[OPENER])
        finish_sending(op, OPENER);
}

/* Takes one message in, if there is one: 1 to go on. */
static int read_one(struct op *op, int end)
{
    struct world *w = op->peer->w;
    struct es_msg_in m;
    int rc;

    if (end == RESPONDER && op->mode == CHAN_ECHO && op->out[RESPONDER] < op->in[RESPONDER]) {
        send_on(op, RESPONDER); /* the echo of the last one comes first */
        if (!op->chan[end] || op->out[RESPONDER] < op->in[RESPONDER])
            return 0;
    }
    rc = es_channel_recv(op->chan[end], &m);
    if (rc == 0) {
        check_message(op, end, &m);
        op->in[end]++;
        es_channel_consume(op->chan[end]);
        if (end == RESPONDER && op->mode == CHAN_EARLY && op->in[end] > op->n / 3) {
            end_handler(op);
            return 0;
        }
        return 1;
    }
    if (rc == ES_ERR_AGAIN) {
        op->reading[end] = 0;
        if (op->closed_told[end])
            violation(w, "channel %u: nothing to read after CHANNEL_CLOSED", op->id);
        return 0;
    }
    if (rc == ES_ERR_NOT_FOUND)
        op->fin_in[end] = 1;
    else if (rc == ES_ERR_CLOSED)
        read_failure(op, end);
    else
        violation(w, "channel %u: es_channel_recv gave %d", op->id, rc);
    reading_is_over(op, end);
    return 0;
}

static void read_on(struct op *op, int end)
{
    struct world *w = op->peer->w;

    while (op->chan[end] && !op->fin_in[end] && !op->read_failed[end]) {
        if (!read_one(op, end))
            break;
        if (op->slow[end]) {
            later(w, &op->read_timer[end], 1 + below(w, 5 * ES_MILLI));
            return;
        }
    }
    maybe_let_go(op, end);
}

static void on_read_opener(struct es_timer *t)
{
    read_on(t->user, OPENER);
}
static void on_read_responder(struct es_timer *t)
{
    read_on(t->user, RESPONDER);
}

void chan_timers(struct op *op)
{
    es_timer_init(&op->read_timer[OPENER], on_read_opener, op);
    es_timer_init(&op->read_timer[RESPONDER], on_read_responder, op);
}

/* ---- what happens to them ---- */

void chan_start(struct op *op)
{
    struct peer *p = op->peer;
    struct world *w = p->w;
    const char *name = op->mode == CHAN_MISSING ? "no.such.stream" : "campaign.pipe";
    struct es_call_opts o;
    struct es_pair_kv kv;
    char id[16];
    int rc;

    snprintf(id, sizeof id, "%u", op->id);
    kv.key = "op";
    kv.key_len = 2;
    kv.value = id;
    kv.value_len = strlen(id);
    es_call_opts_default(&o);
    o.deadline = ES_NEVER;
    o.metadata = &kv;
    o.n_metadata = 1;
    op->started = 1;
    rc = es_channel_open(p->session, name, strlen(name), &o, op, &op->chan[OPENER]);
    if (rc != 0) {
        if (rc != ES_ERR_LIMIT && !(rc == ES_ERR_CLOSED && (session_is_over(p) || is_draining(p))))
            violation(w, "channel %u: es_channel_open gave %d", op->id, rc);
        if (rc == ES_ERR_LIMIT && !w->small_limits)
            violation(w, "channel %u: no stream for it", op->id);
        op->chan[OPENER] = NULL;
        op->done = op->by_close = 1;
        return;
    }
    totals.channels++;
    say(w, "channel %u opened by %s: mode %d, %d messages of up to %u", op->id,
        p->server ? "server" : "client", op->mode, op->n, op->req_len);
    send_on(op, OPENER);
}

void chan_request(struct peer *p, struct es_ev_message *e)
{
    struct world *w = p->w;
    struct op *op = op_of_metadata(w, e->data, e->metadata_len);

    if (!op)
        return;
    if (op->kind != OP_CHANNEL || op->peer != p->other || !op->started)
        violation(w, "op %u: a named stream that its side never opened", op->id);
    if (++op->chan_runs > 1)
        violation(w, "channel %u: its handler ran %d times", op->id, op->chan_runs);
    if (op->mode == CHAN_MISSING)
        violation(w, "channel %u: handler of a stream that does not exist", op->id);
    op->chan[RESPONDER] = e->channel;
    es_channel_set_user(e->channel, op);
    w->jobs++;
    if (op->mode == CHAN_FAIL) {
        end_handler(op);
        maybe_let_go(op, RESPONDER);
        return;
    }
    send_on(op, RESPONDER);
}

static int end_of(struct op *op, struct es_channel *c)
{
    if (c && c == op->chan[OPENER])
        return OPENER;
    if (c && c == op->chan[RESPONDER])
        return RESPONDER;
    violation(op->peer->w, "channel %u: a record about a channel that was released", op->id);
    return -1;
}

void chan_readable(struct es_ev_channel *e)
{
    struct op *op = e->user;
    int end = end_of(op, e->channel);

    if (end < 0)
        return;
    if (op->reading[end] && !op->fin_in[end] && !op->read_failed[end])
        violation(op->peer->w, "channel %u: READABLE again before recv said again", op->id);
    op->reading[end] = 1;
    read_on(op, end);
}

void chan_writable(struct es_ev_channel *e)
{
    struct op *op = e->user;
    int end = end_of(op, e->channel);

    if (end < 0)
        return;
    if (!op->wants_out[end])
        return;
    send_on(op, end);
    if (op->chan[end] && op->reading[end] && !es_timer_running(&op->read_timer[end]))
        read_on(op, end);
}

void chan_closed(struct es_ev_channel *e)
{
    struct op *op = e->user;
    int end = end_of(op, e->channel);

    if (end < 0)
        return;
    if (op->closed_told[end]++)
        violation(op->peer->w, "channel %u: CHANNEL_CLOSED twice", op->id);
    say(op->peer->w, "channel %u: %s is told that it is closed", op->id, end ? "responder" : "opener");
    op->wants_out[end] = 0;
    if (end == RESPONDER && op->mode == CHAN_ECHO && op->out[end] < op->in[end]) {
        if (!excused(op))
            violation(op->peer->w, "channel %u: closed before its echo was sent", op->id);
        end_handler(op); /* the echo has nowhere to go */
    }
    op->slow[end] = 0;
    read_on(op, end);
    if (op->chan[end] && !op->fin_out[end]) {
        if (end == RESPONDER)
            end_handler(op);
        op->fin_out[end] = 1;
        maybe_let_go(op, end);
    }
}

void chan_check(struct op *op)
{
    struct world *w = op->peer->w;
    int whole;

    if (!op->started || op->by_close)
        return;
    if (!op->done)
        violation(w, "channel %u (mode %d) never ended at its opener (out %d in %d fin %d %d)", op->id,
                  op->mode, op->out[0], op->in[0], op->fin_out[0], op->fin_in[0]);
    if (op->chan[RESPONDER])
        violation(w, "channel %u (mode %d) never ended at its responder", op->id, op->mode);
    if (excused(op) && op->read_failed[OPENER])
        return;
    whole = op->fin_in[OPENER];
    if (whole && (op->mode == CHAN_ECHO || op->mode == CHAN_SOURCE) && op->in[OPENER] != op->n)
        violation(w, "channel %u: ended well with %d of %d messages", op->id, op->in[OPENER], op->n);
    if (whole && op->mode == CHAN_SINK && op->in[RESPONDER] != op->n)
        violation(w, "channel %u: the sink got %d of %d messages", op->id, op->in[RESPONDER], op->n);
    if (whole && (op->mode == CHAN_FAIL || op->mode == CHAN_MISSING))
        violation(w, "channel %u: ended well, mode %d", op->id, op->mode);
    if (whole && op->chan_runs != 1)
        violation(w, "channel %u: ended well after %d runs", op->id, op->chan_runs);
}
