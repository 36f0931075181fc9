/* The figures of a connection. */
#include <string.h>
#include "internal.h"

#define ECN_PATIENCE 64 /* packets without a mark that mean that no more will come */

/* The library tests the path with its first packets and stops marking when they, or the peer's counts of
 * them, get lost on the way (RFC 9000 13.4.2). */
static enum es_link_ecn ecn_state(const struct es_conn *c)
{
    if (c->ecn_sent > 0 && c->packets_out - c->ecn_last > ECN_PATIENCE) {
        return ES_LINK_ECN_FAILED;
    }
    return c->acks.ect0 + c->acks.ce > 0 ? ES_LINK_ECN_CAPABLE : ES_LINK_ECN_TESTING;
}

static uint64_t idle_timeout(const struct es_conn *c)
{
    const ngtcp2_transport_params *remote =
        c->established ? ngtcp2_conn_get_remote_transport_params(c->nc) : NULL;
    uint64_t idle = c->cfg.idle_timeout;

    if (remote != NULL && remote->max_idle_timeout != 0 && (idle == 0 || remote->max_idle_timeout < idle)) {
        idle = remote->max_idle_timeout;
    }
    return idle;
}

void es_conn_stats(struct es_link *l, struct es_link_stats *out)
{
    struct es_conn *c = es_conn_of(l);
    ngtcp2_conn_info info;

    memset(out, 0, sizeof *out);
    out->bytes_sent = c->bytes_out;
    out->bytes_received = c->bytes_in;
    out->packets_sent = c->packets_out;
    out->packets_received = c->packets_in;
    out->packets_lost = c->acks.lost;
    out->ecn = ecn_state(c);
    out->ecn_sent = c->ecn_sent;
    out->ecn_acked = c->acks.ect0;
    out->ecn_ce_acked = c->acks.ce;
    out->ecn_received = c->ecn_received;
    out->ecn_ce_received = c->ecn_ce_received;
    out->migrations = c->migrations;
    out->mtu_reductions = c->acks.holes;
    out->held = l->held;
    out->resumed = c->resumed;
    out->early_data = c->early == ES_EARLY_ACCEPTED   ? ES_LINK_EARLY_ACCEPTED
                      : c->early == ES_EARLY_REJECTED ? ES_LINK_EARLY_REJECTED
                                                      : ES_LINK_EARLY_NONE;
    out->key_updates = c->key_updates > 1 ? c->key_updates - 1 : 0;
    out->handshake_time = c->established ? c->established_at - c->started : 0;
    if (c->nc == NULL) {
        return;
    }
    out->quic_version =
        (uint32_t)es_version_number(c->established ? ngtcp2_conn_get_negotiated_version(c->nc)
                                                   : ngtcp2_conn_get_client_chosen_version(c->nc));
    ngtcp2_conn_get_conn_info(c->nc, &info);
    out->rtt_latest = info.latest_rtt;
    out->rtt_min = info.min_rtt == UINT64_MAX ? 0 : info.min_rtt;
    out->rtt_smoothed = info.smoothed_rtt;
    out->cwnd = info.cwnd;
    out->credit = ngtcp2_conn_get_max_data_left(c->nc);
    out->bytes_in_flight = info.bytes_in_flight;
    out->path_mtu = (uint32_t)es_path_mtu(c);
    out->max_datagram = (uint32_t)es_conn_max_datagram(c);
    out->streams_bidi_left = (uint32_t)ngtcp2_conn_get_streams_bidi_left(c->nc);
    out->streams_uni_left = (uint32_t)ngtcp2_conn_get_streams_uni_left(c->nc);
    out->idle_timeout = idle_timeout(c);
}
