/* WebTransport over HTTP/3 (draft-ietf-webtrans-http3; the messages are those of draft 02, which browsers
 * speak): each session is a struct es_link, so that a protocol runs on it as it would on a whole connection.
 *
 * A session is one extended CONNECT and the streams and datagrams that carry its number. What such a link
 * does otherwise than a connection:
 *  - es_link_close() sends the code and the reason in a capsule and ends the CONNECT stream. closed() comes
 *    when the peer has acknowledged that, at the latest after a second. A client's connection ends with its
 *    session; an accepted one goes on.
 *  - Codes of resets and stops travel in a range of HTTP/3's codes, and have 32 bits; larger ones become the
 *    largest.
 *  - base is the connection's link. What is held and unsent, and the budget for what is of no use, are the
 *    connection's.
 *  - door says how the session came.
 */
#ifndef ES_HTTP3_WEBTRANSPORT_H
#define ES_HTTP3_WEBTRANSPORT_H

#include "h3.h"

/* ---- servers: es_h3_config.webtransport ---- */

struct es_webtransport {
    struct es_app *app; /* borrowed: what runs on the sessions; attach's arg is NULL */
    const char *path;   /* borrowed: of :path, what comes before its query; else 404. NULL: any */
    /* Whose pages may ask (RFC 6454, "https://example.org:8443"): the server's own, those that are listed,
     * and programs that send no `origin`. Others get 403. */
    const char *const *origins; /* borrowed */
    size_t n_origins;
    int any_origin;
    size_t max_sessions; /* at once on one connection; more are answered with 429 */
};

/* ---- clients ---- */

/* For es_connect_config.app, with a struct es_wt_dial as app_arg: a connection for one session. The app's
 * attach runs inside es_endpoint_connect(), its established() when the server has taken the session. A server
 * that does not is said in closed(): code ES_APP_REFUSED with a reason "code: sentence". */
struct es_app *es_wt_client_app(void);

struct es_wt_dial {
    struct es_timers *timers;              /* borrowed; outlives the connection */
    struct es_app *app;                    /* borrowed: what runs on the session */
    void *app_arg;                         /* for its attach */
    const char *authority, *path, *origin; /* NUL-terminated; copied. origin NULL: none */
};

#endif
