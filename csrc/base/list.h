/* Intrusive doubly linked list. A node that is not in a list points to itself, so removing twice is harmless.
 */
#ifndef ES_BASE_LIST_H
#define ES_BASE_LIST_H

#include <stddef.h>

struct es_list {
    struct es_list *prev, *next; /* borrowed */
};

#define es_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define es_list_foreach(it, head)                                                                            \
    for (struct es_list *it = (head)->next, *it##_next = it->next; it != (head);                             \
         it = it##_next, it##_next = it->next)

static inline void es_list_init(struct es_list *l)
{
    l->prev = l->next = l;
}

static inline int es_list_empty(const struct es_list *l)
{
    return l->next == l;
}

static inline void es_list_push(struct es_list *head, struct es_list *n) /* at the tail */
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

static inline void es_list_remove(struct es_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    es_list_init(n);
}

/* Moves all of `from` to the empty list `to`. */
static inline void es_list_take(struct es_list *from, struct es_list *to)
{
    es_list_init(to);
    if (!es_list_empty(from)) {
        *to = *from;
        to->next->prev = to;
        to->prev->next = to;
        es_list_init(from);
    }
}

#endif
