/* What a bus tells, as lines of the log. What workers can make the daemon write with each of their
 * lines is bounded: so many lines in ten seconds, the rest is counted and said with the next one.
 */
#ifndef ABKD_REPORT_H
#define ABKD_REPORT_H

#include "log.h"

enum {
    ABKD_STDERR_BURST = 1000, /* lines of a worker's stderr in that time */
    ABKD_BAD_BURST = 100,     /* of its bad lines */
    ABKD_STDERR_LINE = 1024   /* bytes of a line of stderr that are shown */
};

typedef struct abkd_throttle {
    int64_t ends_at; /* of the window, in seconds */
    uint32_t passed;
    uint64_t suppressed; /* since the last that passed */
} abkd_throttle;

typedef struct abkd_source { /* one worker */
    int32_t worker;
    uint32_t generation;
    int state;
    abkd_throttle stderr_lines, bad_lines;
    size_t len; /* of the line that is not complete */
    bool cut;   /* it is longer than is shown */
    char line[ABKD_STDERR_LINE];
} abkd_source;

typedef struct abkd_report {
    abkd_log *log;
    abkd_source **sources; /* workers that are not stopped, in no order */
    uint32_t count, cap;
} abkd_report;

void abkd_report_event(abkd_report *report, const abk_event *event);
void abkd_report_close(abkd_report *report);

#endif
