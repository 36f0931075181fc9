/* The memory floor: what one idle, confirmed server connection costs when nothing but ngtcp2 and GnuTLS holds
 * it.
 *
 *   floor CERT.pem KEY.pem [CONNECTIONS]
 *
 * The server side runs in a forked process with the smallest loop that works: no buffers of its own, one
 * 24-byte record and one slot of a preallocated table per connection id. The parent opens the connections,
 * waits until each is confirmed and quiet, and asks the child for its heap in use (mallinfo2) and its
 * resident set before and after. Our own server's figure is read against this one in the same run. Builds
 * with ngtcp2 0.12 and 1.x.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <malloc.h>
#include <netinet/in.h>
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CID_LEN = 16, SLOTS = 1 << 16, MAX_CONNECTIONS = 1000, AT_ONCE = 16, MTU = 1452 };

struct conn {
    ngtcp2_crypto_conn_ref ref; /* first: GnuTLS holds a pointer to it */
    ngtcp2_conn *quic;          /* owned */
    gnutls_session_t tls;       /* owned */
};

struct slot {
    uint8_t id[CID_LEN];
    size_t len;     /* 0: free */
    struct conn *c; /* borrowed */
};

/* One process is one side, so its state is the program's. */
static struct {
    int fd, is_server;
    struct sockaddr_in local, remote;
    struct slot *slots;
    struct conn *conns[MAX_CONNECTIONS];
    size_t n_conns, n_confirmed;
    gnutls_certificate_credentials_t cred;
} me;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "floor: %s: %s\n", what, why);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Connection ids ---------------------------------------------------------------------------------------- */

static struct slot *slot_find(const uint8_t *id, size_t len, int for_insert)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ id[i]) * 16777619u;
    for (size_t i = h % SLOTS;; i = (i + 1) % SLOTS) {
        struct slot *s = &me.slots[i];
        if (s->len == 0)
            return for_insert ? s : NULL;
        if (s->len == len && memcmp(s->id, id, len) == 0)
            return s;
    }
}

static void slot_insert(const uint8_t *id, size_t len, struct conn *c)
{
    if (len > CID_LEN)
        die("connection id", "too long");
    struct slot *s = slot_find(id, len, 1);
    memcpy(s->id, id, len);
    s->len = len;
    s->c = c;
}

/* Callbacks --------------------------------------------------------------------------------------------- */

static void on_rand(uint8_t *dest, size_t n, const ngtcp2_rand_ctx *ctx)
{
    (void)ctx;
    gnutls_rnd(GNUTLS_RND_NONCE, dest, n);
}

static int on_new_cid(ngtcp2_conn *quic, ngtcp2_cid *cid, uint8_t *token, size_t len, void *user)
{
    (void)quic;
    gnutls_rnd(GNUTLS_RND_RANDOM, cid->data, len);
    cid->datalen = len;
    gnutls_rnd(GNUTLS_RND_RANDOM, token, NGTCP2_STATELESS_RESET_TOKENLEN);
    slot_insert(cid->data, len, user);
    return 0;
}

static int on_confirmed(ngtcp2_conn *quic, void *user)
{
    (void)quic;
    (void)user;
    me.n_confirmed++;
    return 0;
}

static ngtcp2_conn *conn_of_ref(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct conn *)ref)->quic;
}

/* Connections ------------------------------------------------------------------------------------------- */

static void config_fill(ngtcp2_callbacks *cb, ngtcp2_settings *set, ngtcp2_transport_params *tp)
{
    memset(cb, 0, sizeof *cb);
    cb->client_initial = ngtcp2_crypto_client_initial_cb;
    cb->recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    cb->recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    cb->recv_retry = ngtcp2_crypto_recv_retry_cb;
    cb->encrypt = ngtcp2_crypto_encrypt_cb;
    cb->decrypt = ngtcp2_crypto_decrypt_cb;
    cb->hp_mask = ngtcp2_crypto_hp_mask_cb;
    cb->rand = on_rand;
    cb->get_new_connection_id = on_new_cid;
    cb->update_key = ngtcp2_crypto_update_key_cb;
    cb->delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb;
    cb->delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    cb->get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    cb->version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    if (me.is_server) /* a server has confirmed when it has completed */
        cb->handshake_completed = on_confirmed;
    else
        cb->handshake_confirmed = on_confirmed;

    ngtcp2_settings_default(set);
    set->initial_ts = now_ns();
    ngtcp2_transport_params_default(tp);
    tp->initial_max_data = 8 << 20;
    tp->initial_max_stream_data_bidi_local = tp->initial_max_stream_data_bidi_remote = 256 << 10;
    tp->initial_max_stream_data_uni = 256 << 10;
    tp->initial_max_streams_bidi = 1024;
    tp->initial_max_streams_uni = 16;
    tp->max_idle_timeout = 120 * NGTCP2_SECONDS;
    tp->active_connection_id_limit = 7;
}

static void tls_start(struct conn *c)
{
    unsigned flags = me.is_server ? GNUTLS_SERVER : GNUTLS_CLIENT;
    gnutls_datum_t alpn = {(unsigned char *)"floor", 5};
    if (gnutls_init(&c->tls, flags | GNUTLS_NO_AUTO_SEND_TICKET | GNUTLS_NO_END_OF_EARLY_DATA) != 0 ||
        gnutls_priority_set_direct(c->tls,
                                   "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:"
                                   "+AES-128-GCM:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1",
                                   NULL) != 0 ||
        (me.is_server ? ngtcp2_crypto_gnutls_configure_server_session(c->tls)
                      : ngtcp2_crypto_gnutls_configure_client_session(c->tls)) != 0 ||
        gnutls_credentials_set(c->tls, GNUTLS_CRD_CERTIFICATE, me.cred) != 0 ||
        gnutls_alpn_set_protocols(c->tls, &alpn, 1, GNUTLS_ALPN_MANDATORY) != 0)
        die("TLS", "cannot set up a session");
    c->ref.get_conn = conn_of_ref;
    c->ref.user_data = c;
    gnutls_session_set_ptr(c->tls, &c->ref);
    ngtcp2_conn_set_tls_native_handle(c->quic, c->tls);
}

static ngtcp2_path path_make(struct sockaddr_in *remote)
{
    ngtcp2_path p = {.local = {(ngtcp2_sockaddr *)&me.local, sizeof me.local},
                     .remote = {(ngtcp2_sockaddr *)remote, sizeof *remote}};
    return p;
}

static struct conn *conn_make(void)
{
    if (me.n_conns == MAX_CONNECTIONS)
        die("connections", "too many");
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc", strerror(errno));
    me.conns[me.n_conns++] = c;
    return c;
}

static struct conn *conn_accept(const ngtcp2_pkt_hd *hd, struct sockaddr_in *remote)
{
    struct conn *c = conn_make();
    ngtcp2_callbacks cb;
    ngtcp2_settings set;
    ngtcp2_transport_params tp;
    config_fill(&cb, &set, &tp);
    tp.original_dcid = hd->dcid;
#if NGTCP2_VERSION_NUM >= 0x010000
    tp.original_dcid_present = 1;
#endif
    ngtcp2_cid scid = {.datalen = CID_LEN};
    gnutls_rnd(GNUTLS_RND_RANDOM, scid.data, CID_LEN);
    ngtcp2_path path = path_make(remote);
    if (ngtcp2_conn_server_new(&c->quic, &hd->scid, &scid, &path, hd->version, &cb, &set, &tp, NULL, c) != 0)
        die("server connection", "cannot be made");
    tls_start(c);
    slot_insert(scid.data, scid.datalen, c);
    slot_insert(hd->dcid.data, hd->dcid.datalen, c);
    return c;
}

static void conn_dial(void)
{
    struct conn *c = conn_make();
    ngtcp2_callbacks cb;
    ngtcp2_settings set;
    ngtcp2_transport_params tp;
    config_fill(&cb, &set, &tp);
    ngtcp2_cid dcid = {.datalen = CID_LEN}, scid = {.datalen = CID_LEN};
    gnutls_rnd(GNUTLS_RND_RANDOM, dcid.data, CID_LEN);
    gnutls_rnd(GNUTLS_RND_RANDOM, scid.data, CID_LEN);
    ngtcp2_path path = path_make(&me.remote);
    if (ngtcp2_conn_client_new(&c->quic, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &cb, &set, &tp, NULL, c) !=
        0)
        die("client connection", "cannot be made");
    tls_start(c);
    slot_insert(scid.data, scid.datalen, c);
}

static void conn_write(struct conn *c)
{
    uint8_t out[MTU];
    ngtcp2_path_storage ps;
    ngtcp2_pkt_info pi;
    for (;;) {
        ngtcp2_path_storage_zero(&ps);
        ngtcp2_ssize n = ngtcp2_conn_write_pkt(c->quic, &ps.path, &pi, out, sizeof out, now_ns());
        if (n < 0)
            die("write", ngtcp2_strerror((int)n));
        if (n == 0)
            return;
        sendto(me.fd, out, (size_t)n, 0, (struct sockaddr *)ps.path.remote.addr, ps.path.remote.addrlen);
    }
}

/* The loop ---------------------------------------------------------------------------------------------- */

static void datagram_take(const uint8_t *data, size_t n, struct sockaddr_in *from)
{
    ngtcp2_pkt_hd hd;
    ngtcp2_version_cid v;
    if (ngtcp2_pkt_decode_version_cid(&v, data, n, CID_LEN) != 0)
        return;
    struct slot *s = slot_find(v.dcid, v.dcidlen, 0);
    struct conn *c = s ? s->c : NULL;
    if (!c) {
        if (!me.is_server || ngtcp2_accept(&hd, data, n) != 0)
            return;
        c = conn_accept(&hd, from);
    }
    ngtcp2_path path = path_make(from);
    ngtcp2_pkt_info pi = {0};
    int rv = ngtcp2_conn_read_pkt(c->quic, &path, &pi, data, n, now_ns());
    if (rv != 0)
        die("read", ngtcp2_strerror(rv));
    conn_write(c);
}

static void loop_once(int timeout_ms)
{
    struct pollfd p = {.fd = me.fd, .events = POLLIN};
    static uint8_t in[65536];
    if (poll(&p, 1, timeout_ms) > 0) {
        for (;;) {
            struct sockaddr_in from;
            socklen_t len = sizeof from;
            ssize_t n = recvfrom(me.fd, in, sizeof in, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
            if (n < 0)
                break;
            datagram_take(in, (size_t)n, &from);
        }
    }
    uint64_t now = now_ns();
    for (size_t i = 0; i < me.n_conns; i++) {
        struct conn *c = me.conns[i];
        if (ngtcp2_conn_get_expiry(c->quic) > now)
            continue;
        int rv = ngtcp2_conn_handle_expiry(c->quic, now);
        if (rv != 0)
            die("expiry", ngtcp2_strerror(rv));
        conn_write(c);
    }
}

static void side_open(int is_server, const char *cert, const char *key)
{
    me.is_server = is_server;
    me.slots = calloc(SLOTS, sizeof *me.slots);
    me.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    me.local = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof me.local;
    int room = 4 << 20;
    if (!me.slots || me.fd < 0 || bind(me.fd, (struct sockaddr *)&me.local, len) < 0 ||
        getsockname(me.fd, (struct sockaddr *)&me.local, &len) < 0)
        die("socket", strerror(errno));
    setsockopt(me.fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    memset(me.slots, 0, SLOTS * sizeof *me.slots); /* touched now, so that it is in the first measurement */
    if (gnutls_certificate_allocate_credentials(&me.cred) != 0)
        die("TLS", "credentials");
    if (is_server && gnutls_certificate_set_x509_key_file(me.cred, cert, key, GNUTLS_X509_FMT_PEM) < 0)
        die(cert, "cannot be read");
}

/* The two processes ------------------------------------------------------------------------------------- */

struct report {
    uint64_t in_use, resident; /* bytes */
    uint64_t connections, confirmed;
};

static struct report report_make(void)
{
    struct mallinfo2 m = mallinfo2();
    struct report r = {
        .in_use = m.uordblks + m.hblkhd, .connections = me.n_conns, .confirmed = me.n_confirmed};
    unsigned long long size, pages;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%llu %llu", &size, &pages) == 2)
        r.resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    if (f)
        fclose(f);
    return r;
}

static void child_run(int ask, int tell)
{
    if (write(tell, &me.local, sizeof me.local) != sizeof me.local)
        die("pipe", strerror(errno));
    for (;;) {
        struct pollfd p = {.fd = ask, .events = POLLIN};
        char c;
        if (poll(&p, 1, 0) > 0) {
            if (read(ask, &c, 1) != 1)
                exit(0);
            struct report r = report_make();
            if (write(tell, &r, sizeof r) != sizeof r)
                exit(1);
        }
        loop_once(5);
    }
}

static struct report child_ask(int ask, int tell)
{
    struct report r;
    if (write(ask, "m", 1) != 1 || read(tell, &r, sizeof r) != sizeof r)
        die("child", "ended");
    return r;
}

static void run_for(uint64_t ns)
{
    for (uint64_t end = now_ns() + ns; now_ns() < end;)
        loop_once(5);
}

static void open_until(size_t n)
{
    uint64_t give_up = now_ns() + 60ull * 1000000000u;
    while (me.n_confirmed < n) {
        while (me.n_conns < n && me.n_conns - me.n_confirmed < AT_ONCE) {
            conn_dial();
            conn_write(me.conns[me.n_conns - 1]);
        }
        loop_once(5);
        if (now_ns() > give_up)
            die("handshakes", "not done within 60 s");
    }
}

int main(int argc, char **argv)
{
    size_t n = argc > 3 ? (size_t)atoi(argv[3]) : 500;
    if (argc < 3 || n < 10 || n + 20 > MAX_CONNECTIONS) {
        fprintf(stderr, "usage: floor CERT.pem KEY.pem [CONNECTIONS 10-%d]\n", MAX_CONNECTIONS - 20);
        return 2;
    }
    int ask[2], tell[2];
    if (pipe(ask) < 0 || pipe(tell) < 0)
        die("pipe", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        die("fork", strerror(errno));
    if (pid == 0) {
        close(ask[1]);
        close(tell[0]);
        side_open(1, argv[1], argv[2]);
        child_run(ask[0], tell[1]);
    }
    close(ask[0]);
    close(tell[1]);
    side_open(0, NULL, NULL);
    if (read(tell[0], &me.remote, sizeof me.remote) != sizeof me.remote)
        die("child", "did not start");
    open_until(20); /* what the first connections allocate once is not theirs */
    run_for(300000000);
    struct report a = child_ask(ask[1], tell[0]);
    open_until(20 + n);
    run_for(1500000000);
    struct report b = child_ask(ask[1], tell[0]);
    if (b.confirmed - a.confirmed != n)
        die("server", "has not confirmed every connection");
    printf("connections=%zu in_use_bytes=%llu resident_bytes=%llu ngtcp2=%s gnutls=%s\n", n,
           (unsigned long long)((b.in_use - a.in_use) / n),
           (unsigned long long)((b.resident - a.resident) / n), ngtcp2_version(0)->version_str,
           gnutls_check_version(NULL));
    close(ask[1]);
    waitpid(pid, NULL, 0);
    return 0;
}
