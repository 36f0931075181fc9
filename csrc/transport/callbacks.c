/* ngtcp2's callbacks: they move bytes, count, and tell the protocol. Nothing of ngtcp2's is entered from here
 * but plain setters, and nothing is freed. */
#include <stdio.h>
#include <string.h>
#include "early.h"
#include "internal.h"
#include "ticket.h"
#include "tls_verify.h"

#define LEVEL_INITIAL      NGTCP2_ENCRYPTION_LEVEL_INITIAL
#define LEVEL_1RTT         NGTCP2_ENCRYPTION_LEVEL_1RTT
#define NEW_SESSION_TICKET 4 /* TLS handshake types, RFC 8446 4 */
#define FINISHED           20
#define UNEXPECTED_MESSAGE 10 /* TLS alerts, RFC 8446 6 */
#define HANDSHAKE_FAILURE  40
#define PROTOCOL_VERSION   70
#define MISSING_EXTENSION  109

static struct es_conn *self(void *user_data)
{
    return user_data;
}

/* The protocol hears of streams and datagrams only between attach and the end. */
static int listening(const struct es_conn *c)
{
    return c->state == ES_CONN_OPEN && !c->refused;
}

/* Up-calls of a flush are drained after a further step only: ask for it. */
static const struct es_link_events *up(struct es_conn *c)
{
    c->ep->p->again |= c->ep->flushing;
    return c->link.events;
}

/* ---- packets ---- */

/* The library's crypto callbacks do not say whose packet it is. One connection at a time works in a thread.
 */
static _Thread_local struct es_conn *crypting;

void es_conn_crypting(struct es_conn *c)
{
    crypting = c;
}

#define AEAD_TAG 16 /* bytes, of every cipher of TLS 1.3 */

static int on_encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                      const uint8_t *plaintext, size_t n, const uint8_t *nonce, size_t nonce_n,
                      const uint8_t *head, size_t head_n)
{
    struct es_conn *c = crypting;

    if (c != NULL && !(head[0] & 0x80)) {
        unsigned bytes = (head[0] & 3u) + 1;
        uint32_t number = 0;
        for (size_t i = head_n - bytes; i < head_n; i++) {
            number = number << 8 | head[i];
        }
        es_acks_sent(&c->acks, number, bytes, head_n + n + AEAD_TAG, es_conn_now(c));
        if (c->names.follow) {
            es_names_sealed(c, plaintext, n);
        }
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, ctx, plaintext, n, nonce, nonce_n, head, head_n);
}

/* The library answers it and tells nobody. */
static void on_stop_sending(void *user, int64_t id, uint64_t code)
{
    struct es_qstream *s = es_qstream_find(self(user), id);

    if (s != NULL && !s->fin_sent && !(s->uni && s->remote)) {
        es_qstream_stopped(s, code);
    }
}

static void on_ack(void *user, const uint8_t *p, size_t n)
{
    struct es_conn *c = self(user);

    es_acks_received(&c->acks, p, n, es_conn_now(c));
    if (c->names.n_going > 0) {
        es_names_acked(c, p, n);
    }
}

static void on_path_frame(void *user, unsigned type, uint64_t a, uint64_t b)
{
    struct es_conn *c = self(user);

    if (c->link.is_server) {
        es_names_issued(&c->names, type, a, b);
    }
}

/* A packet of 1-RTT: what the library does not tell of it. */
static int look(struct es_conn *c, const uint8_t *p, size_t n, const uint8_t *head, size_t head_n)
{
    static const struct es_frames_told told = {.ack = on_ack, .stop = on_stop_sending, .path = on_path_frame};
    const char *what;
    uint32_t cost;
    int rv = es_watch_packet(c, head, head_n);

    if (rv < 0) {
        return rv;
    }
    if (c->names.strange && !es_names_let(c, p, n, head, head_n)) {
        return NGTCP2_ERR_DECRYPT;
    }
    if (c->watch.number >= c->watch.taken) {
        c->watch.taken = c->watch.number + 1;
    }
    if (c->names.unmet) {
        es_names_met(&c->names, head, head_n);
    }
    cost = es_frames_look(p, n, &told, c, &what);
    if (rv == 1) {
        es_watch_charge(c, cost, what);
    }
    return 0;
}

static int on_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                      const uint8_t *ciphertext, size_t n, const uint8_t *nonce, size_t nonce_n,
                      const uint8_t *head, size_t head_n)
{
    int rv = ngtcp2_crypto_decrypt_cb(dest, aead, ctx, ciphertext, n, nonce, nonce_n, head, head_n);

    if (rv == 0 && crypting != NULL && !(head[0] & 0x80) && n > AEAD_TAG) {
        rv = look(crypting, dest, n - AEAD_TAG, head, head_n);
    }
    return rv;
}

/* ---- TLS ---- */

static int refuse_with(struct es_conn *c, ngtcp2_conn *nc, uint8_t alert)
{
    c->peer.alert = alert;
    ngtcp2_conn_set_tls_alert(nc, alert);
    return NGTCP2_ERR_CRYPTO;
}

static int refuse_crypto(struct es_conn *c, ngtcp2_conn *nc)
{
    return refuse_with(c, nc, UNEXPECTED_MESSAGE);
}

/* After the handshake a server may send NewSessionTicket, in pieces of any size. Each message is put together
 * here and handed on whole; everything else (KeyUpdate above all, which aborts the process inside ngtcp2 and
 * GnuTLS) is refused before anybody sees it, and so is more than ES_TICKET_TOTAL bytes. */
static int recv_tickets(struct es_conn *c, ngtcp2_conn *nc, ngtcp2_encryption_level level, uint64_t offset,
                        const uint8_t *data, size_t n)
{
    c->ticket_total += n;
    if (c->ticket_total > ES_TICKET_TOTAL) {
        return refuse_crypto(c, nc);
    }
    if (es_buf_put(&c->ticket, data, n) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    while (c->ticket.n > 0) {
        const uint8_t *p = c->ticket.p;
        size_t whole;

        if (p[0] != NEW_SESSION_TICKET) {
            return refuse_crypto(c, nc);
        }
        if (c->ticket.n < 4) {
            break;
        }
        whole = 4 + ((size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]);
        if (whole > ES_TICKET_TOTAL) {
            return refuse_crypto(c, nc);
        }
        if (c->ticket.n < whole) {
            break;
        }
        /* Once the TLS session is gone, there is nobody who could use the ticket. */
        if (c->tls != NULL) {
            c->ticket_early = es_ticket_takes_early(p + 4, whole - 4) != 0;
            int rv = ngtcp2_crypto_recv_crypto_data_cb(nc, level, offset, p, whole, c);
            if (rv != 0) {
                return rv;
            }
        }
        es_buf_drop(&c->ticket, whole);
    }
    if (c->ticket.n == 0) {
        es_buf_free(&c->ticket);
    }
    return 0;
}

/* What a peer may say before 1-RTT, by level and role (RFC 8446 4, RFC 9001 4.1.3). */
static int belongs(const struct es_conn *c, int initial, uint8_t type)
{
    switch (type) {
    case 1: /* ClientHello */
        return initial && c->link.is_server;
    case 2: /* ServerHello, HelloRetryRequest */
        return initial && !c->link.is_server;
    case 8:  /* EncryptedExtensions */
    case 13: /* CertificateRequest */
        return !initial && !c->link.is_server;
    case 11: /* Certificate */
    case 15: /* CertificateVerify */
    case 25: /* CompressedCertificate */
    case FINISHED:
        return !initial;
    default:
        return 0;
    }
}

/* Follows the messages of a level of the handshake. 0: one that has no business there, or anything at all
 * behind Finished. GnuTLS would keep the latter and find it later, as if it had come in 1-RTT: a KeyUpdate
 * there has the effect that recv_tickets is there to prevent. */
static int follow(struct es_conn *c, int initial, const uint8_t *p, size_t n)
{
    struct es_tls_walk *w = &c->walk[initial];

    while (n > 0) {
        if (w->head < 4) {
            if (w->head == 0) {
                if (w->finished || !belongs(c, initial, *p)) {
                    return 0;
                }
                w->type = *p;
            } else {
                w->left = w->left << 8 | *p;
            }
            w->head++;
            p++;
            n--;
        } else {
            size_t k = n < w->left ? n : w->left;
            w->left -= (uint32_t)k;
            p += k;
            n -= k;
        }
        if (w->head == 4 && w->left == 0) {
            w->finished = w->type == FINISHED;
            w->head = 0;
            if (initial && n > 0) {
                return 0; /* a Hello is answered before another one can come */
            }
        }
    }
    return 1;
}

/* Server: what the library returned for (a piece of) the ClientHello. */
static int after_greeting(struct es_conn *c, ngtcp2_conn *nc, int rv)
{
    if (rv == 0 && c->walk[1].head == 0 && ngtcp2_conn_get_negotiated_version(nc) == 0) {
        /* It was whole, and GnuTLS went on without transport parameters, which it does not miss. ngtcp2 takes
         * the version from them, and aborts the process when it has keys to write with but no version. */
        return refuse_with(c, nc, MISSING_EXTENSION);
    }
    /* GnuTLS takes a client that offers TLS 1.2 alone for one without a cipher in common. */
    if (rv == NGTCP2_ERR_CRYPTO && ngtcp2_conn_get_tls_alert(nc) == HANDSHAKE_FAILURE &&
        gnutls_protocol_get_version(c->tls) < GNUTLS_TLS1_3) {
        c->peer.alert = PROTOCOL_VERSION;
    }
    return rv;
}

static int on_crypto(ngtcp2_conn *nc, ngtcp2_encryption_level level, uint64_t offset, const uint8_t *data,
                     size_t n, void *user_data)
{
    struct es_conn *c = self(user_data);
    int rv;

    if (level == LEVEL_1RTT) {
        return c->link.is_server ? refuse_crypto(c, nc) : recv_tickets(c, nc, level, offset, data, n);
    }
    if (c->tls == NULL || ngtcp2_conn_get_handshake_completed(nc) ||
        !follow(c, level == LEVEL_INITIAL, data, n)) {
        return refuse_crypto(c, nc);
    }
    rv = ngtcp2_crypto_recv_crypto_data_cb(nc, level, offset, data, n, user_data);
    return level == LEVEL_INITIAL && c->link.is_server ? after_greeting(c, nc, rv) : rv;
}

/* For the client's next connection. Without one it may have to answer a Retry then: no reason to fail now.
 * The library's idea of the address may be masked (path.c), ours is not. */
static void give_token(struct es_conn *c, ngtcp2_conn *nc)
{
    uint8_t token[ES_TOKEN_MAX];
    size_t n = es_tokens_make_address(&c->ep->tokens, token, &c->remote, es_poller_wall(c->ep->p));

    if (n > 0) {
        (void)ngtcp2_conn_submit_new_token(nc, token, n);
    }
}

static int on_update_key(ngtcp2_conn *nc, uint8_t *rx_secret, uint8_t *tx_secret,
                         ngtcp2_crypto_aead_ctx *rx_aead, uint8_t *rx_iv, ngtcp2_crypto_aead_ctx *tx_aead,
                         uint8_t *tx_iv, const uint8_t *current_rx, const uint8_t *current_tx, size_t n,
                         void *user_data)
{
    struct es_conn *c = self(user_data);

    if (c->key_updates++ > 0) { /* the next keys are made when those before came into use */
        c->key_packets = c->packets_out;
    }
    return ngtcp2_crypto_update_key_cb(nc, rx_secret, tx_secret, rx_aead, rx_iv, tx_aead, tx_iv, current_rx,
                                       current_tx, n, user_data);
}

static int on_handshake_completed(ngtcp2_conn *nc, void *user_data)
{
    struct es_conn *c = self(user_data);
    int rv = es_conn_established(c);

    if (rv == 0 && c->link.is_server && !c->refused) {
        give_token(c, nc);
    }
    return rv;
}

/* Client: for the next connection to the same server. */
static int on_new_token(ngtcp2_conn *nc, ES_COMPAT_NEW_TOKEN_ARGS, void *user_data)
{
    struct es_conn *c = self(user_data);
    ES_COMPAT_NEW_TOKEN(token, len);

    if (!c->got_token) { /* one of a connection is enough */
        c->got_token = 1;
        es_token_store_put(&c->ep->p->tokens, &c->remote, c->peer.tls->server_name, token, len);
    }
    return 0;
}

/* Client: none of the versions in the packet is the one we began with. Nobody vouches for this packet, so
 * another version is begun with only if we like it, and what the server says under TLS must agree later (RFC
 * 9368 4). */
static int on_version_negotiation(ngtcp2_conn *nc, const ngtcp2_pkt_hd *hd, const uint32_t *sv, size_t nsv,
                                  void *user_data)
{
    struct es_conn *c = self(user_data);
    size_t at;

    c->version_offer = 0;
    for (size_t k = 0; k < es_n_versions && c->version_offer == 0; k++) {
        for (size_t i = 0; i < nsv; i++) {
            if (sv[i] == es_versions[k] && sv[i] != c->version) {
                c->version_offer = sv[i];
            }
        }
    }
    at = (size_t)snprintf(c->peer.reason, sizeof c->peer.reason,
                          "the server speaks none of our versions of QUIC; it names");
    for (size_t i = 0; i < nsv && i < 8; i++) {
        at += (size_t)snprintf(c->peer.reason + at, sizeof c->peer.reason - at, "%s 0x%08x", i > 0 ? "," : "",
                               (unsigned)sv[i]);
    }
    return 0;
}

static int on_handshake_confirmed(ngtcp2_conn *nc, void *user_data)
{
    self(user_data)->tls_due = 1;
    self(user_data)->confirmed = 1;
    return 0;
}

/* ---- streams ---- */

static int on_stream_open(ngtcp2_conn *nc, int64_t id, void *user_data)
{
    struct es_conn *c = self(user_data);
    struct es_qstream *s;

    if (c->state == ES_CONN_HANDSHAKE && c->link.is_server) {
        int rv = es_early_accept(c);
        if (rv != 0) {
            return rv;
        }
    }
    if (!listening(c)) {
        return 0;
    }
    s = es_qstream_new(c, id, 1);
    if (s == NULL) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    (void)ngtcp2_conn_set_stream_user_data(nc, id, s);
    up(c)->stream_opened(c->link.user, &s->s, s->uni ? ES_DIR_UNI : ES_DIR_BIDI);
    return 0;
}

static void tell_sent(struct es_conn *c, struct es_qstream *s)
{
    if (!s->sent && listening(c)) {
        s->sent = 1;
        up(c)->sent(c->link.user, &s->s);
    }
}

static int on_stream_acked(ngtcp2_conn *nc, int64_t id, uint64_t offset, uint64_t n, void *user_data,
                           void *stream_user_data)
{
    struct es_qstream *s = stream_user_data;

    if (s == NULL) {
        return 0;
    }
    if (n > 0) {
        es_qstream_acked(s, n);
    }
    if (s->fin_sent && s->unacked == 0 && (!s->fin_alone || n == 0)) {
        tell_sent(self(user_data), s);
    }
    return 0;
}

/* The last word about a stream; its memory comes back at the end of the flush. */
static void stream_over(struct es_conn *c, struct es_qstream *s)
{
    /* An acknowledged FIN whose frame was merged with data on its way is noticed only here. */
    if (s->fin_sent && s->unacked == 0 && !s->did_reset && !s->shut) {
        tell_sent(c, s);
    }
    if (listening(c)) {
        up(c)->stream_closed(c->link.user, &s->s);
    }
    if (s->remote && !s->done) {
        s->done = 1;
        if (s->uni) {
            c->credit_uni++;
        } else {
            c->credit_bidi++;
        }
    }
    es_qstream_retire(s);
}

/* Where ngtcp2 never says that a one-way stream of the peer's is over: when it has ended, or was given up. */
void es_conn_forget_uni(struct es_conn *c, struct es_qstream *s)
{
    if (!ES_COMPAT_REMOTE_UNI_LINGERS || !s->uni || !s->remote) {
        return;
    }
    if (++c->uni_left > ES_UNI_LEFT_MAX) {
        s->done = 1;
    }
    (void)ngtcp2_conn_set_stream_user_data(c->nc, s->s.id, NULL);
    stream_over(c, s);
}

/* Where ngtcp2 may never say that a stream is over which we gave up in both directions. */
void es_conn_forget_given_up(struct es_conn *c, struct es_qstream *s)
{
    (void)ngtcp2_conn_set_stream_user_data(c->nc, s->s.id, NULL);
    stream_over(c, s);
}

static int on_stream_data(ngtcp2_conn *nc, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                          size_t n, void *user_data, void *stream_user_data)
{
    struct es_conn *c = self(user_data);
    struct es_qstream *s = stream_user_data;
    int fin = (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;

    c->conn_credit += n;
    c->ask_wait = ES_ASK_FIRST;
    if (s != NULL && listening(c) && !s->want_stop) {
        up(c)->data(c->link.user, &s->s, data, n, fin);
        if (fin) {
            es_conn_forget_uni(c, s);
        }
    }
    return 0;
}

static int on_stream_close(ngtcp2_conn *nc, uint32_t flags, int64_t id, uint64_t app_error_code,
                           void *user_data, void *stream_user_data)
{
    if (stream_user_data != NULL) { /* NULL: of a refused connection */
        stream_over(self(user_data), stream_user_data);
    }
    return 0;
}

static int on_stream_reset(ngtcp2_conn *nc, int64_t id, uint64_t final_size, uint64_t app_error_code,
                           void *user_data, void *stream_user_data)
{
    struct es_conn *c = self(user_data);
    struct es_qstream *s = stream_user_data;

    /* NULL: reset before anything else arrived; 0.12 never opens such a stream, and gives its allowance back
     * by itself. Nobody above hears of it. */
    if (s != NULL && listening(c)) {
        up(c)->stream_reset(c->link.user, &s->s, app_error_code);
        es_conn_forget_uni(c, s);
    }
    return 0;
}

static int on_extend_stream_data(ngtcp2_conn *nc, int64_t id, uint64_t max_data, void *user_data,
                                 void *stream_user_data)
{
    struct es_qstream *s = stream_user_data;

    if (s != NULL && s->blocked) {
        s->blocked = 0;
        es_qstream_make_ready(s);
    }
    return 0;
}

static int on_extend_bidi(ngtcp2_conn *nc, uint64_t max_streams, void *user_data)
{
    struct es_conn *c = self(user_data);

    if (listening(c)) {
        up(c)->stream_credit(c->link.user, ES_DIR_BIDI);
    }
    return 0;
}

static int on_extend_uni(ngtcp2_conn *nc, uint64_t max_streams, void *user_data)
{
    struct es_conn *c = self(user_data);

    if (listening(c)) {
        up(c)->stream_credit(c->link.user, ES_DIR_UNI);
    }
    return 0;
}

static int on_datagram(ngtcp2_conn *nc, uint32_t flags, const uint8_t *data, size_t n, void *user_data)
{
    struct es_conn *c = self(user_data);

    if (listening(c)) {
        up(c)->datagram(c->link.user, data, n);
    }
    return 0;
}

/* ---- ids and the rest ---- */

static int on_stateless_reset(ngtcp2_conn *nc, const ngtcp2_pkt_stateless_reset *sr, void *user_data)
{
    self(user_data)->got_reset = 1;
    return 0;
}

static void on_rand(uint8_t *dest, size_t n, const ngtcp2_rand_ctx *ctx)
{
    struct es_endpoint *ep = ctx->native_handle;

    ep->p->io.rand(ep->p->io.ctx, dest, n);
}

static int on_new_cid(ngtcp2_conn *nc, ngtcp2_cid *cid, uint8_t *token, size_t cidlen, void *user_data)
{
    struct es_conn *c = self(user_data);

    es_endpoint_new_cid(c->ep, cid);
    if (cidlen != ES_CID_LEN || es_endpoint_reset_token(c->ep, cid, token) != 0 ||
        es_conn_add_cid(c, cid->data, cid->datalen) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int on_remove_cid(ngtcp2_conn *nc, const ngtcp2_cid *cid, void *user_data)
{
    es_conn_remove_cid(self(user_data), cid->data, cid->datalen);
    return 0;
}

static int on_peer_cid(ngtcp2_conn *nc, es_compat_cid_status status, uint64_t seq, const ngtcp2_cid *cid,
                       const uint8_t *token, void *user_data)
{
    if (token == NULL) {
        return 0;
    }
    if (status == NGTCP2_CONNECTION_ID_STATUS_TYPE_ACTIVATE) {
        es_conn_add_token(self(user_data), token);
    } else {
        es_conn_remove_token(self(user_data), token);
    }
    return 0;
}

static int on_path_challenge(ngtcp2_conn *nc, uint8_t *data, void *user_data)
{
    struct es_conn *c = self(user_data);

    c->ep->p->io.rand(c->ep->p->io.ctx, data, NGTCP2_PATH_CHALLENGE_DATALEN);
    es_names_challenged(c);
    return 0;
}

static int on_path_validation(ES_COMPAT_PATH_VALIDATION_PARAMS)
{
    return es_path_validated(self(user_data), flags, path, res);
}

static int on_preferred_addr(ngtcp2_conn *nc, ngtcp2_path *dest, const ngtcp2_preferred_addr *paddr,
                             void *user_data)
{
    return es_path_preferred(self(user_data), dest, paddr);
}

/* ---- ngtcp2's memory is counted with ours, and by connection ---- */

static void *mem_malloc(size_t n, void *user_data)
{
    void *p = es_malloc(n);

    self(user_data)->lib_held += es_mem_size(p);
    return p;
}

static void mem_free(void *p, void *user_data)
{
    self(user_data)->lib_held -= es_mem_size(p);
    es_free(p);
}

static void *mem_calloc(size_t n, size_t m, void *user_data)
{
    void *p = es_calloc(n, m);

    self(user_data)->lib_held += es_mem_size(p);
    return p;
}

static void *mem_realloc(void *p, size_t n, void *user_data)
{
    size_t before = es_mem_size(p);
    void *q = es_realloc(p, n);

    if (q != NULL) {
        self(user_data)->lib_held += es_mem_size(q) - before;
    }
    return q;
}

void es_conn_mem_init(struct es_conn *c)
{
    c->mem = (ngtcp2_mem){c, mem_malloc, mem_free, mem_calloc, mem_realloc};
}

#define COMMON_CALLBACKS                                                                                     \
    .recv_crypto_data = on_crypto, .handshake_completed = on_handshake_completed, .encrypt = on_encrypt,     \
    .decrypt = on_decrypt, .path_validation = on_path_validation, .hp_mask = ngtcp2_crypto_hp_mask_cb,       \
    .recv_stream_data = on_stream_data, .acked_stream_data_offset = on_stream_acked,                         \
    .stream_open = on_stream_open, .stream_close = on_stream_close,                                          \
    .recv_stateless_reset = on_stateless_reset, .extend_max_local_streams_bidi = on_extend_bidi,             \
    .extend_max_local_streams_uni = on_extend_uni, .rand = on_rand, .get_new_connection_id = on_new_cid,     \
    .remove_connection_id = on_remove_cid, .update_key = on_update_key, .stream_reset = on_stream_reset,     \
    .extend_max_stream_data = on_extend_stream_data, .handshake_confirmed = on_handshake_confirmed,          \
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,                                       \
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb, .recv_datagram = on_datagram,     \
    .dcid_status = on_peer_cid, .get_path_challenge_data = on_path_challenge,                                \
    .version_negotiation = ngtcp2_crypto_version_negotiation_cb

const ngtcp2_callbacks es_conn_client_callbacks = {
    .client_initial = ngtcp2_crypto_client_initial_cb,
    .recv_retry = ngtcp2_crypto_recv_retry_cb,
    .recv_new_token = on_new_token,
    .recv_version_negotiation = on_version_negotiation,
    .select_preferred_addr = on_preferred_addr,
    COMMON_CALLBACKS,
};

const ngtcp2_callbacks es_conn_server_callbacks = {
    .recv_client_initial = ngtcp2_crypto_recv_client_initial_cb,
    COMMON_CALLBACKS,
};
