/* Windows full of what the library never asks about.
 *
 * The library can lose its probe timer: to the limit on what may be sent to an address that is not validated,
 * or (0.12) when all that the last probes carried turns out to be acknowledged, so that it has nothing to
 * repeat, or because nothing is in flight but datagrams, PINGs and PATH_RESPONSEs, which it does not probe
 * for. With the window full nothing starts the timer again: the connection would never send any more, not
 * even the answer to a PATH_CHALLENGE, though its peer may go on for ever with keep-alives.
 *
 * The way out is another path, which gets a window of its own, with nothing in flight (RFC 9000 9.4). Only
 * the library thinks that there is another one: a server gives its client's address another name (names.c), a
 * client that of its own socket. Such a client goes on under another connection id and asks with a
 * PATH_CHALLENGE whether the server is there; nobody else sees a difference. Where that does not help the
 * connection is better closed: calls fail at once and a client may dial anew. Told from a dead network, whose
 * probes come at intervals that double, by the packets that come in meanwhile. */
#include <arpa/inet.h>
#include <string.h>
#include "internal.h"

#define RENEW          (2 * ES_SECOND)
#define BEGIN_ANEW     (500 * ES_MILLI)
#define PATIENCE       (15 * ES_SECOND)
#define ROOM           64 /* bytes of the window: no frame goes out in less */
#define PACKETS        8
#define INITIAL_WINDOW (10 * ES_PACKET_MAX)

/* ---- a client's own address ---- */

/* A name that no socket has: with port 0. */
static void name_socket(const struct es_conn *c, uint32_t number, union es_addr *out)
{
    memset(out, 0, sizeof *out);
    out->sa.sa_family = c->local.sa.sa_family;
    number = htonl(number);
    if (out->sa.sa_family == AF_INET6) {
        memcpy(&out->in6.sin6_addr.s6_addr[12], &number, sizeof number);
    } else {
        out->in4.sin_addr.s_addr = number;
    }
}

/* 0: not now. */
static int begin_anew(struct es_conn *c)
{
    ngtcp2_path path = {{0}, {0}, NULL};
    union es_addr alias, remote;
    const ngtcp2_path *now = ngtcp2_conn_get_path(c->nc);

    if (c->state != ES_CONN_OPEN || c->close_asked) {
        return 0;
    }
    name_socket(c, c->aliases + 1, &alias);
    memset(&remote, 0, sizeof remote);
    memcpy(&remote, now->remote.addr, now->remote.addrlen);
    path.local = es_nt_addr(&alias);
    path.remote = es_nt_addr(&remote);
    if (ngtcp2_conn_initiate_immediate_migration(c->nc, &path, es_conn_now(c)) != 0) {
        return 0; /* no connection id to spare, or the server forbids to move */
    }
    c->alias = alias;
    c->aliases++;
    c->flush_again = 1;
    return 1;
}

void es_conn_read_path(const struct es_conn *c, ngtcp2_path *path)
{
    union es_addr *local = (union es_addr *)(void *)path->local.addr;

    if (c->link.is_server) {
        es_name_read(c, (union es_addr *)(void *)path->remote.addr);
    } else if (c->aliases > 0 &&
               (local->sa.sa_family == AF_INET6 ? local->in6.sin6_port : local->in4.sin_port) == 0) {
        *local = c->sock != NULL ? c->sock->addr : c->local;
    }
}

/* ---- what is stuck ---- */

/* What is in flight has changed. */
static void note(struct es_conn *c, uint64_t in_flight)
{
    uint64_t now = es_conn_now(c);

    if (in_flight < c->stuck_bytes) {
        c->stuck_gap = 0; /* an acknowledgement */
    } else if (now - c->stuck_at > ngtcp2_conn_get_pto(c->nc) / 2) {
        c->stuck_gap = now - c->stuck_at; /* and not the second packet of the same probe */
    }
    c->stuck_bytes = in_flight;
    c->stuck_at = now;
    c->stuck_packets = c->packets_in;
    c->stuck_renewed = 0;
}

/* With 0.12, which often loses its probes, a client begins anew as soon as one should have come. When it did
 * so too early, in a bad network, it has only given a connection id away. With 1.11 it has the patience that
 * a server has: two seeds in 100,000 need it at all. 1: it did. */
static int client_begins_anew(struct es_conn *c)
{
    uint64_t due = c->stuck_at + BEGIN_ANEW + 3 * ngtcp2_conn_get_pto(c->nc) + 3 * c->stuck_gap;

    if (!ES_COMPAT_DATAGRAMS_UNPROBED || c->link.is_server) {
        return 0;
    }
    if (es_conn_now(c) < due) {
        c->stuck_until = due;
        return 0;
    }
    return begin_anew(c);
}

void es_conn_end_if_stuck(struct es_conn *c)
{
    static const char text[] = "the network takes packets again, but what was sent is stuck in the window";
    uint64_t still, heard, patience;
    ngtcp2_conn_info info;

    c->stuck_until = 0;
    ngtcp2_conn_get_conn_info(c->nc, &info);
    if (!c->established || info.bytes_in_flight != c->stuck_bytes) { /* every probe changes it */
        note(c, info.bytes_in_flight);
    }
    if (info.cwnd > INITIAL_WINDOW && c->link.is_server) { /* an address that is not validated gets no more */
        info.cwnd = INITIAL_WINDOW;
    }
    if (info.bytes_in_flight == 0 || info.bytes_in_flight + ROOM <= info.cwnd || !c->established ||
        client_begins_anew(c)) {
        return;
    }
    still = es_conn_now(c) - c->stuck_at;
    heard = c->packets_in - c->stuck_packets;
    patience = 10 * ngtcp2_conn_get_pto(c->nc) + 3 * c->stuck_gap;
    if (heard == 0 || still <= RENEW + patience) {
        return;
    }
    if (!c->stuck_renewed) {
        c->stuck_renewed = 1;
        (void)(c->link.is_server ? es_names_failed(c) : begin_anew(c));
    } else if (heard >= PACKETS && still > PATIENCE + patience) {
        es_conn_set_info(c, ES_CLOSE_ERROR, ES_ERR_IO, 0, NGTCP2_NO_VIABLE_PATH, text, sizeof text - 1);
        es_conn_end(c, 1);
    }
}
