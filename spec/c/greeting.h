/* A client that says its first word and may be left there: genuine Initial packets, with the greeting
 * (ClientHello) as it is or as a test wants it. Made straight on ngtcp2 and GnuTLS.
 */
#ifndef ES_SPEC_C_GREETING_H
#define ES_SPEC_C_GREETING_H

#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include "../../csrc/transport/compat.h"

struct greeting {
    ngtcp2_conn *nc;      /* owned */
    gnutls_session_t tls; /* owned */
    gnutls_certificate_credentials_t cred;
    ngtcp2_crypto_conn_ref ref;
    struct sockaddr_in local, remote;
    const char *alpn, *server_name, *priority;
    /* changes the greeting before it is sent; it may grow to 4,096 bytes */
    void (*edit)(uint8_t *hello, size_t *n);
    uint64_t now;
    int closed; /* the server closed: with this code */
    uint64_t code;
    int app, died; /* died: ngtcp2's error that ended it otherwise */
    int complete;
};

static ngtcp2_conn *greeting_conn(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct greeting *)ref->user_data)->nc;
}

static void greeting_rand(uint8_t *dest, size_t n, const ngtcp2_rand_ctx *ctx)
{
    (void)gnutls_rnd(GNUTLS_RND_NONCE, dest, n);
}

static int greeting_cid(ngtcp2_conn *nc, ngtcp2_cid *cid, uint8_t *token, size_t n, void *user)
{
    (void)gnutls_rnd(GNUTLS_RND_NONCE, cid->data, n);
    cid->datalen = n;
    return gnutls_rnd(GNUTLS_RND_NONCE, token, NGTCP2_STATELESS_RESET_TOKENLEN);
}

static int greeting_challenge(ngtcp2_conn *nc, uint8_t *data, void *user)
{
    return gnutls_rnd(GNUTLS_RND_NONCE, data, NGTCP2_PATH_CHALLENGE_DATALEN);
}

static int greeting_completed(ngtcp2_conn *nc, void *user)
{
    ((struct greeting *)user)->complete = 1;
    return 0;
}

static const ngtcp2_callbacks greeting_callbacks = {
    .client_initial = ngtcp2_crypto_client_initial_cb,
    .recv_retry = ngtcp2_crypto_recv_retry_cb,
    .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
    .handshake_completed = greeting_completed,
    .encrypt = ngtcp2_crypto_encrypt_cb,
    .decrypt = ngtcp2_crypto_decrypt_cb,
    .hp_mask = ngtcp2_crypto_hp_mask_cb,
    .rand = greeting_rand,
    .get_new_connection_id = greeting_cid,
    .update_key = ngtcp2_crypto_update_key_cb,
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
    .get_path_challenge_data = greeting_challenge,
    .version_negotiation = ngtcp2_crypto_version_negotiation_cb,
};

/* What GnuTLS says goes to ngtcp2, through `edit`. */
static int greeting_says(gnutls_session_t s, gnutls_record_encryption_level_t level,
                         gnutls_handshake_description_t type, const void *data, size_t n)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    struct greeting *g = ref->user_data;
    uint8_t copy[4096];

    if (type == GNUTLS_HANDSHAKE_CHANGE_CIPHER_SPEC || n > sizeof copy) {
        return 0;
    }
    memcpy(copy, data, n);
    if (type == GNUTLS_HANDSHAKE_CLIENT_HELLO && g->edit != NULL) {
        g->edit(copy, &n);
    }
    return ngtcp2_conn_submit_crypto_data(g->nc,
                                          type == GNUTLS_HANDSHAKE_CLIENT_HELLO
                                              ? NGTCP2_ENCRYPTION_LEVEL_INITIAL
                                              : NGTCP2_ENCRYPTION_LEVEL_HANDSHAKE,
                                          copy, n);
}

/* g: zeroed, with what should differ set. 0 or -1. */
static int greeting_start(struct greeting *g, uint32_t version)
{
    ngtcp2_settings s;
    ngtcp2_transport_params p;
    ngtcp2_cid scid, dcid;
    ngtcp2_path path = {{(ngtcp2_sockaddr *)&g->local, sizeof g->local},
                        {(ngtcp2_sockaddr *)&g->remote, sizeof g->remote},
                        NULL};
    uint8_t id[18];
    gnutls_datum_t alpn;

    if (g->alpn == NULL) {
        g->alpn = "test/1";
    }
    g->local.sin_family = g->remote.sin_family = AF_INET;
    alpn.data = (unsigned char *)(uintptr_t)g->alpn;
    alpn.size = (unsigned)strlen(g->alpn);
    g->now = g->now != 0 ? g->now : 1;
    ngtcp2_settings_default(&s);
    s.initial_ts = g->now;
    ngtcp2_transport_params_default(&p);
    p.initial_max_data = p.initial_max_stream_data_bidi_local = 1 << 20;
    p.initial_max_streams_bidi = 10;
    (void)gnutls_rnd(GNUTLS_RND_NONCE, id, sizeof id);
    ngtcp2_cid_init(&scid, id, 8);
    (void)gnutls_rnd(GNUTLS_RND_NONCE, id, sizeof id);
    ngtcp2_cid_init(&dcid, id, 18);
    g->ref.get_conn = greeting_conn;
    g->ref.user_data = g;
    if (ngtcp2_conn_client_new(&g->nc, &dcid, &scid, &path, version, &greeting_callbacks, &s, &p, NULL, g) !=
            0 ||
        gnutls_certificate_allocate_credentials(&g->cred) != 0 ||
        gnutls_init(&g->tls, GNUTLS_CLIENT | GNUTLS_NO_END_OF_EARLY_DATA) != 0) {
        return -1;
    }
    gnutls_session_set_ptr(g->tls, &g->ref);
    if (gnutls_priority_set_direct(
            g->tls,
            g->priority != NULL ? g->priority : "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3",
            NULL) != 0 ||
        gnutls_credentials_set(g->tls, GNUTLS_CRD_CERTIFICATE, g->cred) != 0 ||
        gnutls_alpn_set_protocols(g->tls, &alpn, 1, 0) != 0 ||
        (g->server_name != NULL &&
         gnutls_server_name_set(g->tls, GNUTLS_NAME_DNS, g->server_name, strlen(g->server_name)) != 0) ||
        ngtcp2_crypto_gnutls_configure_client_session(g->tls) != 0) {
        return -1;
    }
    gnutls_handshake_set_read_function(g->tls, greeting_says);
    ngtcp2_conn_set_tls_native_handle(g->nc, g->tls);
    return 0;
}

/* The next packet to be sent; 0: there is none. */
static size_t greeting_packet(struct greeting *g, uint8_t *out, size_t cap)
{
    ngtcp2_path_storage ps;
    ngtcp2_pkt_info pi;
    ngtcp2_ssize n;

    ngtcp2_path_storage_zero(&ps);
    n = ngtcp2_conn_write_pkt(g->nc, &ps.path, &pi, out, cap, ++g->now);
    if (n < 0) {
        g->died = (int)n;
    }
    return n > 0 ? (size_t)n : 0;
}

__attribute__((unused)) static void greeting_read(struct greeting *g, const uint8_t *data, size_t n)
{
    ngtcp2_path path = {{(ngtcp2_sockaddr *)&g->local, sizeof g->local},
                        {(ngtcp2_sockaddr *)&g->remote, sizeof g->remote},
                        NULL};
    ngtcp2_pkt_info pi;
    ngtcp2_ccerr e;
    int rv;

    memset(&pi, 0, sizeof pi);
    rv = ngtcp2_conn_read_pkt(g->nc, &path, &pi, data, n, ++g->now);
    if (rv == NGTCP2_ERR_DRAINING) {
        memset(&e, 0, sizeof e);
        es_compat_peer_close(g->nc, &e);
        g->closed = 1;
        g->app = e.type == NGTCP2_CCERR_TYPE_APPLICATION;
        g->code = e.error_code;
    } else if (rv != 0) {
        g->died = rv;
    }
}

static void greeting_end(struct greeting *g)
{
    if (g->nc != NULL) {
        ngtcp2_conn_del(g->nc);
    }
    if (g->tls != NULL) {
        gnutls_deinit(g->tls);
    }
    if (g->cred != NULL) {
        gnutls_certificate_free_credentials(g->cred);
    }
    memset(g, 0, sizeof *g);
}

#endif
