#include "token_store.h"
#include <string.h>
#include "../base/map.h"
#include "../base/mem.h"

struct es_token_slot {
    union es_addr server;
    uint64_t name;  /* a hash: where two names share one, a server is shown a token that it does not know */
    uint64_t order; /* 0: free */
    uint8_t n, token[ES_TOKEN_LONG];
};

static uint64_t hash(const char *name)
{
    static const uint8_t seed[16];

    return es_siphash(seed, name, strlen(name));
}

void es_token_store_free(struct es_token_store *s)
{
    es_free(s->slot);
    s->slot = NULL;
}

void es_token_store_put(struct es_token_store *s, const union es_addr *server, const char *name,
                        const uint8_t *token, size_t n)
{
    struct es_token_slot *oldest;

    if (n == 0 || n > ES_TOKEN_LONG) {
        return;
    }
    if (s->slot == NULL) {
        s->slot = es_calloc(ES_TOKEN_STORE, sizeof *s->slot);
        if (s->slot == NULL) {
            return;
        }
    }
    oldest = s->slot;
    for (size_t i = 1; i < ES_TOKEN_STORE; i++) { /* a free one is older than all */
        if (s->slot[i].order < oldest->order) {
            oldest = &s->slot[i];
        }
    }
    oldest->server = *server;
    oldest->name = hash(name);
    oldest->order = ++s->order;
    oldest->n = (uint8_t)n;
    memcpy(oldest->token, token, n);
}

size_t es_token_store_take(struct es_token_store *s, const union es_addr *server, const char *name,
                           uint8_t *out)
{
    struct es_token_slot *newest = NULL;
    uint64_t h;

    if (s->slot == NULL) {
        return 0;
    }
    h = hash(name);
    for (size_t i = 0; i < ES_TOKEN_STORE; i++) {
        struct es_token_slot *t = &s->slot[i];
        if (t->order > (newest != NULL ? newest->order : 0) && t->name == h &&
            es_addr_equal(&t->server, server)) {
            newest = t;
        }
    }
    if (newest == NULL) {
        return 0;
    }
    newest->order = 0;
    memcpy(out, newest->token, newest->n);
    return newest->n;
}

size_t es_token_store_count(const struct es_token_store *s)
{
    size_t n = 0;

    for (size_t i = 0; s->slot != NULL && i < ES_TOKEN_STORE; i++) {
        n += s->slot[i].order != 0;
    }
    return n;
}
