/* From events to running Lua: pops what the core queued and resumes a task for each thing that happened.
 *
 * The whole queue is drained inside one protected call (a protected call each would cost 40 ns an event).
 * User code runs in tasks, whose errors lua_resume catches; what can still raise here is Lua running out of
 * memory. Then the event in hand is given up cleanly (its call refused, its waiter told) and the protected
 * call is begun anew for the rest.
 */
#include "binding.h"
#include <string.h>
#include "../dispatch/host.h"
#include "codec.h"
#include "errors.h"
#include "http3.h"
#include "quic.h"

static void refuse(struct es_call *c, int status, const char *code, const char *message)
{
    struct es_failure f = {.status = status,
                           .code = code,
                           .code_len = code ? strlen(code) : 0,
                           .message = message,
                           .message_len = strlen(message),
                           .processed = ES_PROCESSED_NO};
    es_call_fail(c, &f);
}

/* The Lua side of an event's session; made with the first event of an incoming one. NULL: there is none (any
 * more). */
static struct es_lsession *session_of(lua_State *L, struct es_lloop *lp, struct es_session *s, int create)
{
    struct es_lsession *ls = es_session_user(s);
    if (!ls && create) {
        struct es_lhost *h = es_idmap_get(&lp->hosts, (uint64_t)(uintptr_t)es_session_host(s));
        if (h)
            ls = es_lsession_accept(L, h, s);
    }
    return ls;
}

/* What was compressed is decoded from a copy: the room's own buffer may be used again by code that runs
 * meanwhile. */
static int decode(lua_State *L, const struct es_ev_message *m, int *n)
{
    const uint8_t *p = m->data + m->metadata_len;
    size_t len = m->payload_len;
    int rc;

    if (!m->packed)
        return es_codec_decode(L, m->codec, p, len, n);
    *n = 0;
    rc = es_session_plain(m->h.owner, p, len, &p, &len);
    if (rc == 0)
        return es_codec_decode_copy(L, m->codec, p, len, n);
    lua_pushstring(L, rc == ES_ERR_NOMEM ? "out of memory" : "the payload cannot be decompressed");
    return rc;
}

static int unpack_details(lua_State *L, const struct es_ev_failed *f, const uint8_t *p)
{
    size_t len = f->details_len;

    if (!f->packed)
        return es_codec_unpack(L, f->codec, p, len);
    int rc = es_session_plain(f->h.owner, p, len, &p, &len);
    return rc == 0 ? es_codec_unpack_copy(L, f->codec, p, len) : rc;
}

/* Pushes function, [job, session, name, metadata, handler | session] for a handler; what follows are the
 * arguments. Returns how many values stand above the function. No metadata is nil there: most calls have
 * none, and a table costs more than the rest. */
static int push_handler(lua_State *L, struct es_lsession *ls, enum es_task_job job,
                        const struct es_ev_message *m)
{
    if (ls->host->wrapper_ref == LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, m->method->ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
        return 1;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->wrapper_ref);
    lua_pushinteger(L, job);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
    lua_pushlstring(L, m->method->name, m->method->name_len);
    if (m->metadata_len)
        es_lua_push_kv(L, m->data, m->metadata_len);
    else
        lua_pushnil(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, m->method->ref);
    return 5;
}

static void on_request(lua_State *L, struct es_lloop *lp, struct es_ev_message *m)
{
    struct es_call *call = m->call;
    struct es_lsession *ls = session_of(L, lp, m->h.owner, 0);
    if (es_call_admit(call) < 0)
        return;
    if (!ls || m->method->ref < 0) {
        refuse(call, ES_STATUS_METHOD_NOT_FOUND, NULL, "the method was removed");
        return;
    }
    lp->unowned_call = call;
    struct es_task *t = es_task_new(L, lp, ES_JOB_CALL);
    if (!t) {
        lp->unowned_call = NULL;
        refuse(call, ES_STATUS_RESOURCE_EXHAUSTED, NULL, "out of memory");
        return;
    }
    t->call = call;
    t->method = m->method;
    t->codec = m->codec;
    t->payload_len = m->payload_len;
    t->session = m->h.owner;
    es_session_ref(t->session);
    es_call_set_user(call, t);
    lp->unowned_call = NULL;
    if (ls->host->fingerprints && m->idempotent)
        t->fingerprint = es_lua_fingerprint(m->data + m->metadata_len, m->payload_len);
    int above = push_handler(L, ls, ES_JOB_CALL, m), n = 0;
    int rc = decode(L, m, &n);
    if (rc < 0 || !lua_checkstack(t->co, above + n + 1)) {
        /* The function never runs: what stands for its failure is an error object raised in its place. */
        lua_settop(t->co, 0);
        if (rc == 0)
            lua_pushliteral(L, "too many arguments");
        es_lua_push_error(L, "serialization", "the arguments cannot be read: %s", lua_tostring(L, -1));
        t->refused = t->unreadable = 1;
        es_job_end(L, t, 0, 1);
        es_task_discard(L, t);
        return;
    }
    lua_xmove(L, t->co, above + n + 1);
    es_task_run(L, t, above + n);
}

static void on_event(lua_State *L, struct es_lloop *lp, struct es_ev_message *m)
{
    struct es_session *s = m->h.owner;
    struct es_lsession *ls = session_of(L, lp, s, 0);
    struct es_task *t = ls && m->method->ref >= 0 ? es_task_new(L, lp, ES_JOB_EVENT) : NULL;
    if (!t) {
        es_session_event_done(s, m->lane, m->method);
        return;
    }
    t->session = s;
    es_session_ref(s);
    t->method = m->method;
    t->lane = m->lane;
    t->payload_len = m->payload_len;
    t->event_seq = m->seq;
    t->event_gap = m->gap;
    if (m->metadata_len) { /* the record is gone when somebody asks */
        es_lua_push_kv(L, m->data, m->metadata_len);
        t->meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    int above = push_handler(L, ls, ES_JOB_EVENT, m), n = 0;
    int rc = decode(L, m, &n);
    if (rc < 0 || !lua_checkstack(t->co, above + n + 1)) {
        es_lua_log(L, lp->lua, "warn", rc < 0 ? lua_tostring(L, -1) : "too many values", NULL,
                   m->method->name);
        es_session_event_done(s, m->lane, m->method);
        es_task_discard(L, t);
        return;
    }
    lua_xmove(L, t->co, above + n + 1);
    es_task_run(L, t, above + n);
}

static void on_channel_request(lua_State *L, struct es_lloop *lp, struct es_ev_message *m)
{
    struct es_lsession *ls = session_of(L, lp, m->h.owner, 0);
    struct es_task *t = ls && m->method->ref >= 0 ? es_task_new(L, lp, ES_JOB_CHANNEL) : NULL;
    if (!t) {
        struct es_failure f = {.status = ES_STATUS_METHOD_NOT_FOUND,
                               .message = "the stream handler was removed",
                               .message_len = strlen("the stream handler was removed")};
        es_channel_end(m->channel, &f);
        es_channel_release(m->channel);
        return;
    }
    t->session = m->h.owner;
    es_session_ref(t->session);
    t->method = m->method;
    es_method_use(t->method); /* a handler may close its stream, which leaves the method, and go on */
    t->codec = m->codec;
    int above = push_handler(L, ls, ES_JOB_CHANNEL, m), n = 0, rc = 0;
    struct es_lchannel *lc = es_lchannel_new(L, lp, m->channel);
    lc->refs++;
    lc->incoming = 1;
    lc->task = t;
    t->channel = lc;
    if (m->payload_len && es_channel_is_call(m->channel)) /* no bytes are no arguments */
        rc = decode(L, m, &n);
    if (rc < 0 || !lua_checkstack(t->co, above + n + 2)) {
        if (rc == 0)
            lua_pushliteral(L, "too many arguments");
        es_lua_push_error(L, "serialization", "the arguments cannot be read: %s", lua_tostring(L, -1));
        t->refused = t->unreadable = 1;
        es_job_end(L, t, 0, 1);
        es_task_discard(L, t);
        return;
    }
    lua_xmove(L, t->co, above + n + 2);
    es_task_run(L, t, above + n + 1);
}

static void on_cancelled(lua_State *L, struct es_ev_message *m)
{
    struct es_task *t = es_call_user(m->call);
    if (t && !es_lua_call_kept(L, t, m->code)) /* no t: it ends by itself when its REQUEST is popped */
        es_task_give_up(L, t, m->code);
}

static void on_channel(lua_State *L, struct es_lchannel *lc, unsigned type)
{
    uint64_t code;
    es_lchannel_event(L, lc, type);
    if (type == ES_EV_CHANNEL_CLOSED && lc->task && lc->c && es_channel_cancelled(lc->c, &code))
        es_task_give_up(L, lc->task, code);
}

/* What came with an answer, until the task asks for it (core.take_trailers) or makes another request. */
static void keep_trailers(lua_State *L, struct es_waiter *w, const uint8_t *kv, size_t len)
{
    if (w->kind != ES_WAITER_TASK)
        return;
    struct es_task *t = (struct es_task *)w;
    es_lua_push_kv(L, kv, len);
    luaL_unref(L, LUA_REGISTRYINDEX, t->came_ref);
    t->came_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void on_response(lua_State *L, struct es_lloop *lp, struct es_ev_message *m)
{
    struct es_waiter *w = m->user;
    w->call = NULL;
    lp->unended_waiter = w;
    if (m->metadata_len)
        keep_trailers(L, w, m->data, m->metadata_len);
    int n = 0;
    if (decode(L, m, &n) < 0) {
        const char *why = lua_tostring(L, -1);
        lua_pushnil(L);
        es_lua_push_failure(L, "serialization", 13, why, strlen(why), ES_PROCESSED_YES, 0, 0);
        n = 2;
    } else if (n == 0) {
        lua_pushboolean(L, 1);
        n = 1;
    }
    lp->unended_waiter = NULL;
    es_lua_waiter_end(L, w, n);
}

static void on_failed(lua_State *L, struct es_lloop *lp, struct es_ev_failed *f)
{
    struct es_waiter *w = f->user;
    w->call = NULL;
    lp->unended_waiter = w;
    const char *code = (const char *)f->data, *message = code + f->code_len;
    int details = 0;
    if (f->trailers_len)
        keep_trailers(L, w, f->data + f->code_len + f->message_len + f->details_len, f->trailers_len);
    lua_pushnil(L);
    int nil_at = lua_gettop(L);
    if (f->details_len && unpack_details(L, f, f->data + f->code_len + f->message_len) == 0)
        details = nil_at + 1;
    else
        lua_settop(L, nil_at); /* details that cannot be read leave the error without them */
    es_lua_push_failure(L, code, f->code_len, message, f->message_len, f->processed, f->retry_after_ms,
                        details);
    if (details)
        lua_remove(L, details);
    lua_insert(L, nil_at + 1);
    lua_settop(L, nil_at + 1);
    lp->unended_waiter = NULL;
    es_lua_waiter_end(L, w, 2);
}

static void on_goaway(lua_State *L, struct es_lloop *lp, struct es_lsession *ls, struct es_ev_goaway *g)
{
    if (ls->host->goaway_ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->goaway_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
    lua_pushnumber(L, (double)g->grace_ms / 1e3);
    lua_pushnumber(L, (double)g->retry_after_ms / 1e3);
    lua_pushstring(L, g->reason);
    es_task_call(L, lp, 4);
}

static void on_pong(lua_State *L, struct es_lloop *lp, struct es_lsession *ls, struct es_ev_pong *p)
{
    if (ls->host->pong_ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->pong_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
    lua_pushinteger(L, (lua_Integer)p->id);
    lua_pushnumber(L, (double)p->rtt / 1e9);
    lua_pushnumber(L, (double)p->clock_us / 1e6);
    es_task_call(L, lp, 4);
}

static void handle_session_event(lua_State *L, struct es_lloop *lp, struct es_event *ev)
{
    struct es_lsession *ls;
    switch (ev->type) {
    case ES_EV_REQUEST:
        on_request(L, lp, (struct es_ev_message *)ev);
        return;
    case ES_EV_RESPONSE:
        on_response(L, lp, (struct es_ev_message *)ev);
        return;
    case ES_EV_CALL_FAILED:
        on_failed(L, lp, (struct es_ev_failed *)ev);
        return;
    case ES_EV_EVENT:
        on_event(L, lp, (struct es_ev_message *)ev);
        return;
    case ES_EV_EVENT_UNHANDLED: {
        struct es_ev_unhandled *u = (struct es_ev_unhandled *)ev;
        es_lua_log(L, lp->lua, "warn",
                   u->last ? "nobody handles this event; others of other names are not logged any more"
                           : "nobody handles this event; later ones are counted and not logged",
                   NULL, u->name);
        return;
    }
    case ES_EV_CALL_CANCELLED:
        on_cancelled(L, (struct es_ev_message *)ev);
        return;
    case ES_EV_CHANNEL_REQUEST:
        on_channel_request(L, lp, (struct es_ev_message *)ev);
        return;
    case ES_EV_CHANNEL_READABLE:
    case ES_EV_CHANNEL_WRITABLE:
    case ES_EV_CHANNEL_CLOSED: {
        struct es_ev_channel *c = (struct es_ev_channel *)ev;
        if (c->user)
            on_channel(L, c->user, ev->type);
        return;
    }
    default:
        break;
    }
    ls = session_of(L, lp, ev->owner, ev->type == ES_EV_SESSION_OPEN);
    if (!ls)
        return;
    switch (ev->type) {
    case ES_EV_SESSION_OPEN:
        es_lsession_opened(L, ls);
        break;
    case ES_EV_SESSION_CLOSED:
        es_lsession_closed(L, ls, (struct es_ev_closed *)ev);
        break;
    case ES_EV_SESSION_GOAWAY:
        on_goaway(L, lp, ls, (struct es_ev_goaway *)ev);
        break;
    case ES_EV_SESSION_IDLE:
        if (ls->host->idle_ref != LUA_NOREF) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->idle_ref);
            lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
            es_task_call(L, lp, 1);
        }
        break;
    case ES_EV_SESSION_PONG:
        on_pong(L, lp, ls, (struct es_ev_pong *)ev);
        break;
    case ES_EV_SESSION_MOVED:
        es_lsession_moved(L, ls, &((struct es_ev_moved *)ev)->move);
        break;
    case ES_EV_SESSION_WRITABLE:
        es_lua_list_run(L, lp, &ls->writable_ref);
        break;
    default:
        break;
    }
}

#define SLICE       (2 * ES_MILLI) /* of handlers, before the network has its turn */
#define QUIC_EVENTS 0x200          /* quic.c's types start here */
#define LOG_EVENT   0x300          /* endpoint.c's: text follows */

static int is_h3(const struct es_event *ev)
{
    return ev->type == ES_H3_EVENT_CONN || ev->type == ES_H3_EVENT_EXCHANGE;
}

static void pop(struct es_lloop *lp, struct es_event *ev)
{
    if (ev->type < QUIC_EVENTS)
        es_session_pop(lp->events);
    else if (is_h3(ev))
        es_h3_pop(lp->events);
    else
        es_evq_pop(lp->events);
}

/* Handlers have run for a while: what they answered goes out, and what came meanwhile is read, before the
 * rest have their turn. Otherwise a queue of calls is one long silence on the wire: the pacer has nothing to
 * send when it may and too much when it may not, the round trip that the transport measures is that of the
 * queue, and deadlines pass unseen. The time is what the last resume left, so that it costs no reading of the
 * clock; a simulated loop's handlers take no time. */
static int slice_is_over(const struct es_lloop *lp)
{
    return lp->stamp - lp->slice_began > SLICE && !lp->sim;
}

/* Of es_lua_drain: an error leaves drain_body, and what is here stays. */
struct pass {
    struct es_lloop *lp;      /* borrowed */
    struct es_event *handled; /* borrowed: the event that an error came out of; NULL: none */
    struct es_list batch;     /* es_task.node: those whose turn it is */
    size_t count;
};

/* One pass over what is ready now: a task that is woken meanwhile waits for the next pass, after a flush. */
static void run_batch(lua_State *L, struct pass *p)
{
    struct es_lloop *lp = p->lp;

    if (!es_list_empty(&lp->ready)) {
        p->batch = lp->ready;
        p->batch.next->prev = &p->batch;
        p->batch.prev->next = &p->batch;
        es_list_init(&lp->ready);
    }
    while (!es_list_empty(&p->batch)) {
        struct es_task *t = es_container_of(p->batch.next, struct es_task, node);
        ++p->count;
        if (lua_status(t->co) == LUA_OK && t->cancelled && t->job == ES_JOB_SPAWNED) {
            es_list_remove(&t->node);
            es_list_push(&lp->ready, &t->node);
            es_task_cancel(L, t);
        } else {
            es_task_run(L, t, t->nargs);
        }
        lua_settop(L, 1);
    }
}

static int drain_body(lua_State *L)
{
    struct pass *p = lua_touserdata(L, 1);
    struct es_lloop *lp = p->lp;
    struct es_event *ev;
    luaL_checkstack(L, 40, "draining");
    while ((ev = es_evq_peek(lp->events)) != NULL && !slice_is_over(lp)) {
        ++p->count;
        p->handled = ev;
        if (ev->type < QUIC_EVENTS)
            handle_session_event(L, lp, ev);
        else if (ev->type == ES_TICKET_EVENT)
            es_lua_ticket_event(L, ev);
        else if (is_h3(ev))
            es_lua_h3_event(L, ev);
        else if (ev->type < LOG_EVENT)
            es_lua_quic_event(L, ev);
        else
            es_lua_log(L, lp->lua, "warn", (const char *)(ev + 1), NULL, NULL);
        p->handled = NULL;
        pop(lp, ev);
        lua_settop(L, 1);
    }
    p->count += es_lua_run_fired(L, lp);
    run_batch(L, p);
    return 0;
}

static int end_waiter_body(lua_State *L)
{
    struct es_waiter *w = lua_touserdata(L, 1);
    lua_pushnil(L);
    es_lua_push_error(L, "resource_exhausted", "out of memory");
    es_lua_waiter_end(L, w, 2);
    return 0;
}

size_t es_lua_drain(lua_State *L, struct es_lloop *lp)
{
    struct pass p = {.lp = lp};
    es_list_init(&p.batch);
    lp->slice_began = lp->stamp;
    for (int tries = 0; tries < 1000; tries++) {
        size_t before = p.count;
        if (!es_evq_peek(lp->events) && es_list_empty(&lp->ready) && es_list_empty(&lp->fired))
            break;
        lua_pushcfunction(L, drain_body);
        lua_pushlightuserdata(L, &p);
        if (lua_pcall(L, 1, 0, 0) == LUA_OK)
            break;
        es_lua_log(L, lp->lua, "error", lua_tostring(L, -1), NULL, "drain");
        lua_pop(L, 1);
        if (lp->unowned_call) {
            refuse(lp->unowned_call, ES_STATUS_RESOURCE_EXHAUSTED, NULL, "out of memory");
            lp->unowned_call = NULL;
        }
        if (lp->unended_waiter) {
            struct es_waiter *w = lp->unended_waiter;
            lp->unended_waiter = NULL;
            lua_pushcfunction(L, end_waiter_body);
            lua_pushlightuserdata(L, w);
            if (lua_pcall(L, 1, 0, 0) != LUA_OK)
                lua_pop(L, 1);
        }
        /* Tasks that had no turn get it in the next pass; events too, but for the one that failed. */
        es_list_foreach(it, &p.batch)
        {
            es_list_remove(it);
            es_list_push(&lp->ready, it);
        }
        if (p.handled)
            pop(lp, p.handled);
        p.handled = NULL;
        if (p.count == before)
            break; /* there is no memory even to begin */
    }
    return p.count;
}

/* What the queue still wanted from us is answered, so that nothing is left waiting for it. */
static void drop_event(lua_State *L, struct es_event *ev)
{
    struct es_ev_message *m = (struct es_ev_message *)ev;
    switch (ev->type) {
    case ES_EV_SESSION_CLOSED: {
        struct es_lsession *ls = es_session_user(ev->owner);
        if (ls)
            es_lsession_forget(L, ls);
        break;
    }
    case ES_EV_REQUEST:
        if (es_call_admit(m->call) == 0)
            refuse(m->call, ES_STATUS_UNAVAILABLE, NULL, "");
        break;
    case ES_EV_EVENT:
        es_session_event_done(ev->owner, m->lane, m->method);
        break;
    case ES_EV_CHANNEL_REQUEST:
        es_channel_release(m->channel);
        break;
    default:
        if (ev->type == ES_TICKET_EVENT)
            es_lua_ticket_drop(ev);
        else if (is_h3(ev))
            es_lua_h3_drop(ev);
        else if (ev->type >= QUIC_EVENTS && ev->type < LOG_EVENT)
            es_lua_quic_drop(ev);
    }
}

void es_lua_drop_events(lua_State *L, struct es_lloop *lp)
{
    struct es_event *ev;
    while ((ev = es_evq_peek(lp->events)) != NULL) {
        drop_event(L, ev);
        pop(lp, ev);
    }
}
