/* Connections: made, fed, timed, freed. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include "early.h"
#include "internal.h"
#include "ticket.h"
#include "tls_verify.h"

#define MIN_TIMER        ES_MILLI /* a nearer expiry of ngtcp2's is its pacer's and not worth a wake-up */
#define ACTIVE_CID_LIMIT 4        /* of the peer's ids that we keep: enough for a few changes of address */

static void on_timer(struct es_timer *t);

/* ---- birth and death ---- */

static ngtcp2_conn *get_conn(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct es_conn *)ref->user_data)->nc;
}

static struct es_conn *conn_alloc(struct es_endpoint *ep, struct es_tls *tls,
                                  const struct es_transport_config *cfg, int is_server)
{
    struct es_conn *c = es_calloc(1, sizeof *c);

    if (c == NULL) {
        return NULL;
    }
    c->link.ops = &es_conn_link_ops;
    c->link.is_server = is_server;
    c->link.hold_cap = cfg->hold_cap;
    c->link.glitch_code = ES_APP_EXCESSIVE_LOAD;
    es_glitch_init(&c->link.glitch, (uint32_t)cfg->glitch_budget, ep->p->timers.now);
    c->ep = ep;
    c->cfg = *cfg;
    es_conn_mem_init(c);
    es_watch_init(c);
    c->ref.get_conn = get_conn;
    c->ref.user_data = c;
    c->started = c->heard_at = ep->p->timers.now;
    c->ask_wait = ES_ASK_FIRST;
    es_acks_init(&c->acks);
    es_tls_ref(tls);
    c->peer.tls = tls;
    for (int i = 0; i <= ES_PRIO_LAST; i++) {
        es_list_init(&c->ready[i]);
    }
    es_list_init(&c->streams);
    es_list_init(&c->dead);
    es_list_init(&c->ops);
    es_list_init(&c->dirty);
    es_timer_init(&c->timer, on_timer, c);
    es_list_push(&ep->conns, &c->node);
    ep->n_conns++;
    return c;
}

static void free_streams(struct es_conn *c)
{
    struct es_chunk *k;

    es_list_foreach(it, &c->streams)
    {
        es_qstream_retire(es_container_of(it, struct es_qstream, all));
    }
    es_qstream_sweep(c);
    es_qstream_forget_ids(c);
    while ((k = c->dgram_head) != NULL) {
        c->dgram_head = k->next;
        es_chunk_put(c->ep, k);
    }
    c->dgram_tail = NULL;
    c->n_dgrams = 0;
}

static void free_library_state(struct es_conn *c)
{
    if (c->nc != NULL) {
        ngtcp2_conn_del(c->nc);
        c->nc = NULL;
    }
    if (c->tls != NULL) {
        gnutls_deinit(c->tls);
        c->tls = NULL;
    }
    free_streams(c);
    es_acks_free(&c->acks);
    es_qlog_close(c->qlog);
    c->qlog = NULL;
    es_buf_free(&c->ticket);
    es_exporter_wipe(&c->exporter);
    if (c->ticket_free != NULL) {
        c->ticket_free(c->ticket_user);
        c->ticket_free = NULL;
        c->on_ticket = NULL;
    }
    es_list_remove(&c->dirty);
    es_half_open_end(c);
    es_refused_forget(c);
}

void es_conn_del(struct es_conn *c)
{
    free_library_state(c);
    es_timer_stop(&c->ep->p->timers, &c->timer);
    while (c->n_cids > 0) {
        struct es_cid cid = c->cids[c->n_cids - 1];
        es_conn_remove_cid(c, cid.b, cid.len);
    }
    while (c->n_tokens > 0) {
        uint8_t token[NGTCP2_STATELESS_RESET_TOKENLEN];
        memcpy(token, c->tokens[c->n_tokens - 1], sizeof token);
        es_conn_remove_token(c, token);
    }
    es_free(c->cids);
    es_buf_free(&c->close_packet);
    es_buf_free(&c->peer.der);
    es_list_remove(&c->node);
    c->ep->n_conns--;
    es_tls_unref(c->peer.tls);
    es_free(c);
}

void es_conn_finish(struct es_conn *c)
{
    assert(c->state == ES_CONN_ENDED);
    es_path_give_up(c);
    if (c->link.events != NULL && !c->refused) {
        c->link.events->closed(c->link.user, &c->info);
    }
    c->state = ES_CONN_LINGER;
    free_library_state(c);
}

/* ---- set-up ---- */

static void fill_settings(const struct es_conn *c, ngtcp2_settings *s)
{
    ngtcp2_settings_default(s);
    s->initial_ts = es_conn_now(c);
    s->cc_algo = c->cfg.cc == ES_CC_BBR       ? NGTCP2_CC_ALGO_BBR
                 : c->cfg.cc == ES_CC_NEWRENO ? NGTCP2_CC_ALGO_RENO
                                              : NGTCP2_CC_ALGO_CUBIC;
    /* A second try with another version has what the first one left. */
    uint64_t limit = c->cfg.handshake_timeout, gone = es_conn_now(c) - c->started;
    s->handshake_timeout = limit == 0 ? UINT64_MAX : limit > gone ? limit - gone : 1;
    if (c->cfg.disable_mtu_discovery) {
        if (c->link.is_server) { /* it forgets that it was told so when a client's address changes back */
            s->max_tx_udp_payload_size = NGTCP2_MAX_UDP_PAYLOAD_SIZE;
        } else {
            s->no_pmtud = 1;
        }
    }
    s->rand_ctx.native_handle = c->ep;
}

/* RFC 9368: what we speak, and what we like best of it. `original`: the version that a client began with
 * before it was told of others, or 0. */
static void fill_versions(const struct es_conn *c, ngtcp2_settings *s, uint32_t original)
{
    uint32_t first = es_version_wire(c->cfg.version);
    const uint32_t *preferred = NULL;
    size_t n = 0;

    if (c->link.is_server ? first != 0 : original != 0) {
        preferred = es_versions_preferred(c->link.is_server ? first : original, &n);
    }
    if (c->link.is_server && c->cfg.version_only && n > 0) {
        es_compat_set_versions(s, preferred, 1, preferred, 1, original);
    } else {
        es_compat_set_versions(s, preferred, n, es_versions, es_n_versions, original);
    }
}

static void fill_params(const struct es_conn *c, ngtcp2_transport_params *p)
{
    ngtcp2_transport_params_default(p);
    p->initial_max_stream_data_bidi_local = c->cfg.stream_window;
    p->initial_max_stream_data_bidi_remote = c->cfg.stream_window;
    p->initial_max_stream_data_uni = c->cfg.stream_window;
    p->initial_max_data = c->cfg.connection_window;
    p->initial_max_streams_bidi = c->cfg.max_streams_bidi;
    p->initial_max_streams_uni = c->cfg.max_streams_uni;
    p->max_idle_timeout = c->cfg.idle_timeout;
    p->active_connection_id_limit = ACTIVE_CID_LIMIT;
    p->max_datagram_frame_size = c->cfg.max_datagram;
}

/* With c->nc made: the TLS session, and the two tied together. */
static int add_tls(struct es_conn *c, const struct es_ticket *ticket)
{
    c->tls = es_tls_session_new(c, ticket);
    if (c->tls == NULL) {
        return ES_ERR_NOMEM;
    }
    ngtcp2_conn_set_tls_native_handle(c->nc, c->tls);
    return 0;
}

int es_conn_new_server(struct es_endpoint *ep, const ngtcp2_pkt_hd *hd, const ngtcp2_path *path,
                       enum es_token_verdict verdict, const ngtcp2_cid *odcid, struct es_conn **out)
{
    struct es_conn *c = conn_alloc(ep, ep->tls, &ep->transport, 1);
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    ngtcp2_cid scid;
    ngtcp2_path named = *path;
    union es_addr remote = *(const union es_addr *)(const void *)path->remote.addr;
    const uint8_t *token;
    size_t n;

    if (c == NULL) {
        return ES_ERR_NOMEM;
    }
    c->remote = remote;
    c->local = *(const union es_addr *)(const void *)path->local.addr;
    es_names_begin(c, &c->local, &remote);
    named.remote = es_nt_addr(&remote);
    c->proven = verdict == ES_TOKEN_RETRY || verdict == ES_TOKEN_ADDRESS;
    es_half_open_begin(c);
    fill_settings(c, &settings);
    fill_versions(c, &settings, 0);
    fill_params(c, &params);
    es_endpoint_new_cid(ep, &scid);
    if (verdict == ES_TOKEN_RETRY) {
        es_compat_set_original_dcid(&params, odcid);
        params.retry_scid = hd->dcid;
        params.retry_scid_present = 1;
    } else {
        es_compat_set_original_dcid(&params, &hd->dcid);
    }
    if (c->proven) { /* which lifts the limit of three bytes for one */
        es_compat_hd_token(hd, &token, &n);
        es_compat_set_token(&settings, token, n, verdict == ES_TOKEN_RETRY);
    }
    params.stateless_reset_token_present = 1;
    if (es_path_offer(c, &params) != 0 ||
        es_endpoint_reset_token(ep, &scid, params.stateless_reset_token) != 0 ||
        es_qlog_open(c, &settings, verdict == ES_TOKEN_RETRY ? odcid : &hd->dcid) != 0 ||
        ngtcp2_conn_server_new(&c->nc, &hd->scid, &scid, &named, hd->version, &es_conn_server_callbacks,
                               &settings, &params, &c->mem, c) != 0) {
        c->nc = NULL;
        goto fail;
    }
    c->odcid.len = (uint8_t)hd->dcid.datalen;
    memcpy(c->odcid.b, hd->dcid.data, hd->dcid.datalen);
    if (add_tls(c, NULL) != 0 || es_conn_add_cid(c, scid.data, scid.datalen) != 0 ||
        es_conn_add_cid(c, hd->dcid.data, hd->dcid.datalen) != 0) {
        goto fail;
    }
    *out = c;
    return 0;
fail:
    es_conn_del(c);
    return ES_ERR_NOMEM;
}

/* The library's half of a client connection, in the version c->version; `original` as fill_versions() has it.
 */
static int start_client(struct es_conn *c, uint32_t version, uint32_t original,
                        const struct es_ticket *ticket)
{
    struct es_endpoint *ep = c->ep;
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    ngtcp2_cid scid, dcid;
    ngtcp2_path path = {{0}, {0}, NULL};
    uint8_t token[ES_TOKEN_LONG];
    size_t n;

    path.local = es_nt_addr(&c->local);
    path.remote = es_nt_addr(&c->remote);
    fill_settings(c, &settings);
    fill_versions(c, &settings, original);
    fill_params(c, &params);
    n = es_token_store_take(&ep->p->tokens, &c->remote, c->peer.tls->server_name, token);
    if (n > 0) {
        es_compat_set_token(&settings, token, n, 0);
    }
    es_endpoint_new_cid(ep, &scid);
    es_endpoint_new_cid(ep, &dcid);
    ep->p->io.rand(ep->p->io.ctx, dcid.data, dcid.datalen);
    if (es_qlog_open(c, &settings, &dcid) != 0 ||
        ngtcp2_conn_client_new(&c->nc, &dcid, &scid, &path, version, &es_conn_client_callbacks, &settings,
                               &params, &c->mem, c) != 0) {
        c->nc = NULL;
        return ES_ERR_NOMEM;
    }
    if (ticket != NULL && ticket->early && c->cfg.enable_0rtt) {
        es_early_begin(c, ticket);
    }
    if (add_tls(c, ticket) != 0 || es_conn_add_cid(c, scid.data, scid.datalen) != 0) {
        return ES_ERR_NOMEM;
    }
    return 0;
}

int es_conn_change_version(struct es_conn *c)
{
    uint32_t original = c->version;

    assert(!c->link.is_server && !c->established);
    c->version_changed = 1;
    c->peer.reason[0] = '\0';
    es_timer_stop(&c->ep->p->timers, &c->timer); /* it is set anew with the next flush */
    while (c->n_cids > 0) {
        struct es_cid cid = c->cids[c->n_cids - 1];
        es_conn_remove_cid(c, cid.b, cid.len);
    }
    ngtcp2_conn_del(c->nc);
    c->nc = NULL;
    gnutls_deinit(c->tls);
    c->tls = NULL;
    memset(c->walk, 0, sizeof c->walk);
    c->version = c->version_offer;
    es_early_lose(c);
    return start_client(c, c->version, original, NULL);
}

/* 1: the ticket that was given is one. */
static int use_ticket(struct es_conn *c, const struct es_connect_config *cc, struct es_ticket *out)
{
    uint64_t now = c->ep->p->io.wall(c->ep->p->io.ctx) / ES_SECOND;

    /* A ticket is good for the version of QUIC that it came over (RFC 9369 5). */
    return cc->ticket_len > 0 && es_ticket_read(out, cc->ticket, cc->ticket_len, (int64_t)now) == 0 &&
           out->version == c->version;
}

int es_conn_new_client(struct es_endpoint *ep, const struct es_connect_config *cc, struct es_conn **out,
                       char *err, size_t n)
{
    struct es_conn *c;
    struct es_ticket ticket;

    if (cc->transport.version != 0 && es_version_wire(cc->transport.version) == 0) {
        snprintf(err, n, "this ngtcp2 (%s) does not speak version %d of QUIC", es_transport_ngtcp2_version(),
                 cc->transport.version);
        return ES_ERR_UNSUPPORTED;
    }
    snprintf(err, n, "out of memory");
    c = conn_alloc(ep, cc->tls, &cc->transport, 0);
    if (c == NULL) {
        return ES_ERR_NOMEM;
    }
    c->on_ticket = cc->on_ticket;
    c->ticket_user = cc->ticket_user;
    c->app = cc->app;
    c->remote = *cc->remote;
    c->local = ep->addr;
    if (es_addr_fit(&c->remote, ep->addr.sa.sa_family) != 0) {
        snprintf(err, n, "an IPv4 socket cannot reach an IPv6 address");
        es_conn_del(c);
        return ES_ERR_INVAL;
    }
    c->version = es_version_wire(cc->transport.version != 0 ? cc->transport.version : 1);
    if (start_client(c, c->version, 0, use_ticket(c, cc, &ticket) ? &ticket : NULL) != 0) {
        es_conn_del(c);
        return ES_ERR_NOMEM;
    }
    c->ticket_free = cc->ticket_free; /* from here on it is ours */
    *out = c;
    return 0;
}

/* ---- the handshake is complete ---- */

struct es_app *es_conn_find_app(const struct es_conn *c)
{
    gnutls_datum_t alpn;

    if (gnutls_alpn_get_selected_protocol(c->tls, &alpn) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < c->ep->n_apps; i++) {
        const char *name = c->ep->apps[i]->alpn;
        if (strlen(name) == alpn.size && memcmp(name, alpn.data, alpn.size) == 0) {
            return c->ep->apps[i];
        }
    }
    return NULL;
}

void es_conn_attach(struct es_conn *c)
{
    static const char text[] = "refused by the protocol";
    int rv = c->app->attach(c->app, &c->link, NULL);

    if (rv != 0 || c->link.events == NULL) {
        c->refused = 1;
        c->ep->stats.refused++;
        c->close_asked = 1;
        es_conn_set_info(c, ES_CLOSE_LOCAL, rv != 0 ? rv : ES_ERR_INVAL, 0, NGTCP2_CONNECTION_REFUSED, text,
                         sizeof text - 1);
    }
}

static int choose_app(struct es_conn *c)
{
    gnutls_datum_t alpn;

    if (!c->link.is_server) {
        if (gnutls_alpn_get_selected_protocol(c->tls, &alpn) != 0) {
            c->peer.alert = GNUTLS_A_NO_APPLICATION_PROTOCOL;
            snprintf(c->peer.reason, sizeof c->peer.reason, "the server chose no application protocol");
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
        return 0;
    }
    if (c->app != NULL) {
        return 0; /* it has the connection since the early data */
    }
    c->app = es_conn_find_app(c);
    if (c->app == NULL) { /* GnuTLS has seen to it already */
        c->peer.alert = GNUTLS_A_NO_APPLICATION_PROTOCOL;
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    es_conn_attach(c);
    return 0;
}

/* TLS shows certificates in whole handshakes only. Whom we trust may have changed since, and time has passed:
 * the one that the session began with is looked at again. */
static int check_resumed(struct es_conn *c)
{
    c->resumed = gnutls_session_is_resumed(c->tls) != 0;
    if (!c->resumed || (c->link.is_server && c->peer.tls->trust == ES_TRUST_NONE)) {
        return 0;
    }
    return es_tls_verify(c->tls) == 0 ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

int es_conn_established(struct es_conn *c)
{
    int rv = check_resumed(c);

    if (rv == 0) {
        rv = choose_app(c);
    }
    es_half_open_end(c);
    es_refused_forget(c);
    if (rv == 0) {
        rv = es_early_settle(c);
    }
    if (rv != 0) {
        return rv;
    }
    c->state = ES_CONN_OPEN;
    c->link.early = 0;
    c->established = 1;
    c->established_at = es_conn_now(c);
    if (c->link.is_server) {
        es_ticket_send(c);
        c->tls_due = 1; /* complete is confirmed on this side */
        es_conn_remove_cid(c, c->odcid.b, c->odcid.len);
    } else {
        c->keep_alive_on = c->cfg.keep_alive != 0;
        c->await_ticket = c->on_ticket != NULL;
    }
    es_conn_set_keep_alive(c);
    if (!c->refused) {
        c->ep->p->again |= c->ep->flushing;
        c->link.events->established(c->link.user);
    }
    return 0;
}

/* ---- driving ---- */

void es_conn_mark(struct es_conn *c)
{
    if (c->state < ES_CONN_ENDED && es_list_empty(&c->dirty)) {
        es_list_push(&c->ep->dirty_conns, &c->dirty);
    }
    es_endpoint_mark(c->ep);
}

int es_conn_input(struct es_conn *c, const union es_addr *local, const union es_addr *remote, uint8_t ecn,
                  const uint8_t *data, size_t len)
{
    ngtcp2_path path = {{0}, {0}, NULL};
    union es_addr name;
    ngtcp2_pkt_info pi;
    int rv;

    c->packets_in++;
    c->bytes_in += len;
    c->ecn_received += ecn != 0;
    c->ecn_ce_received += ecn == NGTCP2_ECN_CE;
    if (c->state >= ES_CONN_ENDED) {
        es_conn_repeat_close(c);
        return 0;
    }
    /* A dialled connection does not know which of our addresses the kernel chose, and ours may change behind
     * its back: it is told always the same of each socket. */
    if (!c->link.is_server) {
        struct es_sock *s = es_list_empty(&c->ep->socks) ? NULL : es_endpoint_sock(c->ep, local);
        local = s != NULL ? &s->addr : &c->local;
        if (s == c->sock && c->alias.sa.sa_family != 0) {
            local = &c->alias;
        }
    } else {
        name = *remote;
        es_names_in(c, &local, &name, data, len);
        remote = &name;
    }
    path.local = es_nt_addr(local);
    path.remote = es_nt_addr(remote);
    memset(&pi, 0, sizeof pi);
    pi.ecn = ecn;
    es_conn_crypting(c);
    rv = ngtcp2_conn_read_pkt(c->nc, &path, &pi, data, len, es_conn_now(c));
    es_conn_crypting(NULL);
    if (c->names.strange) {
        es_names_taken(c);
    }
    if (c->lib_held > c->cfg.memory_cap + 2 * c->cfg.connection_window && rv == 0) {
        es_link_close(&c->link, 1, c->link.glitch_code,
                      "what the peer sends takes too much memory to follow");
    }
    if (rv == 0) {
        c->heard_at = es_conn_now(c);
        if (c->urgent_keep_alive) {
            es_path_answered(c);
        }
        es_conn_mark(c);
    } else {
        (void)es_conn_fail(c, rv);
    }
    return rv;
}

void es_conn_arm(struct es_conn *c)
{
    struct es_timers *ts = &c->ep->p->timers;
    uint64_t at = ngtcp2_conn_get_expiry(c->nc);

    if (at <= ts->now + MIN_TIMER && c->link.unsent == 0 && c->n_dgrams == 0) {
        /* Nothing waits for the pacer, so let it forget: a timer that near would cost more than it gives. */
        int rv = ngtcp2_conn_handle_expiry(c->nc, ts->now);
        if (rv != 0) {
            (void)es_conn_fail(c, rv);
            return;
        }
        /* Something was really due and may have made packets: once more, and then it is the timer's turn. */
        c->was_due = at <= ts->now && !c->was_due;
        c->flush_again |= c->was_due;
        at = ngtcp2_conn_get_expiry(c->nc);
    }
    if (c->n_dgrams > 0 && c->dgram_until != 0 && c->dgram_until < at) {
        at = c->dgram_until;
    }
    if (es_path_ask_at(c) < at) {
        at = es_path_ask_at(c);
    }
    if (c->move_until != 0 && c->move_until < at) {
        at = c->move_until;
    }
    if (c->batching && c->batch_until < at) {
        at = c->batch_until;
    }
    if (c->stuck_until != 0 && c->stuck_until < at) {
        at = c->stuck_until;
    }
    if (at < ts->now + MIN_TIMER) {
        at = ts->now + MIN_TIMER;
    }
    /* Lazily: an earlier timer stays, fires for nothing and is set anew then. */
    if ((!es_timer_running(&c->timer) || c->timer.at > at) && at != ES_NEVER &&
        es_timer_start(ts, &c->timer, at) != 0) {
        static const char text[] = "out of memory";
        es_conn_set_info(c, ES_CLOSE_ERROR, ES_ERR_NOMEM, 0, NGTCP2_INTERNAL_ERROR, text, sizeof text - 1);
        es_conn_end(c, 1);
    }
}

static void on_timer(struct es_timer *t)
{
    struct es_conn *c = t->user;
    uint64_t now = es_conn_now(c);
    int rv;

    switch (c->state) {
    case ES_CONN_HANDSHAKE:
    case ES_CONN_OPEN:
        if (ngtcp2_conn_get_expiry(c->nc) > now) {
            if ((c->n_dgrams > 0 && c->dgram_until != 0 && c->dgram_until <= now) ||
                (c->move_until != 0 && c->move_until <= now) || (c->batching && c->batch_until <= now) ||
                (c->stuck_until != 0 && c->stuck_until <= now)) {
                es_conn_mark(c);
            } else if (es_path_ask_at(c) <= now) {
                es_path_ask(c);
            } else {
                es_conn_arm(c);
            }
            break;
        }
        rv = ngtcp2_conn_handle_expiry(c->nc, now);
        if (rv != 0) {
            (void)es_conn_fail(c, rv);
        } else {
            es_acks_silence(&c->acks, now, ngtcp2_conn_get_pto(c->nc));
            es_conn_mark(c);
        }
        break;
    case ES_CONN_ENDED:
        es_conn_finish(c);
        if (c->linger == 0 || es_timer_start(&c->ep->p->timers, &c->timer, now + c->linger) != 0) {
            es_conn_del(c);
        }
        break;
    case ES_CONN_LINGER:
        es_conn_del(c);
        break;
    }
}

/* ---- for links made by endpoints ---- */

/* ngtcp2 refuses while the update before is not acknowledged, and for three probe time-outs after that. */
static int update_key(struct es_conn *c)
{
    int rv;

    if (!c->established || (!c->link.is_server && !c->confirmed)) {
        return ES_ERR_AGAIN;
    }
    rv = ngtcp2_conn_initiate_key_update(c->nc, es_conn_now(c));
    if (rv != 0) {
        return rv == NGTCP2_ERR_NOMEM ? ES_ERR_NOMEM : ES_ERR_AGAIN;
    }
    c->key_packets = c->packets_out;
    return 0;
}

int es_link_update_key(struct es_link *l)
{
    struct es_conn *c = es_conn_of(l);
    int rv;

    if (l->ops != &es_conn_link_ops) {
        return ES_ERR_UNSUPPORTED;
    }
    if (c->state >= ES_CONN_ENDED || c->close_asked) {
        return ES_ERR_CLOSED;
    }
    rv = update_key(c);
    if (rv == 0) {
        es_conn_mark(c);
    }
    return rv;
}

/* In the flush, when the last keys have been used for long. */
void es_conn_renew_key(struct es_conn *c)
{
    if (es_conn_now(c) - c->key_tried >= 100 * ES_MILLI) {
        c->key_tried = es_conn_now(c);
        (void)update_key(c);
    }
}

void es_link_keep_alive(struct es_link *l, int on)
{
    struct es_conn *c = es_conn_of(l);

    if (l->ops->keep_alive != NULL) {
        l->ops->keep_alive(l, on);
        return;
    }
    if (l->ops != &es_conn_link_ops || c->state >= ES_CONN_ENDED) {
        return;
    }
    c->keep_alive_on = on != 0;
    if (c->established) {
        es_conn_set_keep_alive(c);
        es_conn_mark(c); /* the timer may have to come earlier */
    }
}
