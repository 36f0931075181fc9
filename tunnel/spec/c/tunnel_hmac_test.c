// needs: tunnel/csrc/net/hmac.c
// libs: -lgnutls
#include <string.h>
#include "../../../spec/c/test.h"
#include "../../csrc/net/hmac.h"

static void check(const void *key, size_t key_n, const char *text, const char *hex)
{
    uint8_t out[32];
    char shown[65];

    REQUIRE(et_hmac_sha256(key, key_n, text, strlen(text), out) == 0);
    for (int i = 0; i < 32; i++) {
        snprintf(shown + 2 * i, 3, "%02x", out[i]);
    }
    CHECK_MEM(shown, 64, hex, 64);
}

/* RFC 4231. */
TEST(hmac_of_the_rfc)
{
    uint8_t key[131];

    memset(key, 0x0b, 20);
    check(key, 20, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    check("Jefe", 4, "what do ya want for nothing?",
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, 131);
    check(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First",
          "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}
