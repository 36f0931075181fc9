/* Receiving frames on one stream: credit, accounting, and room for long frames.
 *
 * Every byte of a stream is in one of three states: consumed (credit returned), in a whole message that waits
 * for its reader (credit withheld, so a slow reader stops the sender of this stream only), or in the frame
 * under way. Credit for the last kind returns as the bytes arrive once the frame is "backed": a frame may be
 * longer than the stream's window and could never become whole otherwise. Frames up to 64 KiB are backed
 * without asking; for a longer one its whole length is reserved from the connection's cap of held bytes
 * first, and it waits in session->starved while there is no room. */
#include <string.h>
#include "internal.h"

uint64_t session_max_body(const struct es_session *s)
{
    const struct es_limits *l = &s->host->cfg.limits;

    return l->max_message + l->max_metadata + ES_FRAME_OVERHEAD;
}

void strand_init(struct es_strand *st, enum es_strand_kind kind, struct es_session *s,
                 struct es_link_stream *ls, uint64_t max_body)
{
    st->kind = (uint8_t)kind;
    st->session = s;
    st->ls = ls;
    es_deadline_init(&st->deadline);
    es_list_init(&st->starved);
    es_reader_init(&st->reader, max_body);
    if (ls != NULL)
        ls->user = st;
}

static void drop_backing(struct es_strand *st)
{
    if (st->backed > ES_SMALL_FRAME)
        st->session->reserved -= st->backed;
    st->backed = 0;
}

int strand_feed(struct es_strand *st, const uint8_t **p, size_t *n, struct es_raw_frame *out)
{
    /* A buffer that served before saves the growing; one is only needed when the frame is in pieces, but
     * taking it costs nothing. */
    size_t none = 0;
    int rc;

    if (st->gave) {
        /* The frame given out before is done with. Its buffer goes to the spares first: the reader would give
         * back all but 64 KiB of it, and the next long frame would have to grow again. */
        es_host_give_buf(st->session->host, &st->reader.body);
        (void)es_reader_feed(&st->reader, p, &none, out);
        st->gave = 0;
    }
    if (st->reader.body.cap == 0)
        es_host_take_buf(st->session->host, &st->reader.body);
    rc = es_reader_feed(&st->reader, p, n, out);
    if (rc == 1) {
        st->gave = 1;
        st->was_backed = st->backed != 0;
        drop_backing(st);
    }
    return rc;
}

/* Not everything that makes room tells us. Without memory for the timer the next event of the connection does
 * it. */
void session_look_again(struct es_session *s)
{
    if (s->starved_timer.deadline.at == 0)
        (void)es_wheel_add(&s->host->wheel, &s->starved_timer.deadline, session_now(s) + ES_STARVED_RETRY);
}

static int has_room(const struct es_session *s, uint64_t length)
{
    if (!s->hello_seen)
        return 0;
    /* Against what was received only, not es_link_would_hold(), which counts our unacknowledged bytes too:
     * two sides that both have much to send would each wait for the other to take it first. */
    if (s->held + length <= s->link->base->hold_cap)
        return 1;
    /* A message longer than the cap is let in alone, else it would wait for ever. */
    return length > s->link->base->hold_cap && s->reserved == 0;
}

static void back_frame(struct es_strand *st, uint64_t length)
{
    struct es_session *s = st->session;

    if (length > ES_SMALL_FRAME && !has_room(s, length)) {
        if (es_list_empty(&st->starved)) {
            es_list_push(&s->starved, &st->starved);
            session_look_again(s);
        }
        return;
    }
    es_list_remove(&st->starved);
    st->backed = length;
    if (length > ES_SMALL_FRAME)
        s->reserved += length;
}

static void set_hold(struct es_strand *st, uint64_t hold)
{
    if (hold != st->hold) {
        session_hold(st->session, (int64_t)(hold - st->hold));
        st->hold = hold;
    }
}

void strand_settle(struct es_strand *st, uint64_t queued, uint64_t uncredited, int may_back)
{
    size_t buffered = es_reader_buffered(&st->reader);
    uint64_t length = buffered + es_reader_missing(&st->reader), target;

    if (st->ls == NULL || st->session->link == NULL)
        return;
    if (length == 0) {
        es_list_remove(&st->starved);
        es_host_give_buf(st->session->host, &st->reader.body);
    } else if (st->backed == 0 && may_back && !st->fin) {
        back_frame(st, length);
    }
    set_hold(st, queued + (st->backed > ES_SMALL_FRAME ? st->backed : buffered));
    target = st->received - uncredited - (st->backed != 0 ? 0 : buffered);
    if (target > st->credited) {
        if (!st->fin)
            es_link_credit(st->ls, (size_t)(target - st->credited));
        st->credited = target;
    }
}

void strand_detach(struct es_strand *st)
{
    es_list_remove(&st->starved);
    drop_backing(st);
    set_hold(st, 0);
    if (st->ls != NULL) {
        st->ls->user = NULL;
        st->ls = NULL;
    }
    es_host_give_buf(st->session->host, &st->reader.body);
    es_reader_free(&st->reader);
}

void strand_forget(struct es_strand *st)
{
    uint64_t max_body = st->reader.max_body;

    es_list_remove(&st->starved);
    drop_backing(st);
    set_hold(st, 0);
    es_host_give_buf(st->session->host, &st->reader.body);
    es_reader_free(&st->reader);
    es_reader_init(&st->reader, max_body);
    st->gave = 0;
}

void strand_free(struct es_strand *st)
{
    es_wheel_remove(&st->session->host->wheel, &st->deadline);
    strand_detach(st);
}

/* There may be room now. */
void strand_retry(struct es_strand *st)
{
    switch (st->kind) {
    case ES_STRAND_CHANNEL:
        channel_settle((struct es_channel *)st);
        break;
    case ES_STRAND_LANE_IN:
        lane_settle((struct es_lane_in *)st);
        break;
    default:
        strand_settle(st, 0, 0, 1);
    }
}

void session_feed_starved(struct es_session *s)
{
    struct es_list again;

    if (es_list_empty(&s->starved) || s->closing)
        return;
    /* Those that still find no room go to the end of s->starved, so take the present ones aside first. */
    es_list_init(&again);
    while (!es_list_empty(&s->starved)) {
        struct es_list *n = s->starved.next;

        es_list_remove(n);
        es_list_push(&again, n);
    }
    while (!es_list_empty(&again)) {
        struct es_list *n = again.next;

        es_list_remove(n);
        strand_retry(es_container_of(n, struct es_strand, starved));
    }
}
