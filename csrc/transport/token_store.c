#include "token_store.h"
#include <string.h>
#include "../base/mem.h"

struct entry {
    struct es_list node;
    union es_addr server;
    size_t name_len, n;
    uint8_t bytes[]; /* the name, then the token */
};

void es_token_store_init(struct es_token_store *s)
{
    es_list_init(&s->entries);
    s->n = 0;
}

static void drop(struct es_token_store *s, struct entry *e)
{
    es_list_remove(&e->node);
    es_free(e);
    s->n--;
}

void es_token_store_free(struct es_token_store *s)
{
    es_list_foreach(it, &s->entries)
    {
        drop(s, es_container_of(it, struct entry, node));
    }
}

void es_token_store_put(struct es_token_store *s, const union es_addr *server, const char *name,
                        const uint8_t *token, size_t n)
{
    size_t name_len = strlen(name);
    struct entry *e;

    if (n == 0 || n > ES_TOKEN_LONG) {
        return;
    }
    e = es_malloc(sizeof *e + name_len + n);
    if (e == NULL) {
        return;
    }
    if (s->n == ES_TOKEN_STORE) {
        drop(s, es_container_of(s->entries.prev, struct entry, node));
    }
    es_list_init(&e->node);
    e->server = *server;
    e->name_len = name_len;
    e->n = n;
    memcpy(e->bytes, name, name_len);
    memcpy(e->bytes + name_len, token, n);
    es_list_push(s->entries.next, &e->node); /* before the first one */
    s->n++;
}

size_t es_token_store_take(struct es_token_store *s, const union es_addr *server, const char *name,
                           uint8_t *out)
{
    size_t name_len = strlen(name), n;

    es_list_foreach(it, &s->entries)
    {
        struct entry *e = es_container_of(it, struct entry, node);
        if (e->name_len == name_len && memcmp(e->bytes, name, name_len) == 0 &&
            es_addr_equal(&e->server, server)) {
            n = e->n;
            memcpy(out, e->bytes + name_len, n);
            drop(s, e);
            return n;
        }
    }
    return 0;
}
