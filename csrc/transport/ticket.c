/* Session tickets of both sides. */
#include "ticket.h"
#include <gnutls/crypto.h>
#include <string.h>
#include "early.h"
#include "internal.h"
#include "tls_verify.h"

#define MAGIC_LEN      4
#define HEAD           16 /* magic, format of the parameters, flags, end of the certificate (8), length (2) */
#define DIGEST         32 /* at the end: SHA-256 of what is before it */
#define FLAG_EARLY     1
#define FLAG_V2        2
#define PARAMS_MAX     256
#define EXT_EARLY_DATA 42 /* early_data, RFC 8446 4.2.10 */
#define EXT_PSK_MODES  45 /* psk_key_exchange_modes, RFC 8446 4.2.9 */
#define KEY_LEN        64 /* what GnuTLS wants */

static const uint8_t magic[MAGIC_LEN] = {'E', 'S', 'T', '1'};

static struct es_conn *conn_of(gnutls_session_t s)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    return ref->user_data;
}

/* ---- client ---- */

int es_ticket_read(struct es_ticket *out, const uint8_t *p, size_t n, int64_t now)
{
    uint8_t digest[DIGEST];
    uint64_t ends = 0;
    size_t len;

    memset(out, 0, sizeof *out);
    /* GnuTLS takes what it gets for its own, and may crash on anything else. */
    if (n <= HEAD + DIGEST || memcmp(p, magic, MAGIC_LEN) != 0 ||
        gnutls_hash_fast(GNUTLS_DIG_SHA256, p, n - DIGEST, digest) != 0 ||
        memcmp(digest, p + n - DIGEST, DIGEST) != 0) {
        return ES_ERR_INVAL;
    }
    n -= DIGEST;
    for (int i = 6; i < 14; i++) {
        ends = ends << 8 | p[i];
    }
    len = (size_t)p[14] << 8 | p[15];
    if (n - HEAD <= len) {
        return ES_ERR_INVAL;
    }
    if ((int64_t)ends < now) {
        return ES_ERR_TIMEOUT;
    }
    if (p[4] == ES_COMPAT_PARAMS_FORMAT && len > 0) {
        out->params = p + HEAD;
        out->params_len = len;
        out->early = (p[5] & FLAG_EARLY) != 0;
    }
    out->version = p[5] & FLAG_V2 ? NGTCP2_PROTO_VER_V2 : NGTCP2_PROTO_VER_V1;
    out->session = p + HEAD + len;
    out->session_len = n - HEAD - len;
    return 0;
}

int es_ticket_takes_early(const uint8_t *p, size_t n)
{
    size_t at = 8, len; /* lifetime, age_add */

    if (n < at + 1) {
        return 0;
    }
    at += 1 + (size_t)p[at]; /* nonce */
    if (n < at + 2) {
        return 0;
    }
    at += 2 + ((size_t)p[at] << 8 | p[at + 1]); /* ticket */
    for (at += 2; n >= at + 4; at += 4 + len) { /* extensions */
        len = (size_t)p[at + 2] << 8 | p[at + 3];
        if (p[at] == 0 && p[at + 1] == EXT_EARLY_DATA) {
            return len == 4 && n >= at + 8 && memcmp(p + at + 4, "\xff\xff\xff\xff", 4) == 0;
        }
    }
    return 0;
}

static int64_t end_of_certificate(gnutls_session_t s)
{
    time_t t = gnutls_certificate_expiration_time_peers(s);
    return t == (time_t)-1 ? INT64_MAX : (int64_t)t;
}

static void hand_out(struct es_conn *c, gnutls_session_t s)
{
    uint8_t head[HEAD + PARAMS_MAX], digest[DIGEST];
    gnutls_datum_t session = {NULL, 0};
    struct es_buf block = {0};
    uint64_t ends;
    ngtcp2_ssize n;

    if (gnutls_session_get_data2(s, &session) != 0) {
        return;
    }
    n = es_compat_save_params(c->nc, head + HEAD, PARAMS_MAX);
    if (n < 0) {
        n = 0;
    }
    /* A pin overrides the dates of a certificate. */
    ends = c->peer.tls->trust == ES_TRUST_SYSTEM || c->peer.tls->trust == ES_TRUST_CA
               ? (uint64_t)end_of_certificate(s)
               : INT64_MAX;
    memcpy(head, magic, MAGIC_LEN);
    head[4] = ES_COMPAT_PARAMS_FORMAT;
    head[5] = c->ticket_early ? FLAG_EARLY : 0;
    head[5] |= ngtcp2_conn_get_negotiated_version(c->nc) == NGTCP2_PROTO_VER_V2 ? FLAG_V2 : 0;
    for (int i = 13; i >= 6; i--, ends >>= 8) {
        head[i] = (uint8_t)ends;
    }
    head[14] = (uint8_t)(n >> 8);
    head[15] = (uint8_t)n;
    if (es_buf_put(&block, head, HEAD + (size_t)n) == 0 &&
        es_buf_put(&block, session.data, session.size) == 0 &&
        gnutls_hash_fast(GNUTLS_DIG_SHA256, block.p, block.n, digest) == 0 &&
        es_buf_put(&block, digest, DIGEST) == 0) {
        c->on_ticket(c->ticket_user, block.p, block.n);
    }
    if (block.p != NULL) {
        gnutls_memset(block.p, 0, block.n);
    }
    gnutls_memset(session.data, 0, session.size);
    gnutls_free(session.data);
    es_buf_free(&block);
}

static int on_ticket(gnutls_session_t s, unsigned type, unsigned when, unsigned incoming,
                     const gnutls_datum_t *msg)
{
    struct es_conn *c = conn_of(s);

    if (c->on_ticket != NULL && incoming) {
        hand_out(c, s);
        c->await_ticket = 0;
    }
    return 0;
}

void es_ticket_listen(gnutls_session_t s)
{
    gnutls_handshake_set_hook_function(s, GNUTLS_HANDSHAKE_NEW_SESSION_TICKET, GNUTLS_HOOK_POST, on_ticket);
}

/* ---- server ---- */

static int make_key(const struct es_conn *c, uint8_t out[KEY_LEN])
{
    const struct es_tls *t = c->peer.tls;
    uint8_t about[32 + 2 + ES_EARLY_SALT];
    gnutls_datum_t secret = {(unsigned char *)(uintptr_t)c->ep->ticket_key, sizeof c->ep->ticket_key};
    gnutls_datum_t info = {about, sizeof about};

    memset(about, 0, sizeof about);
    memcpy(about, t->identity, 32);
    about[32] = (uint8_t)t->trust;
    about[33] = t->client_optional != 0;
    if (c->ep->early != NULL) {
        es_early_salt(c->ep->early, about + 34);
    }
    return gnutls_hkdf_expand(GNUTLS_MAC_SHA256, &secret, &info, out, KEY_LEN);
}

static int look_at_extension(void *ctx, unsigned id, const unsigned char *data, unsigned n)
{
    if (id == EXT_PSK_MODES) {
        *(int *)ctx = 1;
    }
    return 0;
}

/* Tickets cost something, and most clients have no use for them. */
static int on_client_hello(gnutls_session_t s, unsigned type, unsigned when, unsigned incoming,
                           const gnutls_datum_t *msg)
{
    struct es_conn *c = conn_of(s);
    uint8_t key[KEY_LEN];
    gnutls_datum_t d = {key, sizeof key};
    int modes = 0;

    if (gnutls_ext_raw_parse(&modes, look_at_extension, msg, GNUTLS_EXT_RAW_FLAG_TLS_CLIENT_HELLO) != 0 ||
        !modes) {
        return 0;
    }
    if (make_key(c, key) == 0 && gnutls_session_ticket_enable_server(s, &d) == 0) {
        c->owes_ticket = 1;
        if (c->ep->early != NULL) {
            es_early_expect(c->ep->early, c, s);
        }
    }
    gnutls_memset(key, 0, sizeof key);
    return 0;
}

void es_ticket_offer(gnutls_session_t s)
{
    gnutls_handshake_set_hook_function(s, GNUTLS_HANDSHAKE_CLIENT_HELLO, GNUTLS_HOOK_PRE, on_client_hello);
}

void es_ticket_send(struct es_conn *c)
{
    if (c->owes_ticket) {
        c->owes_ticket = 0;
        (void)gnutls_session_ticket_send(c->tls, 1, 0); /* without one the next handshake is a whole one */
    }
}
