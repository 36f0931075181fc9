#include "hmac.h"
#include <gnutls/crypto.h>
#include "../../../csrc/base/err.h"

int et_hmac_sha256(const void *key, size_t key_n, const void *text, size_t n, uint8_t out[32])
{
    return gnutls_hmac_fast(GNUTLS_MAC_SHA256, key, key_n, text, n, out) == 0 ? 0 : ES_ERR_TLS;
}
