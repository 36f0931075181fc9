/* Connections: their life, and what the binding asks of them. pump.c and up.c do the work. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"
#include "webtransport.h"

void es_h3_limits_default(struct es_h3_limits *l)
{
    memset(l, 0, sizeof *l);
    l->max_header = (uint64_t)64 * 1024;
    l->max_fields = 100;
    l->max_target = (size_t)16 * 1024;
    l->max_informs = 16;
    l->head_timeout = 10 * ES_SECOND;
    l->body_timeout = l->answer_timeout = 30 * ES_SECOND;
    l->qpack_table = 4096;
    l->qpack_blocked = 16;
}

void es_h3_delete_library(struct es_h3 *h)
{
    if (!h->poisoned) {
        nghttp3_conn_del(h->nc);
    }
    h->nc = NULL;
}

static int new_library(struct es_h3 *h)
{
    const struct es_h3_config *cfg = h->config;
    nghttp3_settings st;
    int rc;

    nghttp3_settings_default(&st);
    st.max_field_section_size = cfg->limits.max_header;
    st.qpack_max_dtable_capacity = cfg->limits.qpack_table;
    st.qpack_blocked_streams = cfg->limits.qpack_blocked;
    st.enable_connect_protocol = h->server && (cfg->connect || cfg->webtransport != NULL);
    if (!h->server) {
        rc = nghttp3_conn_client_new(&h->nc, &es_h3_callbacks, &st, es_h3_mem(), h);
    } else {
        rc = nghttp3_conn_server_new(&h->nc, &es_h3_callbacks, &st, es_h3_mem(), h);
    }
    if (rc == 0 && h->server) {
        h->peer_streams = ES_H3_STREAMS_AHEAD;
        nghttp3_conn_set_max_client_streams_bidi(h->nc, ES_H3_STREAMS_AHEAD);
    }
    return rc == 0 ? 0 : ES_ERR_NOMEM;
}

static struct es_h3 *h3_new(void)
{
    struct es_h3 *h = es_calloc(1, sizeof *h);

    if (h == NULL) {
        return NULL;
    }
    h->refs = 1; /* the link's */
    h->newest = -1;
    es_idmap_init(&h->by_id, (uint64_t)(uintptr_t)h);
    es_list_init(&h->exchanges);
    es_list_init(&h->headless);
    es_list_init(&h->chores);
    es_list_init(&h->waiting);
    es_list_init(&h->oneways);
    es_list_init(&h->fresh);
    es_list_init(&h->sessions);
    es_list_init(&h->wt_due);
    es_list_init(&h->strays);
    es_timer_init(&h->head_timer, es_h3_head_timer, h);
    es_timer_init(&h->patience, es_h3_on_patience, h);
    es_timer_init(&h->stray_timer, es_wt_stray_timer, h);
    return h;
}

static int h3_begin(struct es_h3 *h, struct es_link *link)
{
    if (new_library(h) != 0) {
        es_free(h);
        return ES_ERR_NOMEM;
    }
    h->link = link;
    link->glitch_code = ES_H3_EXCESSIVE_LOAD;
    es_link_attach(link, &es_h3_link_events, h);
    return 0;
}

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    const struct es_h3_config *cfg = app->user;
    struct es_h3_dial *dial = arg;
    struct es_h3 *h = h3_new();

    if (h == NULL) {
        return ES_ERR_NOMEM;
    }
    h->config = cfg;
    h->server = link->is_server;
    h->wt = h->server && cfg->webtransport != NULL;
    h->user = dial != NULL ? dial->user : cfg->user;
    if (h3_begin(h, link) != 0) {
        return ES_ERR_NOMEM;
    }
    if (dial != NULL) {
        h->refs++;
        dial->h3 = h;
    }
    return 0;
}

int es_h3_attach_client(struct es_link *link, struct es_timers *timers, struct es_h3 **out)
{
    struct es_h3 *h = h3_new();

    if (h == NULL) {
        return ES_ERR_NOMEM;
    }
    h->own.timers = timers;
    es_h3_limits_default(&h->own.limits);
    h->config = &h->own;
    h->wt = 1;
    if (h3_begin(h, link) != 0) {
        return ES_ERR_NOMEM;
    }
    *out = h;
    return 0;
}

void es_h3_app_init(struct es_app *app, const struct es_h3_config *config)
{
    memset(app, 0, sizeof *app);
    app->alpn = ES_H3_ALPN;
    app->attach = attach;
    app->takes_early = 1; /* what is not safe waits: callbacks.c */
    app->user = (void *)(uintptr_t)config;
}

void es_h3_ref(struct es_h3 *h)
{
    h->refs++;
}

void es_h3_unref(struct es_h3 *h)
{
    if (--h->refs != 0) {
        return;
    }
    void (*gone)(void *) = h->config->gone;
    void *user = h->user;

    es_h3_delete_library(h);
    es_idmap_free(&h->by_id);
    es_free(h);
    if (gone != NULL) {
        gone(user); /* last: it may free the configuration */
    }
}

void *es_h3_user(const struct es_h3 *h)
{
    return h->user;
}

void es_h3_set_user(struct es_h3 *h, void *user)
{
    h->user = user;
}

struct es_link *es_h3_link(const struct es_h3 *h)
{
    return h->link;
}

int es_h3_is_server(const struct es_h3 *h)
{
    return h->server;
}

const struct es_close_info *es_h3_closed_by(const struct es_h3 *h)
{
    return h->closed ? &h->info : NULL;
}

size_t es_h3_in_flight(const struct es_h3 *h)
{
    return h->in_flight;
}
