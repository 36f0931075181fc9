/* Datagrams of no connection we know: newcomers, other versions, survivors of a restart, noise. */
#include <string.h>
#include "internal.h"

#define REPLIES_PER_SECOND                                                                                   \
    2000.0 /* Version Negotiation, Retry, stateless reset, refusals: all of them together */
#define REPLIES_BURST 200.0
#define RETRY_VALID   (10 * ES_SECOND)
#define MIN_RESET     41 /* the smallest packet of ours that anybody could take for a 1-RTT one */

struct stranger {
    const union es_addr *local, *remote;
    uint8_t ecn;
    const uint8_t *data;
    size_t len;
    ngtcp2_path path;
};

static int may_reply(struct es_endpoint *ep)
{
    uint64_t now = ep->p->timers.now;

    ep->reset_tokens += (double)(now - ep->reset_tokens_at) / (double)ES_SECOND * REPLIES_PER_SECOND;
    ep->reset_tokens_at = now;
    if (ep->reset_tokens > REPLIES_BURST) {
        ep->reset_tokens = REPLIES_BURST;
    }
    if (ep->blocked || ep->reset_tokens < 1.0) {
        return 0;
    }
    ep->reset_tokens -= 1.0;
    return 1;
}

static void reply(struct es_endpoint *ep, const struct stranger *st, const uint8_t *data, ngtcp2_ssize n)
{
    if (n > 0) {
        (void)es_endpoint_send(ep, &st->path, 0, data, (size_t)n, (size_t)n, 0);
    }
}

static void negotiate_version(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_version_cid *vc)
{
    static const uint32_t ours[] = {NGTCP2_PROTO_VER_V1};
    uint8_t buf[1024], noise;

    ep->p->io.rand(ep->p->io.ctx, &noise, 1);
    reply(ep, st, buf,
          ngtcp2_pkt_write_version_negotiation(buf, sizeof buf, noise, vc->scid, vc->scidlen, vc->dcid,
                                               vc->dcidlen, ours, sizeof ours / sizeof ours[0]));
}

/* We do not know the connection, perhaps since we were restarted: the token, derived from the secret, tells
 * the peer at once (RFC 9000 10.3). Always shorter than what caused it, so that two such endpoints come to an
 * end. */
static void stateless_reset(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_version_cid *vc)
{
    uint8_t buf[64], token[NGTCP2_STATELESS_RESET_TOKENLEN], noise[64];
    ngtcp2_cid cid;
    size_t size = st->len - 1 < 43 ? st->len - 1 : 43;

    if (st->len < MIN_RESET) {
        return;
    }
    ngtcp2_cid_init(&cid, vc->dcid, vc->dcidlen);
    if (es_endpoint_reset_token(ep, &cid, token) != 0) {
        return;
    }
    ep->p->io.rand(ep->p->io.ctx, noise, sizeof noise);
    reply(ep, st, buf,
          ngtcp2_pkt_write_stateless_reset(buf, sizeof buf, token, noise,
                                           size - NGTCP2_STATELESS_RESET_TOKENLEN));
}

static void refuse(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_pkt_hd *hd, uint64_t code)
{
    uint8_t buf[256];

    ep->stats.refused++;
    if (may_reply(ep)) {
        reply(ep, st, buf,
              ngtcp2_crypto_write_connection_close(buf, sizeof buf, hd->version, &hd->scid, &hd->dcid, code,
                                                   NULL, 0));
    }
}

static void send_retry(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_pkt_hd *hd)
{
    uint8_t buf[512], token[NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2];
    ngtcp2_cid scid;
    ngtcp2_ssize n;

    es_endpoint_new_cid(ep, &scid);
    n = ngtcp2_crypto_generate_retry_token2(token, ep->retry_key, sizeof ep->retry_key, hd->version,
                                            &st->remote->sa, es_addr_len(st->remote), &scid, &hd->dcid,
                                            ep->p->io.wall(ep->p->io.ctx));
    if (n > 0) {
        reply(ep, st, buf,
              ngtcp2_crypto_write_retry(buf, sizeof buf, hd->version, &hd->scid, &scid, &hd->dcid, token,
                                        (size_t)n));
    }
}

/* 1: the token is our Retry's and good, *odcid is filled in; 0: there is none; -1: it claims to be ours and
 * lies. */
static int check_token(struct es_endpoint *ep, const struct stranger *st, const ngtcp2_pkt_hd *hd,
                       ngtcp2_cid *odcid)
{
    const uint8_t *token;
    size_t n;

    es_compat_hd_token(hd, &token, &n);
    if (n == 0 || token[0] != NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY2) {
        return 0;
    }
    return ngtcp2_crypto_verify_retry_token2(odcid, token, n, ep->retry_key, sizeof ep->retry_key,
                                             hd->version, &st->remote->sa, es_addr_len(st->remote), &hd->dcid,
                                             RETRY_VALID, ep->p->io.wall(ep->p->io.ctx)) == 0
               ? 1
               : -1;
}

static void newcomer(struct es_endpoint *ep, const struct stranger *st)
{
    ngtcp2_pkt_hd hd;
    ngtcp2_cid odcid;
    struct es_conn *c;
    int token;

    if (ngtcp2_accept(&hd, st->data, st->len) != 0) {
        return; /* not the first packet of anything; early data that overtook its Initial is lost and sent
                   again */
    }
    token = check_token(ep, st, &hd, &odcid);
    if (token < 0) {
        refuse(ep, st, &hd, NGTCP2_INVALID_TOKEN);
        return;
    }
    if (ep->refusing) {
        refuse(ep, st, &hd, NGTCP2_CONNECTION_REFUSED);
        return;
    }
    if (token == 0 && ep->handshaking >= ES_RETRY_ABOVE) {
        /* Half-open connections cost 50 KiB each: from here on newcomers prove their address first. */
        if (may_reply(ep)) {
            send_retry(ep, st, &hd);
        }
        return;
    }
    if (es_conn_new_server(ep, &hd, &st->path, token == 1 ? &odcid : NULL, &c) != 0) {
        ep->stats.refused++;
        return;
    }
    ep->stats.accepted++;
    es_conn_input(c, st->local, st->remote, st->ecn, st->data, st->len);
}

void es_endpoint_stranger(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                          uint8_t ecn, const uint8_t *data, size_t len, const ngtcp2_version_cid *vc,
                          int unknown_version)
{
    struct stranger st = {local, remote, ecn, data, len, {{0}, {0}, NULL}};

    st.path.local = es_nt_addr(local);
    st.path.remote = es_nt_addr(remote);
    if (unknown_version) {
        if (ep->tls != NULL && may_reply(ep)) {
            negotiate_version(ep, &st, vc);
        }
    } else if (!(data[0] & 0x80)) {
        if (may_reply(ep)) {
            stateless_reset(ep, &st, vc);
        }
    } else if (ep->tls != NULL && vc->version != 0) {
        newcomer(ep, &st);
    }
}
