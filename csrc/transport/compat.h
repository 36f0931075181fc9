/* The bridge between the two generations of ngtcp2: 0.12 (Debian 12, Ubuntu 24.04) and 1.11 or later (Debian
 * 13).
 *
 * The only file of the project with an #if on the library's version. It speaks the newer names: where 0.12
 * calls a thing differently, the newer name is defined here in terms of the old one. Error numbers differ
 * between the generations, so they are compared where they come from and never stored.
 */
#ifndef ES_TRANSPORT_COMPAT_H
#define ES_TRANSPORT_COMPAT_H

#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#if NGTCP2_VERSION_NUM < 0x010000

typedef ngtcp2_crypto_level ngtcp2_encryption_level;
typedef ngtcp2_connection_close_error ngtcp2_ccerr;
typedef ngtcp2_conn_stat ngtcp2_conn_info;

#define NGTCP2_ENCRYPTION_LEVEL_INITIAL     NGTCP2_CRYPTO_LEVEL_INITIAL
#define NGTCP2_ENCRYPTION_LEVEL_HANDSHAKE   NGTCP2_CRYPTO_LEVEL_HANDSHAKE
#define NGTCP2_ENCRYPTION_LEVEL_1RTT        NGTCP2_CRYPTO_LEVEL_APPLICATION
#define NGTCP2_CCERR_TYPE_APPLICATION       NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_APPLICATION
#define ngtcp2_ccerr_default                ngtcp2_connection_close_error_default
#define ngtcp2_ccerr_set_transport_error    ngtcp2_connection_close_error_set_transport_error
#define ngtcp2_ccerr_set_liberr             ngtcp2_connection_close_error_set_transport_error_liberr
#define ngtcp2_ccerr_set_tls_alert          ngtcp2_connection_close_error_set_transport_error_tls_alert
#define ngtcp2_ccerr_set_application_error  ngtcp2_connection_close_error_set_application_error
#define ngtcp2_conn_get_conn_info           ngtcp2_conn_get_conn_stat
#define ngtcp2_crypto_generate_retry_token2 ngtcp2_crypto_generate_retry_token
#define ngtcp2_crypto_verify_retry_token2   ngtcp2_crypto_verify_retry_token
#define NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2   NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN
#define NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY2    NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY
/* 0.12 knows a draft of version 2 only, with another number and other keys: no use to anybody. */
#define ES_COMPAT_HAS_V2         0
#define NGTCP2_PROTO_VER_V2      ((uint32_t)0x6b3343cfu)
#define ES_COMPAT_KEEP_ALIVE_OFF 0
/* 0.12 never closes a one-way stream of the peer's: its check waits for the acknowledgement of a FIN that no
 * such stream sends. We close it ourselves; ngtcp2 keeps some 300 bytes for it until the connection ends. */
#define ES_COMPAT_REMOTE_UNI_LINGERS 1
/* 0.12 arms no probe time-out for packets that carry nothing but datagrams: see datagram_may_go(). */
#define ES_COMPAT_DATAGRAMS_UNPROBED 1
#define ES_COMPAT_STOPPED_LINGERS    0

typedef int es_compat_cid_status;

#define ES_COMPAT_PATH_VALIDATION_PARAMS                                                                     \
    ngtcp2_conn *nc, uint32_t flags, const ngtcp2_path *path, ngtcp2_path_validation_result res,             \
        void *user_data

static inline void es_compat_set_qlog(ngtcp2_settings *s, ngtcp2_qlog_write write, const ngtcp2_cid *odcid)
{
    s->qlog.write = write;
    s->qlog.odcid = *odcid;
}

static inline void es_compat_peer_close(ngtcp2_conn *nc, ngtcp2_ccerr *out)
{
    ngtcp2_conn_get_connection_close_error(nc, out);
}

static inline int es_compat_shutdown_read(ngtcp2_conn *nc, int64_t id, uint64_t code)
{
    return ngtcp2_conn_shutdown_stream_read(nc, id, code);
}

static inline int es_compat_shutdown_write(ngtcp2_conn *nc, int64_t id, uint64_t code)
{
    return ngtcp2_conn_shutdown_stream_write(nc, id, code);
}

/* The token of a client's Initial packet, in the header and in the settings of the connection made for it. */
static inline void es_compat_hd_token(const ngtcp2_pkt_hd *hd, const uint8_t **token, size_t *len)
{
    *token = hd->token.base;
    *len = hd->token.len;
}

/* Server: is_retry says of which kind the token is that was accepted. */
static inline void es_compat_set_token(ngtcp2_settings *s, const uint8_t *token, size_t len, int is_retry)
{
    s->token.base = (uint8_t *)token;
    s->token.len = len;
}

/* Names in the transport parameters. */
#define ES_COMPAT_PREFERRED_ADDR(p)    ((p)->preferred_address)
#define ES_COMPAT_PREFERRED_PRESENT(p) ((p)->preferred_address_present)

/* What on_new_token (callbacks.c) gets, and the token in it. */
#define ES_COMPAT_NEW_TOKEN_ARGS const ngtcp2_vec *token_
#define ES_COMPAT_NEW_TOKEN(token, len)                                                                      \
    const uint8_t *token = token_->base;                                                                     \
    size_t len = token_->len

static inline void es_compat_set_versions(ngtcp2_settings *s, const uint32_t *preferred, size_t n_preferred,
                                          const uint32_t *available, size_t n_available, uint32_t original)
{
    s->preferred_versions = (uint32_t *)preferred;
    s->preferred_versionslen = n_preferred;
    s->other_versions = (uint32_t *)available;
    s->other_versionslen = n_available;
    s->original_version = original;
}

static inline void es_compat_set_original_dcid(ngtcp2_transport_params *p, const ngtcp2_cid *cid)
{
    p->original_dcid = *cid;
}

/* The transport parameters that early data goes by, kept with a ticket. 0.12 has no such encoding: they are
 * written as if a client sent them, which wants a connection id. */
#define ES_COMPAT_PARAMS_FORMAT 1

static inline ngtcp2_ssize es_compat_save_params(ngtcp2_conn *nc, uint8_t *dest, size_t n)
{
    const ngtcp2_transport_params *remote = ngtcp2_conn_get_remote_transport_params(nc);
    ngtcp2_transport_params p;

    if (remote == NULL) {
        return -1;
    }
    ngtcp2_transport_params_default(&p);
    p.initial_max_streams_bidi = remote->initial_max_streams_bidi;
    p.initial_max_streams_uni = remote->initial_max_streams_uni;
    p.initial_max_stream_data_bidi_local = remote->initial_max_stream_data_bidi_local;
    p.initial_max_stream_data_bidi_remote = remote->initial_max_stream_data_bidi_remote;
    p.initial_max_stream_data_uni = remote->initial_max_stream_data_uni;
    p.initial_max_data = remote->initial_max_data;
    p.active_connection_id_limit = remote->active_connection_id_limit;
    p.max_datagram_frame_size = remote->max_datagram_frame_size;
    return ngtcp2_encode_transport_params(dest, n, NGTCP2_TRANSPORT_PARAMS_TYPE_CLIENT_HELLO, &p);
}

static inline int es_compat_load_params(ngtcp2_conn *nc, const uint8_t *data, size_t n)
{
    ngtcp2_transport_params p;
    int rv = ngtcp2_decode_transport_params(&p, NGTCP2_TRANSPORT_PARAMS_TYPE_CLIENT_HELLO, data, n);

    if (rv == 0) {
        ngtcp2_conn_set_early_remote_transport_params(nc, &p);
    }
    return rv;
}

static inline int es_compat_early_rejected(ngtcp2_conn *nc)
{
    return ngtcp2_conn_early_data_rejected(nc);
}

#else

#define ES_COMPAT_HAS_V2        1
#define ES_COMPAT_PARAMS_FORMAT 2

static inline ngtcp2_ssize es_compat_save_params(ngtcp2_conn *nc, uint8_t *dest, size_t n)
{
    return ngtcp2_conn_encode_0rtt_transport_params(nc, dest, n);
}

static inline int es_compat_load_params(ngtcp2_conn *nc, const uint8_t *data, size_t n)
{
    return ngtcp2_conn_decode_and_set_0rtt_transport_params(nc, data, n);
}

static inline int es_compat_early_rejected(ngtcp2_conn *nc)
{
    return ngtcp2_conn_tls_early_data_rejected(nc);
}

#define ES_COMPAT_KEEP_ALIVE_OFF     UINT64_MAX
#define ES_COMPAT_REMOTE_UNI_LINGERS 0
#define ES_COMPAT_DATAGRAMS_UNPROBED 0
/* 1.x throws away what came out of order when it sends STOP_SENDING. What was acknowledged of it never comes
 * again, so the stream is not over for it even when the peer has sent everything, and the peer sends no
 * RESET_STREAM then. Streams that we gave up in both directions we close ourselves: nothing of them is sent
 * again. */
#define ES_COMPAT_STOPPED_LINGERS    1

typedef ngtcp2_connection_id_status_type es_compat_cid_status;

#define ES_COMPAT_PATH_VALIDATION_PARAMS                                                                     \
    ngtcp2_conn *nc, uint32_t flags, const ngtcp2_path *path, const ngtcp2_path *old_path,                   \
        ngtcp2_path_validation_result res, void *user_data

static inline void es_compat_set_qlog(ngtcp2_settings *s, ngtcp2_qlog_write write, const ngtcp2_cid *odcid)
{
    s->qlog_write = write;
}

static inline void es_compat_peer_close(ngtcp2_conn *nc, ngtcp2_ccerr *out)
{
    *out = *ngtcp2_conn_get_ccerr(nc);
}

static inline int es_compat_shutdown_read(ngtcp2_conn *nc, int64_t id, uint64_t code)
{
    return ngtcp2_conn_shutdown_stream_read(nc, 0, id, code);
}

static inline int es_compat_shutdown_write(ngtcp2_conn *nc, int64_t id, uint64_t code)
{
    return ngtcp2_conn_shutdown_stream_write(nc, 0, id, code);
}

static inline void es_compat_hd_token(const ngtcp2_pkt_hd *hd, const uint8_t **token, size_t *len)
{
    *token = hd->token;
    *len = hd->tokenlen;
}

static inline void es_compat_set_token(ngtcp2_settings *s, const uint8_t *token, size_t len, int is_retry)
{
    s->token = token;
    s->tokenlen = len;
    s->token_type = is_retry ? NGTCP2_TOKEN_TYPE_RETRY : NGTCP2_TOKEN_TYPE_NEW_TOKEN;
}

#define ES_COMPAT_PREFERRED_ADDR(p)    ((p)->preferred_addr)
#define ES_COMPAT_PREFERRED_PRESENT(p) ((p)->preferred_addr_present)

#define ES_COMPAT_NEW_TOKEN_ARGS const uint8_t *token_, size_t len_
#define ES_COMPAT_NEW_TOKEN(token, len)                                                                      \
    const uint8_t *token = token_;                                                                           \
    size_t len = len_

static inline void es_compat_set_versions(ngtcp2_settings *s, const uint32_t *preferred, size_t n_preferred,
                                          const uint32_t *available, size_t n_available, uint32_t original)
{
    s->preferred_versions = preferred;
    s->preferred_versionslen = n_preferred;
    s->available_versions = available;
    s->available_versionslen = n_available;
    s->original_version = original;
}

static inline void es_compat_set_original_dcid(ngtcp2_transport_params *p, const ngtcp2_cid *cid)
{
    p->original_dcid = *cid;
    p->original_dcid_present = 1;
}

#endif

#endif
