/* The simulated network: what happens to a datagram between two addresses. A fixed number of random numbers
 * is drawn for each datagram, whatever its fate, so that changing one probability does not reshuffle the
 * others. */
#include "state.h"

#include <arpa/inet.h>
#include <string.h>

#include "../base/err.h"
#include "../base/mem.h"

#define SIM_IDLE_PACKETS 4096 /* kept for reuse */
#define HEADERS          28   /* bytes of IP and UDP around each datagram on the line */
#define ECN_ECT1         1
#define ECN_ECT0         2
#define ECN_CE           3

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

static int path_set(struct sim_path *path, const struct es_sim_path *p, uint64_t now)
{
    uint64_t *ring = NULL;

    if (p->rate && !p->queue_bytes) {
        ring = es_calloc(p->queue ? p->queue : 1, sizeof *ring);
        if (!ring)
            return ES_ERR_NOMEM;
    }
    es_free(path->departs);
    path->departs = ring;
    path->first = path->waiting = 0;
    path->p = *p;
    path->burst_left = path->bad = 0;
    path->since = now;
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
    if (path_set(path, &rule->p, s->poller.timers.now) != 0 ||
        es_map_put(&s->path_map, key, sizeof key, path) != 0) {
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
            rc = path_set(path, p, s->poller.timers.now);
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

static int is_gone(const struct es_sim *s, const struct sim_path *path)
{
    uint64_t now = s->poller.timers.now, on = path->p.on, off = path->p.off;

    return is_dark(s, now) || (off > 0 && (now - path->since) % (on + off) >= on);
}

/* ---- sending ---- */

struct fate {
    int lost, duplicate;
    uint8_t corrupt, mark, bleach;
    uint64_t number;
    uint64_t extra[2]; /* ns on top of the delay, of the datagram and its duplicate */
    uint64_t bits;     /* which byte is changed, and how */
};

struct letter { /* a datagram that is sent now */
    struct sim_path *path;
    const union es_addr *from, *to;
    uint8_t ecn;
    const uint8_t *data;
    size_t len;
};

static void tell(struct es_sim *s, enum es_sim_fate fate, const struct letter *v, const struct fate *f)
{
    struct es_sim_record r;

    if (!s->trace)
        return;
    r.at = s->poller.timers.now;
    r.number = f->number;
    r.fate = fate;
    r.corrupted = f->corrupt;
    r.marked = f->mark;
    r.from = v->from;
    r.to = v->to;
    r.data = v->data;
    r.len = v->len;
    s->trace(s->trace_user, &r);
}

/* Does this datagram meet the bad state, and die of it? */
static int draw_burst(struct es_sim *s, struct sim_path *path)
{
    double change = es_sim_rand_unit(&s->bursts), loss = es_sim_rand_unit(&s->bursts);

    if (change < (path->bad ? path->p.burst_leave : path->p.burst_enter))
        path->bad = !path->bad;
    return path->bad && loss < path->p.burst_loss;
}

static void draw(struct es_sim *s, struct sim_path *path, struct fate *f)
{
    const struct es_sim_path *p = &path->p;
    double loss = es_sim_rand_unit(&s->net), dup = es_sim_rand_unit(&s->net),
           reorder = es_sim_rand_unit(&s->net), corrupt = es_sim_rand_unit(&s->net);
    uint64_t held = es_sim_rand_below(&s->net, 4) + 1, burst = es_sim_rand_next(&s->net);
    int i;

    memset(f, 0, sizeof *f);
    for (i = 0; i < 2; i++)
        f->extra[i] = es_sim_rand_below(&s->net, p->jitter + 1);
    f->bits = es_sim_rand_next(&s->net);
    f->duplicate = dup < p->duplicate;
    f->corrupt = corrupt < p->corrupt;
    if (reorder < p->reorder) {
        f->extra[0] += held * (p->delay ? p->delay : ES_MILLI);
        s->stats.reordered++;
    }
    f->lost = draw_burst(s, path);
    if (path->burst_left > 0) {
        path->burst_left--;
        f->lost = 1;
    } else if (loss < p->loss) {
        f->lost = 1;
        if (p->burst > 1)
            path->burst_left = (int)(burst % (uint64_t)p->burst);
    }
}

/* Is there room for one more of `len` bytes behind what waits until `start`? */
static int has_room(struct sim_path *path, uint64_t now, uint64_t start, size_t len)
{
    const struct es_sim_path *p = &path->p;

    if (p->queue_bytes)
        return (double)(start - now) * (double)p->rate / 8e9 + (double)(len + HEADERS) <=
               (double)p->queue_bytes;
    while (path->waiting > 0 && path->departs[path->first] <= now) {
        path->first = (path->first + 1) % p->queue;
        path->waiting--;
    }
    return path->waiting < p->queue;
}

/* When the rate limit lets `len` bytes go; ES_NEVER: the queue is full. *mark: the queue is so long that it
 * says so. */
static uint64_t depart(struct es_sim *s, struct sim_path *path, size_t len, uint8_t *mark)
{
    const struct es_sim_path *p = &path->p;
    uint64_t now = s->poller.timers.now, start;

    if (!p->rate)
        return now;
    start = path->busy_until > now ? path->busy_until : now;
    if (!has_room(path, now, start, len) && start > now)
        return ES_NEVER;
    *mark = p->mark && (double)(start - now) * (double)p->rate / 8e9 >= (double)p->mark;
    path->busy_until = start + (uint64_t)((double)(len + HEADERS) * 8.0 * 1e9 / (double)p->rate);
    if (path->departs && path->waiting < p->queue) {
        path->departs[(path->first + path->waiting) % p->queue] = path->busy_until;
        path->waiting++;
    }
    return path->busy_until;
}

static int enqueue(struct es_sim *s, const struct letter *v, uint64_t at, const struct fate *f)
{
    int pooled = v->len <= SIM_SMALL, rc;
    struct sim_packet *k = pooled ? es_pool_get(&s->small) : es_malloc(sizeof *k + v->len);
    size_t span = v->path->p.corrupt_span;

    if (!k)
        return ES_ERR_NOMEM;
    k->at = at;
    k->order = s->order++;
    k->number = f->number;
    k->from = *v->from;
    k->to = *v->to;
    k->len = (uint32_t)v->len;
    k->ecn = f->bleach ? 0 : f->mark ? ECN_CE : v->ecn;
    k->pooled = (uint8_t)pooled;
    k->corrupted = f->corrupt;
    k->marked = f->mark;
    if (v->len > 0)
        memcpy(k->data, v->data, v->len);
    if (f->corrupt && v->len > 0)
        k->data[(f->bits >> 8) % (span && span < v->len ? span : v->len)] ^= (uint8_t)(f->bits % 255 + 1);
    s->stats.corrupted += f->corrupt;
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

static int drop(struct es_sim *s, enum es_sim_fate fate, const struct letter *v, const struct fate *f)
{
    struct fate plain = *f;

    if (fate == ES_SIM_QUEUE_DROPPED)
        s->stats.queue_dropped++;
    else
        s->stats.lost++;
    plain.corrupt = plain.mark = 0; /* nobody sees it, so nothing was done to it */
    tell(s, fate, v, &plain);
    return 0;
}

int es_sim_net_send(struct es_sim *s, struct sim_socket *sock, const union es_addr *to, uint8_t ecn,
                    const uint8_t *data, size_t len)
{
    struct sim_path *path = path_of(s, sock, to);
    struct letter v = {path, &sock->ext, to, ecn, data, len};
    struct fate f;
    uint64_t at;
    int rc;

    if (!path)
        return ES_ERR_NOMEM;
    draw(s, path, &f);
    f.number = ++s->stats.sent;
    if (len > (path->p.mtu ? path->p.mtu : 65535))
        return drop(s, ES_SIM_TOO_LARGE, &v, &f);
    if (is_gone(s, path))
        return drop(s, ES_SIM_DARK, &v, &f);
    at = depart(s, path, len, &f.mark);
    if (at == ES_NEVER)
        return drop(s, ES_SIM_QUEUE_DROPPED, &v, &f);
    at += path->p.delay;
    f.bleach = path->p.bleach != 0;
    f.mark = f.mark && (ecn == ECN_ECT0 || ecn == ECN_ECT1);
    s->stats.marked += f.mark;
    if (f.duplicate) {
        struct fate clean = f;

        clean.corrupt = 0;
        s->stats.duplicated++;
        tell(s, ES_SIM_DUPLICATED, &v, &clean);
        rc = enqueue(s, &v, at + f.extra[1], &clean);
        if (rc != 0)
            return rc;
    }
    if (f.lost)
        return drop(s, ES_SIM_LOST, &v, &f);
    tell(s, ES_SIM_SENT, &v, &f);
    return enqueue(s, &v, at + f.extra[0], &f);
}

/* One datagram is there. */
static void arrive(struct es_sim *s, const struct sim_packet *k)
{
    struct letter v = {NULL, &k->from, &k->to, k->ecn, k->data, k->len};
    struct fate f = {.corrupt = k->corrupted, .mark = k->marked, .number = k->number};
    struct sim_socket *sock;
    struct sim_key key;

    es_sim_key(&key, &k->to);
    sock = es_map_get(&s->sockets, &key, sizeof key);
    if (is_dark(s, k->at)) {
        drop(s, ES_SIM_DARK, &v, &f);
    } else if (!sock) {
        s->stats.no_listener++;
        tell(s, ES_SIM_NO_LISTENER, &v, &f);
    } else {
        s->stats.delivered++;
        tell(s, ES_SIM_DELIVERED, &v, &f);
        es_endpoint_input(sock->ep, &sock->bound, &k->from, k->ecn, k->data, k->len);
    }
}

size_t es_sim_net_deliver(struct es_sim *s, size_t budget)
{
    size_t did = 0;

    while (did < budget && s->n > 0 && s->heap[0]->at <= s->poller.timers.now) {
        struct sim_packet *k = heap_pop(s);

        did++;
        arrive(s, k);
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
