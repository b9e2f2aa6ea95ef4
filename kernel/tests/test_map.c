/* The hash table against a list, and the hash. */
#include "map.h"

#include "test.h"

#include <stdlib.h>

enum { NUMBERS = 400 };

typedef struct thing {
    uint64_t hash;
    int number;
    bool in;
} thing;

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static bool same(const void *item, const void *key)
{
    return ((const thing *)item)->number == *(const int *)key;
}

static bool never_same(const void *item, const void *key)
{
    (void)item;
    (void)key;
    return false;
}

static void test_empty(void)
{
    abk_map map = {0};
    int key = 1;
    size_t cursor = 0;
    CHECK(abk_map_find(&map, 0, same, &key) == NULL);
    CHECK(!abk_map_remove(&map, 0, &key));
    CHECK(abk_map_each(&map, &cursor) == NULL);
    abk_map_free(&map);
    abk_map_free(&map);
}

static void check_all(const abk_map *map, thing *things, size_t count)
{
    size_t seen = 0;
    size_t cursor = 0;
    for (thing *item; (item = abk_map_each(map, &cursor)) != NULL; seen++)
        CHECK(item->in);
    CHECK(seen == count && map->count == count);
    for (int i = 0; i < NUMBERS; i++) {
        thing *found = abk_map_find(map, things[i].hash, same, &i);
        CHECK(found == (things[i].in ? &things[i] : NULL));
    }
}

/* kind: how bad the hashes are. */
static uint64_t hash_for(int kind, int number)
{
    switch (kind) {
    case 0: return next_random();
    case 1: return (uint64_t)number;
    case 2: return (uint64_t)number << 48;
    case 3: return (uint64_t)(number % 7); /* 0 as well */
    default: return UINT64_MAX - (uint64_t)(number % 50);
    }
}

static void run_model(int kind)
{
    static thing things[NUMBERS];
    abk_map map = {0};
    size_t count = 0;
    for (int i = 0; i < NUMBERS; i++)
        things[i] = (thing){.hash = hash_for(kind, i), .number = i};
    for (int step = 0; step < 20000; step++) {
        /* Waves, so that it is nearly empty and full by turns. */
        const bool adds = next_random() % 100 < ((step / 2000) % 2 == 0 ? 70 : 30);
        thing *item = &things[next_random() % NUMBERS];
        if (adds && !item->in) {
            CHECK(abk_map_add(&map, item->hash, item) == ABK_OK);
            count++;
        } else if (!adds) {
            CHECK(abk_map_remove(&map, item->hash, item) == item->in);
            count -= item->in;
        }
        if (adds || item->in)
            item->in = adds;
        if (step % 500 == 0)
            check_all(&map, things, count);
    }
    check_all(&map, things, count);
    CHECK(map.count * 4 <= map.cap * 3 && (map.cap & (map.cap - 1)) == 0);
    abk_map_free(&map);
}

static void test_model(void)
{
    for (int kind = 0; kind < 5; kind++)
        run_model(kind);
}

static void test_same_hash(void)
{
    thing things[3] = {{5, 0, true}, {5, 1, true}, {6, 2, true}};
    abk_map map = {0};
    int key = 0;
    for (int i = 0; i < 3; i++)
        CHECK(abk_map_add(&map, things[i].hash, &things[i]) == ABK_OK);
    CHECK(abk_map_find(&map, 5, never_same, &key) == NULL);
    CHECK(!abk_map_remove(&map, 5, &things[2])); /* another hash */
    CHECK(abk_map_remove(&map, 5, &things[0]));
    key = 1;
    CHECK(abk_map_find(&map, 5, same, &key) == &things[1]);
    CHECK(abk_map_remove(&map, 5, &things[1]) && !abk_map_remove(&map, 5, &things[1]));
    CHECK(abk_map_remove(&map, 6, &things[2]) && map.count == 0);
    abk_map_free(&map);
}

/* What comes and goes allocates nothing. */
static void test_steady(void)
{
    static thing things[NUMBERS];
    abk_map map = {0};
    for (int i = 0; i < NUMBERS; i++)
        things[i] = (thing){.hash = next_random(), .number = i};
    for (int i = 0; i < 12; i++)
        CHECK(abk_map_add(&map, things[i].hash, &things[i]) == ABK_OK);
    const uint64_t before = abk_test.allocations;
    const size_t cap = map.cap;
    for (int i = 12; i < 20 * NUMBERS; i++) {
        thing *old = &things[(i - 12) % NUMBERS];
        thing *new = &things[i % NUMBERS];
        CHECK(abk_map_remove(&map, old->hash, old));
        CHECK(abk_map_add(&map, new->hash, new) == ABK_OK);
    }
    CHECK(abk_test.allocations == before && map.cap == cap);
    abk_map_free(&map);
}

static void test_no_memory(void)
{
    static thing things[NUMBERS];
    abk_map map = {0};
    size_t count = 0;
    for (int i = 0; i < NUMBERS; i++) {
        things[i] = (thing){.hash = next_random(), .number = i};
        abk_test.fail_alloc_at = abk_test.allocations + 1;
        const int result = abk_map_add(&map, things[i].hash, &things[i]);
        abk_test.fail_alloc_at = 0;
        if (result < 0) {
            CHECK(result == ABK_ENOMEM);
            check_all(&map, things, count);
            CHECK(abk_map_add(&map, things[i].hash, &things[i]) == ABK_OK);
        }
        things[i].in = true;
        count++;
    }
    check_all(&map, things, count);
    abk_map_free(&map);
}

/* --- the hash -------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const uint64_t one = *(const uint64_t *)a;
    const uint64_t other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

static size_t count_equal(uint64_t *all, size_t count)
{
    size_t equal = 0;
    qsort(all, count, sizeof *all, compare);
    for (size_t i = 1; i < count; i++)
        equal += all[i] == all[i - 1];
    return equal;
}

static void test_hash_lengths(void)
{
    static uint64_t all[600];
    char text[300] = {0};
    size_t count = 0;
    for (size_t len = 0; len < sizeof text; len++) {
        /* Exactly so many bytes, for whoever watches memory. */
        char *copy = len == 0 ? NULL : malloc(len);
        if (copy != NULL)
            memcpy(copy, text, len);
        all[count++] = abk_hash(copy, len, 1);
        all[count++] = abk_hash(copy, len, 2);
        CHECK(abk_hash(copy, len, 1) == abk_hash(text, len, 1));
        free(copy);
    }
    CHECK(count_equal(all, count) == 0);
}

/* Each bit of the input, and of the seed, changes about half of the bits. */
static void test_hash_bits(void)
{
    static const size_t lengths[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 100};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const size_t len = lengths[i];
        uint64_t changed = 0;
        uint64_t flips = 0;
        for (int round = 0; round < 20; round++) {
            char text[100];
            const uint64_t seed = next_random();
            for (size_t j = 0; j < len; j++)
                text[j] = (char)next_random();
            const uint64_t before = abk_hash(text, len, seed);
            for (size_t bit = 0; bit < 8 * len; bit++, flips++) {
                text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
                const uint64_t differs = before ^ abk_hash(text, len, seed);
                text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
                CHECK(differs != 0);
                changed += (uint64_t)__builtin_popcountll(differs);
            }
            for (size_t bit = 0; bit < 64; bit++)
                CHECK(abk_hash(text, len, seed ^ UINT64_C(1) << bit) != before);
        }
        CHECK(changed > flips * 29 && changed < flips * 35);
    }
}

/* Numbered names, of which tables are full; and no run of them in the upper or the lower bits. */
static void test_hash_names(void)
{
    enum { NAMES = 20000, BUCKETS = 1024 };
    static uint64_t all[NAMES];
    static int low[BUCKETS], high[BUCKETS];
    for (int i = 0; i < NAMES; i++) {
        char name[40];
        const int len = snprintf(name, sizeof name, "%s%d", i % 2 == 0 ? "s" : "session-name-", i);
        all[i] = abk_hash(name, (size_t)len, 42);
        low[all[i] % BUCKETS]++;
        high[all[i] >> 54]++;
    }
    for (int i = 0; i < BUCKETS; i++)
        CHECK(low[i] < 60 && high[i] < 60); /* about 20 are expected */
    CHECK(count_equal(all, NAMES) == 0);
}

/* Blocks that a known constant would cancel out: what stands before them still counts. */
static void test_hash_attack(void)
{
    static const uint64_t keys[] = {0, UINT64_MAX, UINT64_C(0x9E3779B97F4A7C15),
                                    UINT64_C(0xD6E8FEB86659FD93), UINT64_C(0xA0761D6478BD642F)};
    static uint64_t all[5 * 5 * 100];
    size_t count = 0;
    for (size_t i = 0; i < 25; i++) {
        for (uint64_t number = 0; number < 100; number++) {
            uint64_t text[4] = {number, ~number, keys[i / 5], keys[i % 5]};
            all[count++] = abk_hash((const char *)text, sizeof text, 7);
        }
    }
    CHECK(count_equal(all, count) == 0);
}

TEST_MAIN(TEST(test_empty), TEST(test_model), TEST(test_same_hash), TEST(test_steady),
          TEST(test_no_memory), TEST(test_hash_lengths), TEST(test_hash_bits),
          TEST(test_hash_names), TEST(test_hash_attack))
