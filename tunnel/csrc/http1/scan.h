/* Looks at the lines of a buffered head before llhttp does, for everything that llhttp's strict mode lets
 * through and that proxies and backends read in different ways: bare CR or LF, folded lines, empty or spaced
 * names, HTTP/0.9, two spaces, other versions, control bytes, lengths that are odd, double or beside
 * Transfer-Encoding, codings that do not end in one "chunked", Host twice or never, forms of the target.
 *
 * Pure: no memory, no I/O. A block is given from its beginning each time, longer each time; whole lines are
 * looked at once.
 */
#ifndef ET_HTTP1_SCAN_H
#define ET_HTTP1_SCAN_H

#include <stddef.h>
#include <stdint.h>

enum et_scan_kind { ET_SCAN_REQUEST, ET_SCAN_RESPONSE, ET_SCAN_TRAILERS };
enum et_scan_form { ET_FORM_ORIGIN, ET_FORM_ABSOLUTE, ET_FORM_AUTHORITY, ET_FORM_ASTERISK };

struct et_span { /* a place in the block */
    size_t at, n;
};

struct et_scan_limits {
    size_t head_bytes;   /* the whole block; 431 */
    size_t head_fields;  /* 431 */
    size_t target_bytes; /* 414 */
};

#define ET_SCAN_CONNECTIONS 8 /* Connection fields that are kept; more are refused */

struct et_scan {
    enum et_scan_kind kind;
    struct et_scan_limits limits;
    size_t at;       /* where the next line begins */
    size_t seen;     /* bytes searched for a line's end */
    size_t start;    /* empty lines before the request line, skipped */
    size_t fields;   /* lines of fields */
    int line;        /* the first line was read */
    int status;      /* of the answer, when it is refused */
    const char *why; /* likewise: a few words, static */

    /* What the first line says. */
    struct et_span method, target, reason;
    int minor; /* HTTP/1.minor */
    int code;  /* of a response */
    enum et_scan_form form;
    struct et_span authority, path; /* of the target, where it has one; path n = 0: "/" is meant */
    int path_slash;                 /* "/" is to be put before it: absolute-form with a query only */
    struct et_span scheme;          /* absolute-form */

    /* What the fields say. */
    unsigned hosts;
    struct et_span host;
    int64_t length; /* Content-Length, or -1 */
    unsigned codings;
    int chunked;
    int close, keep_alive, upgrades; /* options of Connection */
    int listed;                      /* Connection names other fields */
    struct et_span connection[ET_SCAN_CONNECTIONS];
    unsigned connections;
    struct et_span upgrade; /* the protocol that is taken of Upgrade's list */
    int expect;             /* "100-continue" */
    int te_trailers;
    struct et_span ws_key, ws_version, ws_accept;
    unsigned ws_keys;
};

void et_scan_init(struct et_scan *s, enum et_scan_kind kind, const struct et_scan_limits *limits);

/* 1: the head is whole and fine, and is the first s->at bytes (from s->start on). 0: more is needed.
 * ES_ERR_PROTOCOL: refused, see status and why. */
int et_scan_feed(struct et_scan *s, const uint8_t *p, size_t n);

#endif
