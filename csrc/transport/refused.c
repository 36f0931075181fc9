/* Dialling where nobody listens. The other machine says so by ICMP, or this one because it has no way there,
 * and nobody wants to wait for the handshake's time-out then.
 *
 * One message is not believed: whoever guesses the ports can forge it, and a server may be about to start. So
 * once we hear it we knock again a little later, with a datagram of one byte that no QUIC server answers.
 * When that is refused too the dialling ends; otherwise the handshake's own packets find out. Whoever has
 * heard a packet of the server does not listen any more.
 *
 * The kernel tells only sockets that ask for it (udp.c), which they do while a handshake is under way. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"

#define GRACE (250 * ES_MILLI) /* between the first refusal and the one that counts */

static void end(struct es_conn *c)
{
    char text[256], addr[64];

    es_addr_format(&c->remote, addr, sizeof addr);
    if (c->refused_errno == ECONNREFUSED) {
        snprintf(text, sizeof text, "connection refused by %s: nobody listens there", addr);
    } else {
        snprintf(text, sizeof text, "%s cannot be reached from here: %s", addr, strerror(c->refused_errno));
    }
    es_conn_set_info(c, ES_CLOSE_HANDSHAKE, ES_ERR_CLOSED, 0, 0, text, strlen(text));
    es_conn_end(c, 0);
}

static void on_knock(struct es_timer *t)
{
    static const uint8_t byte = 0;
    struct es_conn *c = t->user;
    ngtcp2_path path = {{0}, {0}, NULL};

    if (c->refused_twice) {
        end(c);
        return;
    }
    path.local = es_nt_addr(&c->local);
    path.remote = es_nt_addr(&c->remote);
    (void)es_endpoint_send(c->ep, &path, 0, &byte, 1, 1, 1);
}

void es_refused_listen(struct es_conn *c)
{
    struct es_endpoint *ep = c->ep;

    if (c->cfg.wait_for_ready || ep->p->io.listen == NULL || c->hears_refusals) {
        return;
    }
    c->hears_refusals = 1;
    es_timer_init(&c->knock, on_knock, c);
    if (ep->n_hearing++ == 0) {
        ep->p->io.listen(ep->p->io.ctx, ep->sock, 1);
    }
}

void es_refused_forget(struct es_conn *c)
{
    struct es_endpoint *ep = c->ep;

    if (!c->hears_refusals) {
        return;
    }
    c->hears_refusals = 0;
    es_timer_stop(&ep->p->timers, &c->knock);
    if (--ep->n_hearing == 0) {
        ep->p->io.listen(ep->p->io.ctx, ep->sock, 0);
    }
}

void es_endpoint_refused(struct es_endpoint *ep, const union es_addr *remote, int err)
{
    uint64_t now = ep->p->timers.now;

    es_list_foreach(it, &ep->conns)
    {
        struct es_conn *c = es_container_of(it, struct es_conn, node);

        if (!c->hears_refusals || c->packets_in > 0 || !es_addr_equal(&c->remote, remote)) {
            continue;
        }
        c->refused_errno = err;
        /* This may be inside a flush of that connection: the timer ends it. */
        if (c->refused_at == 0) {
            c->refused_at = now;
            (void)es_timer_start(&ep->p->timers, &c->knock, now + GRACE);
        } else if (now - c->refused_at >= GRACE && !c->refused_twice) {
            c->refused_twice = 1;
            (void)es_timer_start(&ep->p->timers, &c->knock, now);
        }
    }
}
