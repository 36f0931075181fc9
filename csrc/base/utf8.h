/* Characters in bytes that may come from anybody. */
#ifndef ES_BASE_UTF8_H
#define ES_BASE_UTF8_H

#include <stddef.h>

/* Length of the UTF-8 sequence at s (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF); 0: none. */
static inline size_t es_utf8_len(const unsigned char *s, size_t n)
{
    unsigned char c = s[0], lo = 0x80, hi = 0xbf;
    size_t len;

    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        lo = c == 0xe0 ? 0xa0 : 0x80;
        hi = c == 0xed ? 0x9f : 0xbf;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        lo = c == 0xf0 ? 0x90 : 0x80;
        hi = c == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (n < len || s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

/* Bytes of the character at s that a terminal or a log shows as such and does not obey; 0: it is a control
 * character (C0, DEL, C1), a separator of lines, one that turns the direction of what follows, or no
 * character at all. n is at least 1. */
static inline size_t es_utf8_printable(const unsigned char *s, size_t n)
{
    size_t len = es_utf8_len(s, n);

    if (len == 1)
        return s[0] < 0x20 || s[0] == 0x7f ? 0 : 1;
    if (len == 2)
        return s[0] == 0xc2 && s[1] < 0xa0 ? 0 : 2; /* U+0080 to U+009F */
    if (len == 3 && s[0] == 0xe2 && s[1] == 0x80)
        return s[2] >= 0xa8 && s[2] <= 0xae ? 0 : 3; /* U+2028 to U+202E */
    if (len == 3 && s[0] == 0xe2 && s[1] == 0x81)
        return s[2] >= 0xa6 && s[2] <= 0xa9 ? 0 : 3; /* U+2066 to U+2069 */
    return len;
}

#endif
