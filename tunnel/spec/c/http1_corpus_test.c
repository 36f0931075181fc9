// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* The lists of malformed and of odd requests against the visitor's codec, in every cut. */
#include "../../../spec/c/test.h"
#include "http1_corpus.h"
#include "http1_play.h"

static int is_chunk(const struct corpus_row *row)
{
    return strcmp((const char *)row->column[1].p, "chunk") == 0;
}

static void check_answer(const struct corpus_row *row, struct play *p, const char *how)
{
    char want[32];
    const char *wire = play_wire(p);

    snprintf(want, sizeof(want), "HTTP/1.1 %s ", (const char *)row->column[0].p);
    if (strncmp(wire, want, strlen(want)) != 0 || strstr(wire, "connection: close\r\n") == NULL ||
        !p->closed) {
        test_fail(__FILE__, __LINE__, "%s: wants %s, got \"%.60s\", closed %d\n  %.200s", how, want, wire,
                  p->closed, (const char *)row->column[2].p);
    }
    /* One answer, and nothing after it. */
    if (strstr(wire + (*wire != '\0'), "HTTP/1.1 ") != NULL) {
        test_fail(__FILE__, __LINE__, "%s: two answers: %s", how, (const char *)row->column[2].p);
    }
}

/* Nothing of it was told, or of a malformed body: it was told to be malformed, and never that it is whole. */
static void check_told(const struct corpus_row *row, struct play *p, const char *how)
{
    if (p->n > (is_chunk(row) ? 1u : 0u)) {
        test_fail(__FILE__, __LINE__, "%s: told: %s", how, (const char *)row->column[2].p);
    }
    for (size_t i = 0; i < p->n; i++) {
        if (p->seen[i].ends > 0 || p->seen[i].fin || !p->seen[i].gone) {
            test_fail(__FILE__, __LINE__, "%s: told whole: %s", how, (const char *)row->column[2].p);
        }
    }
}

static void refused_whole(struct corpus_row *row, void *user)
{
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    fake_data(&p.f, row->column[2].p, row->column[2].n);
    check_answer(row, &p, "whole");
    CHECK_INT(p.n, ==, 0); /* not even the head of those whose body came with it */
    CHECK_INT(p.refused, ==, atoi((const char *)row->column[0].p));
    play_end(&p);
}

TEST(malformed_requests_are_answered_and_not_told)
{
    CHECK_INT(corpus_each("requests.txt", 3, refused_whole, NULL), >=, 100);
}

static void refused_bytewise(struct corpus_row *row, void *user)
{
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    for (size_t i = 0; i < row->column[2].n; i++) {
        fake_data(&p.f, row->column[2].p + i, 1);
    }
    check_answer(row, &p, "byte by byte");
    check_told(row, &p, "byte by byte");
    play_end(&p);
}

TEST(malformed_requests_byte_by_byte)
{
    corpus_each("requests.txt", 3, refused_bytewise, NULL);
}

/* Cut at each byte: two pieces, and the first alone with the end of the connection behind it. Long ones are
 * cut at a few hundred places. */
static void refused_cut(struct corpus_row *row, void *user)
{
    size_t n = row->column[2].n, step = getenv("RELAXED") != NULL ? n / 8 + 1 : n / 256 + 1;

    for (size_t cut = 1; cut < n; cut += step) {
        struct play p;

        play_start(&p, ET_HTTP_VISITOR, NULL);
        fake_data(&p.f, row->column[2].p, cut);
        fake_data(&p.f, row->column[2].p + cut, n - cut);
        check_answer(row, &p, "cut");
        check_told(row, &p, "cut");
        play_end(&p);

        play_start(&p, ET_HTTP_VISITOR, NULL);
        fake_data(&p.f, row->column[2].p, cut);
        fake_eof(&p.f);
        check_told(row, &p, "left");
        CHECK_INT(p.closed, ==, 1);
        play_end(&p);
    }
}

TEST(malformed_requests_cut_at_every_byte)
{
    corpus_each("requests.txt", 3, refused_cut, NULL);
}

/* Behind a good request: that one is answered, then the malformed one. */
static void refused_second(struct corpus_row *row, void *user)
{
    struct es_buf both = {0};
    struct play p;

    corpus_put(&both, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 37);
    corpus_put(&both, (const char *)row->column[2].p, row->column[2].n);
    play_start(&p, ET_HTTP_VISITOR, NULL);
    fake_data(&p.f, both.p, both.n);
    CHECK_INT(p.n, ==, 1);
    CHECK_STR(play_wire(&p), "");
    (void)play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 204 No Content\r\n\r\n", 27) == 0);
    CHECK_INT(p.n, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.refused, ==, atoi((const char *)row->column[0].p));
    play_end(&p);
    es_buf_free(&both);
}

TEST(malformed_requests_behind_a_good_one)
{
    corpus_each("requests.txt", 3, refused_second, NULL);
}

static void check_fine(struct corpus_row *row, struct play *p, const char *how)
{
    const char *got = p->n == 1 ? play_head(p->seen[0].head) : "nothing";
    size_t n = row->column[0].n;

    if (strncmp(got, (const char *)row->column[0].p, n) != 0 ||
        (got[n] != '\0' && strncmp(got + n, " | ", 3) != 0)) {
        test_fail(__FILE__, __LINE__, "%s: \"%.80s\" of %.200s", how, got, (const char *)row->column[1].p);
        return;
    }
    if (strncmp(got, "CONNECT", 7) != 0 && et_head_part(p->seen[0].head, ET_PROTOCOL).n == 0) {
        CHECK_INT(p->seen[0].fin + p->seen[0].ends, ==, 1);
    }
    CHECK_INT(p->seen[0].resets, ==, 0);
}

static void fine(struct corpus_row *row, void *user)
{
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    fake_data(&p.f, row->column[1].p, row->column[1].n);
    check_fine(row, &p, "whole");
    play_end(&p);
    play_start(&p, ET_HTTP_VISITOR, NULL);
    for (size_t i = 0; i < row->column[1].n; i++) {
        fake_data(&p.f, row->column[1].p + i, 1);
    }
    check_fine(row, &p, "byte by byte");
    play_end(&p);
}

TEST(odd_requests_that_are_well_formed_pass)
{
    CHECK_INT(corpus_each("fine.txt", 2, fine, NULL), >=, 40);
}
