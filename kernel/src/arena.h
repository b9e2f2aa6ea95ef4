/* Memory that is freed as one: blocks of growing size, handed out from the front. */
#ifndef ABK_ARENA_H
#define ABK_ARENA_H

#include "base.h"

typedef struct abk_arena abk_arena;

abk_arena *abk_arena_new(void);                       /* NULL: out of memory */
void *abk_arena_take(abk_arena *arena, size_t size);  /* zeroed; NULL: out of memory */
char *abk_arena_copy(abk_arena *arena, const char *at, size_t len); /* with a NUL behind it */
void abk_arena_free(abk_arena *arena);                /* NULL is fine */

#endif
