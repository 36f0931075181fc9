/* Exchanges: what came waits here, as it is to be sent on, until Lua takes it. */
#include <string.h>
#include "../head/parts.h"
#include "binding.h"

#define ROOM      16 /* before the bytes of a body, for what stands before them in a message */
#define HEADS_MAX 32 /* untaken; more informational ones than that are a flood */

struct exchange {
    struct et_obj o;       /* first */
    struct et_exchange *x; /* borrowed from the codec; NULL: gone */
    struct et_info *info;  /* counted */
    struct et_obj *owner;  /* counted: the listener, until its on_exchange was called */
    struct {
        struct et_head *h; /* owned */
        int fin;
    } * heads; /* owned: those that came and were not taken */
    unsigned n_heads, next_head;
    struct es_buf in; /* body from `at` on; before it are always ROOM bytes */
    size_t at;
    struct et_head *trailers; /* owned */
    char *text;               /* owned */
    uint64_t received, sent;
    enum et_reset why; /* 0: it was not reset */
    uint8_t is_visitor, ended, end_taken;
};

static struct exchange *check(lua_State *L)
{
    return (struct exchange *)et_obj_check(L, 1, ET_LUA_EXCHANGE);
}

struct et_obj *et_lua_exchange_new(struct et_engine *e, struct et_info *info, struct et_obj *owner)
{
    struct exchange *t = es_calloc(1, sizeof *t);

    if (t == NULL) {
        return NULL;
    }
    et_obj_init(&t->o, e, ET_OBJ_EXCHANGE);
    t->info = info;
    if (info != NULL) {
        info->refs++;
    }
    t->is_visitor = owner != NULL;
    t->owner = owner;
    if (owner != NULL) {
        owner->refs++;
        et_obj_mark(&t->o, ET_F_NEW);
    }
    e->exchanges++;
    return &t->o;
}

void et_lua_exchange_set(struct et_obj *o, struct et_exchange *x)
{
    ((struct exchange *)o)->x = x;
}

void et_exchange_free(struct et_obj *o)
{
    struct exchange *t = (struct exchange *)o;

    for (unsigned i = t->next_head; i < t->n_heads; i++) {
        et_head_del(t->heads[i].h);
    }
    es_free(t->heads);
    es_buf_free(&t->in);
    et_head_del(t->trailers);
    es_free(t->text);
    et_info_unref(t->info);
    if (t->owner != NULL) {
        et_obj_unref(t->owner);
    }
    o->e->exchanges--;
    o->e->exchanges_done++;
    es_free(t);
}

/* ---- from the codec ---- */

static void give_up(struct exchange *t)
{
    if (t->x != NULL) {
        t->x->ops->reset(t->x, ET_RESET_INTERNAL);
    }
}

static void on_head(void *user, struct et_head *h, int fin)
{
    struct exchange *t = user;
    void *more;

    if (t->next_head == t->n_heads) {
        t->next_head = t->n_heads = 0;
    }
    if (t->n_heads == HEADS_MAX) {
        et_head_del(h);
        if (t->x != NULL) {
            t->x->ops->reset(t->x, ET_RESET_ENHANCE_CALM);
        }
        return;
    }
    more = es_realloc(t->heads, (t->n_heads + 1) * sizeof *t->heads);
    if (more == NULL) {
        et_head_del(h);
        give_up(t);
        return;
    }
    t->heads = more;
    t->heads[t->n_heads].h = h;
    t->heads[t->n_heads++].fin = fin;
    t->received += et_head_bytes(h);
    if (fin) {
        t->ended = 1;
    }
    et_obj_mark(&t->o, ET_F_HEAD | (fin ? ET_F_DATA : 0));
}

static int make_room(struct exchange *t, size_t n)
{
    if (t->in.p == NULL && t->o.e->spare.p != NULL) {
        t->in = t->o.e->spare;
        memset(&t->o.e->spare, 0, sizeof t->o.e->spare);
    }
    if (t->at == t->in.n) {
        t->at = t->in.n = 0;
        if (es_buf_reserve(&t->in, ROOM + n) != 0) {
            return ES_ERR_NOMEM;
        }
        t->at = t->in.n = ROOM;
        return 0;
    }
    if (t->at - ROOM > t->in.n / 2) {
        es_buf_drop(&t->in, t->at - ROOM);
        t->at = ROOM;
    }
    return es_buf_reserve(&t->in, n);
}

static void on_body(void *user, const uint8_t *p, size_t n)
{
    struct exchange *t = user;

    if (make_room(t, n) != 0) {
        give_up(t);
        return;
    }
    (void)es_buf_put(&t->in, p, n);
    t->received += n;
    et_obj_mark(&t->o, ET_F_DATA);
}

static void on_end(void *user, struct et_head *trailers)
{
    struct exchange *t = user;

    t->ended = 1;
    et_head_del(t->trailers);
    t->trailers = trailers;
    et_obj_mark(&t->o, ET_F_DATA);
}

static void on_room(void *user)
{
    struct exchange *t = user;

    et_obj_mark(&t->o, ET_F_ROOM);
}

static void on_reset(void *user, enum et_reset why, const char *text)
{
    struct exchange *t = user;

    t->why = why;
    es_free(t->text);
    t->text = es_malloc(strlen(text) + 1);
    if (t->text != NULL) {
        strcpy(t->text, text);
    }
    t->o.e->resets++;
    et_obj_mark(&t->o, ET_F_RESET);
}

static void on_gone(void *user)
{
    struct exchange *t = user;
    struct et_exchange *x = t->x;

    t->x = NULL;
    if (x != NULL) {
        x->ops->release(x);
    }
    et_obj_mark(&t->o, ET_F_CLOSED);
    et_obj_unref(&t->o);
}

const struct et_exchange_events et_lua_exchange_events = {
    .head = on_head, .body = on_body, .end = on_end, .room = on_room, .reset = on_reset, .gone = on_gone};

/* ---- to Lua ---- */

static void notify(lua_State *L, const char *what)
{
    int ud = lua_gettop(L);

    if (lua_getiuservalue(L, ud, ET_UV_NOTIFY) == LUA_TFUNCTION) {
        lua_pushvalue(L, ud);
        lua_pushstring(L, what);
        et_lua_tell(L, 2);
    }
    lua_settop(L, ud);
}

static int push_next_head(lua_State *L, struct exchange *t)
{
    struct et_head *h;
    int fin;

    if (t->next_head == t->n_heads) {
        lua_pushnil(L);
        return 1;
    }
    h = t->heads[t->next_head].h;
    fin = t->heads[t->next_head++].fin;
    et_lua_push_head(L, h);
    lua_pushboolean(L, fin);
    return 2;
}

/* The request that came, for the listener's function. Nobody there: it is refused. */
static void introduce(lua_State *L, struct exchange *t)
{
    int ud = lua_gettop(L);
    struct et_obj *owner = t->owner;

    t->owner = NULL;
    et_obj_push(L, 2, owner);
    et_obj_unref(owner);
    if (et_lua_push_callback(L, ud + 1, "on_exchange")) {
        lua_pushvalue(L, ud);
        et_lua_tell(L, 1 + push_next_head(L, t));
    } else if (t->x != NULL) {
        t->x->ops->reset(t->x, ET_RESET_REFUSED);
    }
    lua_settop(L, ud);
}

void et_exchange_tell(lua_State *L, struct et_obj *o, unsigned flags)
{
    struct exchange *t = (struct exchange *)o;
    static const struct {
        unsigned flag;
        const char *what;
    } rows[] = {{ET_F_HEAD, "head"},
                {ET_F_DATA, "data"},
                {ET_F_ROOM, "room"},
                {ET_F_RESET, "reset"},
                {ET_F_CLOSED, "gone"}};

    if ((flags & ET_F_NEW) && t->owner != NULL) {
        introduce(L, t);
        flags &= t->next_head == t->n_heads ? ~(unsigned)ET_F_HEAD : ~0u;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (flags & rows[i].flag) {
            notify(L, rows[i].what);
        }
    }
}

static int set_notify(lua_State *L)
{
    check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setiuservalue(L, 1, ET_UV_NOTIFY);
    return 0;
}

static int take_head(lua_State *L)
{
    return push_next_head(L, check(L));
}

static size_t waiting(const struct exchange *t)
{
    return t->in.n - t->at;
}

static size_t asked_for(lua_State *L, const struct exchange *t, lua_Integer most)
{
    lua_Integer max = luaL_optinteger(L, 2, ET_PART_BODY_MAX);

    luaL_argcheck(L, max > 0, 2, "wants a number of bytes");
    max = max < most ? max : most;
    return waiting(t) < (size_t)max ? waiting(t) : (size_t)max;
}

static void taken(struct exchange *t, size_t n)
{
    t->at += n;
    if (t->at == t->in.n) {
        et_engine_keep_spare(t->o.e, &t->in);
        t->at = 0;
    }
    if (n != 0 && t->x != NULL) {
        t->x->ops->consume(t->x, n);
    }
}

/* The message is made where the bytes are: what stands before them goes into the room that is there, the end
 * behind them. */
static int take(lua_State *L)
{
    struct exchange *t = check(L);
    size_t n = asked_for(L, t, ET_PART_BODY_MAX), start;
    int over = t->ended && !t->end_taken && n == waiting(t), rv = 0;

    if (n == 0 && !over) {
        lua_pushnil(L);
        lua_pushboolean(L, t->end_taken);
        return 2;
    }
    if (n == 0 && make_room(t, 2) != 0) {
        return luaL_error(L, "out of memory");
    }
    start = t->at;
    if (n != 0) {
        start -= et_part_before(t->in.p + t->at, ET_PART_BODY, n);
    }
    if (over) {
        rv = t->trailers != NULL ? et_part_put_head(&t->in, t->trailers)
                                 : et_part_put(&t->in, ET_PART_END, NULL, 0);
        if (rv != 0) {
            t->in.n = t->at + n;
            return luaL_error(L, "out of memory");
        }
    }
    /* A failure of Lua's memory below leaves the exchange broken: its data stream is lost with the task. */
    lua_pushlstring(L, (const char *)t->in.p + start, (over ? t->in.n : t->at + n) - start);
    if (over) {
        t->end_taken = 1;
        t->in.n = t->at + n;
    }
    taken(t, n);
    lua_pushboolean(L, t->end_taken);
    return 2;
}

static int read_bytes(lua_State *L)
{
    struct exchange *t = check(L);
    size_t n = asked_for(L, t, (lua_Integer)1 << 30);
    int over = t->ended && n == waiting(t);
    struct et_head *trailers = t->trailers;

    if (n == 0) {
        lua_pushnil(L);
    } else {
        lua_pushlstring(L, (const char *)t->in.p + t->at, n);
    }
    taken(t, n);
    t->end_taken |= over;
    lua_pushboolean(L, over);
    if (!over || trailers == NULL) {
        return 2;
    }
    t->trailers = NULL;
    et_lua_push_head(L, trailers);
    return 3;
}

/* ---- sending ---- */

static int closed(lua_State *L, const struct exchange *t)
{
    lua_pushnil(L);
    et_lua_push_error(
        L, t->why == ET_RESET_REFUSED ? "unavailable" : "connection_closed",
        t->text != NULL && t->text[0] != '\0' ? "the exchange is over: %s" : "the exchange is over", t->text);
    return 2;
}

static int failed(lua_State *L, const struct exchange *t, int rv)
{
    return rv == ES_ERR_CLOSED ? closed(L, t) : et_lua_fail(L, rv, NULL);
}

static int has_room(const struct exchange *t)
{
    return t->x == NULL || t->x->ops->queued(t->x) <= ET_QUEUE_HIGH;
}

static int send_head(lua_State *L)
{
    struct exchange *t = check(L);
    struct et_head *h = et_lua_check_head(L, 2);
    int rv;

    if (t->x == NULL) {
        return closed(L, t);
    }
    rv = et_head_kind(h) == ET_HEAD_RESPONSE && t->is_visitor ? t->x->ops->head(t->x, h, lua_toboolean(L, 3))
                                                              : ES_ERR_INVAL;
    if (rv != 0) {
        return failed(L, t, rv);
    }
    t->sent += et_head_bytes(h);
    lua_pushboolean(L, 1);
    return 1;
}

/* One part of a message that was looked at before. `last`: an END follows at once. */
static int put_part(struct exchange *t, const struct et_part *part, int last)
{
    struct et_head *h;
    uint64_t why;
    struct et_text text;
    int rv;

    switch (part->type) {
    case ET_PART_HEAD:
    case ET_PART_INFORMATIONAL:
    case ET_PART_TRAILERS:
        rv = et_part_head(part, &h);
        if (rv != 0) {
            return rv;
        }
        if (part->type == ET_PART_TRAILERS) {
            rv = t->x->ops->trailers(t->x, h);
        } else {
            rv = et_head_kind(h) == ET_HEAD_RESPONSE && t->is_visitor ? t->x->ops->head(t->x, h, last)
                                                                      : ES_ERR_PROTOCOL;
        }
        t->sent += et_head_bytes(h);
        et_head_del(h);
        return rv;
    case ET_PART_BODY:
        t->sent += part->n;
        return t->x->ops->body(t->x, part->p, part->n, last);
    case ET_PART_END:
        return t->x->ops->body(t->x, NULL, 0, 1);
    case ET_PART_RESET:
        rv = et_part_reset(part, &why, &text);
        if (rv == 0) {
            t->x->ops->reset(t->x, why >= ET_RESET_CANCEL && why <= ET_RESET_NO_ERROR ? (enum et_reset)why
                                                                                      : ET_RESET_INTERNAL);
        }
        return rv;
    case ET_PART_NOTE:
        break;
    }
    return 0;
}

static int put(lua_State *L)
{
    struct exchange *t = check(L);
    size_t n;
    const uint8_t *p = (const uint8_t *)luaL_checklstring(L, 2, &n);
    struct et_part part;
    int over = 0, rv;

    if (t->x == NULL) {
        return closed(L, t);
    }
    if (et_part_check(p, n) != 0) {
        return et_lua_fail(L, ES_ERR_PROTOCOL, "a malformed message of a data stream");
    }
    while (et_part_next(&p, &n, &part) > 0) {
        int last = n >= 2 && p[0] == ET_PART_END && p[1] == 0 &&
                   (part.type == ET_PART_HEAD || part.type == ET_PART_BODY);
        if (over && part.type != ET_PART_NOTE) {
            return et_lua_fail(L, ES_ERR_PROTOCOL, "a part of a message after its end");
        }
        rv = put_part(t, &part, last);
        if (rv != 0) {
            return failed(L, t, rv);
        }
        over |=
            last || part.type == ET_PART_TRAILERS || part.type == ET_PART_END || part.type == ET_PART_RESET;
        if (last) {
            p += 2;
            n -= 2;
        }
    }
    lua_pushboolean(L, has_room(t));
    lua_pushboolean(L, over);
    return 2;
}

static int write_bytes(lua_State *L)
{
    struct exchange *t = check(L);
    size_t n;
    const char *p = luaL_checklstring(L, 2, &n);
    int rv = t->x == NULL ? ES_ERR_CLOSED : t->x->ops->body(t->x, p, n, lua_toboolean(L, 3));

    if (rv != 0) {
        return failed(L, t, rv);
    }
    t->sent += n;
    lua_pushboolean(L, has_room(t));
    return 1;
}

static int finish(lua_State *L)
{
    struct exchange *t = check(L);
    struct et_head *h = lua_isnoneornil(L, 2) ? NULL : et_lua_check_head(L, 2);
    int rv;

    if (t->x == NULL) {
        rv = ES_ERR_CLOSED;
    } else if (h != NULL) {
        rv = et_head_kind(h) == ET_HEAD_TRAILERS ? t->x->ops->trailers(t->x, h) : ES_ERR_INVAL;
    } else {
        rv = t->x->ops->body(t->x, NULL, 0, 1);
    }
    if (rv != 0) {
        return failed(L, t, rv);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int queued(lua_State *L)
{
    struct exchange *t = check(L);

    lua_pushinteger(L, t->x != NULL ? (lua_Integer)t->x->ops->queued(t->x) : 0);
    return 1;
}

static int room(lua_State *L)
{
    lua_pushboolean(L, has_room(check(L)));
    return 1;
}

static int reset(lua_State *L)
{
    struct exchange *t = check(L);
    unsigned why = et_reset_number(luaL_optstring(L, 2, "cancel"));

    luaL_argcheck(L, why != 0, 2, "why: \"cancel\", \"refused\", …");
    if (t->x != NULL) {
        t->x->ops->reset(t->x, (enum et_reset)why);
    }
    return 0;
}

static int failure(lua_State *L)
{
    struct exchange *t = check(L);

    if (t->why == 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushstring(L, et_reset_name(t->why));
    lua_pushstring(L, t->text != NULL ? t->text : "");
    return 2;
}

static int info(lua_State *L)
{
    struct exchange *t = check(L);

    et_info_push(L, t->info, t->received, t->sent);
    return 1;
}

void et_lua_open_exchange(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"notify", set_notify},   {"head", take_head}, {"take", take},         {"read", read_bytes},
        {"send_head", send_head}, {"put", put},        {"write", write_bytes}, {"finish", finish},
        {"queued", queued},       {"room", room},      {"reset", reset},       {"failure", failure},
        {"info", info},           {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", et_obj_gc}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_EXCHANGE, methods, meta);
}
