#include "timers.h"
static void put(abk_timers *t, int32_t i, abk_timer *x){ t->heap[i-1] = x; x->at = i; }
static void up(abk_timers *t, int32_t i){ abk_timer *x = t->heap[i-1]; while (i > 1 && t->heap[i/2-1]->due > x->due) { put(t, i, t->heap[i/2-1]); i /= 2; } put(t, i, x); }
static void down(abk_timers *t, int32_t i){ abk_timer *x = t->heap[i-1]; for (;;) { int32_t c = i*2; if (c > t->count) break; if (c < t->count && t->heap[c]->due < t->heap[c-1]->due) c++; if (t->heap[c-1]->due >= x->due) break; put(t, i, t->heap[c-1]); i = c; } put(t, i, x); }
void abk_timers_drop(abk_timers *t, abk_timer *x){ if (!x->at) return; int32_t i = x->at; x->at = 0; abk_timer *l = t->heap[--t->count]; if (l != x) { put(t, i, l); up(t, i); down(t, l->at); } }
int abk_timers_set(abk_timers *t, abk_timer *x, uint64_t due)
{ if (due == ABK_NEVER) { abk_timers_drop(t, x); return 0; }
  if (!x->at) { if (t->count == t->cap) { int32_t c = t->cap ? t->cap*2 : 16; abk_timer **h = abk_realloc(t->heap, (size_t)c * sizeof *h); if (!h) return ABK_ENOMEM; t->heap = h; t->cap = c; } x->due = due; t->count++; put(t, t->count, x); up(t, x->at); return 0; }
  x->due = due; up(t, x->at); down(t, x->at); return 0; }
uint64_t abk_timers_next(const abk_timers *t){ return t->count ? t->heap[0]->due : ABK_NEVER; }
abk_timer *abk_timers_pop(abk_timers *t, uint64_t now){ if (!t->count || t->heap[0]->due > now) return NULL; abk_timer *x = t->heap[0]; abk_timers_drop(t, x); return x; }
void abk_timers_free(abk_timers *t){ abk_free(t->heap); *t = (abk_timers){0}; }
