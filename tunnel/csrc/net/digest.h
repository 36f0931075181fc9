/* Digests of secrets, for the credentials that rules ask for. */
#ifndef ET_NET_DIGEST_H
#define ET_NET_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* SHA-256 of n bytes. 0, or ES_ERR_TLS. */
int et_digest_sha256(const void *p, size_t n, uint8_t out[32]);
/* PBKDF2 with HMAC-SHA-256 (RFC 8018, 5.2), 32 bytes. 0, or ES_ERR_TLS. */
int et_digest_pbkdf2(const void *password, size_t n, const void *salt, size_t salt_n, unsigned rounds,
                     uint8_t out[32]);

#endif
