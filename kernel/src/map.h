#ifndef M_H
#define M_H
#include "base.h"
typedef struct abk_map {void **items; uint64_t *hashes; size_t cap, count;} abk_map;
void *abk_map_find(const abk_map *, uint64_t hash, bool (*same)(const void *item, const void *key), const void *key);
int abk_map_add(abk_map *, uint64_t hash, void *item);
bool abk_map_remove(abk_map *, uint64_t hash, const void *item);
void *abk_map_each(const abk_map *, size_t *cursor);
void abk_map_free(abk_map *);
uint64_t abk_hash(const char *at, size_t len, uint64_t seed);
#endif
