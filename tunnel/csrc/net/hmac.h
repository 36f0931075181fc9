/* HMAC-SHA-256 (RFC 2104), for proofs of tokens. */
#ifndef ET_NET_HMAC_H
#define ET_NET_HMAC_H

#include <stddef.h>
#include <stdint.h>

/* 0, or ES_ERR_TLS when the library refuses. */
int et_hmac_sha256(const void *key, size_t key_n, const void *text, size_t n, uint8_t out[32]);

#endif
