/* What follows a death: tests/sansio/test_backoff.py, case by case. */
#include "../src/backoff.h"
#include "test.h"

#include <math.h>

enum { ENDLESS = 1000000 };

static const abk_death crash = {.uptime_s = 1.0, .started = true};
static const abk_death failed_start = {.uptime_s = 0.1};

static abk_limits limits_of(void)
{
    return (abk_limits){.max_restarts = 5,
                        .start_attempts = 3,
                        .restart_window_s = 60,
                        .restart_delay_s = 0.1,
                        .restart_delay_max_s = 30,
                        .stable_after_s = 10,
                        .park_retry_s = 60};
}

/* One more death at this second; the delay before the next start, or -1 for a park. */
static double die(abk_backoff *self, const abk_limits *limits, abk_death death, double at_s,
                  double random)
{
    const abk_verdict verdict =
        abk_backoff_on_death(self, limits, &death, abk_ns(at_s + 1), random);
    return verdict.park ? -1 : (double)verdict.wait_ns / 1e9;
}

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-6 * (1 + fabs(b));
}

static void the_delay_doubles_up_to_its_limit(void)
{
    static const double want[] = {0.5, 1.0, 2.0, 3.0, 3.0};
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.restart_delay_s = 0.5;
    limits.restart_delay_max_s = 3.0;
    limits.max_restarts = ENDLESS;
    for (int i = 0; i < 5; i++)
        CHECK(near(die(&self, &limits, crash, i, 1.0), want[i]));
    abk_backoff_free(&self);
}

static void half_of_the_delay_is_random(void)
{
    abk_limits limits = limits_of();
    limits.max_restarts = ENDLESS;
    for (double random = 0.0; random < 1.0; random += 0.09) {
        abk_backoff full = {0}, some = {0};
        for (int i = 0; i < 40; i++)
            CHECK(near(die(&some, &limits, crash, i, random),
                       die(&full, &limits, crash, i, 1.0) * (0.5 + random / 2)));
        abk_backoff_free(&full);
        abk_backoff_free(&some);
    }
}

static void the_delay_never_overflows(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = ENDLESS;
    limits.restart_delay_max_s = HUGE_VAL;
    double last = 0;
    for (int i = 0; i < 3000; i++) {
        const double delay = die(&self, &limits, crash, i, 1.0);
        CHECK(delay >= last);
        last = delay;
    }
    abk_backoff_free(&self);
}

static void a_long_life_starts_the_delay_anew(void)
{
    const abk_death long_life = {.uptime_s = 10.0, .started = true};
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.restart_delay_s = 1.0;
    limits.max_restarts = ENDLESS;
    CHECK(near(die(&self, &limits, crash, 0, 1.0), 1.0));
    CHECK(near(die(&self, &limits, crash, 1, 1.0), 2.0));
    CHECK(near(die(&self, &limits, long_life, 2, 1.0), 1.0));
    CHECK(near(die(&self, &limits, crash, 3, 1.0), 2.0));
    abk_backoff_free(&self);
}

static void a_long_start_that_failed_does_not(void)
{
    const abk_death slow_failure = {.uptime_s = 60.0};
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.restart_delay_s = 1.0;
    limits.start_attempts = ENDLESS;
    CHECK(near(die(&self, &limits, crash, 0, 1.0), 1.0));
    CHECK(near(die(&self, &limits, slow_failure, 1, 1.0), 2.0));
    CHECK(near(die(&self, &limits, crash, 2, 1.0), 4.0));
    abk_backoff_free(&self);
}

static void more_than_max_restarts_within_the_window_park(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = 2;
    limits.park_retry_s = 7.0;
    CHECK(die(&self, &limits, crash, 0, 1.0) > 0 && die(&self, &limits, crash, 30, 1.0) > 0);
    const abk_verdict verdict = abk_backoff_on_death(&self, &limits, &crash, abk_ns(61), 1.0);
    CHECK(verdict.park && verdict.wait_ns == abk_ns(7));
    CHECK_TEXT(verdict.reason, "more than max_restarts=2 within 60 s");
    abk_backoff_free(&self);
}

static void the_window_slides(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = 2;
    for (int i = 0; i < 20; i++)
        CHECK(die(&self, &limits, crash, i * 30.1, 1.0) > 0);
    abk_backoff_free(&self);
}

static void a_burst_parks_however_long_ago_the_deaths_before_it_were(void)
{
    static const double when[] = {0, 100, 200, 270, 280};
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = 2;
    for (int i = 0; i < 5; i++)
        CHECK(die(&self, &limits, crash, when[i], 1.0) > 0);
    CHECK(die(&self, &limits, crash, 290, 1.0) < 0);
    abk_backoff_free(&self);
}

static void max_restarts_of_0_means_never(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = 0;
    const abk_verdict verdict = abk_backoff_on_death(&self, &limits, &crash, 1, 1.0);
    CHECK(verdict.park && strstr(verdict.reason, "max_restarts=0") != NULL);
    abk_backoff_free(&self);
}

static void failed_starts_in_a_row_park(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = ENDLESS;
    CHECK(die(&self, &limits, failed_start, 0, 1.0) > 0);
    CHECK(die(&self, &limits, failed_start, 1, 1.0) > 0);
    const abk_verdict verdict = abk_backoff_on_death(&self, &limits, &failed_start, abk_ns(3), 1.0);
    CHECK(verdict.park && verdict.wait_ns == abk_ns(60));
    CHECK_TEXT(verdict.reason, "3 starts in a row failed");
    abk_backoff_free(&self);
}

static void a_start_that_succeeds_ends_the_row(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.start_attempts = 2;
    for (int i = 0; i < 4; i++)
        CHECK(die(&self, &limits, i % 2 == 0 ? failed_start : crash, i, 1.0) > 0);
    abk_backoff_free(&self);
}

static void what_cannot_be_started_parks_at_once(void)
{
    const abk_death hopeless = {.permanent = true};
    const abk_limits limits = limits_of();
    abk_backoff self = {0};
    const abk_verdict verdict = abk_backoff_on_death(&self, &limits, &hopeless, 1, 1.0);
    CHECK(verdict.park && verdict.wait_ns == abk_ns(60));
    CHECK_TEXT(verdict.reason, "its command cannot be started");
    abk_backoff_free(&self);
}

static void a_park_retry_of_0_means_never(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.max_restarts = 0;
    limits.park_retry_s = 0;
    CHECK(abk_backoff_on_death(&self, &limits, &crash, 1, 1.0).wait_ns == ABK_NEVER);
    abk_backoff_free(&self);
}

static void a_death_that_was_asked_for_neither_waits_nor_counts(void)
{
    const abk_death asked = {.asked = true, .permanent = true};
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.restart_delay_s = 1.0;
    limits.max_restarts = 1;
    limits.start_attempts = 2;
    for (int i = 0; i < 5; i++)
        CHECK(near(die(&self, &limits, asked, 0, 1.0), 0));
    CHECK(near(die(&self, &limits, crash, 1, 1.0), 1.0));
    abk_backoff_free(&self);
}

static void a_reset_forgets_delay_window_and_failed_starts(void)
{
    abk_limits limits = limits_of();
    abk_backoff self = {0};
    limits.restart_delay_s = 1.0;
    limits.max_restarts = limits.start_attempts = 2;
    die(&self, &limits, crash, 0, 1.0);
    die(&self, &limits, failed_start, 0, 1.0);
    abk_backoff_reset(&self);
    CHECK(near(die(&self, &limits, failed_start, 0, 1.0), 1.0));
    CHECK(near(die(&self, &limits, crash, 0, 1.0), 2.0));
    abk_backoff_free(&self);
}

static void without_memory_it_parks(void)
{
    const abk_limits limits = limits_of();
    abk_backoff self = {0};
    abk_test.allocations = 0;
    abk_test.fail_alloc_at = 1;
    CHECK(die(&self, &limits, crash, 0, 1.0) < 0);
    abk_test.fail_alloc_at = 0;
    abk_backoff_free(&self);
}

TEST_MAIN(TEST(the_delay_doubles_up_to_its_limit), TEST(half_of_the_delay_is_random),
          TEST(the_delay_never_overflows), TEST(a_long_life_starts_the_delay_anew),
          TEST(a_long_start_that_failed_does_not),
          TEST(more_than_max_restarts_within_the_window_park), TEST(the_window_slides),
          TEST(a_burst_parks_however_long_ago_the_deaths_before_it_were),
          TEST(max_restarts_of_0_means_never), TEST(failed_starts_in_a_row_park),
          TEST(a_start_that_succeeds_ends_the_row), TEST(what_cannot_be_started_parks_at_once),
          TEST(a_park_retry_of_0_means_never),
          TEST(a_death_that_was_asked_for_neither_waits_nor_counts),
          TEST(a_reset_forgets_delay_window_and_failed_starts), TEST(without_memory_it_parks))
