/* The hostile peer: see hostile.h. */
#include "hostile.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "../../csrc/transport/compat.h"
#include "hostile_edit.h"

#define CARRIER 1000 /* bytes of a stream that make a packet large enough for any injection */
#define DUMMY   100  /* TLS bytes that make room in a packet of the handshake */

struct hostile {
    int fd, aside; /* aside: what it sends with instead; -1: none */
    int is_server;
    ngtcp2_conn *nc;      /* owned; NULL: a server that nobody has called yet */
    gnutls_session_t tls; /* owned */
    gnutls_certificate_credentials_t cred;
    ngtcp2_crypto_conn_ref ref;
    char alpn[64];
    struct sockaddr_storage local, remote;
    socklen_t local_len, remote_len;

    enum hostile_level level; /* of what is planned for the handshake */
    struct hostile_bytes planned;
    int is_tail, submitted;
    int silent; /* 1-RTT packets are emptied until something is injected */

    uint8_t inject[CARRIER]; /* replaces the next 1-RTT packet */
    size_t inject_n;
    int injecting, reserved_bits, at_end, deaf, hushed;
    int no_window;
    int64_t carrier; /* stream whose data make room; -1: none yet */

    int64_t hello; /* stream of hostile_hello; -1: none */
    int hello_sent, echoed_fin;
    char echoed[8];
    size_t echoed_n;

    int said_finished, complete, closed, over;
    int close_app;
    uint64_t close_code;
    const char *trouble; /* static text of the library's */
};

/* `encrypt` and `decrypt` are given no user data: whose packet is being sealed or opened. */
static struct hostile *sealing;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the edit ---- */

static int on_encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                      const uint8_t *plaintext, size_t n, const uint8_t *nonce, size_t nonce_n,
                      const uint8_t *aad, size_t aad_n)
{
    struct hostile *h = sealing;
    uint8_t copy[2048];
    int is_long = (aad[0] & 0x80) != 0;
    enum hostile_level level = !is_long               ? HOSTILE_1RTT
                               : (aad[0] & 0x30) == 0 ? HOSTILE_INITIAL
                                                      : HOSTILE_HANDSHAKE;

    if (h == NULL || n > sizeof copy) {
        return ngtcp2_crypto_encrypt_cb(dest, aead, ctx, plaintext, n, nonce, nonce_n, aad, aad_n);
    }
    memcpy(copy, plaintext, n);
    if (level == HOSTILE_1RTT && h->injecting && n >= h->inject_n) {
        memset(copy, 0, n);
        memcpy(h->at_end ? copy + n - h->inject_n : copy, h->inject, h->inject_n);
        h->injecting = h->at_end = 0;
        h->silent = 0;
        if (h->reserved_bits) { /* the header stands in the packet's own buffer, before the ciphertext */
            ((uint8_t *)(uintptr_t)aad)[0] |= 0x18;
            h->reserved_bits = 0;
        }
    } else if (level == HOSTILE_1RTT && h->silent) {
        memset(copy, 0, n);
    } else if (level == HOSTILE_1RTT && h->hushed) {
        hostile_hush(copy, n);
    } else if (level == h->level && level != HOSTILE_1RTT && h->planned.n > 0 && !h->is_tail) {
        hostile_append(&h->planned, copy, n);
        if (h->reserved_bits && h->planned.done) {
            ((uint8_t *)(uintptr_t)aad)[0] |= 0x0c;
            h->reserved_bits = 0;
        }
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, ctx, copy, n, nonce, nonce_n, aad, aad_n);
}

static int on_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                      const uint8_t *data, size_t n, const uint8_t *nonce, size_t nonce_n, const uint8_t *aad,
                      size_t aad_n)
{
    int rv = ngtcp2_crypto_decrypt_cb(dest, aead, ctx, data, n, nonce, nonce_n, aad, aad_n);

    if (rv == 0 && sealing != NULL && sealing->deaf && (aad[0] & 0x80) == 0) {
        hostile_mute(dest, n - aead->max_overhead);
    }
    return rv;
}

/* ---- callbacks ---- */

/* Continues the CRYPTO stream of the planned level, once that level has keys and has said its own piece. */
static int continue_crypto(struct hostile *h, ngtcp2_conn *nc)
{
    uint8_t dummy[DUMMY];

    if (h->planned.n == 0 || h->level == HOSTILE_1RTT || h->submitted) {
        return 0;
    }
    h->submitted = 1;
    h->planned.done = h->is_tail;
    memset(dummy, HOSTILE_DUMMY, sizeof dummy);
    memcpy(dummy, HOSTILE_START, sizeof HOSTILE_START - 1);
    return ngtcp2_conn_submit_crypto_data(nc,
                                          h->level == HOSTILE_INITIAL ? NGTCP2_ENCRYPTION_LEVEL_INITIAL
                                                                      : NGTCP2_ENCRYPTION_LEVEL_HANDSHAKE,
                                          h->is_tail ? h->planned.b : dummy,
                                          h->is_tail ? h->planned.n : sizeof dummy) == 0
               ? 0
               : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_client_initial(ngtcp2_conn *nc, void *user)
{
    struct hostile *h = user;
    int rv = ngtcp2_crypto_client_initial_cb(nc, user);

    return rv != 0 || h->level != HOSTILE_INITIAL ? rv : continue_crypto(h, nc);
}

static int on_crypto(ngtcp2_conn *nc, ngtcp2_encryption_level level, uint64_t offset, const uint8_t *data,
                     size_t n, void *user)
{
    struct hostile *h = user;
    int rv;

    if (level == NGTCP2_ENCRYPTION_LEVEL_1RTT) {
        return 0; /* whatever the peer says there is nothing to us */
    }
    rv = ngtcp2_crypto_recv_crypto_data_cb(nc, level, offset, data, n, user);
    if (rv == 0 && h->said_finished) {
        rv = continue_crypto(h, nc);
    }
    return rv;
}

/* The keys of 1-RTT come right after our own Finished. */
static int on_tx_key(ngtcp2_conn *nc, ngtcp2_encryption_level level, void *user)
{
    ((struct hostile *)user)->said_finished |= level == NGTCP2_ENCRYPTION_LEVEL_1RTT;
    return 0;
}

static int on_completed(ngtcp2_conn *nc, void *user)
{
    ((struct hostile *)user)->complete = 1;
    return 0;
}

static int on_stream_data(ngtcp2_conn *nc, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                          size_t n, void *user, void *stream_user)
{
    struct hostile *h = user;

    if (id == h->hello && h->echoed_n + n <= sizeof h->echoed) {
        memcpy(h->echoed + h->echoed_n, data, n);
        h->echoed_n += n;
        h->echoed_fin |= (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;
    }
    return 0;
}

static void on_rand(uint8_t *dest, size_t n, const ngtcp2_rand_ctx *ctx)
{
    (void)gnutls_rnd(GNUTLS_RND_NONCE, dest, n);
}

static int on_new_cid(ngtcp2_conn *nc, ngtcp2_cid *cid, uint8_t *token, size_t n, void *user)
{
    (void)gnutls_rnd(GNUTLS_RND_NONCE, cid->data, n);
    cid->datalen = n;
    (void)gnutls_rnd(GNUTLS_RND_NONCE, token, NGTCP2_STATELESS_RESET_TOKENLEN);
    return 0;
}

static int on_challenge(ngtcp2_conn *nc, uint8_t *data, void *user)
{
    return gnutls_rnd(GNUTLS_RND_NONCE, data, NGTCP2_PATH_CHALLENGE_DATALEN);
}

#define CALLBACKS                                                                                            \
    .recv_crypto_data = on_crypto, .handshake_completed = on_completed, .encrypt = on_encrypt,               \
    .decrypt = on_decrypt, .hp_mask = ngtcp2_crypto_hp_mask_cb, .recv_tx_key = on_tx_key,                    \
    .recv_stream_data = on_stream_data, .rand = on_rand, .get_new_connection_id = on_new_cid,                \
    .update_key = ngtcp2_crypto_update_key_cb,                                                               \
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,                                       \
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,                                   \
    .get_path_challenge_data = on_challenge, .version_negotiation = ngtcp2_crypto_version_negotiation_cb

static const ngtcp2_callbacks client_callbacks = {
    .client_initial = on_client_initial, .recv_retry = ngtcp2_crypto_recv_retry_cb, CALLBACKS};
static const ngtcp2_callbacks server_callbacks = {.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb,
                                                  CALLBACKS};

static ngtcp2_conn *get_conn(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct hostile *)ref->user_data)->nc;
}

/* ---- birth and death ---- */

static int make_tls(struct hostile *h)
{
    gnutls_datum_t alpn = {(unsigned char *)h->alpn, (unsigned)strlen(h->alpn)};

    if (gnutls_init(&h->tls, (h->is_server ? GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET : GNUTLS_CLIENT) |
                                 GNUTLS_NO_END_OF_EARLY_DATA) != 0) {
        return -1;
    }
    gnutls_session_set_ptr(h->tls, &h->ref);
    if (gnutls_priority_set_direct(h->tls,
                                   "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:"
                                   "+GROUP-X25519:-CIPHER-ALL:+AES-128-GCM",
                                   NULL) != 0 ||
        gnutls_credentials_set(h->tls, GNUTLS_CRD_CERTIFICATE, h->cred) != 0 ||
        gnutls_alpn_set_protocols(h->tls, &alpn, 1, GNUTLS_ALPN_MANDATORY) != 0) {
        return -1;
    }
    if ((h->is_server ? ngtcp2_crypto_gnutls_configure_server_session(h->tls)
                      : ngtcp2_crypto_gnutls_configure_client_session(h->tls)) != 0) {
        return -1;
    }
    ngtcp2_conn_set_tls_native_handle(h->nc, h->tls);
    return 0;
}

static ngtcp2_path path_of(struct hostile *h)
{
    ngtcp2_path path = {
        {(ngtcp2_sockaddr *)&h->local, h->local_len}, {(ngtcp2_sockaddr *)&h->remote, h->remote_len}, NULL};
    return path;
}

static void random_cid(ngtcp2_cid *cid, size_t n)
{
    uint8_t b[NGTCP2_MAX_CIDLEN];

    (void)gnutls_rnd(GNUTLS_RND_NONCE, b, n);
    ngtcp2_cid_init(cid, b, n);
}

/* hd: of the client's first packet; NULL: we are the client. */
static int make_conn(struct hostile *h, const ngtcp2_pkt_hd *hd)
{
    ngtcp2_settings s;
    ngtcp2_transport_params p;
    ngtcp2_cid scid, dcid;
    ngtcp2_path path = path_of(h);
    int rv;

    ngtcp2_settings_default(&s);
    s.initial_ts = now();
    s.no_pmtud = 1;
    ngtcp2_transport_params_default(&p);
    p.initial_max_stream_data_bidi_local = p.initial_max_stream_data_bidi_remote = 1 << 20;
    p.initial_max_stream_data_uni = p.initial_max_data = 1 << 20;
    if (h->no_window) {
        p.initial_max_data = 0;
    }
    p.initial_max_streams_bidi = p.initial_max_streams_uni = 100;
    random_cid(&scid, 17);
    random_cid(&dcid, 18);
    h->ref.get_conn = get_conn;
    h->ref.user_data = h;
    if (hd != NULL) {
        es_compat_set_original_dcid(&p, &hd->dcid);
        rv = ngtcp2_conn_server_new(&h->nc, &hd->scid, &scid, &path, hd->version, &server_callbacks, &s, &p,
                                    NULL, h);
    } else {
        rv = ngtcp2_conn_client_new(&h->nc, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &client_callbacks, &s,
                                    &p, NULL, h);
    }
    if (rv != 0) {
        h->nc = NULL;
        return -1;
    }
    return make_tls(h);
}

static int make_socket(struct hostile *h)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    h->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    h->local_len = sizeof h->local;
    return h->fd >= 0 && bind(h->fd, (struct sockaddr *)&a, sizeof a) == 0 &&
                   getsockname(h->fd, (struct sockaddr *)&h->local, &h->local_len) == 0
               ? 0
               : -1;
}

struct hostile *hostile_new(const struct hostile_plan *plan, const struct sockaddr *server, socklen_t n)
{
    struct hostile *h = calloc(1, sizeof *h);
    const char *text = plan->tail != NULL ? plan->tail : plan->frames;

    h->fd = h->aside = -1;
    h->is_server = plan->is_server;
    h->level = plan->level;
    h->is_tail = plan->tail != NULL;
    h->silent = plan->unconfirmed;
    h->no_window = plan->no_window;
    h->carrier = h->hello = -1;
    snprintf(h->alpn, sizeof h->alpn, "%s", plan->alpn);
    if (text != NULL && plan->level != HOSTILE_1RTT) {
        hostile_read_plan(&h->planned, text, h->is_tail ? sizeof h->planned.b : DUMMY);
    }
    if (make_socket(h) != 0 || gnutls_certificate_allocate_credentials(&h->cred) != 0) {
        goto fail;
    }
    if (h->is_server) {
        gnutls_datum_t cert = {(unsigned char *)(uintptr_t)plan->cert, (unsigned)strlen(plan->cert)};
        gnutls_datum_t key = {(unsigned char *)(uintptr_t)plan->key, (unsigned)strlen(plan->key)};
        if (gnutls_certificate_set_x509_key_mem(h->cred, &cert, &key, GNUTLS_X509_FMT_PEM) != 0) {
            goto fail;
        }
        return h;
    }
    memcpy(&h->remote, server, n);
    h->remote_len = n;
    if (make_conn(h, NULL) != 0) {
        goto fail;
    }
    return h;
fail:
    perror("hostile");
    hostile_del(h);
    return NULL;
}

void hostile_del(struct hostile *h)
{
    if (h == NULL) {
        return;
    }
    if (h->nc != NULL) {
        ngtcp2_conn_del(h->nc);
    }
    if (h->tls != NULL) {
        gnutls_deinit(h->tls);
    }
    if (h->cred != NULL) {
        gnutls_certificate_free_credentials(h->cred);
    }
    if (h->fd >= 0) {
        close(h->fd);
    }
    (void)hostile_aside(h, 0);
    free(h);
}

void hostile_addr(const struct hostile *h, struct sockaddr_storage *out)
{
    *out = h->local;
}

/* ---- driving ---- */

static void library_said(struct hostile *h, int rv)
{
    ngtcp2_ccerr e;

    if (rv == 0 || h->over) {
        return;
    }
    h->over = 1;
    if (rv != NGTCP2_ERR_DRAINING) {
        h->trouble = ngtcp2_strerror(rv);
        return;
    }
    memset(&e, 0, sizeof e);
    es_compat_peer_close(h->nc, &e);
    h->closed = 1;
    h->close_app = e.type == NGTCP2_CCERR_TYPE_APPLICATION;
    h->close_code = e.error_code;
}

static void transmit(struct hostile *h, const uint8_t *p, ngtcp2_ssize n)
{
    if (n > 0) {
        (void)!sendto(h->aside >= 0 ? h->aside : h->fd, p, (size_t)n, 0, (struct sockaddr *)&h->remote,
                      h->remote_len);
    }
}

/* One packet, with data of stream `id` when it is not negative. */
static ngtcp2_ssize write_one(struct hostile *h, int64_t id, const uint8_t *data, size_t n, int fin,
                              ngtcp2_ssize *taken)
{
    uint8_t buf[1452];
    ngtcp2_path_storage ps;
    ngtcp2_pkt_info pi;
    ngtcp2_vec v = {(uint8_t *)(uintptr_t)data, n};
    ngtcp2_ssize rv;

    ngtcp2_path_storage_zero(&ps);
    sealing = h;
    rv = ngtcp2_conn_writev_stream(h->nc, &ps.path, &pi, buf, sizeof buf, taken,
                                   fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : NGTCP2_WRITE_STREAM_FLAG_NONE, id, &v,
                                   id >= 0 ? 1 : 0, now());
    sealing = NULL;
    if (rv < 0) {
        library_said(h, (int)rv);
    } else {
        transmit(h, buf, rv);
    }
    return rv;
}

static void receive(struct hostile *h)
{
    uint8_t buf[65536];
    struct sockaddr_storage from;
    ngtcp2_pkt_info pi;
    ssize_t n;

    for (;;) {
        socklen_t len = sizeof from;
        n = recvfrom(h->fd, buf, sizeof buf, 0, (struct sockaddr *)&from, &len);
        if (n < 0) {
            return;
        }
        if (h->nc == NULL) {
            ngtcp2_pkt_hd hd;
            if (ngtcp2_accept(&hd, buf, (size_t)n) != 0) {
                continue;
            }
            h->remote = from;
            h->remote_len = len;
            if (make_conn(h, &hd) != 0) {
                h->over = 1;
                h->trouble = "no connection could be made";
                return;
            }
        }
        if (!h->over) {
            ngtcp2_path path = path_of(h);
            memset(&pi, 0, sizeof pi);
            sealing = h;
            int rv = ngtcp2_conn_read_pkt(h->nc, &path, &pi, buf, (size_t)n, now());
            sealing = NULL;
            library_said(h, rv);
        }
    }
}

void hostile_step(struct hostile *h)
{
    ngtcp2_ssize taken;

    receive(h);
    if (h->nc == NULL || h->over) {
        return;
    }
    if (ngtcp2_conn_get_expiry(h->nc) <= now()) {
        library_said(h, ngtcp2_conn_handle_expiry(h->nc, now()));
    }
    if (!h->over && h->hello >= 0 && !h->hello_sent) {
        if (write_one(h, h->hello, (const uint8_t *)"hello", 5, 1, &taken) > 0 && taken == 5) {
            h->hello_sent = 1;
        }
    }
    for (int i = 0; i < 20 && !h->over && write_one(h, -1, NULL, 0, 0, &taken) > 0; i++) {
    }
}

/* ---- what it can be told ---- */

int hostile_complete(const struct hostile *h)
{
    return h->complete;
}

int hostile_planned(const struct hostile *h)
{
    return h->planned.done;
}

int hostile_inject_bytes(struct hostile *h, const uint8_t *frames, size_t n)
{
    static const uint8_t filler[CARRIER];
    ngtcp2_ssize taken;

    if (!h->complete || h->over || n > CARRIER ||
        (h->carrier < 0 && ngtcp2_conn_open_uni_stream(h->nc, &h->carrier, NULL) != 0)) {
        return -1;
    }
    memcpy(h->inject, frames, n);
    h->inject_n = n;
    h->injecting = 1;
    for (int i = 0; i < 4 && h->injecting && !h->over; i++) {
        if (write_one(h, h->carrier, filler, sizeof filler, 0, &taken) <= 0) {
            break;
        }
    }
    if (!h->injecting) {
        return 0;
    }
    h->injecting = 0;
    return -1;
}

int hostile_inject(struct hostile *h, const char *packets)
{
    uint8_t bytes[CARRIER];

    while (packets != NULL) {
        size_t n = hostile_read(&packets, bytes, sizeof bytes);
        if (hostile_inject_bytes(h, bytes, n) != 0) {
            return -1;
        }
    }
    return 0;
}

void hostile_reserved_bits(struct hostile *h)
{
    h->reserved_bits = 1;
}

void hostile_stop_acks(struct hostile *h)
{
    h->hushed = 1;
}

void hostile_deafen(struct hostile *h)
{
    h->deaf = 1;
}

int hostile_aside(struct hostile *h, int on)
{
    if (h->aside >= 0) {
        close(h->aside);
    }
    h->aside = on ? socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
    return on && h->aside < 0 ? -1 : 0;
}

void hostile_at_end(struct hostile *h)
{
    h->at_end = 1;
}

int hostile_hello(struct hostile *h)
{
    int64_t first; /* left to what is injected */

    h->hello_sent = h->echoed_fin = 0;
    h->echoed_n = 0;
    return h->over || ngtcp2_conn_open_bidi_stream(h->nc, &first, NULL) != 0 ||
                   ngtcp2_conn_open_bidi_stream(h->nc, &h->hello, NULL) != 0
               ? -1
               : 0;
}

int hostile_echoed(const struct hostile *h)
{
    return h->echoed_fin && h->echoed_n == 5 && memcmp(h->echoed, "hello", 5) == 0;
}

void hostile_leave(struct hostile *h)
{
    uint8_t buf[1452];
    ngtcp2_path_storage ps;
    ngtcp2_pkt_info pi;
    ngtcp2_ccerr e;

    if (h->nc == NULL || h->over) {
        return;
    }
    ngtcp2_path_storage_zero(&ps);
    ngtcp2_ccerr_default(&e);
    ngtcp2_ccerr_set_application_error(&e, 0, NULL, 0);
    h->silent = 0;
    transmit(h, buf, ngtcp2_conn_write_connection_close(h->nc, &ps.path, &pi, buf, sizeof buf, &e, now()));
    h->over = 1;
}

int hostile_closed(const struct hostile *h, int *app, uint64_t *code)
{
    *app = h->close_app;
    *code = h->close_code;
    return h->closed;
}

const char *hostile_trouble(const struct hostile *h)
{
    return h->trouble;
}
