#include "host.h"

#include <assert.h>
#include <string.h>
#include "../base/err.h"
#include "../base/mem.h"
#include "../framing/frame.h"

static void wheel_expired(struct es_wheel *w, struct es_deadline *d)
{
    struct es_host *h = w->user;

    h->on_deadline(d);
}

int es_host_new(struct es_host **out, const struct es_host_config *cfg)
{
    struct es_host *h;
    uint8_t seed[16];

    *out = NULL;
    if (cfg->timers == NULL || cfg->events == NULL || cfg->rand == NULL || cfg->wall == NULL)
        return ES_ERR_INVAL;
    h = es_calloc(1, sizeof *h);
    if (h == NULL)
        return ES_ERR_NOMEM;
    h->refs = 1;
    h->cfg = *cfg;
    h->cfg.agent[sizeof h->cfg.agent - 1] = '\0';
    cfg->rand(cfg->ctx, seed, sizeof seed);
    for (int i = 0; i < ES_KINDS; i++)
        es_map_init(&h->methods[i], seed);
    es_map_init(&h->unhandled, seed);
    es_wheel_init(&h->wheel, cfg->timers, wheel_expired, h);
    es_list_init(&h->unreported);
    es_list_init(&h->sessions);
    for (int i = 0; i < 2; i++)
        es_map_init(&h->meters[i], seed);
    h->next_request_id = 1;
    *out = h;
    return 0;
}

void es_host_ref(struct es_host *h)
{
    h->refs++;
}

static void method_free(struct es_method *m)
{
    if (m->newer != NULL) {
        m->newer->older = m->older;
        m->newer->calls += m->calls;
        m->newer->errors += m->errors;
    }
    if (m->older != NULL) {
        m->older->newer = m->newer;
        if (m->newer == NULL) { /* the name was removed; what is still running counts there */
            m->older->meter = m->meter;
            m->meter = NULL;
        }
    }
    es_free(m->meter);
    es_free(m);
}

static void meters_free(struct es_host *h)
{
    for (int i = 0; i < 2; i++) {
        size_t it = 0;
        void *m;

        while (es_map_next(&h->meters[i], &it, NULL, NULL, &m))
            es_free(m);
        es_map_free(&h->meters[i]);
        es_free(h->other_meter[i]);
    }
}

static void host_free(struct es_host *h)
{
    assert(es_list_empty(&h->unreported));
    es_wheel_free(&h->wheel);
    for (int i = 0; i < ES_KINDS; i++) {
        size_t it = 0;
        void *m;

        /* Nobody is left who could use a method: sessions keep the host, calls keep their session. */
        while (es_map_next(&h->methods[i], &it, NULL, NULL, &m))
            method_free(m);
        es_map_free(&h->methods[i]);
    }
    meters_free(h);
    es_map_free(&h->unhandled);
    es_pool_free(&h->calls);
    es_pool_free(&h->channels);
    es_pool_free(&h->blocks);
    es_buf_free(&h->scratch);
    es_buf_free(&h->scratch_kv);
    es_buf_free(&h->packed);
    es_buf_free(&h->plain);
    es_zstd_free(&h->zstd);
    while (h->n_spare > 0)
        es_buf_free(&h->spare[--h->n_spare]);
    es_free(h);
}

void es_host_unref(struct es_host *h)
{
    if (h == NULL)
        return;
    assert(h->refs > 0);
    if (--h->refs == 0)
        host_free(h);
}

/* Whether the name means a stream already, of the other sort: a streaming method and a named stream are asked
 * for with the same flags. */
static int stream_exists(const struct es_host *h, enum es_kind kind, const char *name, size_t len,
                         unsigned flags)
{
    const struct es_method *m;

    if (kind == ES_KIND_RPC && flags & ES_METHOD_STREAM)
        return es_map_get(&h->methods[ES_KIND_STREAM], name, len) != NULL;
    if (kind != ES_KIND_STREAM)
        return 0;
    m = es_map_get(&h->methods[ES_KIND_RPC], name, len);
    return m != NULL && m->flags & ES_METHOD_STREAM;
}

int es_host_add(struct es_host *h, enum es_kind kind, const char *name, size_t len, int ref, unsigned flags,
                uint32_t concurrent)
{
    struct es_method *m;
    int rc;

    if ((unsigned)kind >= ES_KINDS || !es_name_valid(name, len) || ref == ES_NO_REF)
        return ES_ERR_INVAL;
    if (es_map_get(&h->methods[kind], name, len) != NULL || stream_exists(h, kind, name, len, flags))
        return ES_ERR_EXISTS;
    m = es_calloc(1, sizeof *m + len + 1);
    if (m == NULL)
        return ES_ERR_NOMEM;
    m->ref = ref;
    m->flags = flags;
    m->concurrent = concurrent;
    m->priority = ES_CALLERS_PRIORITY;
    m->version = 1;
    m->name_len = (uint16_t)len;
    memcpy(m->name, name, len);
    rc = es_map_put(&h->methods[kind], name, len, m);
    if (rc != 0)
        es_free(m);
    return rc;
}

static void method_reset(struct es_method *m, unsigned flags, uint32_t concurrent, uint32_t version)
{
    m->flags = flags;
    m->concurrent = concurrent;
    m->priority = ES_CALLERS_PRIORITY;
    m->timeout = 0;
    m->max_calls = 0;
    m->version = version;
}

/* What is queued for versions of another form than the function there will be is refused. */
static void refuse_other_forms(struct es_method *m, unsigned flags)
{
    for (; m != NULL; m = m->older)
        if (((m->flags ^ flags) & ES_METHOD_STREAM) != 0)
            m->ref = ES_NO_REF;
}

int es_host_replace(struct es_host *h, enum es_kind kind, const char *name, size_t len, unsigned flags,
                    uint32_t concurrent, uint32_t version)
{
    struct es_method *old = (unsigned)kind < ES_KINDS ? es_map_get(&h->methods[kind], name, len) : NULL;
    struct es_method *m;
    int rc;

    if (old == NULL)
        return ES_ERR_NOT_FOUND;
    if (stream_exists(h, kind, name, len, flags))
        return ES_ERR_EXISTS;
    if (old->uses == 0) {
        method_reset(old, flags, concurrent, version);
        refuse_other_forms(old->older, flags); /* of those something may be queued still */
        return 0;
    }
    m = es_calloc(1, sizeof *m + len + 1);
    if (m == NULL)
        return ES_ERR_NOMEM;
    method_reset(m, flags, concurrent, version);
    m->ref = old->ref;
    m->name_len = (uint16_t)len;
    memcpy(m->name, name, len);
    rc = es_map_put(&h->methods[kind], name, len, m);
    if (rc != 0) {
        es_free(m);
        return rc;
    }
    h->recent[kind] = NULL;
    m->older = old;
    old->newer = m;
    m->meter = old->meter;
    old->meter = NULL;
    refuse_other_forms(old, flags);
    return 0;
}

int es_host_limit(struct es_host *h, enum es_kind kind, const char *name, size_t len, uint64_t timeout,
                  uint32_t max_calls)
{
    struct es_method *m = (unsigned)kind < ES_KINDS ? es_map_get(&h->methods[kind], name, len) : NULL;

    if (m == NULL)
        return ES_ERR_NOT_FOUND;
    m->timeout = timeout;
    m->max_calls = max_calls;
    return 0;
}

int es_host_prioritize(struct es_host *h, enum es_kind kind, const char *name, size_t len, unsigned priority)
{
    struct es_method *m = (unsigned)kind < ES_KINDS ? es_map_get(&h->methods[kind], name, len) : NULL;

    if (m == NULL)
        return ES_ERR_NOT_FOUND;
    m->priority = (uint8_t)(priority < ES_CALLERS_PRIORITY ? priority : ES_CALLERS_PRIORITY);
    return 0;
}

int es_host_remove(struct es_host *h, enum es_kind kind, const char *name, size_t len, int *ref)
{
    struct es_method *m;

    if ((unsigned)kind >= ES_KINDS)
        return ES_ERR_INVAL;
    m = es_map_remove(&h->methods[kind], name, len);
    if (m == NULL)
        return ES_ERR_NOT_FOUND;
    h->recent[kind] = NULL;
    *ref = m->ref;
    for (struct es_method *each = m; each != NULL; each = each->older)
        each->ref = ES_NO_REF;
    if (m->uses == 0)
        method_free(m);
    return 0;
}

struct es_method *es_host_find(struct es_host *h, enum es_kind kind, const char *name, size_t len)
{
    struct es_method *m = h->recent[kind];

    if (m == NULL || m->name_len != len || memcmp(m->name, name, len) != 0) {
        m = es_map_get(&h->methods[kind], name, len);
        if (m != NULL)
            h->recent[kind] = m;
    }
    return m;
}

void es_method_unuse(struct es_method *m)
{
    assert(m->uses > 0);
    if (--m->uses == 0 && (m->ref == ES_NO_REF || m->newer != NULL))
        method_free(m);
}

int es_host_unhandled(struct es_host *h, const char *name, size_t len, int *last)
{
    *last = h->unhandled.n + 1 == ES_HOST_UNHANDLED;
    return h->unhandled.n < ES_HOST_UNHANDLED && es_map_get(&h->unhandled, name, len) == NULL &&
           es_map_put(&h->unhandled, name, len, h) == 0;
}

uint64_t es_host_request_id(struct es_host *h)
{
    return h->next_request_id++;
}

void es_host_request_ids_from(struct es_host *h, uint64_t first)
{
    h->next_request_id = first;
}

void es_host_early_open(struct es_host *h, int on)
{
    h->cfg.early_open = on != 0;
}

void es_host_stats_get(const struct es_host *h, struct es_host_stats *out)
{
    *out = h->stats;
    out->queued = h->unsent.bytes;
}

void es_host_take_buf(struct es_host *h, struct es_buf *b)
{
    if (h->n_spare > 0)
        *b = h->spare[--h->n_spare];
    else
        memset(b, 0, sizeof *b);
}

void es_host_give_buf(struct es_host *h, struct es_buf *b)
{
    if (b->cap < ES_HOST_SPARE_MIN || b->cap > ES_HOST_SPARE_MAX || h->n_spare == ES_HOST_SPARES) {
        es_buf_free(b);
        return;
    }
    b->n = 0;
    h->spare[h->n_spare++] = *b;
    memset(b, 0, sizeof *b);
}
