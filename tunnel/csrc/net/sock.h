/* A byte stream over TCP or a unix socket, with or without TLS, on a poller. Everything is non-blocking;
 * up-calls come from et_poller_step() only, never from inside a call of the user.
 */
#ifndef ET_NET_SOCK_H
#define ET_NET_SOCK_H

#include <stddef.h>
#include <stdint.h>
#include "../../../csrc/base/buf.h"
#include "poller.h"
#include "tls.h"

struct et_sock;

struct et_sock_events {
    /* Connected, and with TLS the handshake is over. `alpn` is "" when none was agreed on. */
    void (*open)(void *user, const char *alpn);
    /* Bytes came (plain text). All are taken; slow down with et_sock_pause(). Borrowed. */
    void (*data)(void *user, const uint8_t *p, size_t n);
    void (*eof)(
        void *user); /* the peer ended its direction in order (with TLS: close_notify; without: FIN) */
    void (*room)(void *user); /* the send queue fell to the low mark after it was above the high mark */
    void (*timer)(void *user);
    void (*flush)(void *user); /* once at the end of each step in which et_sock_dirty() was called: write now
                                  what waits */
    /* Last word; s is invalid when it returns. err: 0 when we closed it, or when both directions ended in
     * order (eof() and et_sock_finish()); ES_ERR_CLOSED (reset, or TLS without close_notify), ES_ERR_TLS,
     * ES_ERR_TIMEOUT, ES_ERR_IO. */
    void (*closed)(void *user, int err, const char *text);
};

struct et_sock_place { /* whom to connect to: numeric address and port, or a path */
    const char *ip;    /* borrowed for the call */
    uint16_t port;
    const char *path; /* of a unix socket, instead */
    uint64_t timeout; /* ns for connect and TLS handshake together; 0: 10 s */
};

/* Connects. tls NULL: plain; `name`: SNI and what the certificate must be for. TCP_NODELAY and keepalive (60
 * s) are on. Up-calls come later, failures too (closed()). ES_ERR_NOMEM, ES_ERR_INVAL, ES_ERR_IO (no
 * descriptors). */
int et_sock_connect(struct et_poller *p, const struct et_sock_place *where, struct et_tls_client *tls,
                    const char *name, const struct et_sock_events *ev, void *user, struct et_sock **out);

/* Appends to the send queue, which is sent at the end of the step. 0, ES_ERR_NOMEM, ES_ERR_CLOSED. */
int et_sock_write(struct et_sock *s, const void *p, size_t n);
/* The same without a copy into the queue: append to it and call et_sock_wrote(). Do not keep it over a step.
 */
struct es_buf *et_sock_out(struct et_sock *s);
void et_sock_wrote(struct et_sock *s);
size_t et_sock_queued(const struct et_sock *s);                 /* bytes the kernel has not taken */
void et_sock_marks(struct et_sock *s, size_t high, size_t low); /* 256 KiB and half of it by default; for what
                                                                 is queued already, too */
void et_sock_dirty(struct et_sock *s);                          /* asks for flush() */

void et_sock_pause(struct et_sock *s); /* reads no more (data that is here already may still be told once) */
void et_sock_resume(struct et_sock *s);
/* Gives back what data() told: it is told again, before anything else, to whoever listens then. For who
 * looked at the first bytes to find out who that is. 0 or ES_ERR_NOMEM. */
int et_sock_unread(struct et_sock *s, const void *p, size_t n);
void et_sock_finish(struct et_sock *s); /* our direction ends when the queue is sent: close_notify, FIN */
/* Ends both directions. graceful: the queue is sent first, then the peer has 2 s to end (what it sends is
 * thrown away, so that no RST overtakes our last bytes); 0: at once, with RST. closed() follows from a later
 * step. */
void et_sock_close(struct et_sock *s, int graceful);
void et_sock_set_user(struct et_sock *s, const struct et_sock_events *ev, void *user);
void *et_sock_user(const struct et_sock *s);
void et_sock_timer_in(struct et_sock *s, uint64_t ns); /* one timer each; timer() then. 0: stops it */

void et_sock_peer(const struct et_sock *s, char *buf, size_t n);  /* "127.0.0.1:5000", "[::1]:5000", "unix" */
void et_sock_local(const struct et_sock *s, char *buf, size_t n); /* likewise */
const char *et_sock_sni(const struct et_sock *s); /* what a TLS client asked for; "": nothing */
int et_sock_is_tls(const struct et_sock *s);
uint64_t et_sock_received(const struct et_sock *s); /* bytes in all */
uint64_t et_sock_sent(const struct et_sock *s);

#endif
