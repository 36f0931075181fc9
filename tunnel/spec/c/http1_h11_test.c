// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* Mutated requests from the lists through both roles of the codec: what it would send to a backend is read by
 * llhttp alone and by h11 (python3-h11) as the same one request. SEED and ROUNDS choose others and more. */
#include <sys/wait.h>
#include <unistd.h>
#include "../../../spec/c/test.h"
#include "http1_corpus.h"
#include "http1_oracle.h"

#define MAX_ROWS 512

static struct es_buf row[MAX_ROWS];
static size_t rows, fine; /* the well-formed ones come first */

static void keep(struct corpus_row *r, void *user)
{
    const struct es_buf *last = &r->column[*(int *)user - 1];

    if (last->n <= 4096 && rows < MAX_ROWS) {
        corpus_put(&row[rows++], (const char *)last->p, last->n);
    }
}

static uint64_t dice = 88172645463325252;

static size_t upto(size_t n)
{
    return n == 0 ? 0 : (size_t)(test_rand(&dice) % n);
}

/* One request, or two of them with a seam, with a few bytes changed, taken away or put in. */
static void mutate(struct es_buf *b)
{
    static const char *const bits[] = {"\r\n",
                                       "\n",
                                       "\r",
                                       " ",
                                       "\t",
                                       ":",
                                       ",",
                                       "0",
                                       "chunked",
                                       "Host: a\r\n",
                                       "\r\n\r\n",
                                       "Content-Length: 3\r\n",
                                       "Transfer-Encoding: chunked\r\n",
                                       "HTTP/1.1",
                                       "#",
                                       "@",
                                       "Connection: close\r\n",
                                       "Expect: 100-continue\r\n",
                                       "\x80",
                                       ";",
                                       "0\r\n\r\n",
                                       "3\r\nabc\r\n"};
    const struct es_buf *a = &row[upto(4) > 0 ? upto(fine) : upto(rows)], *c = &row[upto(rows)];

    es_buf_clear(b);
    corpus_put(b, (const char *)a->p, a->n);
    if (upto(4) == 0) {
        b->n = upto(a->n + 1);
        size_t from = upto(c->n + 1);
        corpus_put(b, (const char *)c->p + from, c->n - from);
    }
    for (size_t k = upto(4); k > 0 && b->n > 0; k--) {
        size_t at = upto(b->n);
        const char *bit = bits[upto(sizeof(bits) / sizeof(bits[0]))];
        size_t n = strlen(bit);

        switch (upto(3)) {
        case 0:
            b->p[at] = (uint8_t)upto(256);
            break;
        case 1:
            memmove(b->p + at, b->p + at + 1, b->n - at - 1);
            b->n--;
            break;
        default:
            corpus_put(b, bit, n);
            memmove(b->p + at + n, b->p + at, b->n - at - n);
            memcpy(b->p + at, bit, n);
            break;
        }
    }
}

static FILE *to_h11, *asked; /* the pipe; what h11 should answer, a line each */
static size_t told;

static void put_hex(FILE *f, const void *p, size_t n)
{
    if (n == 0) {
        fputc('-', f);
    }
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "%02x", ((const uint8_t *)p)[i]);
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "name: value\n" lines, sorted. */
static void put_sorted(FILE *f, const struct es_buf *lines)
{
    char *text = strndup(lines->n > 0 ? (const char *)lines->p : "", lines->n), *line[256];
    struct es_buf sorted = {0};
    size_t n = 0;

    for (char *p = strtok(text, "\n"); p != NULL && n < 256; p = strtok(NULL, "\n")) {
        line[n++] = p;
    }
    qsort(line, n, sizeof(line[0]), by_text);
    for (size_t i = 0; i < n; i++) {
        corpus_put(&sorted, line[i], strlen(line[i]));
        corpus_put(&sorted, "\n", 1);
    }
    put_hex(f, sorted.p, sorted.n);
    es_buf_free(&sorted);
    free(text);
}

/* h11 gives fields of the head and of the trailers apart; llhttp's reading, which is the same, has them in
 * one. */
static void ask(void *user, const struct seen *s)
{
    struct es_buf wire = oracle_emit(s), trailers = {0};
    struct plain r;
    llhttp_t l;

    oracle_check(s, &wire);
    plain_read(&r, &l, &wire);
    for (size_t i = 0; s->trailers != NULL && i < et_head_count(s->trailers); i++) {
        struct et_field f = et_head_field(s->trailers, i);

        corpus_put(&trailers, f.name.p, f.name.n);
        corpus_put(&trailers, ": ", 2);
        corpus_put(&trailers, f.value.p, f.value.n);
        corpus_put(&trailers, "\n", 1);
        r.fields.n -= f.name.n + f.value.n + 3; /* they came last */
    }
    fprintf(asked, "yes %s %.*s ", llhttp_method_name(llhttp_get_method(&l)), (int)r.url.n, r.url.p);
    put_sorted(asked, &r.fields);
    fputc(' ', asked);
    put_hex(asked, r.body.p, r.body.n);
    fputc(' ', asked);
    put_sorted(asked, &trailers);
    fputc('\n', asked);

    fprintf(to_h11, "%zu\n", wire.n);
    fwrite(wire.p, 1, wire.n, to_h11);
    told++;
    plain_free(&r);
    es_buf_free(&trailers);
    es_buf_free(&wire);
}

/* Compares the two files of answers line by line. */
static void compare(const char *want, const char *got)
{
    static char a[1 << 17], b[1 << 17];
    FILE *fa = fopen(want, "r"), *fb = fopen(got, "r");
    size_t n = 0;

    REQUIRE(fa != NULL && fb != NULL);
    while (fgets(a, sizeof(a), fa) != NULL) {
        n++;
        if (fgets(b, sizeof(b), fb) == NULL || strcmp(a, b) != 0) {
            test_fail(__FILE__, __LINE__, "request %zu\n  want %.300s  got  %.300s", n, a, b);
        }
    }
    CHECK_INT(n, ==, told);
    fclose(fa);
    fclose(fb);
}

TEST(what_is_sent_to_backends_reads_the_same_everywhere)
{
    char dir[] = "/tmp/http1_h11_XXXXXX", want[64], got[64], command[256];
    size_t rounds = getenv("ROUNDS") != NULL    ? strtoul(getenv("ROUNDS"), NULL, 10)
                    : getenv("RELAXED") != NULL ? 200
                                                : 6000;
    struct es_buf b = {0};
    int three = 3, two = 2, h11;

    if (getenv("SEED") != NULL) {
        dice = strtoull(getenv("SEED"), NULL, 10) | 1;
    }
    corpus_each("fine.txt", 2, keep, &two);
    fine = rows;
    corpus_each("requests.txt", 3, keep, &three);
    REQUIRE(rows > 200 && mkdtemp(dir) != NULL);
    snprintf(want, sizeof(want), "%s/want", dir);
    snprintf(got, sizeof(got), "%s/got", dir);
    /* Without h11 llhttp alone judges. */
    h11 = system("/usr/bin/python3 -c 'import h11' 2>/dev/null") == 0;
    snprintf(command, sizeof(command), "timeout 200 %s >%s",
             h11 ? "/usr/bin/python3 tunnel/spec/support/h11_reader.py" : "cat", got);
    asked = fopen(want, "w");
    to_h11 = popen(command, "w");
    REQUIRE(asked != NULL && to_h11 != NULL);
    for (size_t i = 0; i < rounds; i++) {
        mutate(&b);
        (void)oracle_read(b.p, b.n, i % 2 == 0 ? 0 : (uint32_t)i, ask, NULL);
    }
    fclose(asked);
    CHECK_INT(pclose(to_h11), ==, 0);
    CHECK_INT(told, >, rounds / 20);
    if (h11) {
        compare(want, got);
    } else {
        fprintf(stderr, "python3-h11 is not there: llhttp alone was asked\n");
    }
    if (getenv("VERBOSE") != NULL) {
        fprintf(stderr, "%zu of %zu passed on\n", told, rounds);
    }
    unlink(want);
    unlink(got);
    rmdir(dir);
    es_buf_free(&b);
    for (size_t i = 0; i < rows; i++) {
        es_buf_free(&row[i]);
    }
}
