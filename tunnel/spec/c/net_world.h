/* A poller, ends of connections that remember what they were told, and a loop that waits for the event
 * itself. */
#ifndef ET_SPEC_C_NET_WORLD_H
#define ET_SPEC_C_NET_WORLD_H

#include <poll.h>
#include <stdio.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "../../csrc/net/listener.h"

struct end {
    struct et_sock *s; /* NULL: closed */
    struct es_buf in;
    int open, eof, room, closed, err, timer, flush;
    char alpn[32], text[200], sni[64];
    size_t got;  /* bytes in all */
    int discard; /* do not keep them */
    int pause;   /* at the next data */
    int graceful_at_eof;
    uint32_t sum;
};

static void end_open(void *user, const char *alpn)
{
    struct end *e = user;

    e->open++;
    snprintf(e->alpn, sizeof e->alpn, "%s", alpn);
}

static void end_data(void *user, const uint8_t *p, size_t n)
{
    struct end *e = user;

    e->got += n;
    for (size_t i = 0; i < n; i++) {
        e->sum = e->sum * 31 + p[i];
    }
    if (!e->discard) {
        es_buf_put(&e->in, p, n);
    }
    if (e->pause) {
        et_sock_pause(e->s);
    }
}

static void end_eof(void *user)
{
    struct end *e = user;

    e->eof++;
    if (e->graceful_at_eof) {
        et_sock_close(e->s, 1);
    }
}

static void end_room(void *user)
{
    ((struct end *)user)->room++;
}

static void end_timer(void *user)
{
    ((struct end *)user)->timer++;
}

static void end_flush(void *user)
{
    struct end *e = user;

    e->flush++;
}

static void end_closed(void *user, int err, const char *text)
{
    struct end *e = user;

    e->closed++;
    e->err = err;
    e->s = NULL;
    snprintf(e->text, sizeof e->text, "%s", text);
}

static const struct et_sock_events end_events = {end_open,  end_data,  end_eof,   end_room,
                                                 end_timer, end_flush, end_closed};

/* A listener that gives each connection to the next of its ends. */
struct host {
    struct et_listener *l;
    struct end end[16];
    int n, peeked;
    char names[16][64];
    char address[80];
};

static void host_accepted(void *user, struct et_sock *s, const char *alpn)
{
    struct host *h = user;
    struct end *e = &h->end[h->n++];

    e->s = s;
    e->open++;
    snprintf(e->alpn, sizeof e->alpn, "%s", alpn);
    snprintf(e->sni, sizeof e->sni, "%s", et_sock_sni(s));
    et_sock_set_user(s, &end_events, e);
}

static struct et_sock *host_last_peeked;

static void host_peeked(void *user, struct et_sock *s, const char *sni)
{
    struct host *h = user;

    snprintf(h->names[h->peeked++], sizeof h->names[0], "%s", sni);
    host_last_peeked = s;
}

static const struct et_listener_events host_events = {host_accepted, host_peeked};

static uint16_t host_port(const struct host *h)
{
    const char *colon = strrchr(h->address, ':');

    return colon != NULL ? (uint16_t)atoi(colon + 1) : 0;
}

__attribute__((unused)) static int host_open(struct et_poller *p, struct host *h,
                                             struct et_listener_options o)
{
    char reason[200] = "";
    int rv;

    memset(h, 0, sizeof *h);
    if (o.path == NULL && o.ip == NULL) {
        o.ip = "127.0.0.1";
    }
    rv = et_listener_open(p, &o, &host_events, h, &h->l, reason, sizeof reason);
    if (rv != 0) {
        fprintf(stderr, "listen: %s\n", reason);
        return rv;
    }
    et_listener_local(h->l, h->address, sizeof h->address);
    return 0;
}

__attribute__((unused)) static int end_connect(struct et_poller *p, struct end *e, const struct host *h,
                                               struct et_tls_client *tls, const char *name)
{
    struct et_sock_place where = {"127.0.0.1", host_port(h), NULL, 0};

    memset(e, 0, sizeof *e);
    return et_sock_connect(p, &where, tls, name, &end_events, e, &e->s);
}

__attribute__((unused)) static void host_free(struct host *h)
{
    for (int i = 0; i < h->n; i++) {
        es_buf_free(&h->end[i].in);
    }
}

/* Steps until the condition holds; for at most a minute, however slow the machine is. */
#define UNTIL(p, condition)                                                                                  \
    do {                                                                                                     \
        for (int round_ = 0; !(condition) && round_ < 60000; round_++) {                                     \
            struct pollfd pfd_ = {et_poller_fd(p), POLLIN, 0};                                               \
            poll(&pfd_, 1, 1);                                                                               \
            et_poller_step(p, 64);                                                                           \
        }                                                                                                    \
        CHECK(condition);                                                                                    \
    } while (0)

#endif
