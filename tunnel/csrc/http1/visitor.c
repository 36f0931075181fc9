/* The role towards visitors: requests come, responses go. */
#include <stdio.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "build.h"
#include "chars.h"
#include "codec.h"

/* ---- requests ---- */

/* What the response will need of the request. */
static int remember(struct et_h1_x *x, const struct et_scan *s, const uint8_t *block)
{
    const uint8_t *method = block + s->method.at;

    x->old = s->minor == 0;
    x->wants_close = x->old ? !s->keep_alive || s->close : s->close;
    x->is_head = s->method.n == 4 && memcmp(method, "HEAD", 4) == 0;
    x->asks = x->c->parse.state == ET_PARSE_TUNNEL;
    x->in_over = x->c->parse.state == ET_PARSE_OVER;
    if (!et_build_upgrades(s)) {
        return ES_OK;
    }
    if (ET_CHARS_IS(block + s->upgrade.at, s->upgrade.n, "websocket")) {
        x->websocket = 1;
        et_websocket_accept((const char *)block + s->ws_key.at, x->ws);
    }
    return es_buf_put(&x->token, block + s->upgrade.at, s->upgrade.n);
}

static void on_head(void *user, struct et_head *h, const struct et_scan *s, const uint8_t *block)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = et_h1_x_new(c);
    int rc = x == NULL ? ES_ERR_NOMEM : remember(x, s, block);

    if (rc == ES_OK) {
        rc = c->http.events->opened(c->http.user, &x->x);
    }
    if (rc != ES_OK) {
        et_head_del(h);
        c->x = NULL;
        if (x != NULL) {
            et_h1_x_del(x);
        }
        et_h1_visitor_answer(c, 503, "no room for another request");
        return;
    }
    if (!x->in_over && !x->asks) {
        et_h1_phase(c, ET_PHASE_BODY);
    }
    x->x.events->head(x->x.user, h, x->in_over);
}

const struct et_parse_events et_h1_visitor_parse = {on_head, et_h1_body_in, et_h1_end_in};

/* ---- answers of our own ---- */

void et_h1_visitor_answer(struct et_h1 *c, int status, const char *why)
{
    struct es_buf *out;
    char text[512];
    int n;

    if (c->closing) {
        return;
    }
    n = snprintf(text, sizeof(text),
                 "HTTP/1.1 %03d %s\r\ncontent-type: text/plain; charset=utf-8\r\n%scontent-length: %zu\r\n"
                 "connection: close\r\n\r\n%s\n",
                 status, et_emit_reason(status), status == 426 ? "sec-websocket-version: 13\r\n" : "",
                 strlen(why) + 1, why);
    out = et_sock_out(c->http.sock);
    if (es_buf_put(out, text, (size_t)n) == ES_OK) {
        et_sock_wrote(c->http.sock);
    }
    et_h1_close(c, 1);
}

static void tell_refused(struct et_h1 *c, int status, const char *why)
{
    if (c->http.events->refused != NULL) {
        c->http.events->refused(c->http.user, status, why);
    }
}

void et_h1_visitor_refused(struct et_h1 *c, int rc)
{
    struct et_h1_x *x = c->x;
    int status = c->parse.status;
    const char *why = c->parse.why;

    if (x == NULL) {
        tell_refused(c, status, why);
        et_h1_visitor_answer(c, status, why);
        return;
    }
    et_h1_tell_reset(x, rc == ES_ERR_NOMEM ? ET_RESET_INTERNAL : ET_RESET_PROTOCOL, why);
    if (x->sent) {
        et_h1_close(c, 0);
    } else {
        et_h1_visitor_answer(c, status, why);
    }
}

void et_h1_visitor_timeout(struct et_h1 *c, const char *why)
{
    struct et_h1_x *x = c->x;

    if (x != NULL) {
        int answer = !x->sent && !x->in_over;

        et_h1_tell_reset(x, ET_RESET_TIMEOUT, why);
        if (!answer) {
            et_h1_close(c, 0);
            return;
        }
    } else if (!et_parse_begun(&c->parse)) {
        et_h1_close(c, 1); /* who never said anything is told nothing */
        return;
    } else {
        tell_refused(c, 408, why);
    }
    et_h1_visitor_answer(c, 408, why);
}

/* The visitor ended its direction. In the middle of a request that is its end. After one it may be a client
 * that only said it has no more to ask, or one that is gone: TCP shows no difference before something is sent
 * to it. So the response goes on as long as it moves; silence of 300 ms is taken for the visitor's absence,
 * and the backend learns of it. */
void et_h1_visitor_eof(struct et_h1 *c)
{
    struct et_h1_x *x = c->x;

    if (!x->in_over && !x->asks) {
        et_h1_tell_reset(x, ET_RESET_TRUNCATED, "the visitor left in the middle of its request");
        et_h1_close(c, 0);
        return;
    }
    et_h1_phase(c, ET_PHASE_EOF);
}

/* ---- responses ---- */

static int may_stay(const struct et_h1 *c, const struct et_h1_x *x)
{
    return x->in_over && !x->wants_close && !c->last &&
           (c->limits.max_requests == 0 || c->done + 1 < c->limits.max_requests);
}

static int put_head(struct et_h1_x *x, const struct et_head *h, int status, const struct et_emit *how)
{
    struct et_sock *s = x->c->http.sock;
    int rc = et_emit_response(h, status, how, et_sock_out(s));

    if (rc == ES_OK) {
        et_sock_wrote(s);
    }
    return rc;
}

/* 2xx to a CONNECT or an upgrade. What the visitor sent meanwhile is told from flush(). */
static int grant(struct et_h1_x *x, const struct et_head *h, int fin)
{
    struct et_emit how = {.framing = ET_FRAMING_TUNNEL};
    int rc, status = 0;

    if (x->token.n > 0) {
        status = 101;
        how.upgrade = (struct et_text){(const char *)x->token.p, x->token.n};
        if (x->websocket) {
            how.ws_accept = (struct et_text){x->ws, sizeof(x->ws)};
        }
    }
    rc = put_head(x, h, status, &how);
    if (rc != ES_OK) {
        return rc;
    }
    x->sent = 1;
    x->asks = 0;
    x->tunnel = 1;
    x->framing = ET_FRAMING_TUNNEL;
    et_h1_phase(x->c, ET_PHASE_NONE);
    et_h1_last(x->c);
    et_sock_dirty(x->c->http.sock);
    return fin ? et_h1_finish(x, NULL) : ES_OK;
}

/* Anything else to one: an ordinary response to a request that is over. */
static void deny(struct et_h1_x *x)
{
    x->asks = 0;
    x->in_over = 1;
    x->end_owed = 1;
    if (x->token.n == 0) {
        et_h1_last(x->c); /* after a CONNECT some send on in any case */
    }
    x->c->parse.state = ET_PARSE_OVER;
    et_sock_dirty(x->c->http.sock);
}

static int final_head(struct et_h1_x *x, const struct et_head *h, int fin)
{
    int status = et_head_status(h), empty = x->is_head || status == 204 || status == 304, stays, rc;
    int64_t length = et_head_length(h);
    struct et_emit how = {0};

    if (fin && !empty && length > 0) {
        return ES_ERR_INVAL;
    }
    if (empty) {
        how.framing = ET_FRAMING_NONE;
    } else if (fin || length >= 0) {
        how.framing = ET_FRAMING_LENGTH;
        x->left = fin ? 0 : length;
    } else {
        how.framing = x->old ? ET_FRAMING_CLOSE : ET_FRAMING_CHUNKED;
    }
    stays = may_stay(x->c, x) && how.framing != ET_FRAMING_CLOSE;
    how.connection = !stays ? "close" : x->old ? "keep-alive" : NULL;
    rc = put_head(x, h, 0, &how);
    if (rc != ES_OK) {
        return rc;
    }
    x->sent = 1;
    x->framing = how.framing;
    if (!stays) {
        et_h1_last(x->c);
    }
    return fin ? et_h1_finish(x, NULL) : ES_OK;
}

static int op_head(struct et_exchange *e, const struct et_head *h, int fin)
{
    struct et_h1_x *x = (struct et_h1_x *)e;
    int rc = et_h1_may_send(x), status = et_head_status(h);
    struct et_emit none = {.framing = ET_FRAMING_NONE};

    if (rc != ES_OK) {
        return rc;
    }
    if (et_head_kind(h) != ET_HEAD_RESPONSE || x->sent || status == 101 || (status < 200 && fin)) {
        return ES_ERR_INVAL;
    }
    if (status < 200) {
        return x->old ? ES_OK : put_head(x, h, 0, &none); /* HTTP/1.0 knows none (RFC 9110 15.2) */
    }
    if (x->asks && status / 100 == 2) {
        return grant(x, h, fin);
    }
    if (x->asks) {
        deny(x);
    }
    return final_head(x, h, fin);
}

void et_h1_visitor_flush(struct et_h1 *c)
{
    struct et_h1_x *x = c->x;

    if (x->end_owed) {
        x->end_owed = 0;
        if (!x->deaf) {
            x->x.events->end(x->x.user, NULL);
        }
    }
    if (!c->closing && x->tunnel && c->in.n > 0) {
        struct es_buf in = c->in;

        c->in = (struct es_buf){0};
        et_h1_resume(c, ET_PAUSE_HELD);
        et_h1_body_in(c, in.p, in.n);
        es_buf_free(&in);
    }
    if (!c->closing && x->tunnel && c->eof && !x->in_over) {
        et_h1_end_in(c, NULL);
    }
}

const struct et_exchange_ops et_h1_visitor_exchange = {
    .head = op_head,
    .body = et_h1_body,
    .trailers = et_h1_trailers,
    .queued = et_h1_queued,
    .consume = et_h1_consume,
    .reset = et_h1_reset,
    .release = et_h1_release,
};
