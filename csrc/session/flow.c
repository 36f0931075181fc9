/* Send queues of named streams and event lanes: when a sender has to wait, and how long they waited; and
 * streams on which nothing moves.
 *
 * Three marks bound what is queued: of the stream or lane, of all streams of the session, of all sessions of
 * the host. The latter two never stop a stream whose own queue is short (SHARE), so nobody waits for the slow
 * reader of somebody else, and whoever has to wait is woken by its own queue. */
#include "channel.h"

#define SHARE ((size_t)16 * 1024) /* bytes that a stream may queue however much the others have queued */

static int is_crowded(struct es_session *s)
{
    struct es_host *h = s->host;
    const struct es_limits *l = &h->cfg.limits;

    return es_marks_full(&l->session_queue, s->link->base->unsent, &s->crowded) ||
           es_marks_full(&l->total_queue, h->unsent.bytes, &h->crowded);
}

int flow_full(struct es_session *s, struct es_link_stream *ls)
{
    size_t queued = es_link_queued(ls);

    if (queued > ls->high) {
        es_link_wake_at(ls, ls->low);
        return 1;
    }
    if (queued <= SHARE || !is_crowded(s))
        return 0;
    es_link_wake_at(ls, SHARE / 2);
    return 1;
}

void flow_marks(struct es_link_stream *ls, const struct es_marks *m)
{
    es_link_marks(ls, (size_t)m->high, (size_t)m->low);
}

static void waited(struct es_session *s, uint64_t since)
{
    uint64_t ns = session_now(s) - since;

    s->send_waits++;
    s->send_waited += ns;
    s->host->stats.send_waits++;
    s->host->stats.send_waited += ns;
}

int flow_block_channel(struct es_channel *c)
{
    if (!c->blocked) {
        c->blocked = 1;
        c->blocked_at = session_now(c->st.session);
    }
    return ES_ERR_AGAIN;
}

void flow_unblock_channel(struct es_channel *c)
{
    struct es_session *s = c->st.session;

    c->blocked = 0;
    c->waits++;
    c->waited += session_now(s) - c->blocked_at;
    waited(s, c->blocked_at);
}

int flow_block_events(struct es_session *s)
{
    if (!s->emit_blocked) {
        s->emit_blocked = 1;
        s->emit_blocked_at = session_now(s);
    }
    return ES_ERR_AGAIN;
}

void flow_unblock_events(struct es_session *s)
{
    s->emit_blocked = 0;
    waited(s, s->emit_blocked_at);
}

void es_session_flow(const struct es_session *s, struct es_session_flow *out)
{
    out->queued = s->link != NULL ? s->link->base->unsent : 0;
    out->send_waits = s->send_waits;
    out->send_waited = s->send_waited;
    out->events_missing = s->events_missing;
    out->events_duplicated = s->events_duplicated;
    out->events_late = s->events_late;
}

void es_channel_set_queue(struct es_channel *c, size_t high, size_t low)
{
    if (c->st.ls != NULL)
        es_link_marks(c->st.ls, high, low);
}

/* ---- streams on which nothing moves ---- */

/* Bytes that went, so that a long message on its way counts. */
static uint64_t moved(const struct es_channel *c)
{
    uint64_t queued = c->st.ls != NULL ? es_link_queued(c->st.ls) : 0;

    return c->bytes_out - (queued < c->bytes_out ? queued : c->bytes_out);
}

static int arm(struct es_channel *c, uint64_t at)
{
    return es_wheel_add(&c->st.session->host->wheel, &c->st.deadline, at < c->deadline ? at : c->deadline);
}

int es_channel_set_idle_timeout(struct es_channel *c, uint64_t ns)
{
    if (c->send_over && c->recv_over)
        return 0;
    c->idle_limit = ns;
    c->moved = moved(c);
    return ns != 0 ? arm(c, session_now(c->st.session) + ns) : arm(c, ES_NEVER);
}

int flow_is_idle(struct es_channel *c)
{
    uint64_t now = session_now(c->st.session), bytes = moved(c);
    uint64_t again = c->active + c->idle_limit;

    if (again <= now) {
        if (bytes == c->moved)
            return 1;
        again = now + c->idle_limit; /* a part of a message: when in that time is not known */
    }
    c->moved = bytes;
    (void)arm(c, again); /* without memory the stream lives on */
    return 0;
}
