// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
/* What a client may say to an HTTP/3 server, on any of its streams: the bytes are cut into parts, each with a
 * byte that says on which stream it goes (0 the control stream, 1 a new two-way stream, 2 a new one-way
 * stream, 3 the last one; +4: then it ends, +8: then it is reset) and one that says how long it is. Delivered
 * whole and byte by byte it has the same outcome. */
#define main test_main
#include "../c/h3_env.h"
#undef main
#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

struct outcome {
    int requests, closed, ends, given_up;
    uint64_t code;
    size_t body; /* of all requests whose ends came */
};

static void read_all(struct end *d, struct outcome *o)
{
    for (int i = 0; i < d->n_held; i++) {
        const uint8_t *p;
        size_t n;

        while (d->held[i] != NULL && es_exchange_read(d->held[i], &p, &n) == 0) {
            o->body += n;
            es_exchange_consume(d->held[i], n);
        }
    }
}

static void answer_all(struct end *d)
{
    static const struct es_h3_field f[] = {{.name = "x", .value = "y", .name_len = 1, .value_len = 1}};

    for (int i = 0; i < d->n_held; i++) {
        if (d->held[i] != NULL && es_exchange_respond(d->held[i], 200, f, 1, 0) == 0) {
            (void)es_exchange_write(d->held[i], "body", 4, NULL, NULL);
            (void)es_exchange_finish(d->held[i], f, 1);
        }
    }
}

static struct outcome play(const uint8_t *p, size_t n, size_t chunk)
{
    static struct h3_env e;
    static struct raw r;
    struct outcome o = {0};
    int parts = 0;

    h3_env_init(&e);
    e.server.cfg.connect = 1;
    e.server.cfg.limits.max_fields = 20;
    raw_start(&e, &r, "");
    e.chunk = chunk;
    while (n >= 2 && !r.closed && parts++ < 64) {
        unsigned op = p[0];
        size_t len = p[1] < n - 2 ? p[1] : n - 2;

        switch (op & 3) {
        case 0:
            r.stream = r.control;
            break;
        case 1:
        case 2:
            if (es_link_open(r.link, (op & 3) == 1 ? ES_DIR_BIDI : ES_DIR_UNI, NULL, &r.stream) != 0) {
                r.stream = NULL;
            }
        }
        if (r.stream != NULL) {
            (void)es_link_write(r.stream, p + 2, len, (op & 4) != 0);
            o.ends += (op & 4) != 0;
        }
        run(&e);
        read_all(&e.server, &o);
        if ((op & 8) != 0 && r.stream != NULL && !r.closed) {
            es_link_reset(r.stream, 0x10c);
            run(&e);
        }
        p += 2 + len;
        n -= 2 + len;
    }
    if ((parts & 1) != 0) {
        answer_all(&e.server);
        run(&e);
    }
    o.requests = e.server.requests;
    o.closed = r.closed;
    o.given_up = r.resets + r.stops;
    o.code = r.info.code;
    h3_env_free(&e);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole = play(data, size, 0), pieces = play(data, size, 1);

    /* Whatever is found first counts: a stream that is given up is read no further, and where one that may
     * not end does, its last bytes may break a rule, too. */
    if (whole.given_up == 0 && pieces.given_up == 0) {
        MUST(whole.closed == pieces.closed && whole.requests == pieces.requests);
        MUST(whole.code == pieces.code || whole.ends > 0);
        MUST(whole.closed || whole.body == pieces.body);
    }
    return 0;
}
