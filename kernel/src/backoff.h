/* What follows a worker's death: again after how long, or park its slot and why. The restart policy
 * of docs/design/kernel.md. */
#ifndef ABK_BACKOFF_H
#define ABK_BACKOFF_H

#include "config.h"

typedef struct abk_death {
    double uptime_s;
    bool started;   /* it came up; see kernel.md */
    bool permanent; /* starting it again cannot help */
    bool asked;     /* ended on purpose: neither a failure nor a restart to count */
} abk_death;

typedef struct abk_backoff {
    uint64_t *deaths; /* a ring of the last max_restarts + 1, in nanoseconds; allocated when needed */
    uint32_t death_at, death_count;
    uint32_t failed_starts;
    uint32_t steps;
} abk_backoff;

typedef struct abk_verdict {
    bool park;
    uint64_t wait_ns;  /* before the next start; with park, ABK_NEVER where none is planned */
    char reason[96];   /* with park */
} abk_verdict;

/* random: in [0, 1). */
abk_verdict abk_backoff_on_death(abk_backoff *self, const abk_limits *limits, const abk_death *death,
                                 uint64_t now, double random);
void abk_backoff_reset(abk_backoff *self); /* restarted on request, or tries again after a park */
void abk_backoff_free(abk_backoff *self);

#endif
