/* What the user of an exchange sends, in both roles, but for the head. */
#include "../../../csrc/base/err.h"
#include "codec.h"

int et_h1_may_send(struct et_h1_x *x)
{
    return x->c == NULL || x->c->closing || x->deaf || x->released || x->out_over ? ES_ERR_CLOSED : ES_OK;
}

/* Memory or the user's promise of a length gave out: the peer must not take what it has for the whole. */
static int broken(struct et_h1_x *x, int rc)
{
    et_h1_tell_reset(x, ET_RESET_INTERNAL, rc == ES_ERR_NOMEM ? "out of memory" : "body and length differ");
    et_h1_close(x->c, 0);
    return rc;
}

static void wrote(struct et_h1_x *x)
{
    struct et_sock *s = x->c->http.sock;

    et_sock_wrote(s);
    if (et_sock_queued(s) > ET_QUEUE_HIGH) {
        x->was_full = 1;
        if (x->c->phase == ET_PHASE_IDLE || (x->c->phase == ET_PHASE_NONE && !x->tunnel)) {
            et_h1_phase(x->c, ET_PHASE_BODY);
        }
    }
}

int et_h1_finish(struct et_h1_x *x, const struct et_head *trailers)
{
    int rc;

    switch (x->framing) {
    case ET_FRAMING_LENGTH:
        if (x->left > 0) {
            return broken(x, ES_ERR_INVAL);
        }
        break;
    case ET_FRAMING_CHUNKED:
        rc = et_emit_last(trailers, et_sock_out(x->c->http.sock));
        if (rc != ES_OK) {
            return broken(x, rc);
        }
        wrote(x);
        break;
    case ET_FRAMING_TUNNEL:
        if (!x->tunnel) { /* asked for, not granted yet */
            x->fin_late = 1;
            return ES_OK;
        }
        et_sock_finish(x->c->http.sock);
        break;
    default:
        break;
    }
    x->out_over = 1;
    et_h1_check_over(x);
    return ES_OK;
}

/* n > 0 */
static int put(struct et_h1_x *x, const void *p, size_t n)
{
    struct es_buf *out = et_sock_out(x->c->http.sock);
    int rc;

    switch (x->framing) {
    case ET_FRAMING_NONE:
        return ES_OK; /* of a response to HEAD: nobody may see it */
    case ET_FRAMING_LENGTH:
        if ((uint64_t)n > (uint64_t)x->left) {
            return broken(x, ES_ERR_INVAL);
        }
        x->left -= (int64_t)n;
        rc = es_buf_put(out, p, n);
        break;
    case ET_FRAMING_CHUNKED:
        rc = et_emit_chunk(p, n, out);
        break;
    case ET_FRAMING_TUNNEL:
        if (!x->tunnel) {
            rc = es_buf_put(&x->held, p, n);
            x->was_full |= et_h1_queued(&x->x) > ET_QUEUE_HIGH;
            return rc;
        }
        rc = es_buf_put(out, p, n);
        break;
    default:
        rc = es_buf_put(out, p, n);
        break;
    }
    if (rc != ES_OK) {
        return broken(x, rc);
    }
    wrote(x);
    return ES_OK;
}

int et_h1_body(struct et_exchange *e, const void *p, size_t n, int fin)
{
    struct et_h1_x *x = (struct et_h1_x *)e;
    int rc = et_h1_may_send(x);

    if (rc == ES_OK && !x->sent) {
        rc = ES_ERR_INVAL;
    }
    if (rc == ES_OK && n > 0) {
        rc = put(x, p, n);
    }
    return rc == ES_OK && fin ? et_h1_finish(x, NULL) : rc;
}

int et_h1_trailers(struct et_exchange *e, const struct et_head *h)
{
    struct et_h1_x *x = (struct et_h1_x *)e;
    int rc = et_h1_may_send(x);

    return rc != ES_OK ? rc : x->sent ? et_h1_finish(x, h) : ES_ERR_INVAL;
}

size_t et_h1_queued(const struct et_exchange *e)
{
    const struct et_h1_x *x = (const struct et_h1_x *)e;

    return x->c == NULL ? 0 : et_sock_queued(x->c->http.sock) + x->held.n;
}

void et_h1_consume(struct et_exchange *e, size_t n)
{
    struct et_h1_x *x = (struct et_h1_x *)e;

    e->unread -= n < e->unread ? n : e->unread;
    if (x->c != NULL && e->unread < ET_UNREAD_MAX / 2) {
        et_h1_resume(x->c, ET_PAUSE_UNREAD);
    }
}

void et_h1_reset(struct et_exchange *e, enum et_reset why)
{
    struct et_h1_x *x = (struct et_h1_x *)e;

    if (x->c == NULL || x->c->closing) {
        x->deaf = 1;
        return;
    }
    x->deaf = 1;
    if (x->c->role == ET_HTTP_BACKEND && !x->sent) { /* the connection knows nothing of it */
        x->in_over = x->out_over = 1;
        et_h1_check_over(x);
        return;
    }
    /* A response that is whole stays so, though the rest of the request is not wanted. */
    et_h1_close(x->c, x->c->role == ET_HTTP_VISITOR && x->out_over);
}

void et_h1_release(struct et_exchange *e)
{
    struct et_h1_x *x = (struct et_h1_x *)e;

    if (x->c == NULL) {
        et_h1_x_del(x);
        return;
    }
    x->released = 1;
    if (!x->in_over || !x->out_over) {
        et_h1_reset(e, ET_RESET_CANCEL);
    }
    x->deaf = 1;
}
