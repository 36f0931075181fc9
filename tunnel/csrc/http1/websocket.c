#include "websocket.h"
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void base64(const uint8_t *p, size_t n, char *out)
{
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;

        v |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        v |= i + 2 < n ? p[i + 2] : 0;
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? digits[v & 63] : '=';
    }
}

int et_websocket_key_fine(const uint8_t *p, size_t n)
{
    if (n != ET_WEBSOCKET_KEY || p[22] != '=' || p[23] != '=') {
        return 0;
    }
    for (size_t i = 0; i < 22; i++) {
        if (p[i] == 0 || strchr(digits, p[i]) == NULL) {
            return 0;
        }
    }
    return strchr("AQgw", p[21]) != NULL; /* the last four bits belong to nothing */
}

void et_websocket_key(const uint8_t random[16], char out[ET_WEBSOCKET_KEY])
{
    base64(random, 16, out);
}

static uint32_t left(uint32_t v, unsigned n)
{
    return v << n | v >> (32 - n);
}

static void sha1_block(uint32_t h[5], const uint8_t *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

    for (int i = 0; i < 16; i++, p += 4) {
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int i = 16; i < 80; i++) {
        w[i] = left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    }
    for (int i = 0; i < 80; i++) {
        uint32_t f, t;

        if (i < 20) {
            f = ((b & c) | (~b & d)) + 0x5a827999;
        } else if (i < 40) {
            f = (b ^ c ^ d) + 0x6ed9eba1;
        } else if (i < 60) {
            f = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
        } else {
            f = (b ^ c ^ d) + 0xca62c1d6;
        }
        t = left(a, 5) + f + e + w[i];
        e = d;
        d = c;
        c = left(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* SHA-1 of a key and the protocol's constant: 60 bytes, which with their padding are two blocks. RFC 6455
 * asks for no strength of it: it only shows that the other side speaks the protocol. */
void et_websocket_accept(const char key[ET_WEBSOCKET_KEY], char out[ET_WEBSOCKET_ACCEPT])
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t block[128] = {0}, sum[20];
    unsigned bits = (ET_WEBSOCKET_KEY + sizeof(magic) - 1) * 8;

    memcpy(block, key, ET_WEBSOCKET_KEY);
    memcpy(block + ET_WEBSOCKET_KEY, magic, sizeof(magic) - 1);
    block[ET_WEBSOCKET_KEY + sizeof(magic) - 1] = 0x80;
    block[126] = (uint8_t)(bits >> 8);
    block[127] = (uint8_t)bits;
    sha1_block(h, block);
    sha1_block(h, block + 64);
    for (int i = 0; i < 20; i++) {
        sum[i] = (uint8_t)(h[i / 4] >> (24 - i % 4 * 8));
    }
    base64(sum, 20, out);
}
