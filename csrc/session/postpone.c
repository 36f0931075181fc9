/* Calls of a peer that does not take the answers it has. Each answer waits in memory until the peer
 * acknowledges it, and nobody bounds how many it asks for: so no handler is run for it while as much as the
 * link's cap of held bytes is unacknowledged. Its calls keep their turn, their deadlines run, and the
 * allowance of streams, which returns with answers only, bounds their number. */
#include <string.h>
#include "internal.h"

#define AT_ONCE 16 /* calls let go on; their answers decide about the next ones */

/* What named streams have queued is bounded by itself, and one slow reader must not hold up the calls. */
int call_in_must_wait(const struct es_session *s)
{
    uint64_t unacked = s->link->base->held > s->held ? s->link->base->held - s->held : 0;

    uint64_t each = s->host->cfg.limits.stream_queue.high;

    if (each < ES_LINK_HIGH)
        each = ES_LINK_HIGH;
    return unacked >= s->link->base->hold_cap + s->n_channels * each;
}

/* The binding is looking at the call's record: it takes the payload back. */
int call_in_postpone(struct es_call *c)
{
    struct es_session *s = c->st.session;
    struct es_ev_message *e = c->rec_request;

    if (es_buf_put(&c->stash, e->data + e->metadata_len, e->payload_len) != 0) {
        struct es_failure f;

        failure_set(&f, ES_STATUS_RESOURCE_EXHAUSTED, ES_PROCESSED_NO, "out of memory");
        f.codec = c->codec;
        call_in_refuse(c, &f, ES_APP_NO_MORE_WANTED);
        return ES_ERR_NOMEM;
    }
    session_hold(s, (int64_t)c->stash.n);
    e->call = NULL;
    c->rec_request = NULL;
    c->postponed = 1;
    es_list_remove(&c->node);
    es_list_push(&s->postponed, &c->node);
    session_look_again(s);
    return ES_ERR_AGAIN;
}

static void take_back(struct es_call *c)
{
    struct es_session *s = c->st.session;

    session_hold(s, -(int64_t)c->stash.n);
    c->postponed = 0;
    es_list_remove(&c->node);
    es_list_push(&s->calls_in, &c->node);
}

/* As if the request came only now. */
static int deliver_again(struct es_call *c)
{
    struct es_session *s = c->st.session;
    size_t n = c->stash.n;
    struct es_ev_message *e = session_push(s, ES_EV_REQUEST, sizeof *e + c->metadata.n + n);

    if (e == NULL)
        return ES_ERR_NOMEM; /* the session is closing */
    e->call = c;
    e->method = c->method;
    e->codec = c->codec;
    e->idempotent = c->idempotent;
    e->packed = (c->peer_flags & ES_FLAG_ZSTD) != 0;
    e->metadata_len = (uint32_t)c->metadata.n;
    e->payload_len = (uint32_t)n;
    if (c->metadata.n > 0)
        memcpy(e->data, c->metadata.p, c->metadata.n);
    if (n > 0)
        memcpy(e->data + c->metadata.n, c->stash.p, n);
    c->rec_request = e;
    take_back(c);
    es_buf_free(&c->stash);
    return 0;
}

static void drop_cancelled(struct es_session *s, int all)
{
    es_list_foreach(it, &s->postponed)
    {
        struct es_call *c = es_container_of(it, struct es_call, node);

        if (all || c->cancelled) {
            take_back(c);
            call_in_end_unwanted(c);
        }
    }
}

void postponed_run(struct es_session *s)
{
    if (es_list_empty(&s->postponed) || s->closing)
        return;
    drop_cancelled(s, 0);
    for (int i = 0; i < AT_ONCE && !es_list_empty(&s->postponed) && !call_in_must_wait(s); i++) {
        if (deliver_again(es_container_of(s->postponed.next, struct es_call, node)) != 0)
            return;
    }
    if (!es_list_empty(&s->postponed))
        session_look_again(s);
}

void postponed_drop(struct es_session *s)
{
    drop_cancelled(s, 1);
}
