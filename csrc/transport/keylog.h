/* The secrets of connections in the format of NSS's key log, which Wireshark reads. Whoever has the file
 * reads the traffic: it is for trials, made for the owner only, and whoever asks for it says so in a log. */
#ifndef ES_TRANSPORT_KEYLOG_H
#define ES_TRANSPORT_KEYLOG_H

#include <gnutls/gnutls.h>

struct es_keylog;

/* Opens the file for appending, making it (mode 600) when there is none. ES_ERR_IO, ES_ERR_NOMEM. */
int es_keylog_open(struct es_keylog **out, const char *path);
void es_keylog_close(struct es_keylog *k);
/* One secret; the session's connection has a context with a key log. */
int es_keylog_write(gnutls_session_t s, const char *label, const gnutls_datum_t *secret);
/* The same of any session; k may be NULL. */
void es_keylog_put(struct es_keylog *k, gnutls_session_t s, const char *label, const gnutls_datum_t *secret);

#endif
