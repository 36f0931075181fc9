/* Early data of both sides. */
#include "early.h"
#include <limits.h>
#include <string.h>
#include "../base/clock.h"
#include "internal.h"
#include "ticket.h"
#include "tls_verify.h"

#define KEY_PREFIX 12 /* GnuTLS puts the start of its window before the binder of a hello */

struct es_early {
    gnutls_anti_replay_t replay; /* owned */
    struct es_map seen;          /* binders of the hellos whose early data was taken */
    uint8_t salt[ES_EARLY_SALT];
    uint64_t generation;     /* of the salt */
    struct es_conn *current; /* borrowed: whose hello is being read */
};

/* ---- server: the memory ---- */

static void turn_over(struct es_early *e)
{
    uint8_t seed[16];

    memcpy(seed, e->seen.seed, sizeof seed);
    es_map_free(&e->seen);
    es_map_init(&e->seen, seed);
    /* Not from the injected source: a simulation that repeats itself must not accept what another recorded.
     */
    es_random(e->salt, sizeof e->salt);
    e->generation++;
}

/* GnuTLS asks whether a hello with early data is new. Negative: its early data is refused, the handshake goes
 * on. */
static int on_hello(void *user, time_t exp, const gnutls_datum_t *key, const gnutls_datum_t *data)
{
    struct es_early *e = user;
    struct es_conn *c = e->current;
    const struct es_app *app;

    if (c == NULL || key->size <= KEY_PREFIX || c->early_generation != e->generation) {
        return GNUTLS_E_DB_ERROR;
    }
    app = es_conn_find_app(c);
    if (app == NULL || !app->takes_early) {
        return GNUTLS_E_DB_ERROR;
    }
    if (es_map_get(&e->seen, key->data + KEY_PREFIX, key->size - KEY_PREFIX) != NULL) {
        return GNUTLS_E_DB_ENTRY_EXISTS;
    }
    if (e->seen.n >= ES_EARLY_SEEN_MAX) {
        turn_over(e);
        return GNUTLS_E_DB_ERROR;
    }
    if (es_map_put(&e->seen, key->data + KEY_PREFIX, key->size - KEY_PREFIX, e) != 0) {
        return GNUTLS_E_DB_ERROR;
    }
    c->early = ES_EARLY_ACCEPTED;
    return 0;
}

struct es_early *es_early_new(const uint8_t seed[16])
{
    struct es_early *e = es_calloc(1, sizeof *e);

    if (e == NULL || gnutls_anti_replay_init(&e->replay) != 0) {
        es_free(e);
        return NULL;
    }
    es_map_init(&e->seen, seed);
    turn_over(e);
    /* One window without end. GnuTLS would forget at its end, and refuse the tickets of before: our memory
     * forgets by turning over. */
    gnutls_anti_replay_set_window(e->replay, UINT_MAX);
    gnutls_anti_replay_set_add_function(e->replay, on_hello);
    gnutls_anti_replay_set_ptr(e->replay, e);
    return e;
}

void es_early_del(struct es_early *e)
{
    if (e != NULL) {
        gnutls_anti_replay_deinit(e->replay);
        es_map_free(&e->seen);
        gnutls_memset(e->salt, 0, sizeof e->salt);
        es_free(e);
    }
}

void es_early_salt(const struct es_early *e, uint8_t out[ES_EARLY_SALT])
{
    memcpy(out, e->salt, ES_EARLY_SALT);
}

void es_early_expect(struct es_early *e, struct es_conn *c, gnutls_session_t s)
{
    e->current = c;
    c->early_generation = e->generation;
    gnutls_anti_replay_enable(s, e->replay);
}

/* ---- server: a connection ---- */

int es_early_accept(struct es_conn *c)
{
    /* A client that is known by its certificate is known by that of the session it resumes: still good? */
    if (c->peer.tls->trust != ES_TRUST_NONE && es_tls_verify(c->tls) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    c->app = es_conn_find_app(c);
    if (c->app == NULL || !c->app->takes_early) { /* on_hello has seen to it */
        c->peer.alert = GNUTLS_A_INTERNAL_ERROR;
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    c->link.early = 1;
    es_conn_attach(c);
    c->state = ES_CONN_OPEN;
    if (!c->refused && c->link.events->early != NULL) {
        c->link.events->early(c->link.user);
    }
    return 0;
}

/* ---- client ---- */

void es_early_begin(struct es_conn *c, const struct es_ticket *t)
{
    if (es_compat_load_params(c->nc, t->params, t->params_len) != 0) {
        return;
    }
    c->early = ES_EARLY_TRIED;
}

/* ngtcp2 has forgotten the streams and what was on them. We have not: nothing was acknowledged. */
static void again(struct es_conn *c, struct es_qstream *s)
{
    int64_t id;
    int rv;

    if (s->want_reset || s->did_reset) {
        es_conn_forget_given_up(c, s);
        return;
    }
    rv = s->uni ? ngtcp2_conn_open_uni_stream(c->nc, &id, NULL)
                : ngtcp2_conn_open_bidi_stream(c->nc, &id, NULL);
    if (rv != 0) { /* it allows fewer than it did */
        c->link.events->stream_reset(c->link.user, &s->s, ES_APP_REFUSED);
        es_conn_forget_given_up(c, s);
        return;
    }
    (void)ngtcp2_conn_set_stream_user_data(c->nc, id, s);
    s->s.id = id;
    es_link_count_unsent(&c->link, (int64_t)(s->unacked - s->unsent));
    s->unsent = s->unacked;
    s->send = s->head;
    s->send_off = s->head_off;
    s->fin_sent = s->fin_alone = s->blocked = 0;
    es_list_remove(&s->ready);
    es_qstream_make_ready(s);
}

void es_early_lose(struct es_conn *c)
{
    if (c->early != ES_EARLY_TRIED) {
        return;
    }
    c->early = ES_EARLY_LOST;
    es_list_foreach(it, &c->streams)
    {
        struct es_qstream *s = es_container_of(it, struct es_qstream, all);
        s->blocked = 1;
        es_list_remove(&s->ready);
    }
}

int es_early_settle(struct es_conn *c)
{
    if (c->early != ES_EARLY_TRIED && c->early != ES_EARLY_LOST) {
        return 0;
    }
    if (c->early == ES_EARLY_TRIED && gnutls_session_get_flags(c->tls) & GNUTLS_SFLAGS_EARLY_DATA) {
        c->early = ES_EARLY_ACCEPTED;
        return 0;
    }
    if (c->early == ES_EARLY_TRIED && es_compat_early_rejected(c->nc) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    c->early = ES_EARLY_REJECTED;
    es_qstream_forget_ids(c);
    es_list_foreach(it, &c->streams)
    {
        again(c, es_container_of(it, struct es_qstream, all));
    }
    return 0;
}
