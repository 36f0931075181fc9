/* The simulated network: what happens to a datagram between two addresses. A fixed number of random numbers
 * is drawn for each datagram, whatever its fate, so that changing one probability does not reshuffle the
 * others. */
#include "state.h"

#include <arpa/inet.h>
#include <string.h>

#include "../base/err.h"
#include "../base/mem.h"

#define SIM_IDLE_PACKETS 4096 /* kept for reuse */
#define CORRUPT_SPAN     50

/* ---- the heap of datagrams under way ---- */

static int before(const struct sim_packet *a, const struct sim_packet *b)
{
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static int heap_push(struct es_sim *s, struct sim_packet *k)
{
    size_t i;

    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        struct sim_packet **heap = es_realloc(s->heap, cap * sizeof *heap);

        if (!heap)
            return ES_ERR_NOMEM;
        s->heap = heap;
        s->cap = cap;
    }
    for (i = s->n++; i > 0 && before(k, s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = k;
    return 0;
}

static struct sim_packet *heap_pop(struct es_sim *s)
{
    struct sim_packet *top = s->heap[0], *last = s->heap[--s->n];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < s->n) {
        if (child + 1 < s->n && before(s->heap[child + 1], s->heap[child]))
            child++;
        if (!before(s->heap[child], last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    if (s->n > 0)
        s->heap[i] = last;
    return top;
}

static void packet_free(struct es_sim *s, struct sim_packet *k)
{
    if (k->pooled)
        es_pool_put(&s->small, k);
    else
        es_free(k);
}

uint64_t es_sim_net_next(const struct es_sim *s)
{
    return s->n ? s->heap[0]->at : ES_NEVER;
}

/* ---- paths ---- */

static int same_ip(const struct sim_ip *a, const struct sim_ip *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static int rule_matches(const struct sim_rule *r, const struct sim_path *path)
{
    return (r->any_from || same_ip(&r->from, &path->from)) && (r->any_to || same_ip(&r->to, &path->to));
}

static int path_set(struct sim_path *path, const struct es_sim_path *p)
{
    uint64_t *ring = NULL;

    if (p->rate) {
        ring = es_calloc(p->queue ? p->queue : 1, sizeof *ring);
        if (!ring)
            return ES_ERR_NOMEM;
    }
    es_free(path->departs);
    path->departs = ring;
    path->first = path->waiting = 0;
    path->p = *p;
    path->burst_left = 0;
    return 0;
}

static struct sim_path *path_find(struct es_sim *s, const struct sim_key *from, const struct sim_key *to)
{
    struct sim_ip key[2] = {from->ip, to->ip};
    struct sim_path *path = es_map_get(&s->path_map, key, sizeof key);
    const struct sim_rule *rule = NULL;

    if (path)
        return path;
    path = es_calloc(1, sizeof *path);
    if (!path)
        return NULL;
    path->from = from->ip;
    path->to = to->ip;
    es_list_foreach(it, &s->rules)
    {
        const struct sim_rule *r = es_container_of(it, struct sim_rule, node);

        if (rule_matches(r, path))
            rule = r;
    }
    if (path_set(path, &rule->p) != 0 || es_map_put(&s->path_map, key, sizeof key, path) != 0) {
        es_free(path->departs);
        es_free(path);
        return NULL;
    }
    es_list_push(&s->paths, &path->node);
    return path;
}

static int ip_parse(struct sim_ip *out, const char *text)
{
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, out->b) == 1) {
        out->family = 4;
        return 0;
    }
    if (inet_pton(AF_INET6, text, out->b) == 1) {
        out->family = 6;
        return 0;
    }
    return ES_ERR_INVAL;
}

static int rule_add(struct es_sim *s, const char *from, const char *to, const struct es_sim_path *p)
{
    struct sim_rule *r = es_calloc(1, sizeof *r);
    int rc = 0;

    if (!r)
        return ES_ERR_NOMEM;
    r->any_from = !from;
    r->any_to = !to;
    if (from)
        rc = ip_parse(&r->from, from);
    if (rc == 0 && to)
        rc = ip_parse(&r->to, to);
    if (rc != 0) {
        es_free(r);
        return rc;
    }
    r->p = *p;
    es_list_push(&s->rules, &r->node);
    es_list_foreach(it, &s->paths)
    {
        struct sim_path *path = es_container_of(it, struct sim_path, node);

        if (rule_matches(r, path)) {
            rc = path_set(path, p);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

int es_sim_set_path(struct es_sim *s, const char *from, const char *to, const struct es_sim_path *path)
{
    int rc = rule_add(s, from, to, path);

    while (rc == 0 && !from && !to && s->rules.next != s->rules.prev) { /* it replaces every rule before it */
        struct sim_rule *r = es_container_of(s->rules.next, struct sim_rule, node);

        es_list_remove(&r->node);
        es_free(r);
    }
    return rc;
}

void es_sim_blackout(struct es_sim *s, uint64_t from_ns, uint64_t until_ns)
{
    struct sim_span *v = es_realloc(s->dark, (s->n_dark + 1) * sizeof *v);

    if (!v)
        return;
    s->dark = v;
    v[s->n_dark].from = from_ns;
    v[s->n_dark++].until = until_ns;
}

static int is_dark(const struct es_sim *s, uint64_t at)
{
    size_t i;

    for (i = 0; i < s->n_dark; i++) {
        if (at >= s->dark[i].from && at < s->dark[i].until)
            return 1;
    }
    return 0;
}

/* ---- sending ---- */

static void trace(struct es_sim *s, enum es_sim_fate fate, const union es_addr *from, const union es_addr *to,
                  const uint8_t *data, size_t len)
{
    if (s->trace)
        s->trace(s->trace_user, fate, from, to, data, len);
}

struct fate {
    int lost, duplicate, corrupt;
    uint64_t extra[2]; /* ns on top of the delay, of the datagram and its duplicate */
    uint64_t bits;     /* which byte is changed, and how */
};

static void draw(struct es_sim *s, struct sim_path *path, struct fate *f)
{
    const struct es_sim_path *p = &path->p;
    double loss = es_sim_rand_unit(&s->net), dup = es_sim_rand_unit(&s->net),
           reorder = es_sim_rand_unit(&s->net), corrupt = es_sim_rand_unit(&s->net);
    uint64_t held = es_sim_rand_below(&s->net, 4) + 1, burst = es_sim_rand_next(&s->net);
    int i;

    for (i = 0; i < 2; i++)
        f->extra[i] = es_sim_rand_below(&s->net, p->jitter + 1);
    f->bits = es_sim_rand_next(&s->net);
    f->duplicate = dup < p->duplicate;
    f->corrupt = corrupt < p->corrupt;
    if (reorder < p->reorder) {
        f->extra[0] += held * (p->delay ? p->delay : ES_MILLI);
        s->stats.reordered++;
    }
    f->lost = 0;
    if (path->burst_left > 0) {
        path->burst_left--;
        f->lost = 1;
    } else if (loss < p->loss) {
        f->lost = 1;
        if (p->burst > 1)
            path->burst_left = (int)(burst % (uint64_t)p->burst);
    }
}

/* When the rate limit lets `len` bytes go; ES_NEVER: the queue is full. */
static uint64_t depart(struct es_sim *s, struct sim_path *path, size_t len)
{
    const struct es_sim_path *p = &path->p;
    uint64_t now = s->poller.timers.now, start;

    if (!p->rate)
        return now;
    while (path->waiting > 0 && path->departs[path->first] <= now) {
        path->first = (path->first + 1) % p->queue;
        path->waiting--;
    }
    start = path->busy_until > now ? path->busy_until : now;
    if (start > now && path->waiting >= p->queue)
        return ES_NEVER;
    path->busy_until =
        start + (uint64_t)((double)(len + 28) * 8.0 * 1e9 / (double)p->rate); /* 28: IP and UDP headers */
    if (p->queue > 0 && path->waiting < p->queue) {
        path->departs[(path->first + path->waiting) % p->queue] = path->busy_until;
        path->waiting++;
    }
    return path->busy_until;
}

static int enqueue(struct es_sim *s, const struct sim_socket *sock, const union es_addr *to, uint8_t ecn,
                   const uint8_t *data, size_t len, uint64_t at, const struct fate *f)
{
    int pooled = len <= SIM_SMALL, rc;
    struct sim_packet *k = pooled ? es_pool_get(&s->small) : es_malloc(sizeof *k + len);

    if (!k)
        return ES_ERR_NOMEM;
    k->at = at;
    k->order = s->order++;
    k->from = sock->ext;
    k->to = *to;
    k->len = (uint32_t)len;
    k->ecn = ecn;
    k->pooled = (uint8_t)pooled;
    if (len > 0)
        memcpy(k->data, data, len);
    if (f->corrupt && len > 0) {
        k->data[(f->bits >> 8) % (len < CORRUPT_SPAN ? len : CORRUPT_SPAN)] ^= (uint8_t)(f->bits % 255 + 1);
        s->stats.corrupted++;
    }
    rc = heap_push(s, k);
    if (rc != 0)
        packet_free(s, k);
    return rc;
}

static struct sim_path *path_of(struct es_sim *s, struct sim_socket *sock, const union es_addr *to)
{
    struct sim_key from_key, to_key;

    es_sim_key(&to_key, to);
    if (sock->last && memcmp(&sock->last_to, &to_key, sizeof to_key) == 0)
        return sock->last;
    es_sim_key(&from_key, &sock->ext);
    sock->last = path_find(s, &from_key, &to_key);
    sock->last_to = to_key;
    return sock->last;
}

int es_sim_net_send(struct es_sim *s, struct sim_socket *sock, const union es_addr *to, uint8_t ecn,
                    const uint8_t *data, size_t len)
{
    struct sim_path *path = path_of(s, sock, to);
    struct fate f;
    uint64_t at;
    int rc;

    if (!path)
        return ES_ERR_NOMEM;
    s->stats.sent++;
    draw(s, path, &f);
    if (len > (path->p.mtu ? path->p.mtu : 65535) || is_dark(s, s->poller.timers.now)) {
        s->stats.lost++;
        trace(s, ES_SIM_LOST, &sock->ext, to, data, len);
        return 0;
    }
    at = depart(s, path, len);
    if (at == ES_NEVER) {
        s->stats.queue_dropped++;
        trace(s, ES_SIM_QUEUE_DROPPED, &sock->ext, to, data, len);
        return 0;
    }
    at += path->p.delay;
    if (f.duplicate) {
        struct fate clean = {0};

        s->stats.duplicated++;
        trace(s, ES_SIM_DUPLICATED, &sock->ext, to, data, len);
        rc = enqueue(s, sock, to, ecn, data, len, at + f.extra[1], &clean);
        if (rc != 0)
            return rc;
    }
    trace(s, f.lost ? ES_SIM_LOST : ES_SIM_SENT, &sock->ext, to, data, len);
    if (f.lost) {
        s->stats.lost++;
        return 0;
    }
    return enqueue(s, sock, to, ecn, data, len, at + f.extra[0], &f);
}

size_t es_sim_net_deliver(struct es_sim *s, size_t budget)
{
    size_t did = 0;

    while (did < budget && s->n > 0 && s->heap[0]->at <= s->poller.timers.now) {
        struct sim_packet *k = heap_pop(s);
        struct sim_socket *sock;
        struct sim_key key;

        did++;
        es_sim_key(&key, &k->to);
        sock = es_map_get(&s->sockets, &key, sizeof key);
        if (is_dark(s, k->at)) {
            s->stats.lost++;
            trace(s, ES_SIM_LOST, &k->from, &k->to, k->data, k->len);
        } else if (!sock) {
            s->stats.no_listener++;
            trace(s, ES_SIM_NO_LISTENER, &k->from, &k->to, k->data, k->len);
        } else {
            s->stats.delivered++;
            trace(s, ES_SIM_DELIVERED, &k->from, &k->to, k->data, k->len);
            es_endpoint_input(sock->ep, &sock->bound, &k->from, k->ecn, k->data, k->len);
        }
        packet_free(s, k);
    }
    return did;
}

/* ---- life ---- */

int es_sim_net_init(struct es_sim *s, const struct es_sim_path *path)
{
    es_list_init(&s->paths);
    es_list_init(&s->rules);
    es_pool_init(&s->small, sizeof(struct sim_packet) + SIM_SMALL, SIM_IDLE_PACKETS);
    return rule_add(s, NULL, NULL, path);
}

void es_sim_net_free(struct es_sim *s)
{
    while (s->n > 0)
        packet_free(s, s->heap[--s->n]);
    es_free(s->heap);
    es_pool_free(&s->small);
    while (!es_list_empty(&s->paths)) {
        struct sim_path *path = es_container_of(s->paths.next, struct sim_path, node);

        es_list_remove(&path->node);
        es_free(path->departs);
        es_free(path);
    }
    while (!es_list_empty(&s->rules)) {
        struct sim_rule *r = es_container_of(s->rules.next, struct sim_rule, node);

        es_list_remove(&r->node);
        es_free(r);
    }
    es_map_free(&s->path_map);
    es_free(s->dark);
}
