/* A heap of deadlines: see timers.h. Places count from 1: the children of n are 2n and 2n + 1. */
#include "timers.h"

enum { FIRST_CAP = 16 };

static void place(abk_timers *timers, int32_t at, abk_timer *timer)
{
    timers->heap[at - 1] = timer;
    timer->at = at;
}

static uint64_t due_at(const abk_timers *timers, int32_t at) { return timers->heap[at - 1]->due; }

/* Find a place for this one, beginning with one that is free; first up, and if it stays, down. */
static void settle(abk_timers *timers, int32_t at, abk_timer *timer)
{
    while (at > 1 && due_at(timers, at / 2) > timer->due) {
        place(timers, at, timers->heap[at / 2 - 1]);
        at /= 2;
    }
    while (at <= timers->count / 2) {
        int32_t child = at * 2;
        if (child < timers->count && due_at(timers, child + 1) < due_at(timers, child))
            child++;
        if (due_at(timers, child) >= timer->due)
            break;
        place(timers, at, timers->heap[child - 1]);
        at = child;
    }
    place(timers, at, timer);
}

int abk_timers_reserve(abk_timers *timers, int32_t count)
{
    if (count <= timers->cap)
        return ABK_OK;
    int32_t cap = timers->cap == 0 ? FIRST_CAP : timers->cap;
    while (cap < count && cap <= INT32_MAX / 4)
        cap *= 2;
    abk_timer **heap = cap < count ? NULL : abk_realloc(timers->heap, (size_t)cap * sizeof *heap);
    if (heap == NULL)
        return ABK_ENOMEM;
    timers->heap = heap;
    timers->cap = cap;
    return ABK_OK;
}

int abk_timers_set(abk_timers *timers, abk_timer *timer, uint64_t due)
{
    if (due == ABK_NEVER) {
        abk_timers_drop(timers, timer);
        return ABK_OK;
    }
    int32_t at = timer->at;
    if (at == 0) {
        if (abk_timers_reserve(timers, timers->count + 1) < 0)
            return ABK_ENOMEM;
        at = ++timers->count;
        timers->heap[at - 1] = timer; /* so that no place is without one */
    }
    timer->due = due;
    settle(timers, at, timer);
    return ABK_OK;
}

void abk_timers_drop(abk_timers *timers, abk_timer *timer)
{
    const int32_t at = timer->at;
    if (at == 0)
        return;
    timer->at = 0;
    abk_timer *last = timers->heap[--timers->count];
    if (last != timer)
        settle(timers, at, last);
}

uint64_t abk_timers_next(const abk_timers *timers)
{
    return timers->count == 0 ? ABK_NEVER : timers->heap[0]->due;
}

abk_timer *abk_timers_pop(abk_timers *timers, uint64_t now)
{
    if (timers->count == 0 || timers->heap[0]->due > now)
        return NULL;
    abk_timer *first = timers->heap[0];
    abk_timers_drop(timers, first);
    return first;
}

void abk_timers_free(abk_timers *timers)
{
    abk_free(timers->heap);
    *timers = (abk_timers){0};
}
