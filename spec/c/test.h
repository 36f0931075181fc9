/* A tiny test harness: one file is one program.
 *
 *   // needs: csrc/base csrc/framing          (first line: the rooms, or single files, that run.sh links)
 *   #include "test.h"
 *   TEST(an_empty_buffer_is_valid) { struct es_buf b = {0}; CHECK_INT(b.n, ==, 0); }
 *
 * A failed CHECK prints file:line and the test goes on; REQUIRE ends the test. `program [word]` runs only the
 * tests whose name contains the word. The last line is "N passed, N failed"; exit status 1 when one failed.
 */
#ifndef ES_SPEC_C_TEST_H
#define ES_SPEC_C_TEST_H

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
};

static struct test_case *test_first, **test_last = &test_first;
static int test_failures; /* of the test under way */

#define TEST(name)                                                                                           \
    static void test_##name(void);                                                                           \
    static struct test_case test_case_##name = {#name, test_##name, NULL};                                   \
    __attribute__((constructor)) static void test_register_##name(void)                                      \
    {                                                                                                        \
        *test_last = &test_case_##name;                                                                      \
        test_last = &test_case_##name.next;                                                                  \
    }                                                                                                        \
    static void test_##name(void)

#define CHECK(cond) ((cond) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #cond))

#define REQUIRE(cond)                                                                                        \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            test_fail(__FILE__, __LINE__, "%s", #cond);                                                      \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)

/* CHECK_INT(rc, ==, ES_OK): prints both values when it does not hold. For anything that fits a long long. */
#define CHECK_INT(a, op, b)                                                                                  \
    do {                                                                                                     \
        long long test_a = (long long)(a), test_b = (long long)(b);                                          \
        if (!(test_a op test_b)) {                                                                           \
            test_fail(__FILE__, __LINE__, "%s %s %s: %lld, %lld", #a, #op, #b, test_a, test_b);              \
        }                                                                                                    \
    } while (0)

#define CHECK_STR(a, b)                                                                                      \
    do {                                                                                                     \
        const char *test_a = (a), *test_b = (b);                                                             \
        if (test_a == NULL || test_b == NULL || strcmp(test_a, test_b) != 0) {                               \
            test_fail(__FILE__, __LINE__, "%s == %s: \"%s\", \"%s\"", #a, #b, test_a ? test_a : "(null)",    \
                      test_b ? test_b : "(null)");                                                           \
        }                                                                                                    \
    } while (0)

/* CHECK_MEM(got, got_len, want, want_len) */
#define CHECK_MEM(a, an, b, bn)                                                                              \
    do {                                                                                                     \
        const void *test_a = (a), *test_b = (b);                                                             \
        size_t test_an = (an), test_bn = (bn);                                                               \
        if (test_an != test_bn || (test_an != 0 && memcmp(test_a, test_b, test_an) != 0)) {                  \
            test_fail(__FILE__, __LINE__, "%s is", #a);                                                      \
            test_dump("got ", test_a, test_an);                                                              \
            test_dump("want", test_b, test_bn);                                                              \
        }                                                                                                    \
    } while (0)

__attribute__((format(printf, 3, 4), unused)) static void test_fail(const char *file, int line,
                                                                    const char *fmt, ...)
{
    __builtin_va_list ap;

    if (++test_failures > 20) { /* enough to see what is wrong */
        return;
    }
    fprintf(stderr, "%s:%d: failed: ", file, line);
    __builtin_va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    __builtin_va_end(ap);
    fputc('\n', stderr);
}

__attribute__((unused)) static void test_dump(const char *what, const void *p, size_t n)
{
    const uint8_t *b = p;

    fprintf(stderr, "    %s %zu:", what, n);
    for (size_t i = 0; i < n && i < 64; i++) {
        fprintf(stderr, " %02x", b[i]);
    }
    fputs(n > 64 ? " ...\n" : "\n", stderr);
}

/* Bytes from hex digits ("04 80400000", blanks ignored) into out; returns how many. */
__attribute__((unused)) static size_t test_unhex(const char *hex, uint8_t *out, size_t cap)
{
    size_t n = 0;
    unsigned digit = 0, value = 0;

    for (; *hex != '\0'; hex++) {
        unsigned c = (unsigned char)*hex;
        if (c == ' ' || c == '\n') {
            continue;
        }
        value = value << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
        if (++digit % 2 == 0) {
            if (n == cap) {
                fputs("test_unhex: no room\n", stderr);
                abort();
            }
            out[n++] = (uint8_t)value;
            value = 0;
        }
    }
    return n;
}

/* Repeatable numbers (xorshift64*); seed it with anything but 0. */
__attribute__((unused)) static uint64_t test_rand(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;

    for (struct test_case *t = test_first; t != NULL; t = t->next) {
        if (argc > 1 && strstr(t->name, argv[1]) == NULL) {
            continue;
        }
        test_failures = 0;
        t->fn();
        if (test_failures == 0) {
            passed++;
        } else {
            failed++;
            fprintf(stderr, "FAILED %s\n", t->name);
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#endif
