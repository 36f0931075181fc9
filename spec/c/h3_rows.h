/* What breaks the rules of HTTP/3, as data: each row says which bytes a client sends on which streams, and
 * which code the connection is closed with, or the stream reset with. Played over the in-memory pair by
 * http3_malformed_test.c, and over QUIC by hostile_http3_test.c.
 *
 * Parts are separated by `;`. A part begins with its stream:
 *   C the control stream (its type and empty SETTINGS went before)   A the control stream, without those
 *   B a new two-way stream   U a new one-way stream   + the stream of the part before
 * and with what becomes of it: `!` it ends after these bytes, `^` it is reset after them. Bytes:
 *   0a 0b       hexadecimal                  0a*20    that byte twenty times
 *   [ ... ]     length of what is inside, and that
 *   {name:text} a field line with both in plain text          'text'   its bytes
 *   ~N          as much of a name or value as N in decimal: bytes 'a'
 */
#ifndef ES_SPEC_C_H3_ROWS_H
#define ES_SPEC_C_H3_ROWS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../csrc/base/varint.h"
#include "../../csrc/http3/h3.h"

/* ---- the notation ---- */

static size_t h3_prefix_int(uint8_t *out, uint8_t first, uint8_t mask, size_t v) /* RFC 9204 4.1.1 */
{
    size_t n = 0;

    if (v < mask) {
        out[n++] = (uint8_t)(first | v);
        return n;
    }
    out[n++] = first | mask;
    for (v -= mask; v >= 0x80; v >>= 7) {
        out[n++] = (uint8_t)(v | 0x80);
    }
    out[n++] = (uint8_t)v;
    return n;
}

static size_t h3_field_line(uint8_t *out, const char **text)
{
    const char *name = *text, *colon = strchr(name + 1, ':'), *end = strchr(colon, '}');
    size_t n = h3_prefix_int(out, 0x20, 0x07, (size_t)(colon - name));

    memcpy(out + n, name, (size_t)(colon - name));
    n += (size_t)(colon - name);
    n += h3_prefix_int(out + n, 0, 0x7f, (size_t)(end - colon - 1));
    memcpy(out + n, colon + 1, (size_t)(end - colon - 1));
    *text = end + 1;
    return n + (size_t)(end - colon - 1);
}

/* Up to `;`, `]` or the end. */
static inline size_t h3_bytes(uint8_t *out, const char **text)
{
    size_t n = 0, times;
    unsigned b;

    while (**text != '\0' && **text != ';' && **text != ']') {
        char c = *(*text)++;

        if (c == '[') {
            uint8_t inside[8192];
            size_t len = h3_bytes(inside, text);

            (*text)++; /* ] */
            n += es_varint_put(out + n, len);
            memcpy(out + n, inside, len);
            n += len;
        } else if (c == '{') {
            n += h3_field_line(out + n, text);
        } else if (c == '\'') {
            while (**text != '\'') {
                out[n++] = (uint8_t) * (*text)++;
            }
            (*text)++;
        } else if (c == '~') {
            times = strtoul(*text, (char **)(uintptr_t)text, 10);
            memset(out + n, 'a', times);
            n += times;
        } else if (c == '*') {
            times = strtoul(*text, (char **)(uintptr_t)text, 10);
            memset(out + n, out[n - 1], times - 1);
            n += times - 1;
        } else if (c != ' ') {
            sscanf(*text - 1, "%2x", &b);
            (*text)++;
            out[n++] = (uint8_t)b;
        }
    }
    return n;
}

/* ---- the rows ---- */

struct h3_row {
    const char *name;
    const char *say;
    uint64_t closed, reset; /* codes; 0: not */
    int told;               /* requests whose heads were in order, and came before the trouble */
    uint64_t also;          /* what a library says instead of `closed` */
    const char *why;
};

#define N_ROWS(rows) (sizeof(rows) / sizeof(rows)[0])

#define GET       "0000 d1 d7 c1 50 01 61 " /* GET https://a/ as a header block of 8 bytes */
#define CONNECT   "0000 cf 50 03'a:1' "
#define TABLE     "02 3f e1 1f " /* an encoder stream that allows itself 4,096 bytes */
#define INSERT_XA "41 'x' 01 'a' "

#define CLOSES(name, say, code)                                                                              \
    {                                                                                                        \
        name, say, ES_H3_##code, 0, 0, 0, NULL                                                               \
    }
#define RESETS(name, say, code)                                                                              \
    {                                                                                                        \
        name, say, 0, ES_H3_##code, 0, 0, NULL                                                               \
    }
#define LIVES(name, say)                                                                                     \
    {                                                                                                        \
        name, say, 0, 0, 0, 0, NULL                                                                          \
    }
#define MALFORMED(name, fields) RESETS(name, "B! 01[" fields "]", MESSAGE_ERROR)
#define BAD_BLOCK(name, block)  CLOSES(name, "B! 01[" block "]", QPACK_DECOMPRESSION_FAILED)
#define BAD_INSERT(name, bytes) CLOSES(name, "U " bytes, QPACK_ENCODER_STREAM_ERROR)

/* RFC 9114 4.1, 5.2, 6.2, 7 and RFC 9218 7: streams and frames. */
static const struct h3_row h3_frame_rows[] = {
    CLOSES("settings must come first", "A 00 07 01 00", MISSING_SETTINGS),
    CLOSES("an unknown frame before the settings", "A 00 21 00", MISSING_SETTINGS),
    CLOSES("settings come once", "C 04 00", FRAME_UNEXPECTED),
    CLOSES("a setting of HTTP/2: ENABLE_PUSH", "A 00 04[02 00]", SETTINGS_ERROR),
    CLOSES("a setting of HTTP/2: MAX_CONCURRENT_STREAMS", "A 00 04[03 01]", SETTINGS_ERROR),
    CLOSES("a setting of HTTP/2: INITIAL_WINDOW_SIZE", "A 00 04[04 01]", SETTINGS_ERROR),
    CLOSES("a setting of HTTP/2: MAX_FRAME_SIZE", "A 00 04[05 01]", SETTINGS_ERROR),
    CLOSES("the reserved setting 0", "A 00 04[00 01]", SETTINGS_ERROR),
    CLOSES("ENABLE_CONNECT_PROTOCOL that is neither 0 nor 1", "A 00 04[08 02]", SETTINGS_ERROR),
    CLOSES("H3_DATAGRAM that is neither 0 nor 1", "A 00 04[33 02]", SETTINGS_ERROR),
    CLOSES("settings that end within a name", "A 00 04[06 01 40]", FRAME_ERROR),
    CLOSES("settings that end before a value", "A 00 04[06]", FRAME_ERROR),
    CLOSES("settings that end within a value", "A 00 04[06 40]", FRAME_ERROR),
    LIVES("settings nobody knows", "A 00 04[21 05 40ff 01]"),

    CLOSES("data on the control stream", "C 00 01 00", FRAME_UNEXPECTED),
    CLOSES("headers on the control stream", "C 01 01 00", FRAME_UNEXPECTED),
    CLOSES("push_promise on the control stream", "C 05 01 00", FRAME_UNEXPECTED),
    CLOSES("PRIORITY of HTTP/2 on the control stream", "C 02 00", FRAME_UNEXPECTED),
    CLOSES("PING of HTTP/2 on the control stream", "C 06 00", FRAME_UNEXPECTED),
    CLOSES("WINDOW_UPDATE of HTTP/2 on the control stream", "C 08 00", FRAME_UNEXPECTED),
    CLOSES("CONTINUATION of HTTP/2 on the control stream", "C 09 00", FRAME_UNEXPECTED),
    CLOSES("a second control stream", "U 00 04 00", STREAM_CREATION_ERROR),
    CLOSES("a second encoder stream", "U 02; U 02", STREAM_CREATION_ERROR),
    CLOSES("a second decoder stream", "U 03; U 03", STREAM_CREATION_ERROR),
    CLOSES("a push stream of a client", "U 01 00", STREAM_CREATION_ERROR),
    CLOSES("the control stream ends", "C! ", CLOSED_CRITICAL_STREAM),
    CLOSES("the control stream ends within a frame", "C! 07 01", CLOSED_CRITICAL_STREAM),
    CLOSES("the control stream is reset", "C^ ", CLOSED_CRITICAL_STREAM),
    CLOSES("the encoder stream ends", "U! 02", CLOSED_CRITICAL_STREAM),
    CLOSES("the encoder stream is reset", "U^ 02", CLOSED_CRITICAL_STREAM),
    CLOSES("the decoder stream ends", "U! 03", CLOSED_CRITICAL_STREAM),
    CLOSES("the decoder stream is reset", "U^ 03", CLOSED_CRITICAL_STREAM),
    LIVES("a one-way stream ends before it said its type", "U! "),
    LIVES("a one-way stream is reset before it said its type", "U^ 40"),
    LIVES("a one-way stream ends within its type", "U! 40"),

    CLOSES("data before a head", "B 00 01 61", FRAME_UNEXPECTED),
    CLOSES("settings on a request", "B 04 00", FRAME_UNEXPECTED),
    CLOSES("goaway on a request", "B 07 01 00", FRAME_UNEXPECTED),
    CLOSES("cancel_push on a request", "B 03 01 00", FRAME_UNEXPECTED),
    CLOSES("max_push_id on a request", "B 0d 01 00", FRAME_UNEXPECTED),
    CLOSES("push_promise of a client", "B 05 01 00", FRAME_UNEXPECTED),
    CLOSES("PRIORITY of HTTP/2", "B 02 00", FRAME_UNEXPECTED),
    CLOSES("PING of HTTP/2", "B 06 00", FRAME_UNEXPECTED),
    CLOSES("WINDOW_UPDATE of HTTP/2", "B 08 00", FRAME_UNEXPECTED),
    CLOSES("CONTINUATION of HTTP/2", "B 09 00", FRAME_UNEXPECTED),
    CLOSES("PRIORITY_UPDATE on a request", "B 800f0700 [00 'u=1']", FRAME_UNEXPECTED),
    {"data behind the trailers", "B 01[" GET "] 01[0000 {x:a}] 00 01 61", ES_H3_FRAME_UNEXPECTED, 0, 1, 0,
     NULL},
    {"headers behind the trailers", "B 01[" GET "] 01[0000 {x:a}] 01[0000 {x:a}]", ES_H3_FRAME_UNEXPECTED, 0,
     1, 0, NULL},
    {"settings behind a head", "B 01[" GET "] 04 00", ES_H3_FRAME_UNEXPECTED, 0, 1, 0, NULL},
    CLOSES("a head that is cut off", "B! 01 08 00", FRAME_ERROR),
    CLOSES("a frame of which only the type came", "B! 01", FRAME_ERROR),
    CLOSES("a frame whose type is cut off", "B! 40", FRAME_ERROR),
    CLOSES("a frame whose length is cut off", "B! 01 40", FRAME_ERROR),
    CLOSES("an unknown frame that is cut off", "B! 21 05 00", FRAME_ERROR),
    {"data that is cut off", "B! 01[" GET "] 00 05 61", ES_H3_FRAME_ERROR, 0, 1, 0, NULL},

    CLOSES("an empty goaway", "C 07 00", FRAME_ERROR),
    CLOSES("a goaway with more than its number", "C 07[00 00]", FRAME_ERROR),
    CLOSES("a goaway whose number is cut off", "C 07[40]", FRAME_ERROR),
    CLOSES("an empty max_push_id", "C 0d 00", FRAME_ERROR),
    CLOSES("a max_push_id with more than its number", "C 0d[00 00]", FRAME_ERROR),
    CLOSES("a max_push_id whose number is cut off", "C 0d[40]", FRAME_ERROR),
    CLOSES("an empty cancel_push", "C 03 00", FRAME_ERROR),
    CLOSES("a cancel_push with more than its number", "C 03[00 00]", FRAME_ERROR),
    CLOSES("a cancel_push whose number is cut off", "C 03[40]", FRAME_ERROR),
    CLOSES("a max_push_id that falls", "C 0d[05] 0d[04]", ID_ERROR),
    LIVES("a max_push_id that grows", "C 0d[05] 0d[05] 0d[7fff]"),
    CLOSES("a cancel_push of what was never promised", "C 03[00]", ID_ERROR),
    CLOSES("a goaway that grows", "C 07[00] 07[01]", ID_ERROR),
    LIVES("a goaway that falls", "C 07[05] 07[04] 07[04]"),
    CLOSES("an empty PRIORITY_UPDATE", "C 800f0700 00", FRAME_ERROR),
    CLOSES("a PRIORITY_UPDATE of a one-way stream", "C 800f0700 [02 'u=1']", ID_ERROR),
    CLOSES("a PRIORITY_UPDATE of a server's stream", "C 800f0700 [01 'u=1']", ID_ERROR),
    CLOSES("a PRIORITY_UPDATE of a stream far beyond what may be opened",
           "C 800f0700 [c00fffff fffffffc 'u=1']", ID_ERROR),
    CLOSES("a PRIORITY_UPDATE of a push that was never promised", "C 800f0701 [00 'u=1']", ID_ERROR),
    LIVES("a PRIORITY_UPDATE of a stream to come", "C 800f0700 [00 'u=1']"),
};

#define BLOCKED "B 01[02 00 80]; "

/* RFC 9204. */
static const struct h3_row h3_qpack_rows[] = {
    RESETS("an empty block", "B! 01 00", MESSAGE_ERROR), /* to the library it is a head without fields */
    BAD_BLOCK("a block of one byte", "00"),
    BAD_BLOCK("a static entry that is none", "0000 ff 24"),
    BAD_BLOCK("a static name that is none", "0000 5f 54 01 'a'"),
    BAD_BLOCK("a dynamic entry that is none", "0000 80"),
    BAD_BLOCK("a dynamic name that is none", "0000 40 01 'a'"),
    BAD_BLOCK("an entry behind the base that is none", "0000 10"),
    BAD_BLOCK("a name behind the base that is none", "0000 00 01 'a'"),
    BAD_BLOCK("a block that ends within a number", "0000 ff"),
    BAD_BLOCK("a block that ends within a value", "0000 51 05 '/'"),
    BAD_BLOCK("a block that ends within a name", "0000 25 'a'"),
    BAD_BLOCK("a block that ends before a value", "0000 21 'a'"),
    BAD_BLOCK("a number without an end", "0000 ff*20 00"),
    BAD_BLOCK("an insert count larger than any table has", "ff 10 00"),
    BAD_BLOCK("an insert count without an end", "ff*20 00"),
    BAD_BLOCK("a length beyond any block", "0000 51 7f ffffffffffff7f"),
    BAD_BLOCK("a Huffman code with too much padding", "0000 51 82 ffff"),
    BAD_BLOCK("a Huffman code whose padding is not ones", "0000 51 81 00"),
    BAD_BLOCK("a Huffman code with its end in it", "0000 51 84 ffffffff"),
    CLOSES("a base below zero", "U " TABLE INSERT_XA "; B 01[02 81 80]", QPACK_DECOMPRESSION_FAILED),
    CLOSES("an entry at the insert count", "U " TABLE INSERT_XA INSERT_XA "; B 01[02 01 80]",
           QPACK_DECOMPRESSION_FAILED),
    CLOSES("an entry behind the base at the insert count", "U " TABLE INSERT_XA INSERT_XA "; B 01[02 00 10]",
           QPACK_DECOMPRESSION_FAILED),
    CLOSES("an entry that was thrown out", "U 02 3f 21 " INSERT_XA "41 'y' 01 'b'; B 01[03 00 81]",
           QPACK_DECOMPRESSION_FAILED),
    CLOSES("one blocked stream more than allowed",
           BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED
               BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED,
           QPACK_DECOMPRESSION_FAILED),
    LIVES("as many blocked streams as allowed",
          BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED BLOCKED
              BLOCKED BLOCKED BLOCKED BLOCKED),

    BAD_INSERT("a table larger than allowed", "02 3f e2 1f"),
    BAD_INSERT("a table size without an end", "02 3f ff*20"),
    BAD_INSERT("an insert without a table", "02 " INSERT_XA),
    BAD_INSERT("an insert larger than the table", "02 3f 01 " INSERT_XA),
    BAD_INSERT("an insert with a static name that is none", TABLE "ff 24 01 'a'"),
    BAD_INSERT("an insert with a dynamic name that is none", TABLE "80 01 'a'"),
    BAD_INSERT("a duplicate of nothing", TABLE "00"),
    BAD_INSERT("a name with a bad Huffman code", TABLE "62 ffff 01 'a'"),
    BAD_INSERT("a value with a bad Huffman code", TABLE "41 'x' 82 ffff"),
    BAD_INSERT("a value of more than any table", TABLE "41 'x' 7f ffffffff7f"),
    BAD_INSERT("a name of more than any table", TABLE "5f ffffffff7f"),
    CLOSES("a duplicate of what was thrown out", "U 02 3f 21 " INSERT_XA "41 'y' 01 'b' 01",
           QPACK_ENCODER_STREAM_ERROR),

    CLOSES("an increment of nothing", "U 03 00", QPACK_DECODER_STREAM_ERROR),
    CLOSES("an increment beyond what was sent", "U 03 05", QPACK_DECODER_STREAM_ERROR),
    CLOSES("an increment without an end", "U 03 3f ff*20", QPACK_DECODER_STREAM_ERROR),
    CLOSES("an acknowledgement of nothing", "U 03 80", QPACK_DECODER_STREAM_ERROR),
    LIVES("a cancellation of nothing", "U 03 44"),
};

/* RFC 9114 4.1.2, 4.2, 4.3, 4.4 and RFC 9220: messages. */
static const struct h3_row h3_message_rows[] = {
    RESETS("no head at all", "B! ", REQUEST_INCOMPLETE),
    RESETS("only unknown frames", "B! 21 02 0000", REQUEST_INCOMPLETE),
    MALFORMED("no path", "0000 d1 d7 50 01'a'"),
    MALFORMED("no method", "0000 d7 c1 50 01'a'"),
    MALFORMED("no scheme", "0000 d1 c1 50 01'a'"),
    MALFORMED("no authority and no host", "0000 d1 d7 c1"),
    MALFORMED("no field at all", "0000"),
    MALFORMED("two methods", "0000 d1 d1 d7 c1 50 01'a'"),
    MALFORMED("two schemes", "0000 d1 d7 d7 c1 50 01'a'"),
    MALFORMED("two paths", "0000 d1 d7 c1 c1 50 01'a'"),
    MALFORMED("two authorities", "0000 d1 d7 c1 50 01'a' 50 01'a'"),
    MALFORMED("a status in a request", GET "d9"),
    MALFORMED("a pseudo field that nobody knows", GET "{:x:a}"),
    MALFORMED("a pseudo field after others", "0000 d1 d7 50 01'a' {x:a} c1"),
    MALFORMED("an empty path", "0000 d1 d7 51 00 50 01'a'"),
    MALFORMED("a path without a slash", "0000 d1 d7 51 01'x' 50 01'a'"),
    MALFORMED("a path with a space", "0000 d1 d7 51 02'/ ' 50 01'a'"),
    MALFORMED("a path with a fragment", "0000 d1 d7 51 03'/#a' 50 01'a'"),
    MALFORMED("a path with a line feed", "0000 d1 d7 51 02'/\n' 50 01'a'"),
    MALFORMED("a path with a NUL", "0000 d1 d7 51 02 2f00 50 01'a'"),
    MALFORMED("a star for another method than OPTIONS", "0000 d1 d7 51 01'*' 50 01'a'"),
    MALFORMED("an empty method", "0000 5f 00 00 d7 c1 50 01'a'"),
    MALFORMED("a method with a space", "0000 5f 00 05'GET /' d7 c1 50 01'a'"),
    MALFORMED("a method with a line feed", "0000 5f 00 04'GET\n' d7 c1 50 01'a'"),
    MALFORMED("an empty scheme", "0000 d1 5f 07 00 c1 50 01'a'"),
    MALFORMED("a scheme with a space", "0000 d1 5f 07 03'h s' c1 50 01'a'"),
    MALFORMED("an empty authority", "0000 d1 d7 c1 50 00"),
    MALFORMED("an authority with a user", "0000 d1 d7 c1 50 03'b@a'"),
    MALFORMED("an authority with a line feed", "0000 d1 d7 c1 50 02'a\n'"),
    MALFORMED("an authority with a path", "0000 d1 d7 c1 50 03'a/b'"),
    MALFORMED("a host beside another authority", GET "{host:b}"),
    MALFORMED("two hosts that differ", "0000 d1 d7 c1 {host:a}{host:b}"),
    MALFORMED("an empty host", "0000 d1 d7 c1 {host:}"),

    MALFORMED("CONNECT with a path", CONNECT "c1"),
    MALFORMED("CONNECT with a scheme", CONNECT "d7"),
    MALFORMED("CONNECT without an authority", "0000 cf"),
    MALFORMED("a protocol without CONNECT", GET "{:protocol:x}"),
    MALFORMED("a protocol where none is offered", "0000 cf d7 c1 50 01'a' {:protocol:x}"),

    MALFORMED("capitals in a name", GET "{X:a}"),
    MALFORMED("a space in a name", GET "{x x:a}"),
    MALFORMED("a space behind a name", GET "{x :a}"),
    MALFORMED("a line feed in a name", GET "{x\nx:a}"),
    MALFORMED("a carriage return in a name", GET "{x\rx:a}"),
    MALFORMED("a NUL in a name", GET "23 780078 01'a'"),
    MALFORMED("a byte above 127 in a name", GET "{x\x80:a}"),
    MALFORMED("a colon in a name", GET "23'x:y' 01'a'"),
    MALFORMED("an empty name", GET "20 01'a'"),
    MALFORMED("a line feed in a value", GET "{x:a\nb}"),
    MALFORMED("a carriage return in a value", GET "{x:a\rb}"),
    MALFORMED("both in a value", GET "{x:a\r\ny: b}"),
    MALFORMED("a NUL in a value", GET "21'x' 03 610062"),
    MALFORMED("a control byte in a value", GET "{x:a\x01}"),
    MALFORMED("a DEL in a value", GET "{x:a\x7f}"),
    MALFORMED("a line feed in a cookie", GET "{cookie:a\n}"),
    MALFORMED("a line feed in a value in Huffman code", GET "21'x' 84 ff ff ff f3"),
    MALFORMED("connection", GET "{connection:close}"),
    MALFORMED("keep-alive", GET "{keep-alive:1}"),
    MALFORMED("proxy-connection", GET "{proxy-connection:close}"),
    MALFORMED("transfer-encoding", GET "{transfer-encoding:chunked}"),
    MALFORMED("upgrade", GET "{upgrade:h2c}"),
    MALFORMED("te that is not trailers", GET "{te:gzip}"),
    MALFORMED("te that is more than trailers", GET "{te:trailers, gzip}"),

    MALFORMED("a length that is no number", GET "54 01'x'"),
    MALFORMED("a length below zero", GET "54 02'-1'"),
    MALFORMED("a length with a sign", GET "54 02'+0'"),
    MALFORMED("an empty length", GET "54 00"),
    MALFORMED("a length beyond 64 bits", GET "54 14'99999999999999999999'"),
    MALFORMED("two lengths that differ", GET "54 01'0' 54 01'1'"),
    MALFORMED("a list of lengths", GET "54 03'0,0'"),
};

#endif
