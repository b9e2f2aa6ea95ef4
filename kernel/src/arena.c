/* Memory that is freed as one: see arena.h. */
#include "arena.h"

enum { FIRST_BYTES = 4096, ALIGN = 16 };

typedef struct block {
    struct block *next;
    size_t size;
    size_t used;
    size_t unused; /* keeps data aligned */
    char data[];
} block;

struct abk_arena {
    block *blocks; /* the one that is handed out from first */
};

abk_arena *abk_arena_new(void) { return ABK_NEW(abk_arena); }

void *abk_arena_take(abk_arena *arena, size_t size)
{
    size = (size + ALIGN - 1) / ALIGN * ALIGN;
    block *at = arena->blocks;
    if (at == NULL || at->size - at->used < size) {
        size_t next = at == NULL ? FIRST_BYTES : at->size * 2;
        while (next < size)
            next *= 2;
        block *fresh = abk_alloc(sizeof *fresh + next);
        if (fresh == NULL)
            return NULL;
        fresh->size = next;
        fresh->next = at;
        arena->blocks = at = fresh;
    }
    void *taken = at->data + at->used;
    at->used += size;
    return taken;
}

char *abk_arena_copy(abk_arena *arena, const char *at, size_t len)
{
    char *copy = abk_arena_take(arena, len + 1);
    if (copy != NULL && len > 0)
        memcpy(copy, at, len);
    return copy;
}

void abk_arena_free(abk_arena *arena)
{
    if (arena == NULL)
        return;
    for (block *at = arena->blocks; at != NULL;) {
        block *next = at->next;
        abk_free(at);
        at = next;
    }
    abk_free(arena);
}
