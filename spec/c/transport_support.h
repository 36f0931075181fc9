/* Two endpoints over loopback in one process, and a small protocol on their links: the server echoes streams.
 */
#ifndef ES_SPEC_C_TRANSPORT_SUPPORT_H
#define ES_SPEC_C_TRANSPORT_SUPPORT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../csrc/base/buf.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/link/link.h"
#include "../../csrc/transport/driver.h"
#include "../../csrc/transport/endpoint.h"
#include "../../csrc/transport/poller.h"
#include "../../csrc/transport/tls.h"
#ifdef RIG_TCP /* the same protocol over TCP */
#include "../../csrc/tcp/tcp.h"
#endif

/* What one side of a connection saw. */
struct side {
    struct es_link *link; /* NULL after closed() */
    int established, closed, echo, ended, early;
    struct es_close_info info;
    int opened, resets, stops, stream_closed, sent, credit_events, datagrams, writables;
    int moves;
    struct es_link_move move; /* the last */
    uint64_t reset_code, stop_code;
    uint64_t received;
    size_t fins;
    struct es_buf bytes; /* of all streams, when keep is set */
    int keep;
    size_t hold_each; /* echo nothing, give no credit */
    uint8_t last_datagram[2048];
    size_t last_datagram_len;
    void (*on_data)(struct side *, struct es_link_stream *, const uint8_t *, size_t, int fin);
    void (*on_stopped)(struct side *, struct es_link_stream *, uint64_t);
    void (*on_stream_closed)(struct side *, struct es_link_stream *);
    void *user;
};

struct rig {
    struct es_poller *p;
    struct es_endpoint *server, *client;
#ifdef RIG_TCP
    struct es_tcp *tcp_server, *tcp_client;
#endif
    struct es_tls *server_tls, *client_tls;
    struct es_app app, client_app;
    struct side s[64];
    int n_s;
    struct side c[64];
    int n_c;
    int echo;
    char *key, *cert;
    uint8_t pin[32], der[32];
    char err[256];
    int refuse;
    int want_tickets;
    struct es_buf ticket; /* the last one that came */
    int tickets, tickets_freed;
};

static void s_established(void *u)
{
    ((struct side *)u)->established++;
}
static void s_opened(void *u, struct es_link_stream *st, int dir)
{
    ((struct side *)u)->opened++;
    st->user = u;
}
static void s_data(void *u, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    struct side *s = u;

    s->received += n;
    s->fins += fin != 0;
    if (s->keep) {
        es_buf_put(&s->bytes, p, n);
    }
    if (s->on_data != NULL) {
        s->on_data(s, st, p, n, fin);
        return;
    }
    if (s->echo) {
        es_link_write(st, p, n, fin);
        if (fin) {
            es_link_stream_done(st);
        }
    }
    if (!s->hold_each) {
        es_link_credit(st, n);
    }
}
static void s_reset(void *u, struct es_link_stream *st, uint64_t code)
{
    struct side *s = u;
    s->resets++;
    s->reset_code = code;
    if (s->echo) {
        es_link_write(st, "", 0, 1);
    }
}
static void s_stopped(void *u, struct es_link_stream *st, uint64_t code)
{
    struct side *s = u;

    s->stops++;
    s->stop_code = code;
    if (s->on_stopped != NULL) {
        s->on_stopped(s, st, code);
    }
}
static void s_writable(void *u, struct es_link_stream *st)
{
    ((struct side *)u)->writables++;
}
static void s_sent(void *u, struct es_link_stream *st)
{
    ((struct side *)u)->sent++;
}
static void s_stream_closed(void *u, struct es_link_stream *st)
{
    struct side *s = u;

    s->stream_closed++;
    if (s->on_stream_closed != NULL) {
        s->on_stream_closed(s, st);
    }
}
static void s_datagram(void *u, const uint8_t *p, size_t n)
{
    struct side *s = u;
    s->datagrams++;
    s->last_datagram_len = n;
    if (n > 0 && n <= sizeof s->last_datagram) {
        memcpy(s->last_datagram, p, n);
    }
    if (s->echo) {
        es_link_datagram(s->link, p, n);
    }
}
static void s_credit(void *u, int dir)
{
    ((struct side *)u)->credit_events++;
}
static void s_hold_low(void *u) {}
static void s_early(void *u)
{
    ((struct side *)u)->early++;
}
static void s_closed(void *u, const struct es_close_info *info)
{
    struct side *s = u;
    s->closed++;
    s->info = *info;
    s->link = NULL;
}
static void s_moved(void *u, const struct es_link_move *m)
{
    struct side *s = u;
    s->moves++;
    s->move = *m;
}
static const struct es_link_events side_events = {
    s_established,   s_opened,   s_data,   s_reset,    s_stopped, s_writable, s_sent,
    s_stream_closed, s_datagram, s_credit, s_hold_low, s_closed,  s_moved,    s_early};

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct rig *r = app->user;
    struct side *s = link->is_server ? &r->s[r->n_s++ % 64] : arg;

    if (r->refuse && link->is_server) {
        return ES_ERR_LIMIT;
    }
    if (link->is_server) {
        es_buf_free(&s->bytes);
        memset(s, 0, sizeof *s);
        s->echo = r->echo;
    }
    s->link = link;
    es_link_attach(link, &side_events, s);
    return 0;
}

struct rig_options {
    const char *bind, *client_bind;
    enum es_trust trust;
    int wrong_pin;
    const char *ca_file, *server_name;
    const char *client_alpn;
    struct es_transport_config server, client;
    const char *name; /* in the certificate */
    enum es_trust server_trust;
    const char *client_cert, *client_key;
    uint8_t secret[32];
};

static void rig_options(struct rig_options *o)
{
    memset(o, 0, sizeof *o);
    o->bind = "127.0.0.1:0";
    o->client_bind = "127.0.0.1:0";
    o->trust = ES_TRUST_PIN;
    o->client_alpn = "test/1";
    o->name = "localhost";
    es_transport_config_default(&o->server, 1);
    es_transport_config_default(&o->client, 0);
}

static int rig_make_tls(struct rig *r, const struct rig_options *o)
{
    struct es_tls_config tc;
    const char *names[2] = {o->name, "127.0.0.1"};
    uint8_t pins[1][32];
    int rv;

    if ((rv = es_key_generate(&r->key)) != 0 ||
        (rv = es_cert_self_sign(r->key, names, 2, 10, &r->cert, r->err, sizeof r->err)) != 0) {
        return rv;
    }
    memset(&tc, 0, sizeof tc);
    tc.is_server = 1;
    tc.cert_pem = r->cert;
    tc.key_pem = r->key;
    tc.trust = o->server_trust;
    if (o->server_trust == ES_TRUST_CA) {
        tc.ca_file = o->ca_file;
    }
    if ((rv = es_tls_new(&r->server_tls, &tc, r->err, sizeof r->err)) != 0) {
        return rv;
    }
    es_tls_pin(r->server_tls, r->pin, r->der);
    memset(&tc, 0, sizeof tc);
    memcpy(pins[0], r->pin, 32);
    pins[0][5] ^= o->wrong_pin ? 0xff : 0;
    tc.trust = o->trust;
    tc.pins = (const uint8_t(*)[32])pins;
    tc.n_pins = 1;
    tc.ca_file = o->ca_file;
    tc.server_name = o->server_name;
    tc.cert_pem = o->client_cert;
    tc.key_pem = o->client_key;
    return es_tls_new(&r->client_tls, &tc, r->err, sizeof r->err);
}

#ifdef RIG_TCP
static int rig_open_sockets(struct rig *r, const struct rig_options *o)
{
    struct es_app *apps[1] = {&r->app};
    struct es_tcp_config cfg;
    union es_addr addr;
    int rv;

    es_tcp_config_default(&cfg);
    es_addr_parse(&addr, o->bind);
    cfg.bind = &addr;
    cfg.tls = r->server_tls;
    cfg.apps = apps;
    cfg.n_apps = 1;
    cfg.transport = o->server;
    if ((rv = es_tcp_new(r->p, &cfg, &r->tcp_server, r->err, sizeof r->err)) != 0) {
        return rv;
    }
    es_tcp_config_default(&cfg);
    return es_tcp_new(r->p, &cfg, &r->tcp_client, r->err, sizeof r->err);
}
#else
static int rig_open_sockets(struct rig *r, const struct rig_options *o)
{
    struct es_endpoint_config cfg;
    struct es_app *apps[1];
    union es_addr addr;
    int rv;

    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, o->bind);
    cfg.bind = &addr;
    cfg.tls = r->server_tls;
    apps[0] = &r->app;
    cfg.apps = apps;
    cfg.n_apps = 1;
    cfg.transport = o->server;
    memcpy(cfg.secret, o->secret, 32);
    if ((rv = es_endpoint_new(r->p, &cfg, &r->server, r->err, sizeof r->err)) != 0) {
        return rv;
    }
    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, o->client_bind);
    cfg.bind = &addr;
    return es_endpoint_new(r->p, &cfg, &r->client, r->err, sizeof r->err);
}
#endif

static int rig_open(struct rig *r, const struct rig_options *o)
{
    int rv;

    memset(r, 0, sizeof *r);
    r->echo = 1;
    r->app.alpn = "test/1";
    r->app.attach = attach;
    r->app.user = r;
    r->client_app = r->app;
    r->client_app.alpn = o->client_alpn;
    if ((rv = rig_make_tls(r, o)) != 0 || (rv = es_poller_new(&r->p)) != 0) {
        return rv;
    }
    return rig_open_sockets(r, o);
}

static void rig_close(struct rig *r)
{
#ifdef RIG_TCP
    es_tcp_del(r->tcp_client);
    es_tcp_del(r->tcp_server);
#else
    es_endpoint_del(r->client);
    es_endpoint_del(r->server);
#endif
    es_tls_unref(r->client_tls);
    es_tls_unref(r->server_tls);
    es_poller_del(r->p);
    es_free(r->key);
    es_free(r->cert);
    es_buf_free(&r->ticket);
    for (int i = 0; i < 64; i++) {
        es_buf_free(&r->s[i].bytes);
        es_buf_free(&r->c[i].bytes);
    }
}

static void rig_ticket(void *u, const uint8_t *p, size_t n)
{
    struct rig *r = u;

    r->tickets++;
    es_buf_clear(&r->ticket);
    es_buf_put(&r->ticket, p, n);
}

static void rig_ticket_free(void *u)
{
    ((struct rig *)u)->tickets_freed++;
}

static struct side *rig_dial(struct rig *r, const struct rig_options *o)
{
    struct es_connect_config cc;
    struct side *s = &r->c[r->n_c++ % 64];
    union es_addr addr;
    int rv;

#ifdef RIG_TCP
    es_tcp_address(r->tcp_server, &addr);
#else
    es_endpoint_address(r->server, &addr);
#endif
    if (addr.sa.sa_family == AF_INET && addr.in4.sin_addr.s_addr == 0) {
        addr.in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (addr.sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr.in6.sin6_addr)) {
        addr.in6.sin6_addr = in6addr_loopback;
    }
    memset(&cc, 0, sizeof cc);
    cc.remote = &addr;
    cc.tls = r->client_tls;
    cc.app = &r->client_app;
    cc.app_arg = s;
    cc.transport = o->client;
    es_buf_free(&s->bytes);
    memset(s, 0, sizeof *s);
    if (r->want_tickets) {
        cc.on_ticket = rig_ticket;
        cc.ticket_free = rig_ticket_free;
        cc.ticket_user = r;
        cc.ticket = r->ticket.p;
        cc.ticket_len = r->ticket.n;
    }
#ifdef RIG_TCP
    rv = es_tcp_connect(r->tcp_client, &cc, &s->link, r->err, sizeof r->err);
#else
    rv = es_endpoint_connect(r->client, &cc, &s->link, r->err, sizeof r->err);
#endif
    return rv == 0 ? s : NULL;
}

__attribute__((unused)) static void turn(struct rig *r)
{
    es_poller_wait(r->p, es_poller_now(r->p) + 20 * ES_MILLI);
    es_poller_step(r->p, 64);
    es_poller_flush(r->p);
}

/* Under valgrind everything takes longer, but for what is only waited for. */
static inline double patience(void)
{
    return getenv("RELAXED") != NULL ? 10 : 1;
}

/* Runs until cond holds or `seconds` passed; true when it holds. */
#define UNTIL(r, seconds, cond)                                                                              \
    ({                                                                                                       \
        uint64_t until_ = es_poller_now((r)->p) +                                                            \
                          (uint64_t)((seconds)*1e9 * (__builtin_constant_p(cond) ? 1 : patience()));         \
        while (!(cond) && es_poller_now((r)->p) < until_) {                                                  \
            turn(r);                                                                                         \
        }                                                                                                    \
        (cond);                                                                                              \
    })

#endif
