/* What the link and the deadline wheel call, sorted by what lives on the stream. */
#include "internal.h"

static struct es_session *session_of(void *user)
{
    return user;
}

static void open_session(struct es_session *s)
{
    if (!s->opened && session_push(s, ES_EV_SESSION_OPEN, sizeof(struct es_event)) != NULL)
        s->opened = 1;
}

static void on_established(void *user)
{
    struct es_session *s = session_of(user);
    int rc;

    if (s->closing)
        return;
    s->established = 1;
    s->early = 0;
    totals_established(s);
    rc = hello_send(s);
    if (rc != 0) {
        if (rc == ES_ERR_LIMIT)
            session_violation(s, ES_APP_HELLO, "no control stream may be opened");
        else
            session_oom(s);
        return;
    }
    if (!s->is_server) {
        s->accepted = 1;
        open_session(s);
    } else if (s->hello_seen) { /* with early data, which may have been all that anybody waited for */
        open_session(s);
        session_let_in(s);
    }
    pending_run(s);
    emit_writable(s);
}

/* What a client sends now may be read twice. Our HELLO may; calls that say so may; all else waits, without
 * anybody having to know. */
static void on_early(void *user)
{
    struct es_session *s = session_of(user);

    s->early = 1;
    if (!s->is_server && !s->closing && hello_send(s) == 0) {
        s->accepted = 1;
        open_session(s);
    }
}

static void on_stream_opened(void *user, struct es_link_stream *ls, int dir)
{
    struct es_session *s = session_of(user);

    ls->user = NULL;
    if (s->closing)
        return;
    if (dir == ES_DIR_BIDI)
        call_in_opened(s, ls);
    else
        uni_opened(s, ls);
}

static void on_data(void *user, struct es_link_stream *ls, const uint8_t *p, size_t n, int fin)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st == NULL || s->closing)
        return;
    st->received += n;
    if (fin)
        st->fin = 1;
    switch (st->kind) {
    case ES_STRAND_CALL_IN:
        call_in_data((struct es_call *)st, p, n, fin);
        break;
    case ES_STRAND_CALL_OUT:
        call_out_data((struct es_call *)st, p, n, fin);
        break;
    case ES_STRAND_CHANNEL:
        channel_data((struct es_channel *)st, p, n, fin);
        break;
    case ES_STRAND_CONTROL_IN:
        control_data(st, p, n, fin);
        break;
    case ES_STRAND_LANE_IN:
        lane_data((struct es_lane_in *)st, p, n, fin);
        break;
    case ES_STRAND_UNI_IN:
        uni_data(st, p, n, fin);
        break;
    default: /* our one-way streams: the carrier hands up nothing on them */
        break;
    }
    session_feed_starved(s);
}

static void on_stream_reset(void *user, struct es_link_stream *ls, uint64_t code)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st == NULL || s->closing)
        return;
    switch (st->kind) {
    case ES_STRAND_CALL_IN:
        call_in_reset((struct es_call *)st, code);
        break;
    case ES_STRAND_CALL_OUT:
        call_out_reset((struct es_call *)st, code);
        break;
    case ES_STRAND_CHANNEL:
        channel_reset_received((struct es_channel *)st, code);
        break;
    default:
        uni_over(st);
    }
}

static void on_stream_stopped(void *user, struct es_link_stream *ls, uint64_t code)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st == NULL || s->closing)
        return;
    switch (st->kind) {
    case ES_STRAND_CALL_IN:
        call_in_cancel((struct es_call *)st, code);
        break;
    case ES_STRAND_CHANNEL:
        channel_stopped((struct es_channel *)st, code);
        break;
    case ES_STRAND_CONTROL_OUT:
        session_violation(s, ES_APP_CLOSED_CRITICAL, "the control stream was stopped");
        break;
    default: /* a caller whose request is not wanted gets an answer; a stopped lane is closed soon */
        break;
    }
}

static void on_writable(void *user, struct es_link_stream *ls)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st == NULL || s->closing)
        return;
    if (st->kind == ES_STRAND_CHANNEL)
        channel_writable((struct es_channel *)st);
    else if (st->kind == ES_STRAND_LANE_OUT)
        emit_writable(s);
}

static void on_sent(void *user, struct es_link_stream *ls)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st != NULL && st->kind == ES_STRAND_CALL_OUT)
        ((struct es_call *)st)->fin_acked = 1;
    else if (st != NULL && st->kind == ES_STRAND_CHANNEL)
        ((struct es_channel *)st)->fin_acked = 1;
    pending_run(s);
    postponed_run(s);
}

static void on_stream_closed(void *user, struct es_link_stream *ls)
{
    struct es_session *s = session_of(user);
    struct es_strand *st = ls->user;

    if (st == NULL)
        return;
    switch (st->kind) {
    case ES_STRAND_CALL_OUT: /* closed without an answer */
        call_out_reset((struct es_call *)st, ES_APP_INTERNAL);
        break;
    case ES_STRAND_CALL_IN: /* both directions over before the answer: the peer gave up */
        if (((struct es_call *)st)->delivered) {
            ((struct es_call *)st)->owes = es_link_stream_keep(ls) != 0;
            call_in_cancel((struct es_call *)st, ES_APP_CANCELLED);
            strand_detach(st);
        } else {
            call_in_free((struct es_call *)st);
        }
        break;
    case ES_STRAND_CHANNEL:
        ((struct es_channel *)st)->owes = !((struct es_channel *)st)->ours && es_link_stream_keep(ls);
        channel_stream_closed((struct es_channel *)st);
        break;
    case ES_STRAND_CONTROL_OUT:
        strand_detach(st);
        session_violation(s, ES_APP_CLOSED_CRITICAL, "the control stream was closed");
        break;
    case ES_STRAND_LANE_OUT:
        lane_out_free((struct es_lane_out *)st);
        break;
    case ES_STRAND_CONTROL_IN: /* the session ends for it, and has it until then */
        strand_detach(st);
        uni_over(st);
        break;
    default:
        uni_over(st);
    }
    session_feed_starved(s);
}

static void on_datagram(void *user, const uint8_t *p, size_t n)
{
    struct es_session *s = session_of(user);

    if (!s->closing)
        datagram_received(s, p, n);
}

static void on_stream_credit(void *user, int dir)
{
    struct es_session *s = session_of(user);

    if (s->closing)
        return;
    if (dir == ES_DIR_BIDI)
        pending_run(s);
    else
        emit_writable(s);
}

static void on_hold_low(void *user)
{
    pending_run(session_of(user));
    postponed_run(session_of(user));
}

static void on_moved(void *user, const struct es_link_move *move)
{
    struct es_ev_moved *e = session_push(session_of(user), ES_EV_SESSION_MOVED, sizeof *e);

    if (e != NULL)
        e->move = *move;
}

static void on_closed(void *user, const struct es_close_info *info)
{
    struct es_session *s = session_of(user);

    s->closing = 1;
    s->close_info = *info;
    totals_closed(s);
    if (s->link != NULL)
        es_link_set_tally(s->link, NULL);
    s->link = NULL;
    s->dead = 1;
    session_bury(s);
    (void)session_report(s);
}

const struct es_link_events session_link_events = {
    .established = on_established,
    .stream_opened = on_stream_opened,
    .data = on_data,
    .stream_reset = on_stream_reset,
    .stream_stopped = on_stream_stopped,
    .writable = on_writable,
    .sent = on_sent,
    .stream_closed = on_stream_closed,
    .datagram = on_datagram,
    .stream_credit = on_stream_credit,
    .hold_low = on_hold_low,
    .closed = on_closed,
    .moved = on_moved,
    .early = on_early,
};

void session_expired(struct es_deadline *d)
{
    struct es_strand *st = es_container_of(d, struct es_strand, deadline);
    struct es_session *s = st->session;

    switch (st->kind) {
    case ES_STRAND_CALL_OUT:
        call_out_expired((struct es_call *)st);
        break;
    case ES_STRAND_CALL_IN:
        call_in_expired((struct es_call *)st);
        break;
    case ES_STRAND_CHANNEL:
        channel_expired((struct es_channel *)st);
        break;
    case ES_STRAND_HELLO_TIMER:
        hello_expired(s);
        break;
    case ES_STRAND_STARVED_TIMER:
        if (s->dead)
            (void)session_report(s);
        if (!s->closing) {
            session_feed_starved(s);
            pending_run(s);
            postponed_run(s);
        }
        break;
    case ES_STRAND_SWEEP_TIMER:
        if (!s->closing)
            sweep_run(s);
        break;
    default:
        break;
    }
}
