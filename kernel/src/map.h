/* A hash table of pointers under 64-bit hashes that its user computes, and a hash for text.
 *
 * Open addressing with linear probing; removal closes the gap, so there are no tombstones and what
 * comes and goes never makes it grow. Zeroed memory is a valid empty table.
 */
#ifndef ABK_MAP_H
#define ABK_MAP_H

#include "base.h"

typedef struct abk_map {
    void **items;     /* cap places */
    uint64_t *hashes; /* of what is in them; 0: free. One allocation with items */
    size_t cap;       /* a power of two; 0: nothing is allocated yet */
    size_t count;
    uint8_t shift; /* a hash's upper 64 - shift bits, once spread, are its place */
} abk_map;

/* 0 marks a free place. */
static inline uint64_t abk_map_stored(uint64_t hash) { return hash + (hash == 0); }

/* Spread once more: hashes of numbers are often the numbers. Only with cap > 0. */
static inline size_t abk_map_home(const abk_map *map, uint64_t stored)
{
    return (size_t)((stored * UINT64_C(0xBF58476D1CE4E5B9)) >> map->shift);
}

/* The first item with this hash that same() takes for key's; NULL: there is none. */
static inline void *abk_map_find(const abk_map *map, uint64_t hash,
                                 bool (*same)(const void *item, const void *key), const void *key)
{
    if (map->count == 0)
        return NULL;
    const uint64_t stored = abk_map_stored(hash);
    for (size_t at = abk_map_home(map, stored);; at = (at + 1) & (map->cap - 1)) {
        if (map->hashes[at] == stored && same(map->items[at], key))
            return map->items[at];
        if (map->hashes[at] == 0)
            return NULL;
    }
}

/* Does not look whether it is there already. ABK_ENOMEM leaves all as it was. */
int abk_map_add(abk_map *map, uint64_t hash, void *item);

/* Whether this very item was there. */
bool abk_map_remove(abk_map *map, uint64_t hash, const void *item);

/* One item after the other, from *cursor = 0 on, in no order; NULL: that was the last. Nothing may
 * be added or removed meanwhile. */
void *abk_map_each(const abk_map *map, size_t *cursor);

/* Forget all; the items are their owners'. */
void abk_map_free(abk_map *map);

/* A hash of bytes, whose seed is a secret, so that nobody can make names that collide. Not for
 * storage: it depends on the byte order. at may be NULL where len is 0. */
uint64_t abk_hash(const char *at, size_t len, uint64_t seed);

#endif
