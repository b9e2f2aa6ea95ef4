/* A hash table of pointers: see map.h. */
#include "map.h"

enum { FIRST_CAP = 16 };

static void put(abk_map *map, uint64_t stored, void *item)
{
    size_t at = abk_map_home(map, stored);
    while (map->hashes[at] != 0)
        at = (at + 1) & (map->cap - 1);
    map->hashes[at] = stored;
    map->items[at] = item;
}

static int grow(abk_map *map)
{
    abk_map next = {.count = map->count, .cap = map->cap == 0 ? FIRST_CAP : map->cap * 2};
    next.shift = 64;
    for (size_t cap = next.cap; cap > 1; cap /= 2)
        next.shift--;
    next.hashes = abk_alloc(next.cap * (sizeof *next.hashes + sizeof *next.items));
    if (next.hashes == NULL)
        return ABK_ENOMEM;
    next.items = (void **)(next.hashes + next.cap);
    for (size_t at = 0; at < map->cap; at++) {
        if (map->hashes[at] != 0)
            put(&next, map->hashes[at], map->items[at]);
    }
    abk_free(map->hashes);
    *map = next;
    return ABK_OK;
}

int abk_map_add(abk_map *map, uint64_t hash, void *item)
{
    if (map->count >= map->cap / 4 * 3 && grow(map) < 0)
        return ABK_ENOMEM;
    put(map, abk_map_stored(hash), item);
    map->count++;
    return ABK_OK;
}

/* Move what follows into the gap, so that nobody's way from its home crosses a free place. */
static void close_gap(abk_map *map, size_t gap)
{
    const size_t mask = map->cap - 1;
    for (size_t at = (gap + 1) & mask; map->hashes[at] != 0; at = (at + 1) & mask) {
        const size_t home = abk_map_home(map, map->hashes[at]);
        if (((at - home) & mask) < ((at - gap) & mask))
            continue; /* its home is behind the gap */
        map->hashes[gap] = map->hashes[at];
        map->items[gap] = map->items[at];
        gap = at;
    }
    map->hashes[gap] = 0;
    map->items[gap] = NULL;
}

bool abk_map_remove(abk_map *map, uint64_t hash, const void *item)
{
    if (map->count == 0)
        return false;
    const uint64_t stored = abk_map_stored(hash);
    size_t at = abk_map_home(map, stored);
    while (map->hashes[at] != stored || map->items[at] != item) {
        if (map->hashes[at] == 0)
            return false;
        at = (at + 1) & (map->cap - 1);
    }
    close_gap(map, at);
    map->count--;
    return true;
}

void *abk_map_each(const abk_map *map, size_t *cursor)
{
    while (*cursor < map->cap) {
        const size_t at = (*cursor)++;
        if (map->hashes[at] != 0)
            return map->items[at];
    }
    return NULL;
}

void abk_map_free(abk_map *map)
{
    abk_free(map->hashes);
    *map = (abk_map){0};
}

/* --- the hash --------------------------------------------------------------------------------- */

#define KEY_1 UINT64_C(0x9E3779B97F4A7C15)
#define KEY_2 UINT64_C(0xD6E8FEB86659FD93)
#define KEY_3 UINT64_C(0xA0761D6478BD642F)

static uint64_t read_8(const char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t read_4(const char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Both halves of the product. The factors stay in it: one that is 0 must not make all vanish. */
static uint64_t mix(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    return a ^ b ^ (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    const uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    const uint64_t low = a0 * b0, cross = a1 * b0 + (low >> 32), other = a0 * b1 + (uint32_t)cross;
    const uint64_t high = a1 * b1 + (cross >> 32) + (other >> 32);
    return a ^ b ^ (other << 32 | (uint32_t)low) ^ high;
#endif
}

uint64_t abk_hash(const char *at, size_t len, uint64_t seed)
{
    /* All that meets the input is secret: with a known constant it could be cancelled out. */
    const uint64_t key_1 = mix(seed ^ KEY_1, KEY_2);
    const uint64_t key_2 = mix(seed ^ KEY_2, KEY_3);
    uint64_t state = seed ^ KEY_3;
    uint64_t a = 0;
    uint64_t b = 0;
    if (len > 16) {
        size_t left = len;
        for (; left > 16; left -= 16, at += 16)
            state = mix(read_8(at) ^ key_1, read_8(at + 8) ^ key_2 ^ state);
        a = read_8(at + left - 16); /* the last 16, some of them for the second time */
        b = read_8(at + left - 8);
    } else if (len >= 8) {
        a = read_8(at);
        b = read_8(at + len - 8);
    } else if (len >= 4) {
        a = read_4(at);
        b = read_4(at + len - 4);
    } else if (len > 0) {
        a = (uint64_t)(unsigned char)at[0] << 16 | (uint64_t)(unsigned char)at[len / 2] << 8 |
            (unsigned char)at[len - 1];
    }
    state = mix(a ^ key_1, b ^ key_2 ^ state);
    return mix(state ^ key_2 ^ len, key_1 ^ KEY_1);
}
