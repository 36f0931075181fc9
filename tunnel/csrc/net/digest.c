#include "digest.h"
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include "../../../csrc/base/err.h"

int et_digest_sha256(const void *p, size_t n, uint8_t out[32])
{
    return gnutls_hash_fast(GNUTLS_DIG_SHA256, p, n, out) == 0 ? 0 : ES_ERR_TLS;
}

int et_digest_pbkdf2(const void *password, size_t n, const void *salt, size_t salt_n, unsigned rounds,
                     uint8_t out[32])
{
    /* The library only reads them. */
    const gnutls_datum_t key = {(unsigned char *)(uintptr_t)password, (unsigned)n};
    const gnutls_datum_t grain = {(unsigned char *)(uintptr_t)salt, (unsigned)salt_n};
    return gnutls_pbkdf2(GNUTLS_MAC_SHA256, &key, &grain, rounds, out, 32) == 0 ? 0 : ES_ERR_TLS;
}
