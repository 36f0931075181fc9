// needs: tunnel/csrc/net/hello.c
#include "../../../spec/c/test.h"
#include "../../../csrc/base/err.h"
#include "../../csrc/net/hello.h"

/* A ClientHello in one record, with these extensions (hex). */
static size_t hello(uint8_t *out, size_t cap, const char *extensions)
{
    uint8_t ext[600], body[800];
    size_t n = test_unhex(extensions, ext, sizeof ext), k = 0;

    (void)cap;
    body[k++] = 3;
    body[k++] = 3;
    for (int i = 0; i < 32; i++) {
        body[k++] = (uint8_t)i;
    }
    k += test_unhex("02 aabb 0004 13011302 01 00", body + k, sizeof body - k);
    if (extensions[0] != '-') {
        body[k++] = (uint8_t)(n >> 8);
        body[k++] = (uint8_t)n;
        memcpy(body + k, ext, n);
        k += n;
    }
    size_t at = test_unhex("160301", out, cap);
    out[at++] = (uint8_t)((k + 4) >> 8);
    out[at++] = (uint8_t)(k + 4);
    out[at++] = 1;
    out[at++] = 0;
    out[at++] = (uint8_t)(k >> 8);
    out[at++] = (uint8_t)k;
    memcpy(out + at, body, k);
    return at + k;
}

#define SNI "0000 000c 000a 00 0007 412e62652e6364" /* A.be.cd */

TEST(the_name_is_found_and_lowered)
{
    uint8_t p[1024];
    char name[ET_HELLO_NAME];
    size_t n = hello(p, sizeof p, "000a 0002 0000 " SNI " 002b 0001 00");

    CHECK_INT(et_hello_name(p, n, name), ==, 0);
    CHECK_STR(name, "a.be.cd");
    CHECK_INT(et_hello_name(p, n + 0, name), ==, 0);
}

TEST(none_is_no_error)
{
    uint8_t p[1024];
    char name[ET_HELLO_NAME];

    CHECK_INT(et_hello_name(p, hello(p, sizeof p, "000a 0002 0000"), name), ==, 0);
    CHECK_STR(name, "");
    CHECK_INT(et_hello_name(p, hello(p, sizeof p, ""), name), ==, 0);
}

TEST(a_piece_asks_for_more)
{
    uint8_t p[1024];
    char name[ET_HELLO_NAME];
    size_t n = hello(p, sizeof p, SNI);

    for (size_t i = 0; i < n; i++) {
        CHECK_INT(et_hello_name(p, i, name), ==, ES_ERR_AGAIN);
        CHECK_STR(name, "");
    }
}

TEST(it_may_be_cut_into_records_of_any_size)
{
    uint8_t p[1024], cut[8192];
    char name[ET_HELLO_NAME];
    size_t n = hello(p, sizeof p, "0010 0003 020000 " SNI);

    for (size_t size = 1; size < n; size++) {
        size_t k = 0;
        for (size_t at = 5; at < n; at += size) {
            size_t m = n - at < size ? n - at : size;
            cut[k++] = 22;
            cut[k++] = 3;
            cut[k++] = 1;
            cut[k++] = 0;
            cut[k++] = (uint8_t)m;
            memcpy(cut + k, p + at, m);
            k += m;
        }
        if (size > 255) {
            break;
        }
        CHECK_INT(et_hello_name(cut, k, name), ==, 0);
        CHECK_STR(name, "a.be.cd");
        CHECK_INT(et_hello_name(cut, k - 1, name), ==, ES_ERR_AGAIN);
    }
}

TEST(what_is_no_hello_is_refused_as_soon_as_that_is_seen)
{
    static const char *const bad[] = {
        "47",                           /* GET */
        "1604",                         /* no version of TLS */
        "15 0301 0002 0100",            /* an alert */
        "16 0301 0000",                 /* an empty record */
        "16 0301 4001",                 /* a record over 16 KiB */
        "16 0305 0004",                 /* a version that does not exist */
        "16 0301 0004 02",              /* a ServerHello */
        "16 0301 0004 01 010000",       /* 64 KiB of it */
        "16 0301 0030 01 000001 03 03", /* shorter than its fields */
    };
    char name[ET_HELLO_NAME];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t p[64];
        CHECK_INT(et_hello_name(p, test_unhex(bad[i], p, sizeof p), name), ==, ES_ERR_PROTOCOL);
    }
}

TEST(lengths_that_do_not_fit_are_refused)
{
    static const char *const bad[] = {
        "0000 000d 000a 00 0007 412e62652e6364", /* the extension is longer than all */
        "0000 000c 000b 00 0007 412e62652e6364", /* the list is longer than the extension */
        "0000 000c 0009 00 0007 412e62652e6364", /* or shorter */
        "0000 000c 000a 00 0006 412e62652e6364", /* the name is shorter than the list */
        "0000 000c 000a 01 0007 412e62652e6364", /* no host name */
        "0000 0005 0003 00 0000",                /* an empty name */
        "0000 0000",
        "0000 0002 0000",
        "0000 000c 000a 00 0007 412e62002e6364", /* a zero byte in it */
        "0000 000c 000a 00 0007 412e622f2e6364", /* a slash */
        SNI SNI,                                 /* two of them */
        "0000 00",
        "0a",
    };
    char name[ET_HELLO_NAME];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t p[1024];
        CHECK_INT(et_hello_name(p, hello(p, sizeof p, bad[i]), name), ==, ES_ERR_PROTOCOL);
        CHECK_STR(name, "");
    }
}
