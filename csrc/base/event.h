/* The queue between the core and whoever drains it (the Lua binding, a C test).
 *
 * Library callbacks must not call into Lua, so everything that happened is appended here as a record and
 * drained after the library has returned. Records live in an arena of 64 KiB blocks that are reused: no
 * malloc in steady state. A record's address is stable until it is popped.
 *
 *   struct es_ev_call *e = es_evq_push(q, ES_EV_REQUEST, sizeof *e + payload_len);   // zeroed head only;
 * NULL: no memory while ((ev = es_evq_peek(q)) != NULL) { handle(ev); es_evq_pop(q); }
 *
 * Draining may push more. Objects that a record points to must be kept by their owner until it is popped
 * (sessions by a reference count; calls and channels because only draining ends them).
 */
#ifndef ES_BASE_EVENT_H
#define ES_BASE_EVENT_H

#include <stddef.h>
#include <stdint.h>

struct es_event {
    uint32_t size; /* bytes of this record with this head, a multiple of 16 */
    uint16_t type; /* the pushing layer's enum */
    uint16_t flags;
    void *owner; /* what the event is about; the type says which struct */
};

struct es_evq; /* opaque */

int es_evq_new(struct es_evq **out);
void es_evq_del(struct es_evq *q); /* NULL is fine */

/* Appends a record of `size` bytes (head included; its first sizeof(struct es_event) bytes are filled here,
 * the next 128 zeroed, the rest left as it is). NULL when out of memory: the caller must then close the
 * connection concerned. */
void *es_evq_push(struct es_evq *q, unsigned type, void *owner, size_t size);

struct es_event *es_evq_peek(struct es_evq *q); /* NULL: empty */
void es_evq_pop(struct es_evq *q);
size_t es_evq_len(const struct es_evq *q);

#endif
