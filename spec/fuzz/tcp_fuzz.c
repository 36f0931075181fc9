// needs: csrc/base csrc/link csrc/transport csrc/tcp
// pkgs: libngtcp2 libngtcp2_crypto_gnutls libnghttp2 gnutls
/* What comes inside TLS from a peer over TCP: byte 0 says which side reads it, the next one how it is cut;
 * the rest is the stream behind the preface and SETTINGS. Sockets and TLS are left out: the connection is put
 * into the state after them, and what it would send is framed and thrown away. The protocol above echoes,
 * resets and stops by turns, so that the other half of the code runs too. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../../csrc/tcp/internal.h"

static struct es_poller *poller;
static struct es_tcp *tcp;
static struct es_tls *tls;
static unsigned n_events;

static void on_nothing(void *u)
{
    n_events++;
}
static void on_opened(void *u, struct es_link_stream *s, int dir)
{
    s->user = NULL;
}
static void on_data(void *u, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    es_link_credit(s, n);
    switch (n_events++ % 5) {
    case 0:
        es_link_write(s, p, n, fin);
        break;
    case 1:
        es_link_reset(s, n);
        break;
    case 2:
        es_link_stop(s, n);
        break;
    default:
        es_link_stream_done(s);
        break;
    }
}
static void on_code(void *u, struct es_link_stream *s, uint64_t code)
{
    n_events++;
}
static void on_stream(void *u, struct es_link_stream *s)
{
    n_events++;
}
static void on_datagram(void *u, const uint8_t *p, size_t n)
{
    n_events++;
}
static void on_credit(void *u, int dir)
{
    n_events++;
}
static void on_closed(void *u, const struct es_close_info *info)
{
    if (memchr(info->reason, 0, sizeof info->reason) == NULL) {
        abort();
    }
}

static const struct es_link_events events = {
    .established = on_nothing,
    .stream_opened = on_opened,
    .data = on_data,
    .stream_reset = on_code,
    .stream_stopped = on_code,
    .writable = on_stream,
    .sent = on_stream,
    .stream_closed = on_stream,
    .datagram = on_datagram,
    .stream_credit = on_credit,
    .hold_low = on_nothing,
    .closed = on_closed,
};

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    es_link_attach(link, &events, NULL);
    return 0;
}

static struct es_app app = {.alpn = "fuzz/1", .attach = attach};

static void set_up(void)
{
    struct es_tls_config tc = {.trust = ES_TRUST_SKIP};
    struct es_tcp_config cfg;
    char err[256];

    es_tcp_config_default(&cfg);
    if (es_poller_new(&poller) != 0 || es_tls_new(&tls, &tc, err, sizeof err) != 0 ||
        es_tcp_new(poller, &cfg, &tcp, err, sizeof err) != 0) {
        abort();
    }
}

static struct tcp_conn *make(int is_server)
{
    struct es_transport_config cfg;
    union es_addr addr;
    struct tcp_conn *c;
    int fd[2];

    es_transport_config_default(&cfg, is_server);
    es_addr_parse(&addr, "127.0.0.1:1");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) != 0) {
        abort();
    }
    close(fd[1]);
    if (tcp_conn_new(tcp, is_server, tls, &cfg, fd[0], &addr, &c) != 0) {
        abort();
    }
    c->app = &app;
    if (!is_server) {
        attach(&app, &c->link, NULL);
        c->attached = 1;
    }
    if (tcp_h2_start(c) != 0) {
        abort();
    }
    c->state = TCP_GREETING;
    c->no_room = 1; /* nothing goes out */
    return c;
}

/* Frames what is due, and forgets it. */
static void flush(struct tcp_conn *c)
{
    es_list_remove(&c->work.node);
    if (!c->told) {
        tcp_flush(&c->work);
        c->out.n = c->out_off = 0;
        c->no_room = 1;
    }
}

static void feed(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    uint8_t *own;

    if (c->state != TCP_GREETING && c->state != TCP_OPEN) {
        return;
    }
    own = malloc(n + 1); /* a block of its own: a byte too far is seen */
    memcpy(own, p, n);
    tcp_h2_read(c, own, n);
    free(own);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const uint8_t settings[9] = {0, 0, 0, 4}, ready[10] = {0, 0, 1, 0xec, 0, 0, 0, 0, 0, 5};
    struct es_link_stream *s;
    struct tcp_conn *c;
    size_t cut;

    if (poller == NULL) {
        set_up();
    }
    if (size < 2) {
        return 0;
    }
    c = make(data[0] & 1);
    cut = (size_t)data[1] * 4 + 1;
    data += 2;
    size -= 2;
    flush(c);
    if (c->link.is_server) {
        feed(c, (const uint8_t *)preface, sizeof preface - 1);
    }
    feed(c, settings, sizeof settings);
    if (c->link.is_server) {
        feed(c, ready, sizeof ready);
    }
    while (size > 0) {
        size_t n = cut < size ? cut : size;

        feed(c, data, n);
        if (c->state == TCP_OPEN && es_link_open(&c->link, (int)(cut & 1), NULL, &s) == 0) {
            es_link_write(s, data, n, 1);
        }
        flush(c);
        data += n;
        size -= n;
    }
    if (!c->told) {
        tcp_end(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, 0, "");
        tcp_finish(c);
    }
    es_list_remove(&c->work.node);
    tcp_conn_del(c);
    es_poller_step(poller, 64); /* the socket on its way out */
    es_poller_flush(poller);
    return 0;
}
