/* Under which connection ids and reset tokens the endpoint's tables know a connection. */
#include <string.h>
#include "internal.h"

int es_conn_add_cid(struct es_conn *c, const uint8_t *cid, size_t len)
{
    if (c->n_cids == c->cap_cids) {
        size_t cap = c->cap_cids != 0 ? c->cap_cids * 2 : 8;
        struct es_cid *more = es_realloc(c->cids, cap * sizeof *more);
        if (more == NULL) {
            return ES_ERR_NOMEM;
        }
        c->cids = more;
        c->cap_cids = cap;
    }
    if (es_map_put(&c->ep->by_cid, cid, len, c) != 0) {
        return ES_ERR_NOMEM;
    }
    c->cids[c->n_cids].len = (uint8_t)len;
    memcpy(c->cids[c->n_cids].b, cid, len);
    c->n_cids++;
    return 0;
}

void es_conn_remove_cid(struct es_conn *c, const uint8_t *cid, size_t len)
{
    c->ep->last_conn = NULL;
    for (size_t i = 0; i < c->n_cids; i++) {
        if (c->cids[i].len == len && memcmp(c->cids[i].b, cid, len) == 0) {
            c->cids[i] = c->cids[--c->n_cids];
            es_map_remove(&c->ep->by_cid, cid, len);
            return;
        }
    }
}

/* A stateless reset carries none of our ids: it is known by its last 16 bytes. */
void es_conn_add_token(struct es_conn *c, const uint8_t *token)
{
    if (c->n_tokens < ES_TOKENS_MAX &&
        es_map_put(&c->ep->by_token, token, NGTCP2_STATELESS_RESET_TOKENLEN, c) == 0) {
        memcpy(c->tokens[c->n_tokens++], token, NGTCP2_STATELESS_RESET_TOKENLEN);
    }
}

void es_conn_remove_token(struct es_conn *c, const uint8_t *token)
{
    for (size_t i = 0; i < c->n_tokens; i++) {
        if (memcmp(c->tokens[i], token, NGTCP2_STATELESS_RESET_TOKENLEN) == 0) {
            es_map_remove(&c->ep->by_token, token, NGTCP2_STATELESS_RESET_TOKENLEN);
            memmove(c->tokens[i], c->tokens[--c->n_tokens], NGTCP2_STATELESS_RESET_TOKENLEN);
            return;
        }
    }
}
