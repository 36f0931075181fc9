/* Sessions of WebTransport: how they are asked for, taken, and ended.
 *
 * What a session has to do is done by run(), which es_h3_pump() calls for those that are marked: never
 * inside nghttp3, and never inside what the protocol on the session asks for, which may thus be told things.
 */
#include "webtransport.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "../base/mem.h"
#include "wt.h"

#define CLOSE_TIME    ES_SECOND        /* that a peer has to acknowledge the end of a session */
#define SETTINGS_TIME (10 * ES_SECOND) /* that its SETTINGS may take, where heads may take any time */
#define GLITCH_ASK    32 /* points: a session is asked for, which honest peers do once or twice */

/* ---- life ---- */

struct es_wt *wt_find(struct es_h3 *h, int64_t id)
{
    struct es_exchange *x = es_h3_find(h, id);

    return x != NULL ? x->wt : NULL;
}

void wt_mark(struct es_wt *w)
{
    es_list_remove(&w->due);
    es_list_push(&w->h->wt_due, &w->due);
}

void es_wt_mark_all(struct es_h3 *h)
{
    es_list_foreach(it, &h->sessions)
    {
        wt_mark(es_container_of(it, struct es_wt, node));
    }
}

void es_wt_tell(struct es_wt *w, unsigned bits)
{
    w->bits |= bits;
    wt_mark(w);
}

int es_wt_is_gone(const struct es_h3 *h, int64_t id)
{
    for (size_t i = 0; i < sizeof h->gone / sizeof *h->gone; i++) {
        if (h->gone[i] == id + 1) { /* 0: none */
            return 1;
        }
    }
    return 0;
}

static void on_timer(struct es_timer *t)
{
    struct es_wt *w = t->user;
    struct es_h3 *h = w->h;

    if (w->state == WT_CLOSING && w->said) {
        w->over = 1;
    } else if (w->state == WT_ASKED && h->server && !es_h3_closed_by(h)) {
        es_exchange_later(w->x, CHORE_ABORT, ES_H3_REQUEST_INCOMPLETE);
    }
    wt_mark(w);
    es_h3_pump(h);
}

static struct es_wt *wt_new(struct es_h3 *h)
{
    struct es_wt *w = es_calloc(1, sizeof *w);

    if (w == NULL) {
        return NULL;
    }
    w->h = h;
    w->link.ops = &es_wt_link_ops;
    w->link.base = h->link->base;
    w->link.is_server = h->server;
    w->link.door = &w->door;
    w->door = (struct es_link_door){"webtransport", "", "", ""};
    es_list_init(&w->due);
    es_list_init(&w->streams);
    es_timer_init(&w->timer, on_timer, w);
    es_list_push(&h->sessions, &w->node);
    return w;
}

static void wt_del(struct es_wt *w)
{
    struct es_exchange *x = w->x;

    es_timer_stop(w->h->config->timers, &w->timer);
    es_list_remove(&w->node);
    es_list_remove(&w->due);
    es_buf_free(&w->capsules.part);
    if (x != NULL) {
        x->wt = NULL;
        w->h->gone[w->h->gone_at++ % (sizeof w->h->gone / sizeof *w->h->gone)] = x->id + 1;
        es_exchange_release(x);
    }
    es_free(w->own);
    es_free(w);
}

/* What the protocol had of the connection's, which may go on: it cannot give it back any more. */
static void give_back(struct es_wt *w)
{
    struct es_link *l = w->h->link;

    if (l == NULL || w->h->closed) {
        return;
    }
    es_link_hold(l, -w->held);
    w->held = 0;
    for (int dir = 0; dir < 2; dir++) {
        for (; w->kept[dir] > 0; w->kept[dir]--) {
            es_link_allow(l, dir);
        }
    }
}

/* The protocol's last word. */
static void wt_end(struct es_wt *w, const struct es_close_info *info)
{
    struct es_h3 *h = w->h;
    struct es_tally *tally = w->link.base->tally;

    if (w->link.user != NULL) { /* a protocol runs on it */
        w->link.events->closed(w->link.user, info);
        w->link.user = NULL;
    }
    if (!es_list_empty(&h->sessions) && h->sessions.next->next != &h->sessions) {
        es_link_set_tally(w->link.base, tally); /* the other sessions' bytes go on being counted */
    }
    give_back(w);
    wt_streams_drop(w);
    if (w->x != NULL && h->link != NULL && !h->closed) {
        (void)es_exchange_finish(w->x, NULL, 0);
    }
    wt_del(w);
}

/* ---- how it ends ---- */

static void say(struct es_close_info *info, enum es_close_cause cause, int err, uint64_t code,
                const char *why)
{
    memset(info, 0, sizeof *info);
    info->cause = cause;
    info->err = err;
    info->app = 1;
    info->code = code;
    (void)snprintf(info->reason, sizeof info->reason, "%s", why);
}

/* It ends because of something that came. A client's connection ends with it. */
static void end_now(struct es_wt *w, const struct es_close_info *info)
{
    if (w->h->server) {
        wt_end(w, info);
        return;
    }
    if (w->state != WT_CLOSING) {
        w->info = *info;
    }
    w->state = WT_CLOSING;
    w->said = 1;
    if (w->x != NULL) {
        (void)es_exchange_finish(w->x, NULL, 0);
    }
    es_h3_close(w->h, ES_H3_NO_ERROR, "");
}

static void lost(struct es_wt *w)
{
    struct es_exchange_error e;
    struct es_close_info info;

    if (es_exchange_error(w->x, &e) != 0) {
        e = (struct es_exchange_error){ES_ERR_CLOSED, ES_H3_NO_ERROR, 1, 0};
    }
    say(&info, e.peer ? ES_CLOSE_PEER : ES_CLOSE_ERROR, e.err,
        e.code == ES_H3_NO_ERROR ? ES_APP_NONE : ES_APP_PROTOCOL, "the session's stream was given up");
    end_now(w, w->state == WT_CLOSING ? &w->info : &info);
}

/* Codes of HTTP/3 in our own words. */
static uint64_t code_of(uint64_t h3_code)
{
    switch (h3_code) {
    case ES_H3_NO_ERROR:
        return ES_APP_NONE;
    case ES_H3_INTERNAL_ERROR:
        return ES_APP_INTERNAL;
    case ES_H3_EXCESSIVE_LOAD:
        return ES_APP_EXCESSIVE_LOAD;
    default:
        return ES_APP_PROTOCOL;
    }
}

void es_wt_closed(struct es_h3 *h, const struct es_close_info *info)
{
    struct es_close_info ours = *info;

    if (info->app) {
        ours.code = code_of(info->code);
    }
    es_list_foreach(it, &h->sessions)
    {
        struct es_wt *w = es_container_of(it, struct es_wt, node);

        wt_end(w, w->state == WT_CLOSING ? &w->info : &ours);
    }
    wt_strays_drop(h);
}

void es_wt_op_close(struct es_link *l, int app, uint64_t code, const char *reason)
{
    struct es_wt *w = (struct es_wt *)l;

    if (w->state == WT_CLOSING) {
        return;
    }
    say(&w->info, ES_CLOSE_LOCAL, ES_ERR_CLOSED, app ? code : ES_APP_INTERNAL, reason != NULL ? reason : "");
    w->info.app = app != 0;
    if (w->state == WT_ASKED) { /* nobody is there to be told */
        w->said = 1;
        es_h3_close(w->h, ES_H3_NO_ERROR, "");
    } else if (es_timer_start(w->h->config->timers, &w->timer, w->h->config->timers->now) != 0) {
        es_h3_close(w->h, ES_H3_INTERNAL_ERROR, "out of memory");
    }
    w->state = WT_CLOSING;
}

static void say_goodbye(struct es_wt *w)
{
    uint8_t capsule[16 + WT_MAX_REASON];
    uint64_t code = w->info.code < UINT32_MAX ? w->info.code : UINT32_MAX;
    size_t n = wt_capsule_close(capsule, (uint32_t)code, w->info.reason);

    w->said = 1;
    if (es_exchange_write(w->x, capsule, n, NULL, NULL) != 0 || es_exchange_finish(w->x, NULL, 0) != 0 ||
        es_timer_start(w->h->config->timers, &w->timer, w->h->config->timers->now + CLOSE_TIME) != 0) {
        w->over = 1;
    }
}

void es_wt_flushed(struct es_wt *w)
{
    if (w->state == WT_CLOSING && w->said) {
        w->over = 1;
        wt_mark(w);
    }
}

/* ---- capsules ---- */

static void read_capsules(struct es_wt *w)
{
    struct es_close_info info;
    const uint8_t *p;
    size_t n;
    int rc, bad = 0;

    while ((rc = es_exchange_read(w->x, &p, &n)) == 0 && !bad) {
        bad = wt_capsules_feed(&w->capsules, p, n);
        es_exchange_consume(w->x, n);
    }
    if (bad == 0 && rc == ES_ERR_NOT_FOUND && !wt_capsules_whole(&w->capsules)) {
        bad = ES_ERR_PROTOCOL;
    }
    if (bad != 0) {
        es_exchange_reset(w->x, bad == ES_ERR_NOMEM ? ES_H3_INTERNAL_ERROR : ES_H3_MESSAGE_ERROR);
        say(&info, ES_CLOSE_ERROR, bad, bad == ES_ERR_NOMEM ? ES_APP_INTERNAL : ES_APP_PROTOCOL,
            "what came on the session's stream cannot be read");
        end_now(w, w->state == WT_CLOSING ? &w->info : &info);
    } else if (w->state == WT_CLOSING) {
        if (rc == ES_ERR_NOT_FOUND || w->capsules.closed) {
            w->over = w->said;
        }
    } else if (w->capsules.closed || rc == ES_ERR_NOT_FOUND) {
        say(&info, ES_CLOSE_PEER, ES_ERR_CLOSED, w->capsules.code, w->capsules.reason);
        end_now(w, &info);
    }
}

/* ---- accepting ---- */

int es_wt_wants(const struct es_exchange *x)
{
    const struct es_h3_head *head = x->head;
    size_t n;
    const char *method = es_h3_head_pseudo(head, ES_H3_METHOD, &n);
    const char *protocol = es_h3_head_pseudo(head, ES_H3_PROTOCOL, &n);

    return !x->ours && x->h->config->webtransport != NULL && method != NULL && protocol != NULL &&
           strcmp(method, "CONNECT") == 0 && strcmp(protocol, "webtransport") == 0;
}

void es_wt_offered(struct es_exchange *x)
{
    struct es_h3 *h = x->h;
    uint64_t patience = h->config->limits.head_timeout;
    struct es_wt *w;

    if (es_link_glitch(h->link, h->config->timers->now, GLITCH_ASK, "too many sessions were asked for")) {
        h->failed = 1;
        return;
    }
    w = wt_new(h);

    if (w == NULL ||
        es_timer_start(h->config->timers, &w->timer,
                       h->config->timers->now + (patience != 0 ? patience : SETTINGS_TIME)) != 0) {
        if (w != NULL) {
            wt_del(w);
        }
        es_exchange_later(x, CHORE_ABORT, ES_H3_INTERNAL_ERROR);
        return;
    }
    w->x = x;
    x->wt = w;
    x->deferred = 0;
    x->told = 1;
    x->refs++; /* ours */
    h->in_flight++;
    wt_mark(w);
}

static int is_own_origin(const char *origin, const char *authority)
{
    return strncasecmp(origin, "https://", 8) == 0 && strcasecmp(origin + 8, authority) == 0;
}

static int may_ask(const struct es_webtransport *cfg, const char *origin, const char *authority)
{
    if (cfg->any_origin || *origin == '\0' || is_own_origin(origin, authority)) {
        return 1;
    }
    for (size_t i = 0; i < cfg->n_origins; i++) {
        if (strcasecmp(origin, cfg->origins[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static size_t sessions_of(const struct es_h3 *h)
{
    size_t n = 0;

    es_list_foreach(it, &h->sessions)
    {
        n += es_container_of(it, struct es_wt, node)->state != WT_ASKED;
    }
    return n;
}

/* Reads the head into the door. The status of a refusal, or 0. */
static int look_at(struct es_wt *w, int *draft02)
{
    const struct es_webtransport *cfg = w->h->config->webtransport;
    const struct es_h3_head *head = w->x->head;
    struct es_h3_field f;
    size_t at = 0, n, origins = 0;

    w->door.path = es_h3_head_pseudo(head, ES_H3_PATH, &n);
    w->door.authority = es_h3_head_pseudo(head, ES_H3_AUTHORITY, &n);
    *draft02 = 0;
    while (es_h3_head_next(head, &at, &f)) {
        if (f.name_len == 6 && memcmp(f.name, "origin", 6) == 0) {
            w->door.origin = f.value;
            origins++;
        }
        *draft02 |= strcmp(f.name, "sec-webtransport-http3-draft02") == 0;
    }
    n = strcspn(w->door.path, "?");
    if (cfg->path != NULL && (strlen(cfg->path) != n || memcmp(cfg->path, w->door.path, n) != 0)) {
        return 404;
    }
    if (origins > 1) {
        return 400;
    }
    if (!may_ask(cfg, w->door.origin, w->door.authority)) {
        return 403;
    }
    return sessions_of(w->h) >= cfg->max_sessions ? 429 : 0;
}

static void decide(struct es_wt *w)
{
    const struct es_h3_field draft = {"sec-webtransport-http3-draft", "draft02", 28, 7, 0};
    struct es_app *app = w->h->config->webtransport->app;
    int draft02, status;

    if (!w->h->established || !w->h->peer.seen) { /* it says whether datagrams may be sent */
        return;
    }
    es_timer_stop(w->h->config->timers, &w->timer);
    status = look_at(w, &draft02);
    if (status == 0 && app->attach(app, &w->link, NULL) != 0) {
        status = 503;
        w->link.user = NULL;
    }
    if (status != 0) {
        (void)es_exchange_respond(w->x, status, NULL, 0, 1);
        wt_del(w);
        return;
    }
    w->state = WT_OPEN;
    if (es_exchange_respond(w->x, 200, &draft, (size_t)draft02, 0) != 0) {
        lost(w);
        return;
    }
    es_link_priority(w->x->s, ES_PRIO_CONTROL);
    w->link.events->established(w->link.user);
    wt_streams_deliver(w);
    es_wt_tell(w, ES_EX_READABLE); /* what came meanwhile */
}

/* ---- asking ---- */

static void refused(struct es_wt *w, const char *code, const char *why)
{
    char text[200];

    (void)snprintf(text, sizeof text, "%s: %s", code, why);
    say(&w->info, ES_CLOSE_PEER, ES_ERR_CLOSED, ES_APP_REFUSED, text);
    w->state = WT_CLOSING;
    w->said = 1;
    es_h3_close(w->h, ES_H3_NO_ERROR, "");
}

static void ask(struct es_wt *w)
{
    const struct es_h3_target t = {"CONNECT", "https", w->door.authority, w->door.path, "webtransport"};
    const struct es_h3_field fields[] = {{"sec-webtransport-http3-draft02", "1", 30, 1, 0},
                                         {"origin", w->door.origin, 6, strlen(w->door.origin), 0}};
    struct es_h3 *h = w->h;
    int rc;

    if (!h->bound || !h->established || !h->peer.seen) {
        return;
    }
    if (!h->peer.webtransport || !h->peer.connect) {
        refused(w, "unavailable", "the server takes no WebTransport");
        return;
    }
    rc = es_h3_request(h, &t, fields, *w->door.origin != '\0' ? 2 : 1, 0, NULL, &w->x);
    if (rc == 0) {
        w->x->wt = w;
    } else if (rc == ES_ERR_INVAL) {
        refused(w, "invalid_argument", "the path or the origin cannot be sent");
    } else if (rc != ES_ERR_AGAIN && rc != ES_ERR_LIMIT) { /* those are tried again */
        refused(w, "unavailable", es_strerror(rc));
    }
}

static const char *code_of_status(int status)
{
    switch (status) {
    case 401:
        return "unauthenticated";
    case 403:
        return "permission_denied";
    case 404:
        return "not_found";
    case 429:
        return "resource_exhausted";
    default:
        return status < 500 ? "failed_precondition" : "unavailable";
    }
}

static void answered(struct es_wt *w)
{
    int status = es_h3_head_status(es_exchange_head(w->x));
    char why[64];

    if (status / 100 != 2) {
        (void)snprintf(why, sizeof why, "the server answered the session with status %d", status);
        refused(w, code_of_status(status), why);
        return;
    }
    w->state = WT_OPEN;
    es_link_priority(w->x->s, ES_PRIO_CONTROL);
    w->link.events->established(w->link.user);
    wt_streams_deliver(w);
}

static void run(struct es_wt *w)
{
    struct es_h3 *h = w->h;
    unsigned bits = w->bits;

    w->bits = 0;
    if ((bits & ES_EX_ABORTED) != 0 && w->x != NULL) {
        if (h->server && w->state == WT_ASKED) {
            wt_del(w);
        } else {
            lost(w);
        }
        return;
    }
    if (w->state == WT_ASKED) {
        if (h->server) {
            decide(w); /* it may be gone after */
            return;
        }
        if (w->x == NULL) {
            ask(w);
        } else if ((bits & ES_EX_RESPONSE) != 0) {
            answered(w);
            bits |= ES_EX_READABLE;
        }
    }
    if (w->state == WT_CLOSING && !w->said) {
        say_goodbye(w);
    }
    if (w->state == WT_CLOSING && w->over) {
        end_now(w, &w->info);
    } else if ((bits & ES_EX_READABLE) != 0 && w->x != NULL && w->state != WT_ASKED) {
        read_capsules(w);
    }
}

void es_wt_run_next(struct es_h3 *h)
{
    struct es_wt *w = es_container_of(h->wt_due.next, struct es_wt, due);

    es_list_remove(&w->due);
    run(w);
}

/* ---- what the link tells all sessions ---- */

void es_wt_credit(struct es_h3 *h, int dir)
{
    es_list_foreach(it, &h->sessions)
    {
        struct es_wt *w = es_container_of(it, struct es_wt, node);

        if (w->state == WT_OPEN) {
            w->link.events->stream_credit(w->link.user, dir);
        }
    }
}

void es_wt_hold_low(struct es_h3 *h)
{
    es_list_foreach(it, &h->sessions)
    {
        struct es_wt *w = es_container_of(it, struct es_wt, node);

        if (w->state == WT_OPEN) {
            w->link.events->hold_low(w->link.user);
        }
    }
}

void es_wt_moved(struct es_h3 *h, const struct es_link_move *move)
{
    es_list_foreach(it, &h->sessions)
    {
        struct es_wt *w = es_container_of(it, struct es_wt, node);

        if (w->state == WT_OPEN && w->link.events->moved != NULL) {
            w->link.events->moved(w->link.user, move);
        }
    }
}

/* ---- the client's connection ---- */

static char *copy(char **at, const char *s)
{
    size_t n = strlen(s) + 1;
    char *to = *at;

    memcpy(to, s, n);
    *at += n;
    return to;
}

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    const struct es_wt_dial *dial = arg;
    const char *origin = dial->origin != NULL ? dial->origin : "";
    struct es_h3 *h;
    struct es_wt *w;
    char *at;
    int rc = es_h3_attach_client(link, dial->timers, &h);

    (void)app;
    if (rc != 0) {
        return rc;
    }
    w = wt_new(h);
    rc = w != NULL ? 0 : ES_ERR_NOMEM;
    if (rc == 0) {
        w->own = at = es_malloc(strlen(dial->authority) + strlen(dial->path) + strlen(origin) + 3);
        rc = at != NULL ? 0 : ES_ERR_NOMEM;
    }
    if (rc == 0) {
        w->door.authority = copy(&at, dial->authority);
        w->door.path = copy(&at, dial->path);
        w->door.origin = copy(&at, origin);
        rc = dial->app->attach(dial->app, &w->link, dial->app_arg);
    }
    if (rc != 0) {
        if (w != NULL) {
            wt_del(w);
        }
        link->events = NULL;
        link->user = NULL;
        es_h3_unref(h);
        return rc;
    }
    wt_mark(w);
    return 0;
}

struct es_app *es_wt_client_app(void)
{
    static struct es_app app = {ES_H3_ALPN, attach, NULL, 0};

    return &app;
}
