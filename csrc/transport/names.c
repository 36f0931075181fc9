/* How a server tells its library where a client is, and which moves of a client it does not show it.
 *
 * The library gets a name for each address instead of the address: a number and the port are mixed into the
 * IP address. Three things depend on that.
 *
 * A port that changed looks like an address that changed. The library keeps its congestion state when only a
 * port changes, with everything in flight to where nobody listens any more; with the window full it does not
 * even send the PATH_CHALLENGE, and under the limit on unvalidated addresses it stops its timer: the
 * connection would stand still. An IP address that changed begins anew (RFC 9000 9.4), which costs little.
 *
 * Nobody ever comes back. A client that is back at its old address while the new one is being validated makes
 * both generations begin to look for the path's size while they do already, or though they were told not to:
 * an assertion ends the process, and any client can have it so. Hence the number: an address that the client
 * left gets another name when it is seen again, and is validated like a new one.
 *
 * A path can be validated once more. When the first PATH_CHALLENGE had to be short, 0.12 sends two long ones,
 * and gives the connection up when nothing comes of those (NGTCP2_ERR_NO_VIABLE_PATH), though packets of the
 * client go on coming from there. Under another name it begins again.
 *
 * A NAT does not wait for the end of the handshake. Until then the library ignores what comes from elsewhere,
 * so that the client's last message would never arrive. It is told that everything comes by the first path,
 * and goes on answering there: whoever could profit from that could have given the address as his own. The
 * client's next packet is the one that moves it.
 *
 * Names never collide: the number is mixed with a secret of the connection, since a client may have any
 * address it likes. The number itself stands where the library copies but does not look. */
#include <string.h>
#include "internal.h"

#define GIVE_UP       8 /* validations that failed in a row, none older than FORGET */
#define FORGET        (60 * ES_SECOND)
#define IDS_MAX       16                /* the library's limit */
#define FIRST_WINDOW  (10 * 1200)       /* bytes */
#define LEAST_TIMEOUT (1100 * ES_MILLI) /* of a PATH_CHALLENGE: from the initial RTT, rounded up */

/* ---- names ---- */

static void mix(const struct es_conn *c, union es_addr *a, uint32_t number)
{
    uint64_t x = (c->watch.secret ^ number) * UINT64_C(0xbf58476d1ce4e5b9);

    x = (x ^ x >> 32) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 29;
    if (a->sa.sa_family == AF_INET6) {
        const uint8_t *port = (const uint8_t *)&a->in6.sin6_port;
        for (int i = 0; i < 8; i++) {
            a->in6.sin6_addr.s6_addr[8 + i] ^= (uint8_t)(port[i & 1] ^ x >> 8 * i);
        }
    } else {
        a->in4.sin_addr.s_addr ^= ((uint32_t)a->in4.sin_port << 16 | a->in4.sin_port) ^ (uint32_t)x;
    }
}

static void set_name(const struct es_conn *c, union es_addr *a, uint32_t number)
{
    mix(c, a, number);
    if (a->sa.sa_family == AF_INET6) {
        a->in6.sin6_flowinfo = number;
    } else {
        memcpy(a->in4.sin_zero, &number, sizeof number);
    }
}

static uint32_t number_of(const union es_addr *name)
{
    uint32_t number;

    if (name->sa.sa_family == AF_INET6) {
        return name->in6.sin6_flowinfo;
    }
    memcpy(&number, name->in4.sin_zero, sizeof number);
    return number;
}

void es_name_read(const struct es_conn *c, union es_addr *a)
{
    uint32_t number = number_of(a);

    mix(c, a, number);
    if (a->sa.sa_family == AF_INET6) {
        a->in6.sin6_flowinfo = 0;
    } else {
        memset(a->in4.sin_zero, 0, sizeof a->in4.sin_zero);
    }
}

/* ---- datagrams ---- */

void es_names_begin(struct es_conn *c, const union es_addr *local, union es_addr *remote)
{
    c->names.local = *local;
    c->names.remote = *remote;
    c->names.next = 1;
    set_name(c, remote, 0);
}

/* Which path is the library's now? Returns 1 when it is another one. */
static int follow(struct es_conn *c)
{
    const ngtcp2_path *path = ngtcp2_conn_get_path(c->nc);
    union es_addr local, remote;
    uint32_t number;

    memset(&local, 0, sizeof local);
    memset(&remote, 0, sizeof remote);
    memcpy(&local, path->local.addr, path->local.addrlen);
    memcpy(&remote, path->remote.addr, path->remote.addrlen);
    number = number_of(&remote);
    es_name_read(c, &remote);
    if (number == c->names.now && es_addr_equal(&local, &c->names.local) &&
        es_addr_equal(&remote, &c->names.remote)) {
        return 0;
    }
    c->names.local = local;
    c->names.remote = remote;
    c->names.now = number;
    if (number >= c->names.next) {
        c->names.next = number + 1;
    }
    return 1;
}

/* A path whose validation failed stays with the library until there is another one, and so does the id that
 * it may share with the path before: a client that came by the new name under an id of its own would have it
 * retired twice. What matters is that the library has not met that id yet: one packet under the old name
 * introduces them. */
static int is_unmet(const struct es_names *n, const uint8_t *data, size_t len)
{
    return n->renew && n->shared && len > ES_CID_LEN && !(data[0] & 0x80) &&
           memcmp(data + 1, n->dcid, ES_CID_LEN) != 0;
}

void es_names_in(struct es_conn *c, const union es_addr **local, union es_addr *remote, const uint8_t *data,
                 size_t len)
{
    struct es_names *n = &c->names;
    int here = es_addr_equal(remote, &n->remote) && es_addr_equal(*local, &n->local);

    if (!here && c->established) { /* unless the library went back to it meanwhile */
        (void)follow(c);
        here = es_addr_equal(remote, &n->remote) && es_addr_equal(*local, &n->local);
    }
    n->unmet = is_unmet(n, data, len);
    n->strange = (!here || n->renew) && !n->unmet && c->established;
    if (n->strange) {
        n->answered = *ngtcp2_conn_get_dcid(c->nc);
    } else {
        *local = &n->local;
        *remote = n->remote;
    }
    set_name(c, remote, n->strange ? n->next : n->now);
}

/* The library shows of a validation only what it sends for it. It is over when its last PATH_CHALLENGE is,
 * and the library notices that when it writes. */
static void expect(struct es_conn *c)
{
    const ngtcp2_transport_params *remote = ngtcp2_conn_get_remote_transport_params(c->nc);
    uint64_t pto = ngtcp2_conn_get_pto(c->nc);
    uint64_t least = LEAST_TIMEOUT + (remote != NULL ? remote->max_ack_delay : 0);

    pto = pto > least ? pto : least;
    c->names.busy = 1;
    c->names.busy_until = es_conn_now(c) + (pto << c->names.round);
}

static void expect_new(struct es_conn *c)
{
    c->names.round = 0;
    c->names.challenged_at = 0;
    expect(c);
}

void es_names_challenged(struct es_conn *c)
{
    if (c->names.challenged_at != 0 && c->names.challenged_at != es_conn_now(c) && c->names.round < 16) {
        c->names.round++;
    }
    c->names.challenged_at = es_conn_now(c);
    expect(c);
}

/* Whether a write is one that the library looks after the validation in: not when the window is full, which
 * is no more than the first one for an address that is not validated, nor when the pacer lets nothing go. */
void es_names_writing(struct es_conn *c)
{
    ngtcp2_conn_info info;

    ngtcp2_conn_get_conn_info(c->nc, &info);
    c->names.in_flight = info.bytes_in_flight;
    c->names.open = info.bytes_in_flight < (info.cwnd < FIRST_WINDOW ? info.cwnd : FIRST_WINDOW) &&
                    es_conn_now(c) - c->stuck_at > info.smoothed_rtt;
}

void es_names_written(struct es_conn *c)
{
    ngtcp2_conn_info info;

    if (es_conn_now(c) > c->names.busy_until) {
        ngtcp2_conn_get_conn_info(c->nc, &info);
        c->names.busy = !c->names.open && info.bytes_in_flight <= c->names.in_flight;
    }
}

void es_names_settled(struct es_conn *c)
{
    expect_new(c); /* another validation may follow: of the packets' size, of the path that was left */
}

/* After a client's NAT changed its port, one connection id is in use twice: for the new path and for the old
 * one, while either is being validated. When the client moves on under another id then, the library retires
 * the id twice. For 0.12 that is one too many at the next NEW_CONNECTION_ID, or it ends the process. */
static int would_retire_twice(const struct es_conn *c, const uint8_t *dcid)
{
    const struct es_names *n = &c->names;

    return (n->busy || n->renew) && n->shared &&
           (n->probes || (c->watch.newest && memcmp(dcid, n->dcid, ES_CID_LEN) != 0));
}

/* The library counts the ids that it retired until the client has acknowledged that, and takes it for
 * impossible that they are too many when an address changes: an assertion ends the process. So no change is
 * shown to it while they could be. */
static int could_retire_too_many(const struct es_conn *c)
{
    return c->names.issued > c->names.let_go + IDS_MAX;
}

static void on_frame(void *arg, unsigned type, uint64_t a, uint64_t b)
{
    struct es_names *n = arg;

    n->probes |= type == 0x1a; /* PATH_CHALLENGE */
    es_names_issued(n, type, a, b);
}

int es_names_let(struct es_conn *c, const uint8_t *p, size_t n, const uint8_t *head, size_t head_n)
{
    static const struct es_frames_told told = {.path = on_frame};
    const char *what;

    c->names.probes = 0;
    c->names.follow = 1;
    (void)es_frames_look(p, n, &told, &c->names, &what);
    if (head_n <= ES_CID_LEN || would_retire_twice(c, head + 1) || could_retire_too_many(c)) {
        return 0;
    }
    memcpy(c->names.dcid_in, head + 1, ES_CID_LEN);
    return 1;
}

void es_names_met(struct es_names *n, const uint8_t *head, size_t head_n)
{
    if (head_n > ES_CID_LEN) {
        memcpy(n->dcid, head + 1, ES_CID_LEN);
    }
}

/* ---- the client's connection ids ---- */

void es_names_issued(struct es_names *n, unsigned type, uint64_t number, uint64_t prior)
{
    if (type == 0x18) { /* NEW_CONNECTION_ID */
        n->issued = number >= n->issued ? number + 1 : n->issued;
        n->follow |= prior > 0;
    }
}

/* Told in every packet that says so: the library takes the acknowledgement of any of them for all, of those
 * too that were thought to be lost. */
static void on_retired(void *arg, unsigned type, uint64_t number, uint64_t b)
{
    struct es_names *n = arg;
    unsigned i = n->n_going;

    if (type != 0x19) { /* RETIRE_CONNECTION_ID */
        return;
    }
    if (i == ES_GOING_MAX) { /* another of the same id makes room */
        for (i = 0; i < ES_GOING_MAX && n->going[i].number != number; i++)
            ;
    }
    if (i < ES_GOING_MAX) { /* what finds no room counts as not acknowledged for ever */
        n->going[i].number = number;
        n->going[i].packet = n->sealed;
        n->n_going += i == n->n_going;
    }
}

void es_names_sealed(struct es_conn *c, const uint8_t *p, size_t n)
{
    static const struct es_frames_told told = {.path = on_retired};
    const char *what;

    c->names.sealed = c->acks.next - 1;
    (void)es_frames_look(p, n, &told, &c->names, &what);
}

static void forget_going(struct es_names *n, uint64_t number)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < n->n_going; i++) {
        if (n->going[i].number != number) {
            n->going[kept++] = n->going[i];
        }
    }
    n->n_going = kept;
}

void es_names_acked(struct es_conn *c, const uint8_t *frame, size_t len)
{
    struct es_names *n = &c->names;

    for (unsigned i = 0; i < n->n_going;) {
        if (es_acks_covers(frame, len, n->going[i].packet)) {
            n->let_go++;
            forget_going(n, n->going[i].number);
            i = 0;
        } else {
            i++;
        }
    }
}

/* ---- after ---- */

void es_names_taken(struct es_conn *c)
{
    struct es_names *n = &c->names;

    n->strange = 0;
    if (follow(c)) {
        n->renew = 0;
        n->shared = ngtcp2_cid_eq(&n->answered, ngtcp2_conn_get_dcid(c->nc)) != 0;
        memcpy(n->dcid, n->dcid_in, ES_CID_LEN);
        expect_new(c);
    }
}

int es_names_failed(struct es_conn *c)
{
    struct es_names *n = &c->names;
    uint64_t now = es_conn_now(c);

    if (!c->link.is_server || c->state != ES_CONN_OPEN) {
        return 0;
    }
    if (!n->renew) {
        n->failures = now - n->failed_at > FORGET ? 1 : n->failures + 1;
        n->failed_at = now;
        n->renew = n->failures < GIVE_UP;
    }
    return n->renew;
}
