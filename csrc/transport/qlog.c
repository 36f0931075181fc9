/* qlog: what the library did, one file for each connection, for people who look for the reason of something.
 * Only on request: it costs several times what the connection itself does, and a flaw of older libraries
 * (CVE-2026-40170) lets a peer overflow a buffer while its transport parameters are written; whether the
 * library at hand is one of those is decided above. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"

struct es_qlog {
    FILE *file;
};

static void on_qlog(void *user_data, uint32_t flags, const void *data, size_t n)
{
    struct es_conn *c = user_data;
    struct es_qlog *q = c->qlog;

    if (q == NULL || q->file == NULL) {
        return;
    }
    if (fwrite(data, 1, n, q->file) != n) {
        es_endpoint_log(c->ep, 1, "qlog: %s; this connection's ends here", strerror(errno));
        fclose(q->file);
        q->file = NULL;
    }
}

/* Half-way failures cost the file, never the connection. ES_ERR_NOMEM. */
int es_qlog_open(struct es_conn *c, ngtcp2_settings *s, const ngtcp2_cid *cid)
{
    char name[1024];
    size_t n;

    if (c->ep->qlog_dir == NULL) {
        return 0;
    }
    n = (size_t)snprintf(name, sizeof name, "%s/", c->ep->qlog_dir);
    if (n + 2 * NGTCP2_MAX_CIDLEN + sizeof "_server.sqlog" > sizeof name) {
        es_endpoint_log(c->ep, 1, "qlog: the name of the directory is too long");
        return 0;
    }
    for (size_t i = 0; i < cid->datalen; i++, n += 2) {
        snprintf(name + n, sizeof name - n, "%02x", cid->data[i]);
    }
    snprintf(name + n, sizeof name - n, "_%s.sqlog", c->link.is_server ? "server" : "client");
    es_qlog_close(c->qlog); /* of a first try in another version */
    c->qlog = es_calloc(1, sizeof *c->qlog);
    if (c->qlog == NULL) {
        return ES_ERR_NOMEM;
    }
    c->qlog->file = fopen(name, "we");
    if (c->qlog->file == NULL) {
        es_endpoint_log(c->ep, 1, "qlog: %s: %s", name, strerror(errno));
        return 0;
    }
    es_compat_set_qlog(s, on_qlog, cid);
    return 0;
}

void es_qlog_close(struct es_qlog *q)
{
    if (q != NULL && q->file != NULL) {
        fclose(q->file);
    }
    es_free(q);
}
