/* The messages of a data stream (tunnel/DESIGN.md): each is one or more whole parts, a type, a length and a
 * payload. Pure. */
#ifndef ET_HEAD_PARTS_H
#define ET_HEAD_PARTS_H

#include "head.h"

enum et_part_type {
    ET_PART_HEAD = 1,
    ET_PART_INFORMATIONAL,
    ET_PART_BODY,
    ET_PART_TRAILERS,
    ET_PART_END,
    ET_PART_RESET,
    ET_PART_NOTE
};

#define ET_PART_BODY_MAX ((size_t)64 * 1024)
#define ET_PART_ROOM     9 /* bytes at most before a payload */

struct et_part {
    enum et_part_type type;
    const uint8_t *p; /* borrowed from the message */
    size_t n;
};

/* The next part of a message of which *n bytes are left; moves *p and *n on. 1: there is one; 0: the end;
 * ES_ERR_PROTOCOL: no part, an unknown type, one that is cut, or a length that its type cannot have. What a
 * head or a reset says is not looked at. */
int et_part_next(const uint8_t **p, size_t *n, struct et_part *out);
/* Whether the message is whole parts and nothing else: 0 or ES_ERR_PROTOCOL. An empty one is not. */
int et_part_check(const uint8_t *p, size_t n);

/* The head of a HEAD, INFORMATIONAL or TRAILERS part, which must be of the kind and the status that the
 * part's type says. ES_ERR_PROTOCOL, ES_ERR_LIMIT, ES_ERR_NOMEM. */
int et_part_head(const struct et_part *part, struct et_head **out);
/* What a RESET part says: *why as it came (a number of enum et_reset, or one that is not known), the text
 * borrowed. */
int et_part_reset(const struct et_part *part, uint64_t *why, struct et_text *text);

/* These append: 0 or ES_ERR_NOMEM. */
int et_part_put(struct es_buf *out, enum et_part_type type, const void *p, size_t n);
int et_part_put_head(struct es_buf *out, const struct et_head *h); /* the type by kind and status */
int et_part_put_body(struct es_buf *out, const void *p, size_t n); /* as many parts as it takes */
int et_part_put_reset(struct es_buf *out, unsigned why, const char *text,
                      size_t n); /* at most 1 KiB of text */
/* Writes what stands before a payload of n bytes so that it ends right before `end`; returns its length, at
 * most ET_PART_ROOM. */
size_t et_part_before(uint8_t *end, enum et_part_type type, size_t n);

#endif
