/* Intrusive doubly linked lists: no node is allocated, and anything can leave in one step. */
#ifndef ABK_LIST_H
#define ABK_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A head is a link of its own. A link that is in no list is zeroed. */
typedef struct abk_link {
    struct abk_link *prev;
    struct abk_link *next;
} abk_link;

#define ABK_OF(link, type, member) ((type *)(void *)((char *)(link) - offsetof(type, member)))

static inline void abk_list_init(abk_link *head) { head->prev = head->next = head; }
static inline bool abk_list_empty(const abk_link *head) { return head->next == head; }
static inline bool abk_linked(const abk_link *link) { return link->next != NULL; }

static inline void abk_list_append(abk_link *head, abk_link *link)
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

static inline void abk_unlink(abk_link *link)
{
    if (link->next == NULL)
        return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->prev = link->next = NULL;
}

static inline abk_link *abk_list_first(const abk_link *head)
{
    return head->next == head ? NULL : head->next;
}

/* Take the first link out; NULL where there is none. */
static inline abk_link *abk_list_take(abk_link *head)
{
    abk_link *first = abk_list_first(head);
    if (first != NULL)
        abk_unlink(first);
    return first;
}

/* Over all of a list whose current item may leave it. */
#define ABK_EACH(link, head)                                                                       \
    for (abk_link *link = (head)->next, *link##_next = link->next; link != (head);                 \
         link = link##_next, link##_next = link->next)

#endif
