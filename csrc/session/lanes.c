/* One-way streams of the peer: its control stream, and the lanes its events come on.
 *
 * Events of a lane are handled one after another: behind an event whose handler runs, bytes are kept as they
 * came, without returning credit, so the peer stops after a window. A method with `concurrent` lets that many
 * events be under way at once and gives up their order. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

#define COMPACT_BYTES ((size_t)32 * 1024)

void uni_opened(struct es_session *s, struct es_link_stream *ls)
{
    struct es_uni_in *u = es_calloc(1, sizeof *u);

    if (u == NULL) {
        session_oom(s);
        return;
    }
    strand_init(&u->st, ES_STRAND_UNI_IN, s, ls, ES_EARLY_MESSAGE);
    es_list_init(&u->node);
    es_list_push(&s->unis, &u->node);
}

void uni_free(struct es_uni_in *u)
{
    struct es_session *s = u->st.session;

    if (s->control_in == &u->st)
        s->control_in = NULL;
    es_list_remove(&u->node);
    strand_free(&u->st);
    es_free(u);
}

static struct es_lane_in *lane_new(struct es_uni_in *u)
{
    struct es_session *s = u->st.session;
    struct es_link_stream *ls = u->st.ls;
    struct es_lane_in *l;
    int i;

    for (i = 0; i < ES_MAX_LANES && s->lanes_in[i] != NULL; i++)
        ;
    if (i == ES_MAX_LANES) {
        session_violation(s, ES_APP_PROTOCOL, "more than 8 event lanes");
        return NULL;
    }
    l = es_calloc(1, sizeof *l);
    if (l == NULL) {
        session_oom(s);
        return NULL;
    }
    strand_init(&l->st, ES_STRAND_LANE_IN, s, ls, session_max_body(s));
    l->st.received = u->st.received;
    l->st.credited = u->st.credited;
    l->st.fin = u->st.fin;
    l->index = (uint8_t)i;
    l->limit = 1;
    s->lanes_in[i] = l;
    u->st.ls = NULL; /* the lane's now */
    uni_free(u);
    return l;
}

void uni_data(struct es_strand *st, const uint8_t *p, size_t n, int fin)
{
    struct es_uni_in *u = (struct es_uni_in *)st;
    struct es_session *s = st->session;
    struct es_lane_in *l;
    uint64_t type = 0;
    size_t used = 0;

    while (n > 0 && used == 0) {
        u->head[u->head_len++] = *p++; /* a varint is 8 bytes at most */
        n--;
        used = es_varint_get(u->head, u->head_len, &type);
    }
    if (used == 0) {
        if (fin)
            uni_free(u);
        return;
    }
    if (type == ES_UNI_CONTROL) {
        if (s->control_in != NULL) {
            session_violation(s, ES_APP_PROTOCOL, "a second control stream");
            return;
        }
        st->kind = ES_STRAND_CONTROL_IN;
        s->control_in = st;
        control_data(st, p, n, fin);
    } else if (type == ES_UNI_LANE) {
        l = lane_new(u);
        if (l != NULL)
            lane_data(l, p, n, fin);
    } else {
        session_glitch(s, 4, "too many streams of unknown kinds");
        es_link_stop(st->ls, ES_APP_UNKNOWN_STREAM);
        es_link_stream_done(st->ls);
        uni_free(u);
    }
}

static void lane_ended(struct es_lane_in *l)
{
    /* The slot is kept until the handlers of its events have ended, for es_session_event_done. */
    if (l->st.ls == NULL && l->running == 0 && l->backlog.n == 0)
        lane_free(l);
}

void uni_over(struct es_strand *st)
{
    struct es_lane_in *l = (struct es_lane_in *)st;

    switch (st->kind) {
    case ES_STRAND_CONTROL_IN:
        session_violation(st->session, ES_APP_CLOSED_CRITICAL, "the control stream was closed");
        break;
    case ES_STRAND_UNI_IN:
        uni_free((struct es_uni_in *)st);
        break;
    case ES_STRAND_LANE_IN:
        strand_detach(st);
        lane_ended(l);
        break;
    default:
        break;
    }
}

void lane_free(struct es_lane_in *l)
{
    struct es_session *s = l->st.session;

    s->lanes_in[l->index] = NULL;
    strand_free(&l->st);
    es_buf_free(&l->backlog);
    es_free(l);
}

/* ---- events ---- */

static void unhandled(struct es_session *s, const struct es_wire_event *w)
{
    struct es_ev_unhandled *e;
    int last;

    s->host->stats.events_unhandled++;
    if (!es_host_unhandled(s->host, (const char *)w->name.p, w->name.n, &last))
        return;
    e = session_push(s, ES_EV_EVENT_UNHANDLED, sizeof *e + w->name.n + 1);
    if (e == NULL)
        return;
    e->last = last;
    memcpy(e->name, w->name.p, w->name.n);
    e->name[w->name.n] = '\0';
}

/* How many are missing before this one of a lane. The lane itself loses nothing: they were dropped by the
 * sender, or between the two QUIC stacks. */
static uint64_t lane_gap(struct es_lane_in *l, uint64_t seq)
{
    struct es_session *s = l->st.session;
    uint64_t gap = seq > l->next_seq ? seq - l->next_seq : 0;

    if (seq < l->next_seq)
        s->events_duplicated++;
    else
        l->next_seq = seq + 1;
    s->events_missing += gap;
    return gap;
}

/* The same of a datagram. 0: it came before, and is to be dropped. */
static int datagram_is_new(struct es_session *s, uint64_t seq, uint64_t *gap)
{
    uint64_t behind;

    *gap = 0;
    if (seq >= s->datagram_next) {
        *gap = seq - s->datagram_next;
        s->events_missing += *gap;
        s->datagram_seen = *gap >= 63 ? 1 : s->datagram_seen << (*gap + 1) | 1;
        s->datagram_next = seq + 1;
        return 1;
    }
    behind = s->datagram_next - 1 - seq;
    if (behind < 64 && (s->datagram_seen >> behind & 1) != 0) {
        s->events_duplicated++;
        return 0;
    }
    s->events_late++;
    if (behind < 64) {
        s->datagram_seen |= UINT64_C(1) << behind;
        s->events_missing -= s->events_missing > 0;
    }
    return 1;
}

/* Appends ES_EV_EVENT, or counts an event that nobody handles. 1: its handler is to run. */
static int deliver_event(struct es_session *s, const struct es_wire_event *w, int lane, uint64_t gap,
                         struct es_method **out)
{
    struct es_host *h = s->host;
    struct es_method *m = es_host_find(h, ES_KIND_EVENT, (const char *)w->name.p, w->name.n);
    struct es_ev_message *e;

    h->stats.events_in++;
    if (m == NULL) {
        unhandled(s, w);
        return 0;
    }
    if (!codec_known(s, w->codec) || w->metadata.n > h->cfg.limits.max_metadata) {
        h->stats.events_unhandled++;
        return 0;
    }
    e = session_push(s, ES_EV_EVENT, sizeof *e + w->metadata.n + w->payload.n);
    if (e == NULL)
        return 0;
    e->method = m;
    e->codec = (uint8_t)w->codec;
    e->packed = (w->flags & ES_FLAG_ZSTD) != 0;
    e->lane = (uint8_t)lane;
    e->seq = w->seq;
    e->gap = gap;
    e->wall_time_us = w->wall_time_us;
    e->metadata_len = (uint32_t)w->metadata.n;
    e->payload_len = (uint32_t)w->payload.n;
    if (w->metadata.n > 0)
        memcpy(e->data, w->metadata.p, w->metadata.n);
    if (w->payload.n > 0)
        memcpy(e->data + w->metadata.n, w->payload.p, w->payload.n);
    es_method_use(m);
    m->running++;
    m->calls++;
    s->n_events++;
    es_session_ref(s);
    *out = m;
    return 1;
}

int lane_is_blocked(const struct es_lane_in *l)
{
    return l->exclusive || l->running >= l->limit || !session_lets_in(l->st.session);
}

/* 0: go on; else the session is closing. */
static int lane_frame(struct es_lane_in *l, const struct es_raw_frame *f)
{
    struct es_session *s = l->st.session;
    const char *why = "a frame that does not belong on an event lane";
    struct es_wire_event w;
    struct es_method *m;
    int rc = ES_ERR_PROTOCOL;

    l->frames++;
    if (f->type == ES_FRAME_EVENT) {
        rc = es_event_decode(&w, f->body, f->len, s->caps_in, &why);
        rc = unpack_check(s, f, rc, w.flags, &w.payload, &why);
    }
    if (rc == 0 && w.payload.n > s->host->cfg.limits.max_message) {
        why = "an event is larger than max_message";
        rc = ES_ERR_TOO_LARGE;
    }
    if (rc != 0) {
        session_violation(s, rc == ES_ERR_TOO_LARGE ? ES_APP_TOO_LARGE : ES_APP_PROTOCOL, why);
        return rc;
    }
    if (deliver_event(s, &w, l->index, lane_gap(l, w.seq), &m)) {
        l->running++;
        l->limit = m->concurrent > 1 ? m->concurrent : 1;
        l->exclusive = m->concurrent <= 1;
        if (!l->st.was_backed)
            l->unconsumed += f->len;
    }
    return s->closing ? ES_ERR_CLOSED : 0;
}

/* Takes frames from *p, *n until an event has to be waited for. 0, or the session is closing. */
static int lane_parse(struct es_lane_in *l, const uint8_t **p, size_t *n)
{
    struct es_session *s = l->st.session;
    struct es_raw_frame f;
    int rc;

    while (*n > 0 && !lane_is_blocked(l)) {
        rc = strand_feed(&l->st, p, n, &f);
        if (rc == 1)
            rc = lane_frame(l, &f);
        else if (rc == ES_ERR_NOMEM)
            session_oom(s);
        else if (rc < 0)
            session_violation(s, rc == ES_ERR_TOO_LARGE ? ES_APP_TOO_LARGE : ES_APP_PROTOCOL,
                              l->st.reader.why);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static size_t backlog_left(const struct es_lane_in *l)
{
    return l->backlog.n - l->backlog_off;
}

void lane_settle(struct es_lane_in *l)
{
    size_t left = backlog_left(l);

    strand_settle(&l->st, left, left + l->unconsumed, !lane_is_blocked(l));
    if (es_reader_buffered(&l->st.reader) > 0)
        sweep_start(l->st.session);
}

static void backlog_take(struct es_lane_in *l, size_t n)
{
    l->backlog_off += n;
    if (l->backlog_off == l->backlog.n) {
        es_buf_clear(&l->backlog);
        es_buf_shrink(&l->backlog, COMPACT_BYTES);
        l->backlog_off = 0;
    } else if (l->backlog_off >= COMPACT_BYTES) {
        es_buf_drop(&l->backlog, l->backlog_off);
        l->backlog_off = 0;
    }
}

void lane_run(struct es_lane_in *l)
{
    size_t left = backlog_left(l);

    if (left > 0 && !lane_is_blocked(l)) {
        const uint8_t *p = l->backlog.p + l->backlog_off;
        size_t n = left;

        if (lane_parse(l, &p, &n) != 0)
            return;
        backlog_take(l, left - n);
    }
    lane_settle(l);
    lane_ended(l);
}

void lane_data(struct es_lane_in *l, const uint8_t *p, size_t n, int fin)
{
    (void)fin; /* a lane may end; its events are handled all the same */
    if (backlog_left(l) == 0 && lane_parse(l, &p, &n) != 0)
        return;
    if (es_buf_put(&l->backlog, p, n) != 0) {
        session_oom(l->st.session);
        return;
    }
    lane_settle(l);
}

void datagram_received(struct es_session *s, const uint8_t *p, size_t n)
{
    struct es_host *h = s->host;
    struct es_wire_event w;
    struct es_method *m;
    uint64_t type = 0;
    size_t used = es_varint_get(p, n, &type);
    struct es_raw_frame f = {type, p + used, n - used};
    const char *why = NULL;
    uint64_t gap;
    int rc = ES_ERR_PROTOCOL;

    if (used != 0 && type == ES_FRAME_EVENT) {
        rc = es_event_decode(&w, f.body, f.len, s->caps_in, &why);
        rc = unpack_check(s, &f, rc, w.flags, &w.payload, &why);
    }
    if (rc != 0) {
        if (used == 0 || (type & 1) == 0) /* unknown odd types are for later versions */
            h->stats.bad_frames++;
        session_glitch(s, 1, "too many datagrams that are no events");
        return;
    }
    /* Unreliable: what comes too early or faster than it is handled is dropped, and what is too large. */
    if (!session_lets_in(s) || w.payload.n > h->cfg.limits.max_message ||
        s->datagram_events >= ES_MAX_DATAGRAM_EVENTS)
        return;
    if (datagram_is_new(s, w.seq, &gap) && deliver_event(s, &w, ES_LANE_DATAGRAM, gap, &m))
        s->datagram_events++;
}

void es_session_event_done(struct es_session *s, int lane, struct es_method *m)
{
    struct es_lane_in *l;

    s->n_events--;
    m->running--;
    if (lane == ES_LANE_DATAGRAM) {
        s->datagram_events--;
    } else if (lane >= 0 && lane < ES_MAX_LANES && (l = s->lanes_in[lane]) != NULL) {
        /* Which of several ended is not known, so each gives back an equal share. */
        l->unconsumed -= l->unconsumed / l->running;
        l->running--;
        if (m->concurrent <= 1)
            l->exclusive = 0;
        if (!s->closing)
            lane_run(l);
    }
    es_method_unuse(m);
    session_check_idle(s);
    es_session_unref(s); /* may be the last */
}
