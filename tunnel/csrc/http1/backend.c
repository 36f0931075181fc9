/* The role towards backends: requests go, responses come. */
#include "../../../csrc/base/clock.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "chars.h"
#include "codec.h"

#define MAX_INFORMATIONAL 32

/* Ends the exchange and the connection, which nobody can trust any more. */
static void fault(struct et_h1 *c, const char *why)
{
    et_h1_tell_reset(c->x, ET_RESET_PROTOCOL, why);
    et_h1_close(c, 0);
}

void et_h1_backend_refused(struct et_h1 *c, int rc)
{
    if (rc == ES_ERR_NOMEM) {
        et_h1_tell_reset(c->x, ET_RESET_INTERNAL, "out of memory");
        et_h1_close(c, 0);
    } else {
        fault(c, c->parse.why);
    }
}

/* A kept connection that ended before a byte of the response: the backend closed it while it was idle, and
 * the request may be sent again if it does no harm twice (RFC 9110 9.2.2). */
enum et_reset et_h1_backend_loss(const struct et_h1_x *x)
{
    return x->c->done > 0 && !x->begun && (x->repeatable || !x->sent) ? ET_RESET_REFUSED : ET_RESET_TRUNCATED;
}

void et_h1_backend_eof(struct et_h1 *c)
{
    struct et_h1_x *x = c->x;

    c->last = 1;
    if (x->in_over) {
        return; /* our request is still on its way; nobody reads it, but its writer decides */
    }
    if (et_parse_finish(&c->parse) == ES_OK && x->in_over) {
        return;
    }
    et_h1_tell_reset(x, et_h1_backend_loss(x), "the backend closed the connection");
    et_h1_close(c, 0);
}

/* ---- responses ---- */

/* 101: what was asked for, and with a WebSocket the proof that it was understood (RFC 6455 4.1). */
static int switched(const struct et_h1_x *x, const struct et_scan *s, const uint8_t *block)
{
    if (x->token.n == 0 || s->upgrade.n != x->token.n || !s->upgrades) {
        return 0;
    }
    for (size_t i = 0; i < s->upgrade.n; i++) {
        if (et_chars_lower(block[s->upgrade.at + i]) != et_chars_lower(x->token.p[i])) {
            return 0;
        }
    }
    return !x->websocket ||
           (s->ws_accept.n == sizeof(x->ws) && memcmp(block + s->ws_accept.at, x->ws, sizeof(x->ws)) == 0);
}

/* The tunnel is there: what waited for it goes. */
static void opened(struct et_h1_x *x, struct et_head *h)
{
    struct et_h1 *c = x->c;

    x->asks = 0;
    x->tunnel = 1;
    et_h1_last(c);
    et_h1_phase(c, ET_PHASE_NONE);
    if (et_head_status(h) == 101) {
        (void)et_head_set_status(h, 200); /* head.h: an accepted CONNECT */
    }
    if (x->held.n > 0) {
        if (es_buf_put(et_sock_out(c->http.sock), x->held.p, x->held.n) != ES_OK) {
            et_head_del(h);
            et_h1_tell_reset(x, ET_RESET_INTERNAL, "out of memory");
            et_h1_close(c, 0);
            return;
        }
        et_sock_wrote(c->http.sock);
        es_buf_free(&x->held);
    }
    if (x->fin_late) {
        (void)et_h1_finish(x, NULL);
    }
    if (x->deaf) {
        et_head_del(h);
        return;
    }
    if (x->was_full && !x->out_over && et_sock_queued(c->http.sock) <= ET_QUEUE_HIGH) {
        x->was_full = 0; /* the socket was never over its mark: it will not say so */
        x->x.events->room(x->x.user);
    }
    x->x.events->head(x->x.user, h, 0);
}

/* Why the head cannot be; NULL: it can. */
static const char *wrong(const struct et_h1_x *x, const struct et_scan *s, const uint8_t *block)
{
    if (s->code == 101) {
        return switched(x, s, block) ? NULL : "the backend switched protocols in a way nobody asked for";
    }
    if (s->code < 200) {
        return x->informational < MAX_INFORMATIONAL ? NULL : "too many informational responses";
    }
    if (x->token.n > 0 && s->code / 100 == 2) {
        return "the backend did not switch protocols";
    }
    return NULL;
}

static void on_head(void *user, struct et_head *h, const struct et_scan *s, const uint8_t *block)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = c->x;
    const char *why = wrong(x, s, block);
    int fin;

    if (why != NULL || x->deaf) {
        et_head_del(h);
        if (why != NULL) {
            fault(c, why);
        }
        return;
    }
    if (s->code == 101 || c->parse.state == ET_PARSE_TUNNEL) {
        opened(x, h);
        return;
    }
    if (s->code < 200) {
        x->informational++;
        x->x.events->head(x->x.user, h, 0);
        return;
    }
    if (x->asks) { /* an ordinary response: nothing of a tunnel is ever sent */
        x->asks = 0;
        x->out_over = 1;
        es_buf_free(&x->held);
    }
    fin = c->parse.state == ET_PARSE_OVER;
    x->in_over = (unsigned)fin;
    if (s->close || (s->minor == 0 && !s->keep_alive) || c->parse.state == ET_PARSE_EOF) {
        et_h1_last(c);
    }
    if (!fin) {
        et_h1_phase(c, ET_PHASE_BODY);
    }
    x->x.events->head(x->x.user, h, fin);
    if (!c->closing) {
        et_h1_check_over(x);
    }
}

const struct et_parse_events et_h1_backend_parse = {on_head, et_h1_body_in, et_h1_end_in};

/* ---- requests ---- */

int et_h1_backend_begin(struct et_http *h, const struct et_exchange_events *ev, void *user,
                        struct et_exchange **out)
{
    struct et_h1 *c = (struct et_h1 *)h;
    struct et_h1_x *x;

    if (c->role != ET_HTTP_BACKEND) {
        return ES_ERR_INVAL;
    }
    if (c->closing || c->last || c->eof) {
        return ES_ERR_CLOSED;
    }
    if (c->x != NULL) {
        return ES_ERR_LIMIT;
    }
    x = et_h1_x_new(c);
    if (x == NULL) {
        return ES_ERR_NOMEM;
    }
    x->x.events = ev;
    x->x.user = user;
    *out = &x->x;
    return ES_OK;
}

static int is(struct et_text t, const char *s)
{
    return t.n == strlen(s) && memcmp(t.p, s, t.n) == 0;
}

static int is_repeatable(struct et_text method)
{
    static const char *const list[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"};

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (is(method, list[i])) {
            return 1;
        }
    }
    return 0;
}

/* A visitor could send requests through it that nobody has judged. */
static int is_http_itself(struct et_text protocol)
{
    static const char *const list[] = {"h2c", "h2", "h3", "http", "tls"};
    size_t n = et_chars_span((const uint8_t *)protocol.p, protocol.n, ET_CHAR_TOKEN); /* up to the version */

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (et_chars_same((const uint8_t *)protocol.p, n, list[i], strlen(list[i]))) {
            return 1;
        }
    }
    return 0;
}

/* How the request's body is framed, or which tunnel it asks for. */
static int plan(struct et_h1_x *x, const struct et_head *h, int fin, struct et_emit *how,
                char key[ET_WEBSOCKET_KEY])
{
    struct et_text method = et_head_part(h, ET_METHOD), protocol = et_head_part(h, ET_PROTOCOL);
    int64_t length = et_head_length(h);

    if (is_http_itself(protocol)) {
        return ES_ERR_INVAL;
    }
    if (protocol.n > 0 || is(method, "CONNECT")) {
        x->asks = 1;
        how->framing = ET_FRAMING_TUNNEL;
        if (protocol.n > 0 && es_buf_put(&x->token, protocol.p, protocol.n) != ES_OK) {
            return ES_ERR_NOMEM;
        }
        how->upgrade = protocol;
        if (is(protocol, "websocket")) {
            uint8_t random[16];

            es_random(random, sizeof(random));
            et_websocket_key(random, key);
            et_websocket_accept(key, x->ws);
            how->ws_key = (struct et_text){key, ET_WEBSOCKET_KEY};
            x->websocket = 1;
        }
        return ES_OK;
    }
    if (fin && length > 0) {
        return ES_ERR_INVAL;
    }
    if (!fin && length < 0) {
        how->framing = ET_FRAMING_CHUNKED;
    } else if (length >= 0 || is(method, "POST") || is(method, "PUT") || is(method, "PATCH")) {
        how->framing = ET_FRAMING_LENGTH;
        x->left = fin ? 0 : length;
    } else {
        how->framing = ET_FRAMING_NONE;
    }
    return ES_OK;
}

static int op_head(struct et_exchange *e, const struct et_head *h, int fin)
{
    struct et_h1_x *x = (struct et_h1_x *)e;
    struct et_text method = et_head_part(h, ET_METHOD);
    struct et_emit how = {0};
    struct et_sock *s;
    char key[ET_WEBSOCKET_KEY];
    int rc = et_h1_may_send(x);

    if (rc != ES_OK) {
        return rc;
    }
    if (et_head_kind(h) != ET_HEAD_REQUEST || x->sent) {
        return ES_ERR_INVAL;
    }
    s = x->c->http.sock;
    rc = plan(x, h, fin, &how, key);
    if (rc == ES_OK) {
        rc = et_emit_request(h, &how, et_sock_out(s));
    }
    if (rc != ES_OK) {
        return rc;
    }
    et_sock_wrote(s);
    x->sent = 1;
    x->framing = how.framing;
    x->is_head = is(method, "HEAD");
    x->repeatable = is_repeatable(method);
    x->c->parse.no_body = x->is_head;
    x->c->parse.may_switch = how.upgrade.n > 0;
    x->c->parse.connect = how.upgrade.n == 0 && x->asks;
    return fin ? et_h1_finish(x, NULL) : ES_OK;
}

const struct et_exchange_ops et_h1_backend_exchange = {
    .head = op_head,
    .body = et_h1_body,
    .trailers = et_h1_trailers,
    .queued = et_h1_queued,
    .consume = et_h1_consume,
    .reset = et_h1_reset,
    .release = et_h1_release,
};
