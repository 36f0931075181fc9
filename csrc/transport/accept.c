/* Datagrams of no connection we know: newcomers, other versions, survivors of a restart, noise.
 *
 * Nothing is kept for a newcomer before it is asked, in this order: does it show a token that holds; do we
 * accept at all; has it to show its address first (Retry); is there room for one more handshake.
 */
#include <string.h>
#include "internal.h"

#define RESETS_PER_SECOND 2000.0 /* stateless resets, as many at once */
/* Version Negotiation and refusals, in a second and at once. Retry packets are not limited: each is a sixth
 * of what causes it, and the honest need theirs most when there are many others. */
#define REPLIES_PER_SECOND 2000.0
#define REPLIES_AT_ONCE    200.0
#define MIN_RESET          41 /* the smallest packet of ours that anybody could take for a 1-RTT one */

struct stranger {
    const union es_addr *local, *remote;
    uint8_t ecn;
    const uint8_t *data;
    size_t len;
    ngtcp2_path path;
};

static int take(struct es_endpoint *ep, struct es_bucket *b, double per_second, double most)
{
    uint64_t now = ep->p->timers.now;

    b->n += (double)(now - b->at) / (double)ES_SECOND * per_second;
    b->at = now;
    if (b->n > most) {
        b->n = most;
    }
    if (ep->blocked || b->n < 1.0) {
        return 0;
    }
    b->n -= 1.0;
    return 1;
}

static int may_reply(struct es_endpoint *ep)
{
    return take(ep, &ep->replies, REPLIES_PER_SECOND, REPLIES_AT_ONCE);
}

/* True when it was sent. */
static int reply(struct es_endpoint *ep, const struct stranger *st, const uint8_t *data, ngtcp2_ssize n)
{
    return n > 0 && es_endpoint_send(ep, &st->path, 0, data, (size_t)n, (size_t)n, 0) == 0;
}

/* ---- half-open connections ---- */

/* An IPv4 address, or an IPv6 network: a /64 is what one customer has. */
static size_t origin(uint8_t out[8], const union es_addr *a)
{
    if (a->sa.sa_family == AF_INET) {
        memcpy(out, &a->in4.sin_addr, 4);
        return 4;
    }
    if (IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
        memcpy(out, &a->in6.sin6_addr.s6_addr[12], 4);
        return 4;
    }
    memcpy(out, &a->in6.sin6_addr, 8);
    return 8;
}

/* How many half-open connections count for an address. */
static size_t count_each(const struct es_endpoint *ep, const union es_addr *a)
{
    uint8_t key[8];
    size_t n = origin(key, a);

    return (size_t)(uintptr_t)es_map_get(&ep->half_open_each, key, n);
}

static void add_each(struct es_conn *c, int by)
{
    uint8_t key[8];
    size_t n = origin(key, &c->origin), count = count_each(c->ep, &c->origin) + (size_t)by;

    if (count == 0) {
        es_map_remove(&c->ep->half_open_each, key, n);
        c->counted = 0;
    } else {
        c->counted = es_map_put(&c->ep->half_open_each, key, n, (void *)(uintptr_t)count) == 0 && by > 0;
    }
}

void es_half_open_begin(struct es_conn *c)
{
    struct es_endpoint *ep = c->ep;

    c->half_open = 1;
    c->origin = c->remote;
    ep->half_open++;
    ep->unproven += !c->proven;
    if (c->proven || ep->retry == ES_RETRY_NEVER) {
        add_each(c, 1);
    }
}

void es_half_open_end(struct es_conn *c)
{
    if (!c->half_open) {
        return;
    }
    c->half_open = 0;
    c->ep->half_open--;
    c->ep->unproven -= !c->proven;
    c->ep->retrying &= c->ep->unproven > c->ep->retry_above / 2;
    if (c->counted) {
        add_each(c, -1);
    }
}

/* Half-open connections cost 60 to 110 KiB each, and anybody can make them in anybody's name: from
 * retry_above on newcomers prove their address first, until half of those are gone. */
static int wants_retry(struct es_endpoint *ep)
{
    int on;

    switch (ep->retry) {
    case ES_RETRY_ALWAYS:
        return 1;
    case ES_RETRY_NEVER:
        return 0;
    case ES_RETRY_AUTO:
        break;
    }
    on = ep->retrying || ep->unproven >= ep->retry_above; /* es_half_open_end() turns it off */
    if (on && !ep->retrying &&
        (ep->retry_said == 0 || ep->p->timers.now >= ep->retry_said + ES_RETRY_LOG_EVERY)) {
        ep->retry_said = ep->p->timers.now;
        es_endpoint_log(ep, 0,
                        "%zu handshakes wait for clients that have not shown their address: "
                        "newcomers must show theirs first (Retry)",
                        ep->unproven);
    }
    ep->retrying = on;
    return on;
}

/* ---- answers without a connection ---- */

static int speaks(const struct es_endpoint *ep, uint32_t wire)
{
    return es_version_known(wire) &&
           (!ep->transport.version_only || es_version_number(wire) == ep->transport.version);
}

static void negotiate_version(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_version_cid *vc)
{
    uint32_t only = es_version_wire(ep->transport.version);
    const uint32_t *all = ep->transport.version_only ? &only : es_versions;
    uint8_t buf[1024], noise;

    ep->p->io.rand(ep->p->io.ctx, &noise, 1);
    ep->stats.version_negotiations += (uint64_t)reply(
        ep, st, buf,
        ngtcp2_pkt_write_version_negotiation(buf, sizeof buf, noise, vc->scid, vc->scidlen, vc->dcid,
                                             vc->dcidlen, all, all == &only ? 1 : es_n_versions));
}

/* We do not know the connection, perhaps since we were restarted: the token, derived from the secret, tells
 * the peer at once (RFC 9000 10.3). Always shorter than what caused it, so that two such endpoints come to an
 * end. */
static void stateless_reset(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_version_cid *vc)
{
    uint8_t buf[64], token[NGTCP2_STATELESS_RESET_TOKENLEN], noise[64];
    ngtcp2_cid cid;
    size_t size = st->len - 1 < 43 ? st->len - 1 : 43;

    if (st->len < MIN_RESET || !take(ep, &ep->resets, RESETS_PER_SECOND, RESETS_PER_SECOND)) {
        return;
    }
    ngtcp2_cid_init(&cid, vc->dcid, vc->dcidlen);
    if (es_endpoint_reset_token(ep, &cid, token) != 0) {
        return;
    }
    ep->p->io.rand(ep->p->io.ctx, noise, sizeof noise);
    ep->stats.resets_sent +=
        (uint64_t)reply(ep, st, buf,
                        ngtcp2_pkt_write_stateless_reset(buf, sizeof buf, token, noise,
                                                         size - NGTCP2_STATELESS_RESET_TOKENLEN));
}

static void refuse(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_pkt_hd *hd, uint64_t code)
{
    uint8_t buf[256];

    ep->stats.refused++;
    if (may_reply(ep)) {
        (void)reply(ep, st, buf,
                    ngtcp2_crypto_write_connection_close(buf, sizeof buf, hd->version, &hd->scid, &hd->dcid,
                                                         code, NULL, 0));
    }
}

static void send_retry(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_pkt_hd *hd)
{
    uint8_t buf[512], token[ES_TOKEN_MAX];
    ngtcp2_cid scid;
    size_t n;

    es_endpoint_new_cid(ep, &scid);
    n = es_tokens_make_retry(&ep->tokens, token, hd->version, st->remote, &scid, &hd->dcid,
                             es_poller_wall(ep->p));
    if (n > 0) {
        ep->stats.retries += (uint64_t)reply(
            ep, st, buf,
            ngtcp2_crypto_write_retry(buf, sizeof buf, hd->version, &hd->scid, &scid, &hd->dcid, token, n));
    }
}

/* ---- newcomers ---- */

static enum es_token_verdict check_token(struct es_endpoint *ep, const struct stranger *st,
                                         const ngtcp2_pkt_hd *hd, ngtcp2_cid *odcid)
{
    const uint8_t *token;
    size_t n;
    enum es_token_verdict v;

    es_compat_hd_token(hd, &token, &n);
    v = es_tokens_check(&ep->tokens, token, n, hd->version, st->remote, &hd->dcid, es_poller_wall(ep->p),
                        odcid);
    ep->stats.tokens_accepted += v == ES_TOKEN_RETRY || v == ES_TOKEN_ADDRESS;
    ep->stats.tokens_rejected += v == ES_TOKEN_STALE || v == ES_TOKEN_FALSE;
    return v;
}

static int is_full(const struct es_endpoint *ep, const struct stranger *st)
{
    return ep->half_open >= ep->max_half_open || count_each(ep, st->remote) >= ep->max_half_open_each;
}

static void newcomer(struct es_endpoint *ep, const struct stranger *st)
{
    ngtcp2_pkt_hd hd;
    ngtcp2_cid odcid;
    struct es_conn *c;
    enum es_token_verdict v;
    int rv;

    if (ngtcp2_accept(&hd, st->data, st->len) != 0) {
        return; /* not the first packet of anything; early data that overtook its Initial is lost and sent
                   again */
    }
    v = check_token(ep, st, &hd, &odcid);
    if (v == ES_TOKEN_FALSE) {
        refuse(ep, st, &hd, NGTCP2_INVALID_TOKEN);
        return;
    }
    if (ep->refusing) {
        refuse(ep, st, &hd, NGTCP2_CONNECTION_REFUSED);
        return;
    }
    if (v != ES_TOKEN_RETRY && v != ES_TOKEN_ADDRESS && wants_retry(ep)) {
        send_retry(ep, st, &hd);
        return;
    }
    if (is_full(ep, st)) {
        refuse(ep, st, &hd, NGTCP2_CONNECTION_REFUSED);
        return;
    }
    if (es_conn_new_server(ep, &hd, &st->path, v, &odcid, &c) != 0) {
        ep->stats.refused++;
        return;
    }
    rv = es_conn_input(c, st->local, st->remote, st->ecn, st->data, st->len);
    if (rv == NGTCP2_ERR_DROP_CONN || rv == NGTCP2_ERR_RETRY) {
        ep->stats.forgotten++;
        /* The library would have to keep parts of a greeting that came out of order: only for those who are
         * there. */
        if (rv == NGTCP2_ERR_RETRY && ep->retry != ES_RETRY_NEVER) {
            send_retry(ep, st, &hd);
        }
    } else {
        ep->stats.accepted++;
    }
}

void es_endpoint_stranger(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                          uint8_t ecn, const uint8_t *data, size_t len, const ngtcp2_version_cid *vc,
                          int unknown_version)
{
    struct stranger st = {local, remote, ecn, data, len, {{0}, {0}, NULL}};

    st.path.local = es_nt_addr(local);
    st.path.remote = es_nt_addr(remote);
    if (!(data[0] & 0x80)) {
        stateless_reset(ep, &st, vc);
    } else if (ep->tls == NULL || vc->version == 0) {
        return;
    } else if (!unknown_version && speaks(ep, vc->version)) {
        newcomer(ep, &st);
    } else if (len >= NGTCP2_MAX_UDP_PAYLOAD_SIZE && may_reply(ep)) { /* as long as a first packet must be */
        negotiate_version(ep, &st, vc);
    }
}
