/* What the files of net/ share. */
#ifndef ET_NET_INTERNAL_H
#define ET_NET_INTERNAL_H

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include "../../../csrc/base/buf.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/list.h"
#include "../../../csrc/base/mem.h"
#include "listener.h"

#define ET_RX        ((size_t)64 * 1024)  /* bytes of one read */
#define ET_TX        ((size_t)128 * 1024) /* ciphertext gathered for one write */
#define ET_SPARE_MAX ((size_t)512 * 1024)
#define ET_LINGER    (2 * ES_SECOND)
#define ET_DRAIN     (30 * ES_SECOND) /* for a peer that does not take our last bytes */
#define ET_PEEK_MAX  ((size_t)24 * 1024)
#define ET_MARK_HIGH ((size_t)256 * 1024)

/* What epoll tells about: a socket or a listener embeds it first. */
struct et_source {
    void (*ready)(struct et_source *, uint32_t events);
};

struct et_poller {
    int epfd, tfd, efd;
    struct es_timers timers;
    uint64_t armed;   /* when the timerfd goes off; ES_NEVER: it is not set */
    int busy, kicked; /* inside a step; the eventfd was written and not seen */
    int alone;        /* few sockets were ready: each may read more */
    struct es_list socks, listeners, dirty, dead;
    struct es_list graves; /* closed listeners, which events of this step may still be for */
    uint8_t *rx;           /* owned, ET_RX */
    struct es_buf spare;   /* a send queue that nobody needs now */
    struct es_buf tx;      /* ciphertext of the socket at work; empty between calls */
    struct et_net_stats stats;
};

union et_addr {
    struct sockaddr sa;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

enum et_sock_state { ET_CONNECTING, ET_PEEKING, ET_PEEKED, ET_HANDSHAKE, ET_OPEN, ET_DEAD };

struct et_sock {
    struct et_source source;            /* first */
    struct et_poller *p;                /* borrowed */
    struct et_listener *from;           /* borrowed: whose connection it is; NULL: nobody's any more */
    struct es_list node, dirty, member; /* of the poller, its dirty or dead ones, the listener */
    const struct et_sock_events *ev;    /* borrowed; NULL: nobody listens */
    void *user;                         /* borrowed */
    struct et_tls *tls;                 /* owned; NULL: plain */
    struct es_timer timer, guard;       /* the user's; ours for connect, handshake and the end */
    struct es_buf out;                  /* plain text that waits from out_at on */
    struct es_buf in;                   /* bytes to be told, or fed to TLS, before all others */
    size_t out_at, high, low;
    uint64_t received, sent;
    char *text, *sni; /* owned, may be NULL: why it ended; what the client asked for */
    int fd, err;
    uint32_t watched;                      /* what epoll looks for */
    uint8_t state;                         /* enum et_sock_state */
    uint8_t registered;                    /* epoll knows the descriptor */
    uint8_t paused, above;                 /* reading; the queue was above the high mark */
    uint8_t in_over;                       /* the peer's direction ended */
    uint8_t finishing, bye_said, out_over; /* ours shall end; close_notify is queued; it ended */
    uint8_t closing;                       /* et_sock_close(graceful): only closed() is told */
    uint8_t wants_flush, is_unix, pending; /* pending: counts among the listener's handshakes */
    union et_addr peer;
};

struct et_listener {
    struct et_source source; /* first */
    struct et_poller *p;     /* borrowed */
    struct es_list node;
    struct es_list socks; /* its connections */
    const struct et_listener_events *ev;
    void *user;
    struct et_tls_server *tls; /* counted */
    struct es_timer again;     /* after a pause for want of descriptors */
    char *path;                /* owned: of a unix socket, to be removed */
    uint64_t handshake_timeout;
    unsigned max_connections, max_handshakes, connections, handshakes;
    int fd, peek, watching;
};

/* ---- poller.c ---- */
void et_poller_rearm(struct et_poller *p);
void et_poller_timer(struct et_poller *p, struct es_timer *t, uint64_t ns); /* from now on */

/* ---- sock.c ---- */
struct et_sock *et_sock_new(struct et_poller *p, int fd); /* takes fd over, also on failure */
void et_sock_watch(struct et_sock *s, uint32_t events);
/* It ends here: closed() is told in a later half of a step. text: NULL or copied. */
void et_sock_fail(struct et_sock *s, int err, const char *text);
void et_sock_fail_errno(struct et_sock *s, const char *what, int error);
void et_sock_touch(struct et_sock *s); /* into the dirty list */
void et_sock_tell(struct et_sock *s, const uint8_t *p, size_t n);
void et_sock_tell_eof(struct et_sock *s);
void et_sock_opened(struct et_sock *s, const char *alpn); /* connected, handshake over */
void et_sock_work(struct et_sock *s);                     /* what is dirty about it */
void et_sock_reap(struct et_sock *s);                     /* tells closed() and frees */
/* Sends from b, from *at on. 1: all of it; 0: the kernel is full; < 0: it failed. */
int et_sock_send(struct et_sock *s, struct es_buf *b, size_t *at);
void et_sock_free_out(struct et_sock *s);

/* ---- listener.c ---- */
void et_listener_left(struct et_sock *s);    /* the socket is gone */
void et_listener_settled(struct et_sock *s); /* its handshake is over */
void et_listener_opened(struct et_sock *s, const char *alpn);
void et_listener_peek(struct et_sock *s);

/* ---- session.c: TLS of one socket ---- */
int et_tls_accept(struct et_sock *s, struct et_tls_server *server);
int et_tls_dial(struct et_sock *s, struct et_tls_client *client, const char *name);
void et_tls_del(struct et_tls *t);
void et_tls_take(struct et_sock *s, const uint8_t *p, size_t n); /* ciphertext came */
void et_tls_take_eof(struct et_sock *s);
void et_tls_shake(struct et_sock *s);
/* Writes what is queued. 1: all is with the kernel; 0: the kernel is full; < 0: it failed (and was told). */
int et_tls_write(struct et_sock *s);
int et_tls_bye(struct et_sock *s); /* likewise, after close_notify */
size_t et_tls_queued(const struct et_tls *t);

#endif
