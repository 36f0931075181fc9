/* The figures of all connections of a host: those that are over were added up when they ended, the others are
 * asked. */
#include <string.h>
#include "internal.h"

static void add_link(struct es_link_totals *t, const struct es_link_stats *st)
{
    t->bytes_sent += st->bytes_sent;
    t->bytes_received += st->bytes_received;
    t->packets_sent += st->packets_sent;
    t->packets_received += st->packets_received;
    t->packets_lost += st->packets_lost;
    t->ecn_ce += st->ecn_ce_acked + st->ecn_ce_received;
    t->migrations += st->migrations;
    t->mtu_reductions += st->mtu_reductions;
    t->key_updates += st->key_updates;
    t->resumed += st->resumed != 0;
    t->early_accepted += st->early_data == ES_LINK_EARLY_ACCEPTED;
    t->early_rejected += st->early_data == ES_LINK_EARLY_REJECTED;
}

/* What was joined in memory shook no hands, and is no distance away. */
static int is_over_a_network(const struct es_link_stats *st)
{
    return st->quic_version != 0 || st->rtt_smoothed != 0;
}

void totals_established(struct es_session *s)
{
    struct es_link_stats st;

    es_link_stats_get(s->link, &st);
    if (is_over_a_network(&st))
        es_histogram_add(&s->host->handshakes, st.handshake_time);
}

void totals_closed(struct es_session *s)
{
    struct es_link_stats st;

    es_list_remove(&s->all);
    if (s->link == NULL)
        return;
    es_link_stats_get(s->link, &st);
    add_link(&s->host->closed_totals, &st);
}

static void look_at(struct es_session *s, struct es_host_figures *out)
{
    struct es_link_stats st;

    out->open += s->opened;
    out->pending += s->n_pending;
    out->running += s->n_running;
    out->channels_in += s->n_channels_in;
    out->channels_out += s->n_channels_out;
    out->events += s->n_events;
    es_list_foreach(it, &s->channels)
    {
        struct es_channel_stats ch;

        es_channel_stats_get(es_container_of(it, struct es_channel, node), &ch);
        out->unsent += ch.queued;
        out->unread += ch.unread;
    }
    es_link_stats_get(s->link, &st);
    add_link(&out->link, &st);
    es_histogram_add(&out->held, st.held);
    if (!s->established || !is_over_a_network(&st))
        return;
    es_histogram_add(&out->rtt, st.rtt_smoothed);
    es_histogram_add(&out->cwnd, st.cwnd);
}

void es_session_figures(struct es_host *h, struct es_host_figures *out)
{
    memset(out, 0, sizeof *out);
    out->link = h->closed_totals;
    es_list_foreach(it, &h->sessions)
    {
        struct es_session *s = es_container_of(it, struct es_session, all);

        if (s->link != NULL)
            look_at(s, out);
    }
}
