/* The head of a message: request line or status, and fields; or trailers. What every codec reads into and
 * writes from, what rules look at, and what travels between server and agent.
 *
 * Names of fields are lower case. Values have no leading or trailing blanks and no bytes that RFC 9110 5.5
 * forbids. Order and repetition are kept. The form is HTTP/2's: a request has method, scheme, authority and
 * path
 * ("*" and authority-form too), there is no Host and no Connection, Keep-Alive, Proxy-Connection,
 * Transfer-Encoding, Upgrade or HTTP2-Settings field (each codec takes them away and makes its own), and TE
 * only as "trailers". A WebSocket is method CONNECT with protocol "websocket" (RFC 8441); codecs of HTTP/1.1
 * translate: the keys of RFC 6455 are theirs, they never get here.
 */
#ifndef ET_HEAD_HEAD_H
#define ET_HEAD_HEAD_H

#include <stddef.h>
#include <stdint.h>
#include "../../../csrc/base/buf.h"

enum et_head_kind { ET_HEAD_REQUEST = 1, ET_HEAD_RESPONSE, ET_HEAD_TRAILERS };

struct et_text { /* borrowed from the head: valid until the head is changed or freed */
    const char *p;
    size_t n;
};

struct et_field {
    struct et_text name, value;
};

struct et_head; /* opaque; heap */

#define ET_HEAD_MAX_BYTES    ((size_t)64 * 1024) /* names, values and pseudo fields together */
#define ET_HEAD_MAX_FIELDS   100
#define ET_HEAD_SPARE_BYTES  ((size_t)8 * 1024) /* beyond those, for what proxies add */
#define ET_HEAD_SPARE_FIELDS 28

struct et_head *et_head_new(enum et_head_kind kind); /* NULL: out of memory */
struct et_head *et_head_copy(const struct et_head *h);
void et_head_del(struct et_head *h); /* NULL is fine */

enum et_head_kind et_head_kind(const struct et_head *h);
/* Requests. Absent is n = 0. Setters copy; ES_ERR_NOMEM, ES_ERR_INVAL for bytes that may not be there. */
enum et_head_part { ET_METHOD, ET_SCHEME, ET_AUTHORITY, ET_PATH, ET_PROTOCOL };
struct et_text et_head_part(const struct et_head *h, enum et_head_part part);
int et_head_set_part(struct et_head *h, enum et_head_part part, const char *p, size_t n);
/* Responses. 100 to 999. */
int et_head_status(const struct et_head *h);
int et_head_set_status(struct et_head *h, int status);
/* What a body's length is known to be: from content-length (kept as a field too); -1: not known. */
int64_t et_head_length(const struct et_head *h);

size_t et_head_count(const struct et_head *h);
struct et_field et_head_field(const struct et_head *h, size_t i);
/* The first of that name (lower case), or n = SIZE_MAX. */
size_t et_head_find(const struct et_head *h, const char *name, size_t n, size_t from);
/* Appends. The name is lowered. ES_ERR_INVAL: not a token, or a value with forbidden bytes; ES_ERR_LIMIT:
 * over the limits above; ES_ERR_NOMEM. */
int et_head_add(struct et_head *h, const char *name, size_t nn, const char *value, size_t nv);
int et_head_set(struct et_head *h, const char *name, size_t nn, const char *value,
                size_t nv);                                            /* replaces all */
size_t et_head_remove(struct et_head *h, const char *name, size_t nn); /* all of that name; how many */
size_t et_head_bytes(const struct et_head *h);                         /* that count against the limit */
/* From now on it takes what a proxy adds on the way (x-forwarded-for, via, …) beside what a peer may send:
 * ET_HEAD_SPARE_* more. Heads that et_head_decode() makes are so from the beginning. */
void et_head_widen(struct et_head *h);
/* Whether a field of that (lower case) name is about the connection and may not be in a head: Connection,
 * Host and the others of the list above. TE is not one of them. */
int et_head_is_hop(const char *name, size_t n);
/* Takes away what a proxy does not pass on (RFC 9110 7.6.1): the fields named in `connection` (a value of
 * Connection, may be NULL) and those of the list above; TE stays as "trailers" if it said so. */
void et_head_strip(struct et_head *h, const struct et_text *connection, size_t connections);

/* The wire form between server and agent (tunnel/DESIGN.md, "Messages"): appends the payload of a HEAD part.
 */
int et_head_encode(const struct et_head *h, struct es_buf *out);
size_t et_head_size(const struct et_head *h); /* bytes of it */
/* Checks everything the setters check, and that no field is there that may not be: et_head_is_hop(), a TE
 * that is not "trailers", a content-length that is no number or says two things. ES_ERR_PROTOCOL,
 * ES_ERR_LIMIT, ES_ERR_NOMEM. */
int et_head_decode(const uint8_t *p, size_t n, struct et_head **out);

#endif
