#include "event.h"
#include "err.h"
#include "mem.h"
#include <assert.h>
#include <string.h>

#define BLOCK_BYTES (64 * 1024)
#define MAX_SPARE   32 /* idle blocks kept (2 MiB); what a burst needed beyond that goes back to malloc */
#define ZEROED      128

struct block {
    struct block *next; /* owned by the queue, like every block */
    size_t cap;         /* bytes after this head */
    size_t read, write; /* offsets into data */
    _Alignas(16) uint8_t data[];
};

#define BLOCK_CAP (BLOCK_BYTES - sizeof(struct block))

struct es_evq {
    struct block *head, *tail; /* owned; read from head, appended to tail; both NULL when there is none */
    struct block *spare;       /* owned; empty blocks of the usual size */
    size_t n_spare;
    size_t len; /* records */
};

int es_evq_new(struct es_evq **out)
{
    struct es_evq *q = es_calloc(1, sizeof(*q));

    *out = q;
    return q != NULL ? ES_OK : ES_ERR_NOMEM;
}

static void free_chain(struct block *b)
{
    while (b != NULL) {
        struct block *next = b->next;
        es_free(b);
        b = next;
    }
}

void es_evq_del(struct es_evq *q)
{
    if (q == NULL) {
        return;
    }
    free_chain(q->head);
    free_chain(q->spare);
    es_free(q);
}

static void release_block(struct es_evq *q, struct block *b)
{
    if (b->cap != BLOCK_CAP || q->n_spare >= MAX_SPARE) {
        es_free(b);
        return;
    }
    b->next = q->spare;
    q->spare = b;
    q->n_spare++;
}

/* A block with room for size bytes, at the tail. */
static struct block *add_block(struct es_evq *q, size_t size)
{
    struct block *b;

    if (q->len == 0 && q->tail != NULL) {
        /* The only block is empty but too small for this record. It may not stay in front: then the oldest
         * record would not be in the first block. */
        release_block(q, q->tail);
        q->head = q->tail = NULL;
    }
    if (size <= BLOCK_CAP && q->spare != NULL) {
        b = q->spare;
        q->spare = b->next;
        q->n_spare--;
    } else {
        size_t cap = size <= BLOCK_CAP ? BLOCK_CAP : size;
        b = es_malloc(sizeof(*b) + cap);
        if (b == NULL) {
            return NULL;
        }
        b->cap = cap;
    }
    b->next = NULL;
    b->read = b->write = 0;
    if (q->tail != NULL) {
        q->tail->next = b;
    } else {
        q->head = b;
    }
    q->tail = b;
    return b;
}

void *es_evq_push(struct es_evq *q, unsigned type, void *owner, size_t size)
{
    struct block *b = q->tail;
    struct es_event *ev;
    size_t zero;

    if (size < sizeof(*ev)) {
        size = sizeof(*ev);
    }
    if (size > UINT32_MAX - 15) {
        return NULL;
    }
    size = (size + 15) & ~(size_t)15;
    if (b == NULL || b->cap - b->write < size) {
        b = add_block(q, size);
        if (b == NULL) {
            return NULL;
        }
    }
    ev = (struct es_event *)(b->data + b->write);
    b->write += size;
    q->len++;
    ev->size = (uint32_t)size;
    ev->type = (uint16_t)type;
    ev->flags = 0;
    ev->owner = owner;
    zero = size - sizeof(*ev);
    memset(ev + 1, 0, zero < ZEROED ? zero : ZEROED);
    return ev;
}

struct es_event *es_evq_peek(struct es_evq *q)
{
    return q->len != 0 ? (struct es_event *)(q->head->data + q->head->read) : NULL;
}

void es_evq_pop(struct es_evq *q)
{
    struct block *b = q->head;

    assert(q->len > 0);
    b->read += ((struct es_event *)(b->data + b->read))->size;
    q->len--;
    if (b->read < b->write) {
        return;
    }
    /* The only block is rewound in place, unless it was made for one big record. Others are never empty: a
     * block enters the chain together with its first record. */
    if (b == q->tail && b->cap == BLOCK_CAP) {
        b->read = b->write = 0;
        return;
    }
    q->head = b->next;
    if (q->head == NULL) {
        q->tail = NULL;
    }
    release_block(q, b);
}

size_t es_evq_len(const struct es_evq *q)
{
    return q->len;
}
