// needs: tunnel/csrc/http2 tunnel/csrc/head csrc/base/buf.c csrc/base/err.c
// needs: csrc/base/glitch.c csrc/base/mem.c csrc/base/varint.c
// pkgs: libnghttp2
/* A peer of HTTP/2 that says anything to both roles. The first byte chooses the role and how the bytes are
 * cut; then records: a frame (type below 32, flags, stream, length, payload; the header is made from them),
 * or something that our own side does (type from 32 on: what, which exchange). The checks of h2_env.h hold,
 * and nothing leaks. */
#define main test_main
#include "../c/h2_raw.h"
#undef main

static void own(const uint8_t *p)
{
    struct end *e = raw.other == &visitor.sock ? &visitor : &backend;
    unsigned most = e->n < MOST ? e->n : MOST;
    struct talk *t = most > 0 ? &e->talk[p[1] % most] : NULL;

    if (e->h == NULL) {
        return;
    }
    switch (p[0] % 10) {
    case 0:
        if (e == &backend && e->h->ops->room(e->h) > 0) {
            (void)ask(p[1] & 1 ? "POST" : "HEAD", "/", (p[1] & 3) != 1);
        }
        return;
    case 1:
        raw_sleep(p[1] * (ES_SECOND / 4));
        return;
    case 2:
        (p[1] & 1 ? e->h->ops->drain : e->h->ops->close)(e->h);
        return;
    case 3:
        e->keep = p[1] & 1;
        return;
    default:
        break;
    }
    if (t == NULL || t->x == NULL) {
        raw_pump();
        return;
    }
    switch (p[0] % 10) {
    case 4:
        if (e == &visitor) {
            (void)reply(t, p[1] & 16 ? 103 : 200, p[1] & 32 && !(p[1] & 16));
        }
        break;
    case 5:
        (void)say_much(t, (size_t)p[1] * 300, p[1] & 1);
        break;
    case 6:
        t->unread = 0;
        t->x->ops->consume(t->x, SIZE_MAX);
        break;
    case 7:
        t->x->ops->reset(t->x, (enum et_reset)(1 + (p[1] >> 4) % 8));
        break;
    case 8:
        t->x->ops->release(t->x);
        t->x = NULL;
        break;
    default:
        break;
    }
    raw_pump();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum et_http_role role;

    if (size < 2) {
        return 0;
    }
    role = data[0] & 1 ? ET_HTTP_VISITOR : ET_HTTP_BACKEND;
    if (data[0] & 2) {
        raw_hello(role, NULL);
    } else {
        raw_open(role, NULL);
    }
    raw.other->cut = data[0] >> 4;
    data++;
    size--;
    if ((data[-1] & 4) != 0) {
        raw_put(data, size); /* not even frames */
        size = 0;
    }
    while (size >= 2) {
        if (data[0] >= 32) {
            own(data);
            data += 2;
            size -= 2;
        } else if (size >= 4) {
            size_t n = data[3] < size - 4 ? data[3] : size - 4;

            raw_frame(data[0], data[1], data[2], data + 4, n);
            data += 4 + n;
            size -= 4 + n;
        } else {
            break;
        }
    }
    raw_pump();
    raw_close();
    if (test_failures > 0) {
        abort();
    }
    return 0;
}
