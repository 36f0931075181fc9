/* A stream's send queue: chunks from the oldest unacknowledged byte to the newest, and the memory they live
 * in. */
#include <assert.h>
#include <string.h>
#include "internal.h"

#define FREE_CHUNKS_MAX 256 /* idle 4 KiB chunks kept by an endpoint */
#define INDEX_FROM      16  /* streams: fewer are looked through when one is looked for by its id */

/* ---- memory ---- */

struct es_chunk *es_chunk_get(struct es_endpoint *ep)
{
    struct es_chunk *k = ep->free_chunks;

    if (k != NULL) {
        ep->free_chunks = k->next;
        ep->n_free_chunks--;
    } else {
        k = es_malloc(sizeof *k + ES_CHUNK_BYTES);
        if (k == NULL) {
            return NULL;
        }
    }
    k->next = NULL;
    k->p = (uint8_t *)(k + 1);
    k->len = 0;
    k->cap = ES_CHUNK_BYTES;
    k->kind = ES_CHUNK_POOLED;
    return k;
}

void es_chunk_put(struct es_endpoint *ep, struct es_chunk *k)
{
    switch (k->kind) {
    case ES_CHUNK_INLINE:
        k->len = 0;
        break;
    case ES_CHUNK_POOLED:
        if (ep->n_free_chunks >= FREE_CHUNKS_MAX) {
            es_free(k);
            break;
        }
        k->next = ep->free_chunks;
        ep->free_chunks = k;
        ep->n_free_chunks++;
        break;
    case ES_CHUNK_REF:
        k->next = NULL;
        *ep->releases_end = k;
        ep->releases_end = &k->next;
        es_endpoint_mark(ep);
        break;
    }
}

void es_endpoint_run_releases(struct es_endpoint *ep)
{
    struct es_chunk *k;

    while ((k = ep->releases) != NULL) {
        ep->releases = k->next;
        if (ep->releases == NULL) {
            ep->releases_end = &ep->releases;
        }
        k->release(k->arg);
        es_pool_put(&ep->refs, k);
    }
}

/* ---- life ---- */

struct es_qstream *es_qstream_new(struct es_conn *c, int64_t id, int remote)
{
    struct es_qstream *s = es_pool_get(&c->ep->streams);

    if (s == NULL) {
        return NULL;
    }
    s->s.link = &c->link;
    s->s.id = id;
    es_link_marks(&s->s, ES_LINK_HIGH, ES_LINK_HIGH / 2);
    s->prio = ES_PRIO_DEFAULT;
    s->window = c->cfg.stream_window;
    s->round_at = es_conn_now(c);
    s->remote = remote != 0;
    s->uni = !ngtcp2_is_bidi_stream(id);
    s->inl.p = s->inline_buf;
    s->inl.cap = ES_INLINE;
    s->inl.kind = ES_CHUNK_INLINE;
    es_list_init(&s->ready);
    es_list_init(&s->ops);
    es_list_push(&c->streams, &s->all);
    c->n_streams++;
    c->n_bidi += !s->uni;
    if (c->indexed && es_idmap_put(&c->by_id, (uint64_t)id, s) != 0) {
        es_qstream_forget_ids(c);
    }
    return s;
}

void es_qstream_forget_ids(struct es_conn *c)
{
    if (c->indexed) {
        es_idmap_free(&c->by_id);
        c->indexed = 0;
    }
}

/* The library hands over our stream with everything but what it does not tell at all. That is rare in most
 * connections and common in some, so the index is made by the first who looks for one among many, and kept
 * from then on. */
static void index_ids(struct es_conn *c)
{
    struct es_poller *p = c->ep->p;
    uint64_t seed;

    p->io.rand(p->io.ctx, (uint8_t *)&seed, sizeof seed);
    es_idmap_init(&c->by_id, seed);
    c->indexed = 1;
    es_list_foreach(it, &c->streams)
    {
        struct es_qstream *s = es_container_of(it, struct es_qstream, all);
        if (es_idmap_put(&c->by_id, (uint64_t)s->s.id, s) != 0) {
            es_qstream_forget_ids(c); /* no memory: they are looked through */
            return;
        }
    }
}

struct es_qstream *es_qstream_find(struct es_conn *c, int64_t id)
{
    if (!c->indexed && c->n_streams >= INDEX_FROM) {
        index_ids(c);
    }
    if (c->indexed) {
        return es_idmap_get(&c->by_id, (uint64_t)id);
    }
    es_list_foreach(it, &c->streams)
    {
        struct es_qstream *s = es_container_of(it, struct es_qstream, all);
        if (s->s.id == id) {
            return s;
        }
    }
    return NULL;
}

static void drop_chunks(struct es_qstream *s)
{
    struct es_conn *c = es_conn_of(s->s.link);
    struct es_chunk *k, *next;

    for (k = s->head; k != NULL; k = next) {
        next = k->next;
        k->next = NULL;
        es_chunk_put(c->ep, k);
    }
    es_link_count_unsent(&c->link, -(int64_t)s->unsent);
    es_conn_queued(c, -(int64_t)s->unacked);
    s->head = s->tail = s->send = NULL;
    s->send_off = s->head_off = s->unsent = s->unacked = 0;
}

void es_qstream_retire(struct es_qstream *s)
{
    struct es_conn *c = es_conn_of(s->s.link);

    drop_chunks(s);
    es_list_remove(&s->ready);
    es_list_remove(&s->ops);
    es_list_remove(&s->all);
    es_list_push(&c->dead, &s->all);
    c->n_streams--;
    c->n_bidi -= !s->uni;
    if (c->indexed) {
        es_idmap_remove(&c->by_id, (uint64_t)s->s.id);
    }
}

void es_qstream_sweep(struct es_conn *c)
{
    es_list_foreach(it, &c->dead)
    {
        es_list_remove(it);
        es_pool_put(&c->ep->streams, es_container_of(it, struct es_qstream, all));
    }
}

/* ---- writing ---- */

void es_qstream_make_ready(struct es_qstream *s)
{
    struct es_conn *c = es_conn_of(s->s.link);

    if (es_list_empty(&s->ready) && !s->blocked && !s->shut && (s->unsent > 0 || (s->fin && !s->fin_sent))) {
        es_list_push(&c->ready[s->prio], &s->ready);
    }
}

void es_qstream_op(struct es_qstream *s)
{
    struct es_conn *c = es_conn_of(s->s.link);

    if (es_list_empty(&s->ops)) {
        es_list_push(&c->ops, &s->ops);
    }
    es_conn_mark(c);
}

static void append_chunk(struct es_qstream *s, struct es_chunk *k)
{
    k->next = NULL;
    if (s->tail != NULL) {
        s->tail->next = k;
    } else {
        s->head = k;
        s->head_off = 0;
    }
    s->tail = k;
    if (s->send == NULL) {
        s->send = k;
        s->send_off = 0;
    }
}

static void queued_more(struct es_qstream *s, size_t n, int fin)
{
    struct es_conn *c = es_conn_of(s->s.link);

    s->unsent += n;
    s->unacked += n;
    es_link_count_unsent(&c->link, (int64_t)n);
    es_conn_queued(c, (int64_t)n);
    s->fin |= fin != 0;
    es_link_queue_rose(&s->s, s->unsent);
    es_qstream_make_ready(s);
    es_conn_mark(c);
}

/* Takes from the chunk at the tail, which still has room, as much as fits. */
static size_t fill_tail(struct es_qstream *s, const uint8_t *data, size_t n)
{
    struct es_chunk *k = s->tail;
    size_t room;

    if (k == NULL || k->kind == ES_CHUNK_REF) {
        return 0;
    }
    room = k->cap - k->len;
    if (room > n) {
        room = n;
    }
    if (room == 0) {
        return 0;
    }
    memcpy((uint8_t *)(uintptr_t)k->p + k->len, data, room);
    if (s->send == NULL) { /* all of it had been sent: go on behind */
        s->send = k;
        s->send_off = k->len;
    }
    k->len += room;
    return room;
}

int es_qstream_write(struct es_qstream *s, const void *data, size_t n, int fin)
{
    struct es_conn *c = es_conn_of(s->s.link);
    const uint8_t *p = data;
    struct es_chunk *fresh = NULL, **end = &fresh, *k;
    size_t tail_room = 0, need = n;

    if (s->tail == NULL && n <= ES_INLINE && n > 0) {
        append_chunk(s, &s->inl);
    }
    if (s->tail != NULL && s->tail->kind != ES_CHUNK_REF) {
        tail_room = s->tail->cap - s->tail->len;
    }
    /* All memory first: a write is never partial. */
    need -= need < tail_room ? need : tail_room;
    while (need > 0) {
        k = es_chunk_get(c->ep);
        if (k == NULL) {
            for (; fresh != NULL; fresh = k) {
                k = fresh->next;
                es_chunk_put(c->ep, fresh);
            }
            return ES_ERR_NOMEM;
        }
        *end = k;
        end = &k->next;
        need -= need < k->cap ? need : k->cap;
    }

    size_t left = n, took = fill_tail(s, p, left);
    p += took;
    left -= took;
    while ((k = fresh) != NULL) {
        fresh = k->next;
        took = left < k->cap ? left : k->cap;
        memcpy((uint8_t *)(uintptr_t)k->p, p, took);
        k->len = took;
        append_chunk(s, k);
        p += took;
        left -= took;
    }
    queued_more(s, n, fin);
    return 0;
}

int es_qstream_write_ref(struct es_qstream *s, const void *data, size_t n, int fin, void (*release)(void *),
                         void *arg)
{
    struct es_conn *c = es_conn_of(s->s.link);
    struct es_chunk *k = es_pool_get(&c->ep->refs);

    if (k == NULL) {
        return ES_ERR_NOMEM;
    }
    k->p = data;
    k->len = k->cap = n;
    k->kind = ES_CHUNK_REF;
    k->release = release;
    k->arg = arg;
    if (n == 0) { /* nothing to wait for */
        es_chunk_put(c->ep, k);
    } else {
        append_chunk(s, k);
    }
    queued_more(s, n, fin);
    return 0;
}

/* ---- sending ---- */

/* The unsent bytes as vectors, at most `max` of them and about one packet's worth. */
size_t es_qstream_vec(const struct es_qstream *s, ngtcp2_vec *v, size_t max, size_t *bytes)
{
    size_t n = 0, total = 0, off = s->send_off;

    for (const struct es_chunk *k = s->send; k != NULL && n < max && total < ES_PACKET_MAX; k = k->next) {
        if (k->len > off) {
            v[n].base = (uint8_t *)(uintptr_t)k->p + off;
            v[n].len = k->len - off;
            total += v[n].len;
            n++;
        }
        off = 0;
    }
    *bytes = total;
    return n;
}

void es_qstream_advance(struct es_qstream *s, size_t n)
{
    struct es_conn *c = es_conn_of(s->s.link);

    assert(n <= s->unsent);
    s->unsent -= n;
    es_link_count_unsent(&c->link, -(int64_t)n);
    while (s->send != NULL) {
        size_t left = s->send->len - s->send_off;
        if (n < left) {
            s->send_off += n;
            break;
        }
        n -= left;
        s->send = s->send->next;
        s->send_off = 0;
    }
    if (es_link_queue_fell(&s->s, s->unsent)) {
        s->want_writable = 1;
        es_qstream_op(s);
    }
}

/* The next n bytes of the queue were acknowledged. */
void es_qstream_acked(struct es_qstream *s, uint64_t n)
{
    struct es_conn *c = es_conn_of(s->s.link);

    assert(n <= s->unacked - s->unsent);
    s->unacked -= (size_t)n;
    es_conn_queued(c, -(int64_t)n);
    while (s->head != NULL) {
        struct es_chunk *k = s->head;
        size_t left = k->len - s->head_off;

        if (n < left) {
            s->head_off += (size_t)n;
            return;
        }
        n -= left;
        assert(k != s->send); /* what is acknowledged was sent, and `send` has unsent bytes */
        s->head = k->next;
        s->head_off = 0;
        if (s->head == NULL) {
            s->tail = NULL;
        }
        es_chunk_put(c->ep, k);
    }
}

/* After a reset: what no packet carries yet is given up. What is under way stays until the stream is closed,
 * since the library may still point to it. */
void es_qstream_drop_unsent(struct es_qstream *s)
{
    struct es_conn *c = es_conn_of(s->s.link);
    struct es_chunk *k, *next;

    es_list_remove(&s->ready);
    es_link_count_unsent(&c->link, -(int64_t)s->unsent);
    s->unacked -= s->unsent;
    es_conn_queued(c, -(int64_t)s->unsent);
    s->unsent = 0;
    s->s.wake = 0;
    if (s->send == NULL) {
        return;
    }
    k = s->send;
    if (s->send_off > 0) {
        k->len = s->send_off;
        next = k->next;
        k->next = NULL;
        s->tail = k;
    } else {
        struct es_chunk **pp = &s->head;
        s->tail = NULL;
        while (*pp != k) {
            s->tail = *pp;
            pp = &(*pp)->next;
        }
        *pp = NULL;
        next = k;
    }
    s->send = NULL;
    s->send_off = 0;
    for (k = next; k != NULL; k = next) {
        next = k->next;
        k->next = NULL;
        es_chunk_put(c->ep, k);
    }
}

void es_qstream_stopped(struct es_qstream *s, uint64_t code)
{
    es_qstream_drop_unsent(s);
    if (!s->shut) {
        s->shut = 1;
        s->want_stopped = 1;
        s->s.stop_code = code;
        es_qstream_op(s);
    }
}
