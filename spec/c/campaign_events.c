/* Events of the campaign: numbered per lane, so that a gap, a repetition or a change of order shows. */
#include <stdlib.h>
#include <string.h>

#include "campaign.h"

#define EVENT_HEAD 12 /* magic, op, number in the lane */
#define EV_MAGIC   UINT32_C(0x544e5645)

void events_draw(struct world *w, struct op *op)
{
    op->n = (int)(1 + below(w, chance(w, 20) ? 60 : 8));
    op->lane = (int)below(w, chance(w, 50) ? 1 : N_LANES);
    op->wide = chance(w, 40);
    op->slice = (uint32_t)below(w, TABLE_SIZE);
    op->req_len = (uint32_t)draw_size(w) / 4;
    if (op->kind == OP_DATAGRAMS) {
        op->n = op->n > 60 ? 60 : op->n;
        op->req_len %= 800;
    }
}

static const char *name_of(const struct op *op)
{
    return op->kind == OP_DATAGRAMS ? "campaign.dgram" : op->wide ? "campaign.wide" : "campaign.log";
}

void events_start(struct op *op)
{
    struct peer *p = op->peer;
    struct world *w = p->w;
    static uint8_t buf[EVENT_HEAD + MAX_SLICE];
    uint32_t magic = EV_MAGIC, len = op->req_len;
    int lane = op->kind == OP_DATAGRAMS ? ES_LANE_DATAGRAM : op->lane;

    op->started = 1;
    while (op->sent < op->n) {
        uint32_t number = op->kind == OP_DATAGRAMS ? (uint32_t)op->sent : p->lane_next[op->lane];
        int rc;

        memcpy(buf, &magic, 4);
        memcpy(buf + 4, &op->id, 4);
        memcpy(buf + 8, &number, 4);
        memcpy(buf + EVENT_HEAD, slice_at(op->slice + number), len);
        rc = es_session_emit(p->session, name_of(op), strlen(name_of(op)), lane, ES_CODEC_RAW, NULL, 0,
                             op->id % 2 ? op->id : 0, buf, EVENT_HEAD + len);
        if (rc == 0) {
            op->sent++;
            if (op->kind == OP_DATAGRAMS) {
                totals.datagrams++;
            } else {
                totals.events++;
                p->lane_next[op->lane]++;
            }
            continue;
        }
        if (rc == ES_ERR_AGAIN) {
            p->writable_due = 1;
            return;
        }
        if (op->kind == OP_DATAGRAMS && rc != ES_ERR_CLOSED)
            break; /* unreliable: too many wait, too long for the path */
        if (rc != ES_ERR_CLOSED || !session_is_over(p))
            violation(w, "events %u: es_session_emit gave %d", op->id, rc);
        break;
    }
    op->done = 1;
}

static void handler_over(struct peer *p, int lane, int exclusive, struct es_method *m)
{
    p->events_running--;
    if (lane != ES_LANE_DATAGRAM) {
        p->lane[lane].running--;
        if (exclusive)
            p->lane[lane].exclusive = 0;
    }
    es_session_event_done(p->session, lane, m);
}

static void late_over(struct late_event *l)
{
    es_timer_stop(l->peer->w->timers, &l->timer);
    es_list_remove(&l->node);
    handler_over(l->peer, l->lane, l->exclusive, l->method);
    free(l);
}

static void on_late(struct es_timer *t)
{
    late_over(t->user);
}

void events_settle(struct world *w)
{
    while (!es_list_empty(&w->late_events))
        late_over(es_container_of(w->late_events.next, struct late_event, node));
}

static void check_datagram(struct peer *p, struct op *op, uint32_t number)
{
    if (number >= 60 || (int)number >= op->n || op->kind != OP_DATAGRAMS) {
        violation(p->w, "op %u: a datagram that was never sent", op->id);
        return;
    }
    totals.datagrams_got++;
    if (op->seen & UINT64_C(1) << number)
        violation(p->w, "datagram %u of %u came twice", number, op->id);
    op->seen |= UINT64_C(1) << number;
}

void events_got(struct peer *p, struct es_ev_message *e)
{
    struct world *w = p->w;
    const uint8_t *b = e->data + e->metadata_len;
    uint32_t len = e->payload_len;
    uint32_t magic = 0, id = 0, number = 0;
    int exclusive = e->method->concurrent <= 1, lane = e->lane;
    struct op *op = NULL;

    plain_of(w, p->session, e->packed, &b, &len);
    if (len >= EVENT_HEAD) {
        memcpy(&magic, b, 4);
        memcpy(&id, b + 4, 4);
        memcpy(&number, b + 8, 4);
        op = op_by_id(w, id);
    }
    p->events_running++;
    if (lane != ES_LANE_DATAGRAM)
        p->lane[lane].running++;
    if (magic != EV_MAGIC || !op || op->peer != p->other) {
        violation(w, "an event that nobody sent (%u bytes)", len);
    } else if (len != EVENT_HEAD + op->req_len ||
               memcmp(b + EVENT_HEAD, slice_at(op->slice + number), op->req_len) != 0) {
        violation(w, "event %u of %u: wrong bytes", number, id);
    } else if (e->wall_time_us != (op->id % 2 ? op->id : 0)) {
        violation(w, "event %u of %u: wrong time", number, id);
    } else if (lane == ES_LANE_DATAGRAM) {
        check_datagram(p, op, number);
    } else {
        struct lane_in *l = &p->lane[lane];

        if (l->next == 0)
            l->sender = op->lane; /* lanes are numbered in the order of their arrival */
        if (l->sender != op->lane || number != l->next)
            violation(w, "lane %d: event %u of lane %d came where %u of %d was due", lane, number, op->lane,
                      l->next, l->sender);
        l->next = number + 1;
        if (l->exclusive || l->running > WIDE)
            violation(w, "lane %d: event %u is handled beside %d others", lane, number, l->running - 1);
        l->exclusive = exclusive;
    }
    if (id % 3 == 0 && number % 2 == 0) { /* this handler suspends */
        struct late_event *l = calloc(1, sizeof *l);

        l->peer = p;
        l->method = e->method;
        l->lane = lane;
        l->exclusive = exclusive;
        es_list_push(&w->late_events, &l->node);
        es_timer_init(&l->timer, on_late, l);
        later(w, &l->timer, 1 + below(w, 30 * ES_MILLI));
        return;
    }
    handler_over(p, lane, exclusive, e->method);
}
