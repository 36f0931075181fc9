/* Endpoints: their life, the table of connections, and the flush of everything that has something to send. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "early.h"
#include "internal.h"

void es_transport_config_default(struct es_transport_config *c, int is_server)
{
    memset(c, 0, sizeof *c);
    c->idle_timeout = 30 * ES_SECOND;
    c->keep_alive = ES_KEEP_ALIVE_AUTO;
    c->handshake_timeout = (is_server ? 10 : 30) * ES_SECOND;
    c->max_streams_bidi = 1024;
    c->max_streams_uni = 16;
    c->stream_window = 256 * 1024;
    c->connection_window = 8 * 1024 * 1024;
    c->hold_cap = ES_LINK_HOLD_CAP;
    c->max_datagram = 65535;
    c->glitch_budget = ES_GLITCH_BUDGET;
    c->memory_cap = 32 * 1024 * 1024;
    c->stall_timeout = 60 * ES_SECOND;
    c->batch_bytes = 1200;
    c->cc = ES_CC_CUBIC;
    c->key_update_packets = UINT64_C(1) << 20;
}

void es_endpoint_config_default(struct es_endpoint_config *c)
{
    memset(c, 0, sizeof *c);
    es_transport_config_default(&c->transport, 1);
    c->retry_above = 128;
    c->max_half_open = 4096;
    c->max_half_open_each = 1024;
}

void es_endpoint_config_secret(struct es_endpoint_config *c, const void *data, size_t n)
{
    if (n == sizeof c->secret) {
        memcpy(c->secret, data, n);
    } else if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, n, c->secret) != 0) {
        memset(c->secret, 0, sizeof c->secret); /* only without memory: a random one */
    }
}

/* ---- life ---- */

static void derive_keys(struct es_endpoint *ep, const uint8_t given[32])
{
    static const uint8_t none[32];
    uint8_t secret[32];

    memcpy(secret, given, 32);
    if (memcmp(secret, none, 32) == 0) {
        ep->p->io.rand(ep->p->io.ctx, secret, 32);
    }
    es_tls_key(ep->reset_key, secret, "echostream stateless reset");
    es_tokens_init(&ep->tokens, secret);
    es_tls_key(ep->ticket_key, secret, "echostream session tickets");
    gnutls_memset(secret, 0, sizeof secret);
}

static int bind_socket(struct es_endpoint *ep, const union es_addr *addr, char *err, size_t n)
{
    char text[64];
    int rv;

    if (addr != NULL) {
        ep->addr = *addr;
    } else {
        memset(&ep->addr, 0, sizeof ep->addr);
        ep->addr.in4.sin_family = AF_INET;
    }
    es_addr_format(&ep->addr, text, sizeof text);
    errno = 0;
    rv = ep->p->io.bind(ep->p->io.ctx, ep, &ep->addr, &ep->sock);
    if (rv != 0) {
        ep->sock = NULL;
        snprintf(err, n, "bind %s: %s", text, errno != 0 ? strerror(errno) : es_strerror(rv));
    }
    ep->wildcard = ep->addr.sa.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&ep->addr.in6.sin6_addr)
                                                     : ep->addr.in4.sin_addr.s_addr == htonl(INADDR_ANY);
    return rv;
}

static int copy_text(char **out, const char *text)
{
    size_t n = strlen(text) + 1;

    *out = es_malloc(n);
    if (*out == NULL) {
        return ES_ERR_NOMEM;
    }
    memcpy(*out, text, n);
    return 0;
}

static void init_containers(struct es_endpoint *ep)
{
    uint8_t seed[16];

    ep->p->io.rand(ep->p->io.ctx, seed, sizeof seed);
    es_map_init(&ep->by_cid, seed);
    es_map_init(&ep->by_token, seed);
    es_map_init(&ep->half_open_each, seed);
    es_list_init(&ep->dirty);
    es_list_init(&ep->conns);
    es_list_init(&ep->socks);
    es_list_init(&ep->dirty_conns);
    es_pool_init(&ep->streams, sizeof(struct es_qstream), 2048);
    es_pool_init(&ep->refs, sizeof(struct es_chunk), 2048);
    ep->releases_end = &ep->releases;
}

static void free_memory(struct es_endpoint *ep)
{
    struct es_chunk *k;

    es_endpoint_run_releases(ep);
    while ((k = ep->free_chunks) != NULL) {
        ep->free_chunks = k->next;
        es_free(k);
    }
    es_pool_free(&ep->streams);
    es_pool_free(&ep->refs);
    es_map_free(&ep->by_cid);
    es_map_free(&ep->by_token);
    es_map_free(&ep->half_open_each);
    es_tls_unref(ep->tls);
    es_free(ep->apps);
    es_free(ep->out);
    es_free(ep->qlog_dir);
    gnutls_memset(ep->reset_key, 0, sizeof ep->reset_key);
    es_tokens_wipe(&ep->tokens);
    gnutls_memset(ep->ticket_key, 0, sizeof ep->ticket_key);
    es_early_del(ep->early);
    es_free(ep);
}

int es_endpoint_new(struct es_poller *p, const struct es_endpoint_config *cfg, struct es_endpoint **out,
                    char *err_text, size_t n)
{
    struct es_endpoint *ep = es_calloc(1, sizeof *ep);
    int rv = ES_ERR_NOMEM;

    *out = NULL;
    snprintf(err_text, n, "out of memory");
    if (ep == NULL) {
        return rv;
    }
    ep->p = p;
    init_containers(ep);
    ep->transport = cfg->transport;
    ep->worker = cfg->worker;
    ep->on_log = cfg->on_log;
    ep->log_user = cfg->log_user;
    ep->resets.at = ep->replies.at = es_poller_now(p);
    ep->retry = cfg->retry;
    ep->retry_above = cfg->retry_above;
    ep->max_half_open = cfg->max_half_open;
    ep->max_half_open_each = cfg->max_half_open_each;
    if (cfg->qlog_dir != NULL && copy_text(&ep->qlog_dir, cfg->qlog_dir) != 0) {
        goto fail;
    }
    derive_keys(ep, cfg->secret);
    if (cfg->transport.version != 0 && es_version_wire(cfg->transport.version) == 0) {
        snprintf(err_text, n, "this ngtcp2 (%s) does not speak version %d of QUIC",
                 es_transport_ngtcp2_version(), cfg->transport.version);
        rv = ES_ERR_UNSUPPORTED;
        goto fail;
    }
    if (cfg->tls != NULL && cfg->n_apps == 0) {
        snprintf(err_text, n, "an accepting endpoint needs a protocol to offer");
        rv = ES_ERR_INVAL;
        goto fail;
    }
    ep->apps = es_calloc(cfg->n_apps + 1, sizeof *ep->apps);
    ep->out = es_malloc(ES_SEND_MAX + ES_PACKET_MAX);
    if (ep->apps == NULL || ep->out == NULL) {
        goto fail;
    }
    if (cfg->n_apps > 0) {
        memcpy(ep->apps, cfg->apps, cfg->n_apps * sizeof *ep->apps);
    }
    ep->n_apps = cfg->n_apps;
    if (cfg->tls != NULL) {
        es_tls_ref(cfg->tls);
        ep->tls = cfg->tls;
    }
    if (cfg->tls != NULL && cfg->transport.enable_0rtt) {
        ep->early = es_early_new(ep->by_cid.seed);
        if (ep->early == NULL) {
            goto fail;
        }
    }
    rv = bind_socket(ep, cfg->bind, err_text, n);
    if (rv != 0) {
        goto fail;
    }
    es_list_push(&p->endpoints, &ep->node);
    *out = ep;
    return 0;
fail:
    free_memory(ep);
    return rv;
}

static void delete_endpoint(struct es_endpoint *ep, int say_so)
{
    if (ep == NULL) {
        return;
    }
    assert(!ep->p->busy); /* never from an up-call */
    ep->deleting = 1;
    es_poller_now(ep->p);
    es_list_foreach(it, &ep->conns)
    {
        struct es_conn *c = es_container_of(it, struct es_conn, node);
        if (c->state < ES_CONN_ENDED) {
            if (!c->close_asked) {
                es_conn_set_info(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, 1, ES_APP_NONE, "", 0);
            }
            es_conn_end(c, say_so);
        }
        if (c->state == ES_CONN_ENDED) {
            es_conn_finish(c);
        }
        es_conn_del(c);
    }
    es_list_remove(&ep->node);
    es_list_remove(&ep->dirty);
    es_endpoint_free_socks(ep);
    if (ep->sock != NULL) {
        ep->p->io.close(ep->p->io.ctx, ep->sock);
    }
    free_memory(ep);
}

void es_endpoint_del(struct es_endpoint *ep)
{
    delete_endpoint(ep, 1);
}

void es_endpoint_abandon(struct es_endpoint *ep)
{
    delete_endpoint(ep, 0);
}

int es_endpoint_rebind(struct es_endpoint *ep)
{
    union es_addr addr = ep->addr;
    void *sock;
    int rv;

    if (addr.sa.sa_family == AF_INET6) {
        addr.in6.sin6_port = 0;
    } else {
        addr.in4.sin_port = 0;
    }
    rv = ep->p->io.bind(ep->p->io.ctx, ep, &addr, &sock);
    if (rv != 0) {
        return rv;
    }
    ep->p->io.close(ep->p->io.ctx, ep->sock);
    if (ep->pending_sock == ep->sock) {
        ep->pending_sock = sock;
    }
    ep->sock = sock;
    ep->addr = addr;
    if (ep->blocked) { /* nobody will say that the new socket is writable: it is */
        es_endpoint_writable(ep);
    }
    return 0;
}

/* ---- small things ---- */

void es_endpoint_address(const struct es_endpoint *ep, union es_addr *out)
{
    *out = ep->addr;
}

void es_endpoint_accepting(struct es_endpoint *ep, int yes)
{
    ep->refusing = !yes;
}

int es_endpoint_set_tls(struct es_endpoint *ep, struct es_tls *tls)
{
    if (tls != NULL && ep->n_apps == 0) {
        return ES_ERR_INVAL;
    }
    if (tls != NULL) {
        es_tls_ref(tls);
    }
    es_tls_unref(ep->tls);
    ep->tls = tls;
    return 0;
}

size_t es_endpoint_connections(const struct es_endpoint *ep)
{
    return ep->n_conns;
}

void es_endpoint_stats_get(const struct es_endpoint *ep, struct es_endpoint_stats *out)
{
    *out = ep->stats;
    out->connections = ep->n_conns;
    out->half_open = ep->half_open;
    out->retrying = ep->retry == ES_RETRY_ALWAYS || ep->retrying;
}

struct es_endpoint_stats *es_endpoint_stats_ref(struct es_endpoint *ep)
{
    return &ep->stats;
}

void es_endpoint_log(struct es_endpoint *ep, int level, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (ep->on_log == NULL) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ep->on_log(ep->log_user, level, text);
}

void es_endpoint_new_cid(struct es_endpoint *ep, ngtcp2_cid *cid)
{
    cid->datalen = ES_CID_LEN;
    ep->p->io.rand(ep->p->io.ctx, cid->data, ES_CID_LEN);
    cid->data[0] = ep->worker;
}

int es_endpoint_reset_token(struct es_endpoint *ep, const ngtcp2_cid *cid, uint8_t *token)
{
    /* As RFC 9000 10.3.2 has it. The library's own takes twice the time, and each handshake makes four. */
    uint8_t mac[32];

    if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, ep->reset_key, sizeof ep->reset_key, cid->data, cid->datalen,
                         mac) != 0) {
        return ES_ERR_TLS;
    }
    memcpy(token, mac, NGTCP2_STATELESS_RESET_TOKENLEN);
    return 0;
}

int es_endpoint_connect(struct es_endpoint *ep, const struct es_connect_config *cc, struct es_link **out,
                        char *err_text, size_t n)
{
    struct es_conn *c;
    int rv;

    *out = NULL;
    es_poller_now(ep->p);
    rv = es_conn_new_client(ep, cc, &c, err_text, n);
    if (rv != 0) {
        return rv;
    }
    rv = cc->app->attach(cc->app, &c->link, cc->app_arg);
    if (rv != 0) {
        snprintf(err_text, n, "refused by the protocol: %s", es_strerror(rv));
        es_conn_del(c);
        return rv;
    }
    ep->stats.dialled++;
    es_refused_listen(c);
    if (c->early == ES_EARLY_TRIED) {
        c->state = ES_CONN_OPEN;
        c->link.early = 1;
        if (c->link.events->early != NULL) {
            c->link.events->early(c->link.user);
        }
    }
    es_conn_mark(c);
    *out = &c->link;
    return 0;
}

/* ---- input ---- */

static struct es_conn *lookup(struct es_endpoint *ep, const uint8_t *cid, size_t len)
{
    struct es_conn *c;

    if (len == ES_CID_LEN && ep->last_conn != NULL && memcmp(cid, ep->last_cid, ES_CID_LEN) == 0) {
        return ep->last_conn;
    }
    c = es_map_get(&ep->by_cid, cid, len);
    if (c != NULL && len == ES_CID_LEN) {
        ep->last_conn = c;
        memcpy(ep->last_cid, cid, ES_CID_LEN);
    }
    return c;
}

void es_endpoint_input(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                       uint8_t ecn, const uint8_t *data, size_t len)
{
    ngtcp2_version_cid vc;
    struct es_conn *c;
    int rv;

    ep->stats.datagrams_in++;
    ep->stats.bytes_in += len;
    if (len == 0) {
        return;
    }
    rv = ngtcp2_pkt_decode_version_cid(&vc, data, len, ES_CID_LEN);
    if (rv != 0 && rv != NGTCP2_ERR_VERSION_NEGOTIATION) {
        return;
    }
    c = rv == 0 ? lookup(ep, vc.dcid, vc.dcidlen) : NULL;
    if (c == NULL && !(data[0] & 0x80) && len >= 5 + NGTCP2_STATELESS_RESET_TOKENLEN) {
        c = es_map_get(&ep->by_token, data + len - NGTCP2_STATELESS_RESET_TOKENLEN,
                       NGTCP2_STATELESS_RESET_TOKENLEN);
    }
    if (c != NULL) {
        (void)es_conn_input(c, local, remote, ecn, data, len);
    } else {
        es_endpoint_stranger(ep, local, remote, ecn, data, len, &vc, rv != 0);
    }
}

/* ---- output ---- */

void es_endpoint_mark(struct es_endpoint *ep)
{
    struct es_poller *p = ep->p;

    if (ep->blocked || ep->deleting || !es_list_empty(&ep->dirty)) {
        return;
    }
    es_list_push(&p->dirty, &ep->dirty);
    if (!p->busy && !p->held) {
        p->ops->kick(p);
    }
}

int es_endpoint_send(struct es_endpoint *ep, const ngtcp2_path *path, uint8_t ecn, const uint8_t *data,
                     size_t len, size_t segment, int dialled)
{
    struct es_dgram d = {NULL, NULL, data, len, segment, ecn};
    const union es_addr *local = (const union es_addr *)(const void *)path->local.addr;
    struct es_sock *s = es_list_empty(&ep->socks) ? NULL : es_endpoint_sock(ep, local);
    void *sock = s != NULL ? s->sock : ep->sock;
    int rv;

    d.remote = (const union es_addr *)(const void *)path->remote.addr;
    if ((s != NULL ? s->wildcard : ep->wildcard) && !dialled) {
        d.local = local;
    }
    if (ep->blocked) {
        return 1;
    }
    rv = ep->p->io.send(ep->p->io.ctx, sock, &d, 1);
    if (rv == 0) {
        ep->blocked = 1;
        ep->pending_sock = sock;
        if (data == ep->out) { /* a batch of a flush, kept; anything else is repeated by its own rules */
            ep->pending_remote = *d.remote;
            d.remote = &ep->pending_remote;
            if (d.local != NULL) {
                ep->pending_local = *d.local;
                d.local = &ep->pending_local;
            }
            ep->pending = d;
        }
        return 1;
    }
    ep->stats.batches_out++;
    ep->stats.datagrams_out += (len + segment - 1) / segment;
    ep->stats.bytes_out += len;
    return 0;
}

void es_endpoint_writable(struct es_endpoint *ep)
{
    if (!ep->blocked) {
        return;
    }
    if (ep->pending.len > 0) {
        if (ep->p->io.send(ep->p->io.ctx, ep->pending_sock, &ep->pending, 1) == 0) {
            return; /* still full */
        }
        ep->stats.batches_out++;
        ep->stats.datagrams_out += (ep->pending.len + ep->pending.segment - 1) / ep->pending.segment;
        ep->stats.bytes_out += ep->pending.len;
        ep->pending.len = 0;
    }
    ep->blocked = 0;
    es_endpoint_mark(ep);
}

int es_endpoint_flush(struct es_endpoint *ep)
{
    struct es_list work;

    ep->flushing = 1;
    es_list_take(&ep->dirty_conns, &work);
    while (!es_list_empty(&work)) {
        struct es_conn *c = es_container_of(work.next, struct es_conn, dirty);
        es_list_remove(&c->dirty);
        if (es_conn_flush(c) != 0 || c->flush_again) {
            es_conn_mark(c);
        }
    }
    ep->flushing = 0;
    es_endpoint_run_releases(ep);
    return ep->blocked;
}
