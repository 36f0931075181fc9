/* Key logs: one line for each secret of each connection. */
#include "keylog.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "internal.h"
#include "tls_verify.h"

struct es_keylog {
    int fd; /* owned */
};

int es_keylog_open(struct es_keylog **out, const char *path)
{
    struct es_keylog *k = es_calloc(1, sizeof *k);

    *out = NULL;
    if (k == NULL) {
        return ES_ERR_NOMEM;
    }
    k->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (k->fd < 0) {
        es_free(k);
        return ES_ERR_IO;
    }
    *out = k;
    return 0;
}

void es_keylog_close(struct es_keylog *k)
{
    if (k != NULL) {
        close(k->fd);
        es_free(k);
    }
}

static size_t put_hex(char *to, const gnutls_datum_t *d)
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < d->size; i++) {
        to[2 * i] = digits[d->data[i] >> 4];
        to[2 * i + 1] = digits[d->data[i] & 15];
    }
    return 2 * (size_t)d->size;
}

int es_keylog_write(gnutls_session_t s, const char *label, const gnutls_datum_t *secret)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    const struct es_conn *c = ref->user_data;

    es_keylog_put(c->peer.tls->keylog, s, label, secret);
    return 0;
}

void es_keylog_put(struct es_keylog *k, gnutls_session_t s, const char *label, const gnutls_datum_t *secret)
{
    gnutls_datum_t client, server;
    char line[512];
    size_t n;
    ssize_t written;

    gnutls_session_get_random(s, &client, &server);
    n = (size_t)snprintf(line, 128, "%.100s ", label);
    if (k == NULL || n + 2 * ((size_t)client.size + secret->size) + 2 > sizeof line) {
        return;
    }
    n += put_hex(line + n, &client);
    line[n++] = ' ';
    n += put_hex(line + n, secret);
    line[n++] = '\n';
    /* One write for a line, so that several processes can share the file. A full disk costs the line only. */
    do {
        written = write(k->fd, line, n);
    } while (written < 0 && errno == EINTR);
    gnutls_memset(line, 0, sizeof line);
}
