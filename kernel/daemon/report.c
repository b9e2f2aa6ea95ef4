/* Events as lines of the log: see report.h. */
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WINDOW_S = 10 };

/* --- workers ---------------------------------------------------------------------------------- */

/* The worker's place; NULL when out of memory, and then what bounds it is left out. */
static abkd_source *find_source(abkd_report *report, int32_t worker)
{
    for (uint32_t i = 0; i < report->count; i++) {
        if (report->sources[i]->worker == worker)
            return report->sources[i];
    }
    if (report->count == report->cap) {
        const uint32_t cap = report->cap == 0 ? 16 : 2 * report->cap;
        abkd_source **grown = realloc(report->sources, cap * sizeof(abkd_source *));
        if (grown == NULL)
            return NULL;
        report->sources = grown;
        report->cap = cap;
    }
    abkd_source *source = calloc(1, sizeof *source);
    if (source == NULL)
        return NULL;
    source->worker = worker;
    source->state = -1;
    report->sources[report->count++] = source;
    return source;
}

static void drop_source(abkd_report *report, int32_t worker)
{
    for (uint32_t i = 0; i < report->count; i++) {
        if (report->sources[i]->worker == worker) {
            free(report->sources[i]);
            report->sources[i] = report->sources[--report->count];
            return;
        }
    }
}

/* Whether a line may be written; *suppressed says how many may not have been before it. */
static bool take(abkd_throttle *throttle, uint32_t burst, uint64_t *suppressed)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec >= throttle->ends_at) {
        throttle->ends_at = now.tv_sec + WINDOW_S;
        throttle->passed = 0;
    }
    if (throttle->passed >= burst) {
        throttle->suppressed++;
        return false;
    }
    throttle->passed++;
    *suppressed = throttle->suppressed;
    throttle->suppressed = 0;
    return true;
}

/* --- lines ------------------------------------------------------------------------------------ */

static void write_line(abkd_report *report, int level, const char *name, const abk_event *event,
                       const char *text, size_t len)
{
    abkd_log_write(report->log, &(abkd_entry){.level = level, .event = name, .pool = event->pool,
                                              .worker = event->worker, .text = text, .len = len});
}

/* Write text with what stands in front of it and behind it, under a bound. */
static void write_bounded(abkd_report *report, abkd_throttle *throttle, uint32_t burst, int level,
                          const abk_event *event, const char *name, const char *text, size_t len)
{
    char whole[ABKD_STDERR_LINE + 512];
    uint64_t suppressed = 0;
    if (throttle != NULL && !take(throttle, burst, &suppressed))
        return;
    if (suppressed == 0) {
        write_line(report, level, name, event, text, len);
        return;
    }
    const int made = snprintf(whole, sizeof whole, "%.*s (%llu more of these were not logged)",
                              (int)len, text, (unsigned long long)suppressed);
    write_line(report, level, name, event, whole,
               made < (int)sizeof whole ? (size_t)made : sizeof whole - 1);
}

/* Write the line of stderr that a worker has begun. */
static void end_stderr_line(abkd_report *report, abkd_source *source, const abk_event *event)
{
    if (source->cut)
        memcpy(source->line + source->len - 3, "...", 3);
    if (source->len > 0 && source->line[source->len - 1] == '\r')
        source->len--;
    if (source->len > 0)
        write_bounded(report, &source->stderr_lines, ABKD_STDERR_BURST, ABK_LOG_INFO, event,
                      "worker_stderr", source->line, source->len);
    source->len = 0;
    source->cut = false;
}

static void take_stderr(abkd_report *report, const abk_event *event)
{
    if (event->len == 0)
        return;
    abkd_source *source = find_source(report, event->worker);
    if (source == NULL) {
        write_line(report, ABK_LOG_INFO, "worker_stderr", event, event->data, event->len);
        return;
    }
    for (const char *at = event->data, *end = at + event->len; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const size_t len = (size_t)((newline == NULL ? end : newline) - at);
        const size_t room = sizeof source->line - source->len;
        const size_t kept = len < room ? len : room;
        memcpy(source->line + source->len, at, kept);
        source->len += kept;
        source->cut = source->cut || kept < len;
        if (newline != NULL)
            end_stderr_line(report, source, event);
        at += len + (newline != NULL);
    }
}

static void take_bad_line(abkd_report *report, const abk_event *event)
{
    char text[ABKD_STDERR_LINE];
    abkd_source *source = find_source(report, event->worker);
    const int made = snprintf(text, sizeof text, "%.*s (%lu bytes): ", (int)event->text_len,
                              event->text, (unsigned long)event->count);
    size_t len = made < (int)sizeof text ? (size_t)made : sizeof text - 1;
    const size_t room = sizeof text - len, shown = event->len < room ? event->len : room;
    if (shown > 0)
        memcpy(text + len, event->data, shown);
    len += shown;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    write_bounded(report, source == NULL ? NULL : &source->bad_lines, ABKD_BAD_BURST,
                  ABK_LOG_WARNING, event, "bad_line", text, len);
}

static const char *const meanings[] = {
    [ABK_WORKER_VACANT] = "without a process until there is work",
    [ABK_WORKER_STARTING] = "its process starts",
    [ABK_WORKER_READY] = "takes work",
    [ABK_WORKER_DRAINING] = "finishes what it has",
    [ABK_WORKER_STOPPING] = "is told to end",
    [ABK_WORKER_BACKOFF] = "has ended, and starts again",
    [ABK_WORKER_PARKED] = "is given up for now",
    [ABK_WORKER_STOPPED] = "has ended for good",
};

/* A death and a parking are told by the bus as well, with their reasons: see take_log(). */
static void take_state(abkd_report *report, const abk_event *event)
{
    abkd_source *source = find_source(report, event->worker);
    bool told = event->text_len > 0 &&
                (event->a == ABK_WORKER_BACKOFF || event->a == ABK_WORKER_PARKED);
    if (source != NULL) {
        told = told || (source->state == event->a && source->generation == event->generation);
        if (source->generation != event->generation) /* its process is gone */
            end_stderr_line(report, source, event);
        source->state = event->a;
        source->generation = event->generation;
    }
    char name[64], text[128];
    const bool known = event->a >= 0 && event->a <= ABK_WORKER_STOPPED;
    snprintf(name, sizeof name, "worker_%s", abk_worker_state(event->a));
    snprintf(text, sizeof text, event->b > 0 ? "%s, pid %d" : "%s", known ? meanings[event->a] : "",
             event->b);
    write_line(report, told ? ABK_LOG_DEBUG : ABK_LOG_INFO, name, event, text, strlen(text));
    if (event->a == ABK_WORKER_STOPPED && source != NULL) {
        end_stderr_line(report, source, event);
        drop_source(report, event->worker);
    }
}

static void take_log(abkd_report *report, const abk_event *event)
{
    const char *name = event->worker < 0             ? "kernel"
                       : event->b == ABK_LOG_STRAY   ? "stray_answer"
                       : event->a == ABK_LOG_ERROR   ? "worker_parked"
                       : event->a == ABK_LOG_WARNING ? "worker_died"
                                                     : "worker";
    write_line(report, event->a, name, event, event->text, event->text_len);
}

static void take_client(abkd_report *report, const abk_event *event)
{
    static const char *const names[] = {"client_left", "client_came", "client_done",
                                        "client_ended"};
    char text[512];
    const int kind = event->a >= 0 && event->a <= 3 ? event->a : 2;
    const int made = snprintf(text, sizeof text, "client %lu%s%s%.*s", (unsigned long)event->count,
                              event->b == 1 ? " (stdio)" : "", event->text_len > 0 ? ": " : "",
                              (int)event->text_len, event->text_len > 0 ? event->text : "");
    write_line(report, ABK_LOG_INFO, names[kind], event, text,
               made < (int)sizeof text ? (size_t)made : sizeof text - 1);
}

void abkd_report_event(abkd_report *report, const abk_event *event)
{
    switch (event->type) {
    case ABK_EV_WORKER: take_state(report, event); break;
    case ABK_EV_STDERR: take_stderr(report, event); break;
    case ABK_EV_LINE_BAD: take_bad_line(report, event); break;
    case ABK_EV_CLIENT: take_client(report, event); break;
    case ABK_EV_LOG: take_log(report, event); break;
    default: break; /* what the host of a bus gets is nobody's here */
    }
}

void abkd_report_close(abkd_report *report)
{
    for (uint32_t i = 0; i < report->count; i++)
        free(report->sources[i]);
    free(report->sources);
    report->sources = NULL;
    report->count = report->cap = 0;
}
