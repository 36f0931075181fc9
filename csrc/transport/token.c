#include "token.h"
#include <gnutls/crypto.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"

/* Spans of time that share a key. With the one before still accepted, a token lives as long as it is meant
 * to. */
#define RETRY_PERIOD   (3600 * ES_SECOND)
#define ADDRESS_PERIOD ES_TOKEN_ADDRESS_VALID

void es_tokens_init(struct es_tokens *t, const uint8_t secret[32])
{
    memset(t, 0, sizeof *t);
    memcpy(t->secret, secret, sizeof t->secret);
}

void es_tokens_wipe(struct es_tokens *t)
{
    gnutls_memset(t, 0, sizeof *t);
}

static const uint8_t *key_of(struct es_tokens *t, struct es_token_key keys[2], const char *kind,
                             uint64_t period)
{
    struct es_token_key *k = &keys[period & 1];
    char label[64];

    if (!k->made || k->period != period) {
        snprintf(label, sizeof label, "echostream %s token %llu", kind, (unsigned long long)period);
        es_tls_key(k->key, t->secret, label);
        k->period = period;
        k->made = 1;
    }
    return k->key;
}

static const uint8_t *retry_key(struct es_tokens *t, uint64_t period)
{
    return key_of(t, t->retry, "retry", period);
}

static const uint8_t *address_key(struct es_tokens *t, uint64_t period)
{
    return key_of(t, t->address, "address", period);
}

size_t es_tokens_make_retry(struct es_tokens *t, uint8_t *out, uint32_t version, const union es_addr *remote,
                            const ngtcp2_cid *retry_scid, const ngtcp2_cid *odcid, uint64_t wall)
{
    ngtcp2_ssize n =
        ngtcp2_crypto_generate_retry_token2(out, retry_key(t, wall / RETRY_PERIOD), 32, version, &remote->sa,
                                            es_addr_len(remote), retry_scid, odcid, wall);

    return n > 0 ? (size_t)n : 0;
}

size_t es_tokens_make_address(struct es_tokens *t, uint8_t *out, const union es_addr *remote, uint64_t wall)
{
    ngtcp2_ssize n = ngtcp2_crypto_generate_regular_token(out, address_key(t, wall / ADDRESS_PERIOD), 32,
                                                          &remote->sa, es_addr_len(remote), wall);

    return n > 0 ? (size_t)n : 0;
}

enum es_token_verdict es_tokens_check(struct es_tokens *t, const uint8_t *token, size_t n, uint32_t version,
                                      const union es_addr *remote, const ngtcp2_cid *dcid, uint64_t wall,
                                      ngtcp2_cid *odcid)
{
    uint64_t period;

    if (n == 0) {
        return ES_TOKEN_NONE;
    }
    if (token[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY2) {
        period = wall / RETRY_PERIOD;
        for (uint64_t i = 0; i < 2 && i <= period; i++) {
            if (ngtcp2_crypto_verify_retry_token2(odcid, token, n, retry_key(t, period - i), 32, version,
                                                  &remote->sa, es_addr_len(remote), dcid,
                                                  ES_TOKEN_RETRY_VALID, wall) == 0) {
                return ES_TOKEN_RETRY;
            }
        }
        return ES_TOKEN_FALSE;
    }
    if (token[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_REGULAR) {
        period = wall / ADDRESS_PERIOD;
        for (uint64_t i = 0; i < 2 && i <= period; i++) {
            if (ngtcp2_crypto_verify_regular_token(token, n, address_key(t, period - i), 32, &remote->sa,
                                                   es_addr_len(remote), ES_TOKEN_ADDRESS_VALID, wall) == 0) {
                return ES_TOKEN_ADDRESS;
            }
        }
        return ES_TOKEN_STALE;
    }
    return ES_TOKEN_NONE;
}
