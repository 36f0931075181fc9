// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* What HTTP/1.1 costs a request, without sockets: tunnel/bench/http1.sh [ROUNDS]. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "../csrc/http1/emit.h"
#include "../spec/c/http1_play.h"

#define SMALL "GET /hello HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
#define BROWSER                                                                                              \
    "GET /static/app.js?v=1234 HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive\r\n"              \
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 "   \
    "Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\n"             \
    "Sec-Fetch-Dest: script\r\nReferer: https://www.example.org/\r\nAccept-Encoding: gzip, deflate, br\r\n"  \
    "Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"    \
    "If-None-Match: \"5f3e-1234\"\r\nCache-Control: max-age=0\r\n\r\n"
#define ANSWER                                                                                               \
    "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: "              \
    "text/plain\r\n"                                                                                         \
    "Content-Length: 6\r\nConnection: keep-alive\r\n\r\nhello\n"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t allocs(void)
{
    struct es_mem_stats s;

    es_mem_stats(&s);
    return s.allocs;
}

static void forget(struct play *p)
{
    for (size_t i = 0; i < p->n; i++) {
        et_head_del(p->seen[i].head);
        es_buf_free(&p->seen[i].body);
    }
    memset(p->seen, 0, p->n * sizeof(p->seen[0]));
    p->n = 0;
    es_buf_clear(&p->f.wire);
}

/* A request through both sides and its response back: four heads are read or written. */
static void through(const char *name, const char *request, long rounds)
{
    struct play visitor, backend;
    double begun = 0;
    uint64_t a = 0;

    play_start(&visitor, ET_HTTP_VISITOR, NULL);
    play_start(&backend, ET_HTTP_BACKEND, NULL);
    for (long i = -1000; i < rounds; i++) {
        if (i == 0) {
            begun = now();
            a = allocs();
        }
        play_say(&visitor, request);
        struct seen *in = &visitor.seen[0], *out = play_ask(&backend, in->head, 1);

        in->head = NULL;
        play_say(&backend, ANSWER);
        in->x->ops->head(in->x, out->head, 0);
        play_body(&visitor, in, "hello\n", 1);
        forget(&visitor);
        forget(&backend);
    }
    printf("%-8s %6.0f ns, %.1f allocations: a request read and written, its response read and written\n",
           name, (now() - begun) / (double)rounds, (double)(allocs() - a) / (double)rounds);
    play_end(&visitor);
    play_end(&backend);
}

/* Only reading a request and writing it. */
static void one_way(const char *name, const char *request, long rounds)
{
    struct play visitor, backend;
    double read = 0, written = 0;
    struct et_head *no = play_response(204, NULL);
    double begun;

    play_start(&visitor, ET_HTTP_VISITOR, NULL);
    play_start(&backend, ET_HTTP_BACKEND, NULL);
    for (long i = 0; i < rounds; i += 32) { /* the clock is read seldom */
        struct et_head *heads[32];

        for (int k = 0; k < 32; k++) {
            visitor.seen[0].head = NULL;
            begun = k == 0 ? now() : begun;
            play_say(&visitor, request);
            heads[k] = visitor.seen[0].head;
            visitor.seen[0].head = NULL;
            visitor.seen[0].x->ops->head(visitor.seen[0].x, no, 1);
            fake_step(&visitor.f);
            forget(&visitor);
        }
        read += now() - begun;
        begun = now();
        for (int k = 0; k < 32; k++) {
            struct es_buf *out = et_sock_out(backend.f.s);
            struct et_emit how = {.framing = ET_FRAMING_NONE};

            (void)et_emit_request(heads[k], &how, out);
            es_buf_clear(out);
        }
        written += now() - begun;
        for (int k = 0; k < 32; k++) {
            et_head_del(heads[k]);
        }
    }
    printf("%-8s %6.0f ns read (with a 204 answered), %4.0f ns written\n", name, read / (double)rounds,
           written / (double)rounds);
    et_head_del(no);
    play_end(&visitor);
    play_end(&backend);
}

/* A body of 1 GiB in pieces of 64 KiB. */
static void body(const char *name, int chunked)
{
    static char piece[65536];
    char head[160];
    struct play p;
    double begun = now();

    play_start(&p, ET_HTTP_BACKEND, NULL);
    p.seen[0].play = &p;
    play_ask(&p, play_request("GET", "/", NULL), 1);
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\n%s\r\n",
             chunked ? "Transfer-Encoding: chunked\r\n" : "Content-Length: 1073741824\r\n");
    play_say(&p, head);
    for (long n = 0; n < 1073741824; n += (long)sizeof(piece)) {
        if (chunked) {
            play_say(&p, "10000\r\n");
        }
        fake_data(&p.f, piece, sizeof(piece));
        if (chunked) {
            play_say(&p, "\r\n");
        }
        es_buf_clear(&p.seen[0].body);
    }
    printf("%-8s %6.0f ms for 1 GiB read\n", name, (now() - begun) / 1e6);
    play_end(&p);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 500000;

    one_way("small", SMALL, rounds);
    one_way("browser", BROWSER, rounds);
    through("small", SMALL, rounds);
    through("browser", BROWSER, rounds);
    body("length", 0);
    body("chunked", 1);
    return 0;
}
