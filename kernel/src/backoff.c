/* Restart or park: see backoff.h. */
#include "backoff.h"

#include <stdio.h>

static abk_verdict park(const abk_limits *limits)
{
    const uint64_t retry = limits->park_retry_s > 0 ? abk_ns(limits->park_retry_s) : ABK_NEVER;
    return (abk_verdict){.park = true, .wait_ns = retry};
}

/* Note a death; true when there were more than max_restarts of them within the window. */
static bool too_many(abk_backoff *self, const abk_limits *limits, uint64_t now)
{
    const uint32_t most = limits->max_restarts + 1;
    if (self->deaths == NULL)
        self->deaths = abk_alloc(most * sizeof *self->deaths);
    if (self->deaths == NULL)
        return true; /* without memory there is no telling, and no worker to be started */
    self->deaths[self->death_at] = now;
    self->death_at = (self->death_at + 1) % most;
    if (self->death_count < most)
        self->death_count++;
    return self->death_count == most && now - self->deaths[self->death_at] <= abk_ns(limits->restart_window_s);
}

abk_verdict abk_backoff_on_death(abk_backoff *self, const abk_limits *limits, const abk_death *death,
                                 uint64_t now, double random)
{
    abk_verdict verdict = {0};
    if (death->asked)
        return verdict;
    if (death->permanent) {
        verdict = park(limits);
        snprintf(verdict.reason, sizeof verdict.reason, "its command cannot be started");
        return verdict;
    }
    self->failed_starts = death->started ? 0 : self->failed_starts + 1;
    if (self->failed_starts >= limits->start_attempts) {
        verdict = park(limits);
        snprintf(verdict.reason, sizeof verdict.reason, "%u starts in a row failed",
                 self->failed_starts);
        return verdict;
    }
    if (death->started && death->uptime_s >= limits->stable_after_s)
        self->steps = 0;
    if (too_many(self, limits, now)) {
        verdict = park(limits);
        snprintf(verdict.reason, sizeof verdict.reason, "more than max_restarts=%u within %g s",
                 limits->max_restarts, limits->restart_window_s);
        return verdict;
    }
    double full = limits->restart_delay_s;
    for (uint32_t i = 0; i < self->steps && full < limits->restart_delay_max_s; i++)
        full *= 2;
    if (full > limits->restart_delay_max_s)
        full = limits->restart_delay_max_s;
    self->steps++;
    verdict.wait_ns = abk_ns(full * (0.5 + 0.5 * random));
    return verdict;
}

void abk_backoff_reset(abk_backoff *self)
{
    self->death_count = self->death_at = 0;
    self->failed_starts = 0;
    self->steps = 0;
}

void abk_backoff_free(abk_backoff *self) { abk_free(self->deaths); }
