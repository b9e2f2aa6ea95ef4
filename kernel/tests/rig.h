/* A bus for tests, with tests/worker.c as its workers: it submits, steps, keeps what it is told,
 * and checks in the end that each request had exactly one end, and that no fd and no child is left.
 */
#ifndef ABK_RIG_H
#define ABK_RIG_H

#include "../src/scan.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RIG_MOST_ENDS = 20000 };
#define RIG_PATIENCE (20 * ABK_S)

typedef struct rig_event {
    abk_event event; /* data and text are copies, with a NUL behind them */
} rig_event;

typedef struct rig_end {
    int64_t key;
    bool withdrawn;
    int answers, failures;
    int code;   /* of a failure, or of an error that a worker answered */
    bool sent;  /* of a failure */
    char *text; /* the answer's line, or the failure */
} rig_end;

typedef struct rig {
    abk_bus *bus;
    rig_event *events;
    size_t event_count, event_cap;
    rig_end *ends; /* by id: requests have the ids 1, 2, 3... */
    int asked;
    uint64_t notes; /* lines that are no answers */
    int fds;        /* open when it was made */
    bool forgives;  /* an end may be missing: events were lost for want of memory */
} rig;

static inline int rig_count_fds(void)
{
    int count = 0;
    DIR *all = opendir("/proc/self/fd");
    while (all != NULL && readdir(all) != NULL)
        count++;
    if (all != NULL)
        closedir(all);
    return count;
}

static inline const char *rig_worker(void)
{
    static char path[4096];
    const ssize_t len = readlink("/proc/self/exe", path, sizeof path - 16);
    path[len < 0 ? 0 : len] = '\0';
    char *slash = strrchr(path, '/');
    strcpy(slash == NULL ? path : slash, "/../worker");
    return path;
}

/* {"pools": [{"id": "a", "command": [worker, args...], pool...}], "limits": {limits}}; args and
 * pool begin with a comma where they are not empty. */
static inline const char *rig_config(const char *args, const char *pool, const char *limits)
{
    static char text[16384];
    snprintf(text, sizeof text,
             "{\"pools\":[{\"id\":\"a\",\"command\":[\"%s\"%s]%s}],\"limits\":{%s}}", rig_worker(),
             args, pool, limits);
    return text;
}

static inline void rig_make(rig *self, const char *config, const abk_options *options)
{
    abk_error error = {0};
    *self = (rig){.fds = rig_count_fds()};
    self->ends = calloc(RIG_MOST_ENDS, sizeof *self->ends);
    self->bus = abk_create(config, strlen(config), options, &error);
    if (self->bus == NULL)
        fprintf(stderr, "%s\n", error.text);
}

static inline void rig_open(rig *self, const char *config)
{
    const abk_options options = {.size = sizeof options, .host = true, .strict = true};
    abk_error error = {0};
    rig_make(self, config, &options);
    CHECK(self->bus != NULL && abk_start(self->bus, &error) == ABK_OK);
}

/* --- what it is told -------------------------------------------------------------------------- */

static inline char *rig_copy(const char *at, size_t len)
{
    char *copy = malloc(len + 1);
    if (copy == NULL)
        abort();
    if (len > 0)
        memcpy(copy, at, len);
    copy[len] = '\0';
    return copy;
}

static inline void rig_answered(rig *self, const abk_message *message, const char *line, size_t len)
{
    const int64_t id = abk_id_number(&message->id);
    CHECK(id >= 1 && id <= self->asked);
    if (id < 1 || id > self->asked)
        return;
    rig_end *end = &self->ends[id];
    static const abk_path path = {1, {{"code", 4}}};
    abk_value code;
    if (message->error.kind == ABK_OBJECT && abk_scan_path(&message->error, &path, &code))
        end->code = atoi(code.at);
    end->answers++;
    free(end->text);
    end->text = rig_copy(line, len);
}

static inline void rig_lines(rig *self, const abk_event *event)
{
    uint32_t count = 0;
    uint32_t answers = 0;
    const bool chunks = event->a == ABK_ONLY_CHUNKS;
    for (const char *at = event->data, *end = at + event->len; at < end; count++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        CHECK(newline != NULL);
        if (newline == NULL)
            break;
        abk_message message;
        if (chunks) {
            CHECK(*at == '{' && newline[-1] == '}');
            self->notes++;
            at = newline + 1;
            continue;
        }
        const size_t len = (size_t)(newline - at) + 1;
        const bool good = abk_scan(at, len, &message) == ABK_OK;
        CHECK(good);
        if (good && abk_role_of(&message) == ABK_RESPONSE) {
            rig_answered(self, &message, at, len);
            answers++;
        } else {
            self->notes++;
        }
        at = newline + 1;
    }
    CHECK(count == event->count && count > 0);
    if (!chunks)
        CHECK(event->a == (answers == count ? ABK_ONLY_ANSWERS
                           : answers == 0     ? ABK_ONLY_CALLS
                                              : 0));
}

/* An array of results, or one: kept as answers, each with all of its text. */
static inline void rig_results(rig *self, const abk_event *event)
{
    abk_message message;
    char *line = malloc(event->len + 16);
    if (line == NULL)
        abort();
    const int len = sprintf(line, "{\"params\":%.*s}\n", (int)event->len, event->data);
    CHECK(abk_scan(line, (size_t)len, &message) == ABK_OK && message.params.kind != ABK_ABSENT);
    CHECK(event->count == 1 || (event->count > 1 && message.params.kind == ABK_ARRAY));
    free(line);
    for (uint32_t i = 0; i < event->count; i++) {
        const int64_t id = event->keys[i];
        CHECK(id >= 1 && id <= self->asked);
        if (id < 1 || id > self->asked)
            continue;
        self->ends[id].answers++;
        free(self->ends[id].text);
        self->ends[id].text = rig_copy(event->data, event->len);
    }
}

static inline void rig_take(rig *self, const abk_event *event)
{
    if (self->event_count == self->event_cap) {
        self->event_cap = self->event_cap == 0 ? 64 : self->event_cap * 2;
        self->events = realloc(self->events, self->event_cap * sizeof *self->events);
        if (self->events == NULL)
            abort();
    }
    rig_event *kept = &self->events[self->event_count++];
    kept->event = *event;
    kept->event.data = rig_copy(event->data, event->len);
    kept->event.text = rig_copy(event->text, event->text_len);
    if (event->type == ABK_EV_LINES)
        rig_lines(self, &kept->event);
    if (event->type == ABK_EV_RESULTS)
        rig_results(self, &kept->event);
    if (event->type != ABK_EV_FAILED)
        return;
    for (int i = 1; i <= self->asked; i++) {
        rig_end *end = &self->ends[i];
        if (end->key != event->key || end->answers > 0)
            continue;
        end->failures++;
        end->code = event->a;
        end->sent = event->b != 0;
        free(end->text);
        end->text = rig_copy(event->text, event->text_len);
    }
}

static inline int rig_step(rig *self, int wait_ms)
{
    const int count = abk_step(self->bus, wait_ms);
    for (abk_event event; abk_next_event(self->bus, &event) == 1;)
        rig_take(self, &event);
    return count;
}

/* Step until it is so; a failed check where that takes too long. */
#define UNTIL(self, condition)                                                                     \
    do {                                                                                           \
        const uint64_t late_ = abk_now() + RIG_PATIENCE;                                           \
        while (!(condition) && abk_now() < late_)                                                  \
            rig_step(self, 50);                                                                    \
        CHECK(condition);                                                                          \
    } while (0)

static inline size_t rig_count(const rig *self, int type, int a)
{
    size_t count = 0;
    for (size_t i = 0; i < self->event_count; i++) {
        const abk_event *event = &self->events[i].event;
        count += event->type == type && (a < 0 || event->a == a);
    }
    return count;
}

/* The last event of a type; NULL: there was none. */
static inline const abk_event *rig_last(const rig *self, int type)
{
    for (size_t i = self->event_count; i-- > 0;) {
        if (self->events[i].event.type == type)
            return &self->events[i].event;
    }
    return NULL;
}

/* The state that a worker was last said to be in; -1: nothing was said. */
static inline int rig_state(const rig *self, int worker)
{
    for (size_t i = self->event_count; i-- > 0;) {
        const abk_event *event = &self->events[i].event;
        if (event->type == ABK_EV_WORKER && event->worker == worker)
            return event->a;
    }
    return -1;
}

static inline void rig_forget(rig *self)
{
    for (size_t i = 0; i < self->event_count; i++) {
        free((void *)(uintptr_t)self->events[i].event.data);
        free((void *)(uintptr_t)self->events[i].event.text);
    }
    self->event_count = 0;
}

/* --- what it asks ----------------------------------------------------------------------------- */

#define RIG_ROUTE                                                                                  \
    {                                                                                              \
        .size = sizeof(abk_route), .worker = -1                                                    \
    }

/* Submit a request on this way; its id, or the refusal, negative. params is what is in its braces.
 */
static inline int rig_ask_on(rig *self, const abk_route *route, const char *method,
                             const char *params)
{
    char line[4096];
    const int id = self->asked + 1;
    const int len = snprintf(line, sizeof line,
                             "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"%s\",\"params\":{%s}}\n",
                             id, method, params);
    const int64_t key = abk_submit(self->bus, route, line, (size_t)len);
    if (key < 0)
        return (int)key;
    CHECK(key > 0);
    self->asked = id;
    self->ends[id] = (rig_end){.key = key};
    return id;
}

static inline int rig_ask(rig *self, const char *method, const char *params)
{
    const abk_route route = RIG_ROUTE;
    return rig_ask_on(self, &route, method, params);
}

static inline int rig_ask_session(rig *self, const char *session, unsigned flags,
                                  const char *method)
{
    const abk_route route = {.size = sizeof route,
                             .worker = -1,
                             .session = session,
                             .session_len = strlen(session),
                             .flags = flags};
    return rig_ask_on(self, &route, method, "");
}

static inline int rig_ask_worker(rig *self, int worker, const char *method, const char *params)
{
    const abk_route route = {.size = sizeof route, .worker = worker};
    return rig_ask_on(self, &route, method, params);
}

static inline bool rig_ended(const rig *self, int id)
{
    return id > 0 && self->ends[id].answers + self->ends[id].failures > 0;
}

/* The answer to a request as text, when it is there. */
static inline const char *rig_answer(rig *self, int id)
{
    CHECK(id > 0);
    if (id <= 0)
        return "";
    UNTIL(self, rig_ended(self, id));
    return self->ends[id].text == NULL ? "" : self->ends[id].text;
}

#define CHECK_HAS(text_, part_)                                                                    \
    do {                                                                                           \
        const char *has_ = (text_);                                                                \
        if (has_ == NULL || strstr(has_, (part_)) == NULL) {                                       \
            fprintf(stderr, "%s:%d: %s: not in %s: %s\n", __FILE__, __LINE__, __func__,            \
                    has_ == NULL ? "NULL" : has_, (part_));                                        \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

/* What the last refusal says, as text. */
static inline const char *rig_refusal(rig *self)
{
    static char text[4096];
    size_t len = 0;
    const char *at = abk_refusal(self->bus, &len);
    snprintf(text, sizeof text, "%.*s", (int)len, at == NULL ? "" : at);
    return text;
}

static inline const char *rig_status(rig *self)
{
    static char text[65536];
    size_t len = 0;
    const char *at = abk_status(self->bus, &len);
    snprintf(text, sizeof text, "%.*s", (int)len, at == NULL ? "" : at);
    return text;
}

static inline abk_stats rig_stats(rig *self)
{
    abk_stats stats = {0};
    CHECK(abk_statistics(self->bus, &stats) == ABK_OK);
    return stats;
}

static inline void rig_withdraw(rig *self, int id, int outcome)
{
    CHECK(abk_withdraw(self->bus, self->ends[id].key, "why", 3) == outcome);
    self->ends[id].withdrawn = outcome != ABK_ENOENT;
}

/* --- its end ---------------------------------------------------------------------------------- */

static inline void rig_check_ends(const rig *self)
{
    for (int i = 1; i <= self->asked; i++) {
        const rig_end *end = &self->ends[i];
        const int count = end->answers + end->failures + end->withdrawn;
        if (count != 1 && !(self->forgives && count == 0)) {
            fprintf(stderr, "request %d: %d answers, %d failures, withdrawn: %d\n", i, end->answers,
                    end->failures, end->withdrawn);
            test_failures++;
        }
    }
}

static inline bool rig_has_children(void)
{
    siginfo_t info = {0};
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static inline void rig_free(rig *self)
{
    rig_forget(self);
    for (int i = 1; i <= self->asked; i++)
        free(self->ends[i].text);
    free(self->ends);
    free(self->events);
}

static inline void rig_close(rig *self)
{
    CHECK(abk_stop(self->bus, 0.0, 2.0) == ABK_OK);
    UNTIL(self, abk_stopped(self->bus));
    rig_check_ends(self);
    abk_destroy(self->bus);
    CHECK(!rig_has_children());
    CHECK(rig_count_fds() == self->fds);
    rig_free(self);
}

#endif
