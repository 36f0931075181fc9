/* Requests and messages that do not become whole: a peer may open all the streams it is allowed and then send
 * a byte now and again, or nothing. One timer of the session looks at them; it runs only while there is
 * something to look at, so a call that comes in one piece costs nothing here. */
#include "channel.h"

#define LOOKS          4  /* in the time that is allowed */
#define BYTES_A_SECOND 64 /* that lengthen it: with many streams on a thin line each gets little */

void sweep_start(struct es_session *s)
{
    uint64_t time = s->host->cfg.limits.assembly_timeout;

    /* Without memory for the timer the next stream starts it. */
    if (s->sweep_timer.deadline.at == 0 && time != 0)
        (void)es_wheel_add(&s->host->wheel, &s->sweep_timer.deadline, session_now(s) + time / LOOKS + 1);
}

static int is_late(const struct es_session *s, uint64_t since, uint64_t bytes)
{
    return session_now(s) >=
           since + s->host->cfg.limits.assembly_timeout + bytes * (ES_SECOND / BYTES_A_SECOND);
}

/* Nothing more can come because of us. */
static int waits_for_us(const struct es_strand *st)
{
    const struct es_link *l = st->session->link->base;

    return !es_list_empty(&st->starved) || l->held >= l->hold_cap;
}

static void look_at_channel(struct es_channel *c)
{
    struct es_session *s = c->st.session;

    if (c->st.ls == NULL || c->recv_over || es_reader_buffered(&c->st.reader) == 0 || c->queued_bytes > 0 ||
        waits_for_us(&c->st)) {
        c->partial_since = 0;
    } else if (c->partial_since == 0 || c->partial_message != c->messages_in) {
        c->partial_since = session_now(s);
        c->partial_received = c->st.received;
        c->partial_message = c->messages_in;
    } else if (is_late(s, c->partial_since, c->st.received - c->partial_received)) {
        c->partial_since = 0;
        session_glitch(s, 4, "too many messages that do not become whole");
        channel_give_up(c, ES_STATUS_TIMEOUT, NULL, "a message did not come whole in time", ES_APP_DEADLINE);
    }
}

/* 1: an event is under way on it. One that does not become whole ends the session: the lane's order would
 * have a hole. */
static int look_at_lane(struct es_lane_in *l)
{
    struct es_session *s = l->st.session;

    if (es_reader_buffered(&l->st.reader) == 0) {
        l->partial_since = 0;
        return 0;
    }
    if (lane_is_blocked(l) || waits_for_us(&l->st)) {
        l->partial_since = 0;
    } else if (l->partial_since == 0 || l->partial_frame != l->frames) {
        l->partial_since = session_now(s);
        l->partial_received = l->st.received;
        l->partial_frame = l->frames;
    } else if (is_late(s, l->partial_since, l->st.received - l->partial_received)) {
        session_violation(s, ES_APP_EXCESSIVE_LOAD, "an event did not come whole in time");
    }
    return 1;
}

static int look_at_lanes(struct es_session *s)
{
    int under_way = 0;

    for (int i = 0; i < ES_MAX_LANES && !s->closing; i++)
        under_way |= s->lanes_in[i] != NULL && look_at_lane(s->lanes_in[i]);
    return under_way;
}

void sweep_run(struct es_session *s)
{
    int events = look_at_lanes(s);

    if (s->closing)
        return;
    es_list_foreach(it, &s->fresh)
    {
        struct es_call *c = es_container_of(it, struct es_call, node);

        if (waits_for_us(&c->st))
            c->opened_at = session_now(s);
        else if (!c->got_request && is_late(s, c->opened_at, c->st.received))
            call_in_too_slow(c);
    }
    es_list_foreach(it, &s->channels) look_at_channel(es_container_of(it, struct es_channel, node));
    if (!s->closing && (events || !es_list_empty(&s->fresh) || !es_list_empty(&s->channels)))
        sweep_start(s);
}
