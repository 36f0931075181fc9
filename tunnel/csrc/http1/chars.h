/* Which bytes may stand where in HTTP (RFC 9110 5.5, 5.6.2; RFC 9112 3.2), for the scan of what comes and the
 * writing of what goes. */
#ifndef ET_HTTP1_CHARS_H
#define ET_HTTP1_CHARS_H

#include <stddef.h>
#include <stdint.h>

enum {
    ET_CHAR_TOKEN = 1,    /* tchar */
    ET_CHAR_VALUE = 2,    /* inside a field's value: visible, blank, tab, 0x80 and above */
    ET_CHAR_TARGET = 4,   /* of a request target: visible ASCII but '#' (a fragment is never sent) */
    ET_CHAR_HOST = 8,     /* unreserved, sub-delims and '%': a registered name or an IPv4 address */
    ET_CHAR_HEX = 16,     /* hex digit */
    ET_CHAR_ADDRESS = 32, /* inside the brackets of an IPv6 literal */
};

extern const uint8_t et_chars[256];

/* How many of the first bytes are all of the class. */
static inline size_t et_chars_span(const uint8_t *p, size_t n, unsigned class_)
{
    size_t i = 0;

    while (i < n && (et_chars[p[i]] & class_) != 0) {
        i++;
    }
    return i;
}

static inline uint8_t et_chars_lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* Is it `lower` (which is in lower case), whatever the case? */
static inline int et_chars_same(const void *text, size_t n, const char *lower, size_t ln)
{
    const uint8_t *p = text;

    if (n != ln) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (et_chars_lower(p[i]) != (uint8_t)lower[i]) {
            return 0;
        }
    }
    return 1;
}

#define ET_CHARS_IS(p, n, literal) et_chars_same((p), (n), literal, sizeof(literal) - 1)

/* host [":" port] of RFC 3986 without user information; an empty one is not. */
int et_chars_authority(const uint8_t *p, size_t n);

#endif
