/* Many deadlines, the next one first: a binary heap of timers that their owners embed. */
#ifndef ABK_TIMERS_H
#define ABK_TIMERS_H

#include "base.h"

typedef struct abk_timer { /* zeroed memory is one that is not set */
    uint64_t due;
    int32_t at;   /* its place in the heap, from 1; 0: not set */
    uint8_t kind; /* the owner's, for dispatch */
    void *owner;
} abk_timer;

typedef struct abk_timers { /* zeroed memory is an empty one */
    abk_timer **heap;
    int32_t count;
    int32_t cap;
} abk_timers;

/* Room for so many timers in all: then setting them finds it. ABK_ENOMEM. */
int abk_timers_reserve(abk_timers *timers, int32_t count);

/* Set or move; ABK_NEVER drops it. ABK_ENOMEM only where it was not set and there is no room. */
int abk_timers_set(abk_timers *timers, abk_timer *timer, uint64_t due);

/* Nothing happens to one that is not set. */
void abk_timers_drop(abk_timers *timers, abk_timer *timer);

/* The earliest deadline; ABK_NEVER: none is set. */
uint64_t abk_timers_next(const abk_timers *timers);

/* Take one that is due, earliest first, those of the same time in no order; NULL: none is. */
abk_timer *abk_timers_pop(abk_timers *timers, uint64_t now);

/* Forget all. What was set still looks set: its owner is to go as well. */
void abk_timers_free(abk_timers *timers);

#endif
