/* Unary calls of the campaign: started, cancelled, answered at once, late, badly or never, and checked. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "campaign.h"

#define REQ_HEAD  8
#define REQ_MAGIC UINT32_C(0x4c4c4143)

/* A deadline may be late by one tick of the wheel (4 ms); the timer's own rounding is allowed another. */
#define DEADLINE_SLACK (9 * ES_MILLI)

static const char fail_code[] = "campaign_says_no";
static const char fail_text[] = "a handler's own failure";

void call_draw(struct world *w, struct op *op)
{
    static const int modes[20] = {CALL_NOW,   CALL_NOW,   CALL_NOW,     CALL_NOW,   CALL_NOW,
                                  CALL_NOW,   CALL_NOW,   CALL_NOW,     CALL_NOW,   CALL_NOW,
                                  CALL_LATER, CALL_LATER, CALL_LATER,   CALL_LATER, CALL_FAIL,
                                  CALL_FAIL,  CALL_NOW,   CALL_MISSING, CALL_NEVER, CALL_NEVER};

    op->mode = modes[below(w, 20)];
    op->req_len = chance(w, 10) ? 0 : (uint32_t)(REQ_HEAD + draw_size(w));
    op->resp_len = (uint32_t)draw_size(w);
    op->slice = (uint32_t)below(w, TABLE_SIZE);
    op->anchored = chance(w, 25);
    op->idempotent = chance(w, 20);
    op->big_metadata = chance(w, 10);
    op->delay = 1 + below(w, 2 * w->rtt + 200 * ES_MILLI);
    switch (below(w, 5)) {
    case 0:
        op->timeout = 1 + below(w, 2 * w->rtt + 20 * ES_MILLI);
        break;
    case 1:
        op->timeout = op->mode == CALL_NEVER ? 5 * ES_SECOND : ES_NEVER;
        break;
    case 2:
        op->timeout = ES_MILLI + below(w, 20 * ES_SECOND);
        break;
    default:
        op->timeout = 0;
    }
    if (chance(w, 12))
        op->cancel_after = 1 + below(w, 3 * w->rtt + 50 * ES_MILLI);
}

static void end_call(struct op *op)
{
    op->call = NULL;
    op->done = 1;
    es_timer_stop(op->peer->w->timers, &op->cancel_timer);
}

static void on_cancel(struct es_timer *t)
{
    struct op *op = t->user;

    if (op->done || !op->call)
        return;
    say(op->peer->w, "call %u cancelled", op->id);
    op->cancelled = 1;
    totals.cancelled++;
    es_call_cancel(op->call, ES_APP_CANCELLED);
    end_call(op);
}

static void on_release(void *arg)
{
    struct op *op = arg;

    if (op->released++)
        violation(op->peer->w, "call %u: its payload was released twice", op->id);
    free(op->anchor);
    op->anchor = NULL;
}

static void on_job(struct es_timer *t);

void call_timers(struct op *op)
{
    es_timer_init(&op->cancel_timer, on_cancel, op);
    es_timer_init(&op->job_timer, on_job, op);
}

static const char *method_of(const struct op *op)
{
    return op->mode == CALL_MISSING ? "no.such.method" : op->idempotent ? "campaign.idem" : "campaign.call";
}

static uint64_t timeout_of(const struct op *op)
{
    return op->timeout ? op->timeout : 30 * ES_SECOND;
}

void call_start(struct op *op)
{
    struct peer *p = op->peer;
    struct world *w = p->w;
    struct es_call_opts o;
    struct es_pair_kv kv[2];
    char id[16];
    static const char filler[900];
    uint8_t *payload = op->req_len ? malloc(op->req_len) : NULL;
    uint32_t magic = REQ_MAGIC;
    int rc;

    if (payload) {
        memcpy(payload, &magic, 4);
        memcpy(payload + 4, &op->id, 4);
        memcpy(payload + REQ_HEAD, slice_at(op->slice), op->req_len - REQ_HEAD);
    }
    es_call_opts_default(&o);
    if (op->timeout)
        o.deadline = op->timeout == ES_NEVER ? ES_NEVER : now_of(w) + op->timeout;
    o.idempotent = (uint8_t)op->idempotent;
    o.priority = (uint8_t)(op->id % 8);
    snprintf(id, sizeof id, "%u", op->id);
    kv[0].key = "op";
    kv[0].key_len = 2;
    kv[0].value = id;
    kv[0].value_len = strlen(id);
    kv[1].key = "filler";
    kv[1].key_len = 6;
    kv[1].value = filler;
    kv[1].value_len = sizeof filler;
    o.metadata = kv;
    o.n_metadata = op->big_metadata ? 2 : 1;
    op->anchor = payload;
    rc = es_session_request(p->session, method_of(op), strlen(method_of(op)), &o, payload, op->req_len,
                            op->anchored && payload ? on_release : NULL, op, op, &op->call);
    if (rc != 0 || !op->anchored || !payload) {
        free(payload);
        op->anchor = NULL;
        op->anchored = 0;
    }
    op->started = 1;
    if (rc != 0) {
        if (rc != ES_ERR_CLOSED || (!session_is_over(p) && !p->draining))
            violation(w, "call %u: es_session_request gave %d", op->id, rc);
        op->call = NULL;
        op->by_close = 1;
        op->done = 1;
        return;
    }
    totals.calls++;
    op->deadline = op->timeout == ES_NEVER ? ES_NEVER : now_of(w) + timeout_of(op);
    say(w, "call %u started by %s: mode %d, %u bytes, answer %u, timeout %.3f s", op->id,
        p->server ? "server" : "client", op->mode, op->req_len, op->resp_len,
        op->timeout == ES_NEVER ? -1.0 : (double)timeout_of(op) / 1e9);
    if (op->cancel_after)
        later(w, &op->cancel_timer, op->cancel_after);
}

/* ---- the handler ---- */

static void answer(struct op *op, struct es_call *c)
{
    struct world *w = op->peer->w;
    int rc;

    if (op->mode == CALL_FAIL) {
        struct es_failure f;

        memset(&f, 0, sizeof f);
        f.status = ES_STATUS_UNKNOWN;
        f.code = fail_code;
        f.code_len = sizeof fail_code - 1;
        f.message = fail_text;
        f.message_len = sizeof fail_text - 1;
        f.processed = ES_PROCESSED_YES;
        f.details = slice_at(op->slice + 7);
        f.details_len = op->resp_len;
        rc = es_call_fail(c, &f);
    } else {
        rc = es_call_respond(c, ES_CODEC_RAW, slice_at(op->slice + 7), op->resp_len, NULL, NULL);
        if (rc == 0)
            op->answered = 1;
    }
    if (rc != 0 && rc != ES_ERR_CLOSED)
        violation(w, "call %u: answering gave %d", op->id, rc);
}

static void job_over(struct op *op)
{
    op->job = NULL;
    op->peer->w->jobs--;
    es_timer_stop(op->peer->w->timers, &op->job_timer);
}

static void on_job(struct es_timer *t)
{
    struct op *op = t->user;
    struct es_call *c = op->job;

    job_over(op);
    answer(op, c);
}

void call_request(struct peer *p, struct es_ev_message *e)
{
    struct world *w = p->w;
    struct op *op = op_of_metadata(w, e->data, e->metadata_len);
    const uint8_t *payload = e->data + e->metadata_len;
    uint32_t len = e->payload_len;
    int rc;

    if (!op)
        return;
    plain_of(w, p->session, e->packed, &payload, &len);
    if (op->kind != OP_CALL || op->peer != p->other || !op->started) {
        violation(w, "op %u: a request that its side never made", op->id);
    } else if (op->mode == CALL_MISSING) {
        violation(w, "call %u: handler of a method that does not exist", op->id);
    } else if (len != op->req_len) {
        violation(w, "call %u: %u bytes came, %u were sent", op->id, len, op->req_len);
    } else if (op->req_len && memcmp(payload + REQ_HEAD, slice_at(op->slice), op->req_len - REQ_HEAD) != 0) {
        violation(w, "call %u: wrong request bytes", op->id);
    }
    if ((e->idempotent != 0) != (op->idempotent != 0))
        violation(w, "call %u: idempotent %d arrived as %d", op->id, op->idempotent, e->idempotent);
    rc = es_call_admit(e->call);
    if (rc != 0) {
        if (rc != ES_ERR_CLOSED && !(rc == ES_ERR_LIMIT && w->small_limits))
            violation(w, "call %u: es_call_admit gave %d", op->id, rc);
        return;
    }
    if (++op->runs > 1)
        violation(w, "call %u: its handler ran %d times", op->id, op->runs);
    say(w, "call %u runs", op->id);
    if (op->mode == CALL_LATER || op->mode == CALL_NEVER) {
        es_call_started(e->call);
        es_call_set_user(e->call, op);
        op->job = e->call;
        w->jobs++;
        if (op->mode == CALL_LATER)
            later(w, &op->job_timer, op->delay);
        return;
    }
    answer(op, e->call);
}

void call_cancelled(struct peer *p, struct es_ev_message *e)
{
    struct op *op = es_call_user(e->call);
    struct es_failure f;

    if (!op) { /* answered at once, so it can only have been told while its REQUEST was in the queue */
        violation(p->w, "CALL_CANCELLED for a call that is not suspended");
        return;
    }
    say(p->w, "call %u: its handler is told to stop, code %llu", op->id, (unsigned long long)e->code);
    if (op->job != e->call || op->job_cancelled++)
        violation(p->w, "call %u: CALL_CANCELLED twice, or after its end", op->id);
    if (op->mode == CALL_LATER && op->id % 2 == 0)
        return; /* this handler does not listen */
    memset(&f, 0, sizeof f);
    f.status = ES_STATUS_CANCELLED;
    f.processed = ES_PROCESSED_MAYBE;
    job_over(op);
    es_call_fail(e->call, &f);
}

/* ---- outcomes ---- */

static int outcome(struct op *op, struct es_call *call)
{
    struct world *w = op->peer->w;

    if (op->done || op->cancelled) {
        violation(w, "call %u: an outcome after its end (cancelled %d)", op->id, op->cancelled);
        return 0;
    }
    if (call != op->call)
        violation(w, "call %u: an outcome of another call", op->id);
    if (op->deadline != ES_NEVER && now_of(w) > op->deadline + DEADLINE_SLACK)
        violation(w, "call %u: ended %.3f ms after its deadline", op->id,
                  (double)(now_of(w) - op->deadline) / 1e6);
    end_call(op);
    return 1;
}

void call_response(struct peer *p, struct es_ev_message *e)
{
    struct op *op = e->user;
    const uint8_t *payload = e->data + e->metadata_len;
    uint32_t len = e->payload_len;

    if (!outcome(op, e->call))
        return;
    plain_of(p->w, p->session, e->packed, &payload, &len);
    op->ok = 1;
    totals.ok++;
    say(p->w, "call %u ok", op->id);
    if (op->mode == CALL_FAIL || op->mode == CALL_MISSING || op->mode == CALL_NEVER)
        violation(p->w, "call %u: succeeded, mode %d", op->id, op->mode);
    if (op->runs != 1 || !op->answered)
        violation(p->w, "call %u: succeeded after %d runs of its handler", op->id, op->runs);
    if (len != op->resp_len || memcmp(payload, slice_at(op->slice + 7), op->resp_len) != 0)
        violation(p->w, "call %u: wrong response bytes (%u of %u)", op->id, len, op->resp_len);
    if ((e->idempotent != 0) != (op->idempotent != 0))
        violation(p->w, "call %u: the response says idempotent %d", op->id, e->idempotent);
}

/* Is it what the handler failed with, to the last byte of its details? */
static int own_failure(const struct op *op, const struct es_ev_failed *e)
{
    const uint8_t *text = e->data + e->code_len, *details = text + e->message_len;
    uint32_t len = e->details_len;

    plain_of(op->peer->w, op->peer->session, e->packed, &details, &len);
    return e->code_len == sizeof fail_code - 1 && memcmp(e->data, fail_code, e->code_len) == 0 &&
           e->message_len == sizeof fail_text - 1 && memcmp(text, fail_text, e->message_len) == 0 &&
           len == op->resp_len && memcmp(details, slice_at(op->slice + 7), len) == 0;
}

static int excused(const struct op *op, const struct es_ev_failed *e)
{
    struct world *w = op->peer->w;
    uint64_t now = now_of(w);

    switch (e->status) {
    case ES_STATUS_TIMEOUT: /* the server's clock starts later, so only its own timer can have ended it early
                             */
        return op->deadline != ES_NEVER && now + DEADLINE_SLACK >= op->deadline - op->deadline % ES_MILLI;
    case ES_STATUS_UNAVAILABLE:
        return session_is_over(op->peer) || (is_draining(op->peer) && e->processed == ES_PROCESSED_NO);
    case ES_STATUS_RESOURCE_EXHAUSTED:
        return w->small_limits;
    case ES_STATUS_METHOD_NOT_FOUND:
        return op->mode == CALL_MISSING && e->processed == ES_PROCESSED_NO;
    case ES_STATUS_CANCELLED: /* a handler that was told to stop because the deadline passed over there */
        return op->job_cancelled;
    case ES_STATUS_UNKNOWN:
        return op->mode == CALL_FAIL && e->processed == ES_PROCESSED_YES && own_failure(op, e);
    default:
        return 0;
    }
}

void call_failed(struct peer *p, struct es_ev_failed *e)
{
    struct op *op = e->user;

    if (!outcome(op, e->call))
        return;
    op->failed = 1;
    op->processed = e->processed;
    totals.failed++;
    say(p->w, "call %u failed: status %d processed %d %.*s: %.*s", op->id, e->status, e->processed,
        (int)e->code_len, (const char *)e->data, (int)e->message_len, (const char *)e->data + e->code_len);
    if (!excused(op, e))
        violation(p->w, "call %u (mode %d): failed with status %d, processed %d, %.*s: %.*s", op->id,
                  op->mode, e->status, e->processed, (int)e->code_len, (const char *)e->data,
                  (int)e->message_len, (const char *)e->data + e->code_len);
    if (e->processed == ES_PROCESSED_YES && op->runs != 1)
        violation(p->w, "call %u: said processed, its handler ran %d times", op->id, op->runs);
}

void call_check(struct op *op)
{
    struct world *w = op->peer->w;

    if (!op->started)
        return;
    if (!op->done)
        violation(w, "call %u never ended", op->id);
    if (op->job)
        violation(w, "call %u: its handler was never told to stop", op->id);
    if (op->failed && op->processed == ES_PROCESSED_NO && op->runs)
        violation(w, "call %u: said not processed, its handler ran", op->id);
    if (op->anchored && op->released != 1)
        violation(w, "call %u: its payload was released %d times", op->id, op->released);
}
