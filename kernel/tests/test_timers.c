/* The heap of deadlines against a search through all. */
#include "timers.h"

#include "test.h"

enum { TIMERS = 300 };

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void test_empty(void)
{
    abk_timers timers = {0};
    abk_timer timer = {0};
    CHECK(abk_timers_next(&timers) == ABK_NEVER);
    CHECK(abk_timers_pop(&timers, ABK_NEVER) == NULL);
    abk_timers_drop(&timers, &timer);
    CHECK(abk_timers_set(&timers, &timer, ABK_NEVER) == ABK_OK && timer.at == 0);
    CHECK(timers.count == 0 && timers.heap == NULL);
    abk_timers_free(&timers);
    abk_timers_free(&timers);
}

static void test_order(void)
{
    abk_timers timers = {0};
    abk_timer a = {.kind = 1, .owner = &a}, b = {0}, c = {0};
    CHECK(abk_timers_set(&timers, &a, 30) == ABK_OK);
    CHECK(abk_timers_set(&timers, &b, 10) == ABK_OK);
    CHECK(abk_timers_set(&timers, &c, 20) == ABK_OK);
    CHECK(abk_timers_next(&timers) == 10 && abk_timers_pop(&timers, 9) == NULL);
    CHECK(abk_timers_pop(&timers, 10) == &b && b.at == 0);
    CHECK(abk_timers_set(&timers, &a, 5) == ABK_OK && abk_timers_next(&timers) == 5);
    CHECK(abk_timers_set(&timers, &a, 40) == ABK_OK && abk_timers_next(&timers) == 20);
    abk_timers_drop(&timers, &c);
    abk_timers_drop(&timers, &c);
    CHECK(c.at == 0 && abk_timers_pop(&timers, 100) == &a && a.kind == 1 && a.owner == &a);
    CHECK(abk_timers_set(&timers, &b, 0) == ABK_OK && abk_timers_pop(&timers, 0) == &b);
    CHECK(abk_timers_set(&timers, &b, 7) == ABK_OK);
    CHECK(abk_timers_set(&timers, &b, ABK_NEVER) == ABK_OK && b.at == 0);
    CHECK(abk_timers_next(&timers) == ABK_NEVER);
    abk_timers_free(&timers);
}

static uint64_t first_of(const abk_timer *all, int32_t *count)
{
    uint64_t first = ABK_NEVER;
    *count = 0;
    for (int i = 0; i < TIMERS; i++) {
        *count += all[i].at != 0;
        if (all[i].at != 0 && all[i].due < first)
            first = all[i].due;
    }
    return first;
}

static void check_heap(const abk_timers *timers, const abk_timer *all)
{
    int32_t count;
    CHECK(abk_timers_next(timers) == first_of(all, &count));
    CHECK(timers->count == count);
    for (int32_t i = 1; i <= timers->count; i++) {
        CHECK(timers->heap[i - 1]->at == i);
        CHECK(i == 1 || timers->heap[i / 2 - 1]->due <= timers->heap[i - 1]->due);
    }
}

static void test_model(void)
{
    static abk_timer all[TIMERS];
    static uint64_t wanted[TIMERS]; /* ABK_NEVER: not set */
    abk_timers timers = {0};
    for (int i = 0; i < TIMERS; i++)
        wanted[i] = ABK_NEVER;
    for (int step = 0; step < 30000; step++) {
        const uint64_t n = next_random() % TIMERS;
        const uint64_t due = next_random() % 1000; /* many at the same time */
        const uint64_t what = next_random() % 10;
        if (what < ((step / 3000) % 2 == 0 ? 7u : 3u)) {
            CHECK(abk_timers_set(&timers, &all[n], due) == ABK_OK);
            wanted[n] = due;
        } else if (what < 9) {
            abk_timers_drop(&timers, &all[n]);
            wanted[n] = ABK_NEVER;
        } else {
            int32_t count;
            const uint64_t first = first_of(all, &count);
            abk_timer *got = abk_timers_pop(&timers, due);
            CHECK((got != NULL) == (first <= due));
            CHECK(got == NULL || (got->due == first && got->at == 0));
            if (got != NULL)
                wanted[got - all] = ABK_NEVER;
        }
        CHECK((all[n].at == 0) == (wanted[n] == ABK_NEVER));
        CHECK(all[n].at == 0 || all[n].due == wanted[n]);
        if (step % 100 == 0)
            check_heap(&timers, all);
    }
    uint64_t last = 0;
    for (abk_timer *got; (got = abk_timers_pop(&timers, ABK_NEVER - 1)) != NULL; last = got->due)
        CHECK(got->due >= last && got->due == wanted[got - all]);
    check_heap(&timers, all);
    abk_timers_free(&timers);
}

static void test_no_memory(void)
{
    static abk_timer all[TIMERS];
    abk_timers timers = {0};
    for (uint64_t i = 0; i < TIMERS; i++) {
        abk_test.fail_alloc_at = abk_test.allocations + 1;
        const int result = abk_timers_set(&timers, &all[i], i);
        if (result < 0) {
            CHECK(result == ABK_ENOMEM && all[i].at == 0);
            if (i > 0) /* what is set can still be moved and dropped */
                CHECK(abk_timers_set(&timers, &all[i - 1], 1000 + i) == ABK_OK);
            abk_test.fail_alloc_at = 0;
            CHECK(abk_timers_set(&timers, &all[i], i) == ABK_OK);
        }
        abk_test.fail_alloc_at = 0;
        check_heap(&timers, all);
    }
    abk_timers_free(&timers);
}

static void test_reserve(void)
{
    static abk_timer all[TIMERS];
    abk_timers timers = {0};
    CHECK(abk_timers_reserve(&timers, TIMERS) == ABK_OK);
    CHECK(abk_timers_reserve(&timers, 1) == ABK_OK);
    CHECK(abk_timers_reserve(&timers, INT32_MAX) == ABK_ENOMEM);
    abk_test.fail_alloc_at = abk_test.allocations + 1;
    for (uint64_t i = 0; i < TIMERS; i++)
        CHECK(abk_timers_set(&timers, &all[i], TIMERS - i) == ABK_OK);
    abk_test.fail_alloc_at = 0;
    check_heap(&timers, all);
    abk_timers_free(&timers);
}

TEST_MAIN(TEST(test_empty), TEST(test_order), TEST(test_model), TEST(test_no_memory),
          TEST(test_reserve))
