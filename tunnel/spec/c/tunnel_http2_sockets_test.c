// needs: tunnel/csrc/http2 tunnel/csrc/head tunnel/csrc/net csrc/base
// pkgs: libnghttp2 gnutls
/* HTTP/2 over real sockets, plain and with TLS: both roles in one process. BULK=1024 for a download of that
 * many MiB, with its speed. */
#include <poll.h>
#include <time.h>
#include "../../../spec/c/test.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "../../csrc/http2/http2.h"
#include "../../csrc/net/listener.h"
#include "certificate.h"

#define S(s) (s), sizeof(s) - 1

enum { PART = 65536 };

struct visit { /* either end of an exchange */
    struct et_exchange *x;
    int server, head, end, gone;
    enum et_reset why;
    size_t got, left; /* left: to be sent */
    int waits;        /* for room */
    uint32_t sum;
};

static struct et_poller *poller;
static struct et_http *client;
static int closed_client, closed_server, opened, gone, done;
static struct visit *kept[1024];
static uint8_t part[PART];
static unsigned n_kept;

static void send_more(struct visit *v)
{
    while (v->left > 0 && v->x->ops->queued(v->x) < ET_QUEUE_HIGH) {
        size_t n = v->left < PART ? v->left : PART;

        v->left -= n;
        CHECK_INT(v->x->ops->body(v->x, part, n, v->left == 0), ==, 0);
    }
}

static void on_head(void *user, struct et_head *h, int fin)
{
    struct visit *v = user;

    v->head++;
    if (v->server) {
        struct et_text path = et_head_part(h, ET_PATH);
        struct et_head *r = et_head_new(ET_HEAD_RESPONSE);

        v->left = (size_t)strtoull(path.p + 1, NULL, 10);
        et_head_set_status(r, 200);
        CHECK_INT(v->x->ops->head(v->x, r, v->left == 0), ==, 0);
        et_head_del(r);
        if (fin) {
            v->end = 1;
            send_more(v);
        }
    } else if (fin) {
        v->end = 1;
    }
    et_head_del(h);
}

static void on_body(void *user, const uint8_t *p, size_t n)
{
    struct visit *v = user;

    v->got += n;
    v->sum = v->sum * 31 + p[n / 2];
    v->x->ops->consume(v->x, n);
}

static void on_end(void *user, struct et_head *trailers)
{
    struct visit *v = user;

    v->end = 1;
    et_head_del(trailers);
    if (v->server) {
        send_more(v); /* the upload is whole: now the answer */
    }
}

static void on_room(void *user)
{
    send_more(user);
}

static void on_reset(void *user, enum et_reset why, const char *text)
{
    ((struct visit *)user)->why = why;
}

static void on_gone(void *user)
{
    struct visit *v = user;

    v->gone = 1;
    v->x = NULL;
    gone++;
    done += !v->server;
}

static const struct et_exchange_events visit_events = {on_head, on_body, on_end, on_room, on_reset, on_gone};

static struct visit *visit_new(void)
{
    struct visit *v = es_calloc(1, sizeof(*v));

    es_free(kept[n_kept % 1024]); /* of long ago */
    kept[n_kept++ % 1024] = v;
    return v;
}

static int on_opened(void *user, struct et_exchange *x)
{
    struct visit *v = visit_new();

    opened++;
    v->server = 1;
    v->x = x;
    x->user = v;
    x->events = &visit_events;
    return ES_OK;
}

static void on_closed(void *user, int err, const char *text)
{
    ++*(int *)user;
    CHECK_INT(err, ==, 0);
}

static const struct et_http_events server_events = {.opened = on_opened, .closed = on_closed};
static const struct et_http_events client_events = {.closed = on_closed};

static void accepted(void *user, struct et_sock *s, const char *alpn)
{
    struct et_http *h;

    CHECK_INT(et_http2_new(s, ET_HTTP_VISITOR, "https", NULL, &server_events, &closed_server, &h), ==, 0);
}

static void dialed(void *user, const char *alpn)
{
    CHECK_INT(et_http2_new(user, ET_HTTP_BACKEND, "https", NULL, &client_events, &closed_client, &client), ==,
              0);
}

static void failed(void *user, int err, const char *text)
{
    fprintf(stderr, "dial: %s\n", text);
    CHECK(!"the dial failed");
}

static const struct et_listener_events listener_events = {.accepted = accepted};

static void step(void)
{
    struct pollfd p = {et_poller_fd(poller), POLLIN, 0};

    poll(&p, 1, 1000);
    while (et_poller_step(poller, 64)) {
    }
}

/* Waits for the event itself, with a generous limit. */
#define WAIT(cond)                                                                                           \
    for (int wait_i = 0; wait_i < 2000000 && !(cond); wait_i++) {                                            \
        step();                                                                                              \
    }                                                                                                        \
    CHECK(cond)

static struct visit *get(size_t down, size_t up)
{
    struct visit *v = visit_new();
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);
    char path[32];

    snprintf(path, sizeof(path), "/%zu", down);
    et_head_set_part(h, ET_METHOD, up ? "POST" : "GET", up ? 4 : 3);
    et_head_set_part(h, ET_SCHEME, S("https"));
    et_head_set_part(h, ET_AUTHORITY, S("localhost"));
    et_head_set_part(h, ET_PATH, path, strlen(path));
    v->left = up;
    CHECK_INT(client->ops->begin(client, &visit_events, v, &v->x), ==, 0);
    CHECK_INT(v->x->ops->head(v->x, h, up == 0), ==, 0);
    et_head_del(h);
    send_more(v);
    return v;
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run(int with_tls)
{
    static const char *const alpn[] = {"h2", NULL};
    static const char *const names[] = {"localhost", NULL};
    struct certificate made = {0};
    struct et_tls_cert cert = {0};
    struct et_tls_server *server_tls = NULL;
    struct et_tls_client *client_tls = NULL;
    struct et_listener_options options = {.ip = "127.0.0.1"};
    struct et_sock_events dial = {.open = dialed, .closed = failed};
    struct et_sock_place place = {.ip = "127.0.0.1"};
    struct et_listener *l;
    struct et_sock *s;
    struct visit *v;
    char text[200] = "";
    int many = getenv("RELAXED") ? 300 : 3000, begun = 0;
    size_t bulk = (size_t)(getenv("BULK") ? atoi(getenv("BULK")) : getenv("RELAXED") ? 4 : 48) << 20;

    closed_client = closed_server = opened = gone = done = 0;
    client = NULL;
    CHECK_INT(et_poller_new(&poller), ==, 0);
    if (with_tls) {
        certificate_make(&made, names);
        cert.cert_pem = made.cert;
        cert.key_pem = made.key;
        CHECK_INT(et_tls_server_new(&cert, 1, alpn, 0, &server_tls, text, sizeof(text)), ==, 0);
        CHECK_INT(et_tls_client_new(NULL, NULL, 0, NULL, NULL, alpn, &client_tls, text, sizeof(text)), ==, 0);
        options.tls = server_tls;
    }
    CHECK_INT(et_listener_open(poller, &options, &listener_events, NULL, &l, text, sizeof(text)), ==, 0);
    et_listener_local(l, text, sizeof(text));
    place.port = (uint16_t)atoi(strrchr(text, ':') + 1);
    CHECK_INT(et_sock_connect(poller, &place, client_tls, "localhost", &dial, NULL, &s), ==, 0);
    et_sock_set_user(s, &dial, s);
    WAIT(client != NULL);
    if (client == NULL) {
        return;
    }

    v = get(bulk, 0);
    if (getenv("BULK")) {
        double from = seconds();

        WAIT(v->gone);
        fprintf(stderr, "%s: %.0f MB/s down\n", with_tls ? "TLS" : "plain",
                (double)bulk / 1e6 / (seconds() - from));
    }
    WAIT(v->gone);
    CHECK_INT(v->got, ==, bulk);
    CHECK(!v->why);
    v = get(5, bulk / 2);
    WAIT(v->gone);
    CHECK_INT(v->got, ==, 5);

    done = 0;
    while (done < many) { /* 100 at once */
        while (begun < many && begun - done < 100) {
            (void)get((size_t)(begun % 50) * 777, begun % 3 ? 0 : 1 + (size_t)begun % 7000);
            begun++;
        }
        step();
    }
    CHECK_INT(opened, ==, many + 2);
    client->ops->drain(client);
    WAIT(closed_client && closed_server);
    CHECK_INT(gone, ==, 2 * opened);
    et_listener_close(l);
    et_poller_del(poller);
    et_tls_server_unref(server_tls);
    et_tls_client_unref(client_tls);
    gnutls_free(made.cert);
    gnutls_free(made.key);
    for (unsigned i = 0; i < 1024; i++) {
        es_free(kept[i]);
        kept[i] = NULL;
    }
    n_kept = 0;
}

TEST(transfers_over_plain_sockets)
{
    run(0);
}

TEST(transfers_over_tls)
{
    run(1);
}
