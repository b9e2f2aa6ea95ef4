#include "map.h"
static size_t slot_at(const abk_map *m, uint64_t h, size_t i){ return (size_t)(h + i) & (m->cap - 1); }
void *abk_map_find(const abk_map *m, uint64_t hash, bool (*same)(const void *, const void *), const void *key)
{
    if (m->cap == 0) return NULL;
    for (size_t i = 0;; i++) {
        const size_t at = slot_at(m, hash, i);
        if (m->items[at] == NULL) return NULL;
        if (m->hashes[at] == hash && same(m->items[at], key)) return m->items[at];
    }
}
static int grow(abk_map *m)
{
    abk_map n = {.cap = m->cap ? m->cap * 2 : 64};
    n.items = abk_alloc(n.cap * sizeof(void *)); n.hashes = abk_alloc(n.cap * 8);
    if (!n.items || !n.hashes) { abk_free(n.items); abk_free(n.hashes); return ABK_ENOMEM; }
    for (size_t i = 0; i < m->cap; i++) if (m->items[i]) abk_map_add(&n, m->hashes[i], m->items[i]);
    abk_free(m->items); abk_free(m->hashes); *m = n; return 0;
}
int abk_map_add(abk_map *m, uint64_t hash, void *item)
{
    if ((m->count + 1) * 4 > m->cap * 3 && grow(m) < 0) return ABK_ENOMEM;
    for (size_t i = 0;; i++) {
        const size_t at = slot_at(m, hash, i);
        if (m->items[at] == NULL) { m->items[at] = item; m->hashes[at] = hash; m->count++; return 0; }
    }
}
bool abk_map_remove(abk_map *m, uint64_t hash, const void *item)
{
    if (m->cap == 0) return false;
    size_t at = hash & (m->cap - 1);
    while (m->items[at] != item) { if (m->items[at] == NULL) return false; at = (at + 1) & (m->cap - 1); }
    m->count--;
    size_t hole = at;
    for (size_t next = (at + 1) & (m->cap - 1); m->items[next]; next = (next + 1) & (m->cap - 1)) {
        const size_t home = m->hashes[next] & (m->cap - 1);
        if (((next - home) & (m->cap - 1)) >= ((next - hole) & (m->cap - 1))) {
            m->items[hole] = m->items[next]; m->hashes[hole] = m->hashes[next]; hole = next;
        }
    }
    m->items[hole] = NULL; return true;
}
void *abk_map_each(const abk_map *m, size_t *c){ while (*c < m->cap) { void *i = m->items[(*c)++]; if (i) return i; } return NULL; }
void abk_map_free(abk_map *m){ abk_free(m->items); abk_free(m->hashes); *m = (abk_map){0}; }
uint64_t abk_hash(const char *at, size_t len, uint64_t seed)
{ uint64_t h = seed ^ 0x9E3779B97F4A7C15u; for (size_t i = 0; i < len; i++) { h ^= (unsigned char)at[i]; h *= 0x100000001b3u; } h ^= h >> 32; h *= 0xD6E8FEB86659FD93u; return h ^ (h >> 32); }
