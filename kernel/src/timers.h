#ifndef T_H
#define T_H
#include "base.h"
typedef struct abk_timer { uint64_t due; int32_t at; uint8_t kind; void *owner; } abk_timer;
typedef struct abk_timers { abk_timer **heap; int32_t count, cap; } abk_timers;
int abk_timers_set(abk_timers *, abk_timer *, uint64_t due);
void abk_timers_drop(abk_timers *, abk_timer *);
uint64_t abk_timers_next(const abk_timers *);
abk_timer *abk_timers_pop(abk_timers *, uint64_t now);
void abk_timers_free(abk_timers *);
#endif
