/* Whole scenarios in which one allocation, all from one on, or one system call fails: nothing may
 * crash, hang, leak, or give a request two ends; and but for want of memory none is without one. */
#include "wire.h"

#include <limits.h>

#define QUICK                                                                                      \
    "\"restart_delay_s\":0.001,\"restart_delay_max_s\":0.001,\"max_restarts\":3,"                  \
    "\"start_attempts\":3,\"cancel_grace_s\":0.05,\"park_retry_s\":0.02"

enum { PATIENCE_S = 10 };

/* --- faults ---------------------------------------------------------------------------------- */

static struct {
    const char *name; /* the call that fails */
    uint64_t at;      /* its how manyth */
    int what;         /* negative errno, or the bytes that it may move */
    uint64_t seen;
} fault;

static int before(const char *name, int fd)
{
    (void)fd;
    if (fault.name == NULL || strcmp(name, fault.name) != 0)
        return INT_MAX;
    return ++fault.seen == fault.at ? fault.what : INT_MAX;
}

/* Step until no request is left, for a while; under a fault that may never be so. */
static void settle(rig *self, wire *other)
{
    const uint64_t late = abk_now() + ABK_S / 2;
    for (abk_stats stats = rig_stats(self); stats.live_requests > 0 && abk_now() < late;) {
        rig_step(self, 10);
        if (other != NULL)
            wire_hear(other);
        stats = rig_stats(self);
    }
}

static void end(rig *self, wire *other)
{
    CHECK(abk_stop(self->bus, 0.0, 0.5) == ABK_OK);
    const uint64_t late = abk_now() + PATIENCE_S * ABK_S;
    while (!abk_stopped(self->bus) && abk_now() < late) {
        rig_step(self, 10);
        if (other != NULL)
            wire_hear(other);
    }
    CHECK(abk_stopped(self->bus));
    CHECK(rig_stats(self).live_requests == 0);
    abk_destroy(self->bus);
}

/* --- scenarios ------------------------------------------------------------------------------- */

static void ask_of_all_kinds(rig *self)
{
    rig_ask(self, "echo", "");
    rig_ask(self, "flood", "\"n\":20");
    const int removed = rig_ask(self, "echo", "");
    if (removed > 0 && abk_withdraw(self->bus, self->ends[removed].key, "no", 2) > 0)
        self->ends[removed].withdrawn = true;
    const int cancelled = rig_ask(self, "hold", "");
    abk_flush(self->bus);
    if (cancelled > 0 && abk_withdraw(self->bus, self->ends[cancelled].key, "no", 2) > 0)
        self->ends[cancelled].withdrawn = true;
    settle(self, NULL);
    rig_ask_session(self, "s", 0, "garbage");
    rig_ask_session(self, "s", ABK_ROUTE_REBIND, "note");
    settle(self, NULL);
}

static void host_scenario(bool forgives)
{
    const char *config = rig_config("", ",\"instances\":2,\"max_in_flight\":2", QUICK);
    const abk_options options = {.size = sizeof options, .host = true};
    rig r = {.fds = rig_count_fds(),
             .ends = calloc(RIG_MOST_ENDS, sizeof(rig_end)),
             .forgives = forgives};
    size_t len;
    r.bus = abk_create(config, strlen(config), &options, NULL);
    if (r.bus != NULL && abk_start(r.bus, NULL) == ABK_OK) {
        ask_of_all_kinds(&r);
        abk_tap(r.bus, true);
        abk_lease(r.bus, 0, "own", 3, true);
        rig_ask_session(&r, "own", 0, "echo");
        rig_ask_session(&r, "s", 0, "exit");
        settle(&r, NULL);
        abk_tap(r.bus, false);
        abk_status(r.bus, &len);
        abk_find_session(r.bus, "own", 3, &len);
        abk_resize(r.bus, "a", 1, 0.0);
        abk_spawn(r.bus, "a",
                  &(abk_extra){
                      .size = sizeof(abk_extra), .session = "more", .session_len = 4, .cwd = "/"});
        rig_ask_session(&r, "more", 0, "echo");
        abk_end_session(r.bus, "own", 3);
        rig_ask(&r, "echo", "");
        settle(&r, NULL);
    }
    if (r.bus != NULL)
        end(&r, NULL);
    rig_check_ends(&r);
    CHECK(rig_count_fds() == r.fds && !rig_has_children());
    rig_free(&r);
}

/* Requests of the wire have the ids 1 to this; each is answered at most once. */
static const char wire_lines[] =
    "{\"id\":1,\"method\":\"echo\"}\n{\"id\":2,\"method\":\"flood\",\"params\":{\"n\":5,"
    "\"_meta\":{\"progressToken\":\"t\"}}}\n"
    "{\"id\":3,\"method\":\"hold\"}\n{\"method\":\"$/cancelRequest\",\"params\":{\"id\":3}}\n"
    "{\"id\":4,\"method\":\"bus/watch\",\"params\":{\"events\":[\"worker_changed\",\"client\","
    "\"line_bad\"]}}\n{\"id\":5,\"method\":\"bus/tap\"}\n{\"id\":6,\"method\":\"bus/status\"}\n"
    "{\"id\":7,\"method\":\"bus/session\",\"params\":{\"id\":\"x\",\"exclusive\":true,"
    "\"wait_s\":0.05}}\n{\"id\":8,\"method\":\"echo\",\"sessionId\":\"y\"}\nnonsense\n"
    "{\"id\":9,\"method\":\"garbage\"}\n{\"id\":0,\"method\":\"echo\",\"id\":10}\n"
    "{\"id\":11,\"method\":\"ask\",\"sessionId\":\"y\"}\n{\"id\":12,\"method\":\"exit\"}\n";
enum { WIRE_IDS = 12 };

static void check_answers(const wire *self, bool all)
{
    for (int id = 1; id <= WIRE_IDS; id++) {
        char result[80], error[80];
        snprintf(result, sizeof result, "\"id\":%d,\"result\"", id);
        snprintf(error, sizeof error, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"error\"", id);
        if (self->text == NULL)
            return;
        /* A tap shows lines of workers by ids of their own, which are far above these. */
        const size_t count = wire_count(self, result) + wire_count(self, error);
        if (count > 1 || (all && count == 0)) {
            fprintf(stderr, "request %d of the wire: %zu answers\n%s\n", id, count, self->text);
            test_failures++;
        }
    }
}

static void wire_scenario(bool forgives)
{
    const char *config = rig_config("", "", QUICK);
    const abk_options options = {.size = sizeof options};
    char folder[] = "/tmp/abk-test-XXXXXX";
    char path[64];
    wire clients[2] = {{.to = -1, .from = -1}, {.to = -1, .from = -1}};
    rig r = {.fds = rig_count_fds(), .ends = calloc(RIG_MOST_ENDS, sizeof(rig_end))};
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/s", folder);
    const abk_listener listener = {.size = sizeof listener, .unix_path = path, .admin = true};
    r.bus = abk_create(config, strlen(config), &options, NULL);
    if (r.bus != NULL && abk_listen(r.bus, &listener, NULL, 0, NULL) == ABK_OK &&
        abk_start(r.bus, NULL) == ABK_OK) {
        wire_connect(&clients[0], path);
        wire_connect(&clients[1], path);
        const ssize_t put = write(clients[0].to, wire_lines, sizeof wire_lines - 1);
        CHECK(put == sizeof wire_lines - 1);
        CHECK(write(clients[1].to, "{\"id\":1,\"method\":\"echo\"}\n", 25) == 25);
        const uint64_t late = abk_now() + ABK_S / 2;
        while (abk_now() < late && !wire_heard(&clients[0], "\"id\":12,") && !clients[0].ended) {
            rig_step(&r, 10);
            while (wire_hear(&clients[0]) || wire_hear(&clients[1]))
                ;
        }
        settle(&r, &clients[0]);
    }
    if (r.bus != NULL)
        end(&r, &clients[0]);
    while (wire_hear(&clients[0]))
        ;
    check_answers(&clients[0], !forgives && !clients[0].ended);
    wire_free(&clients[0]);
    wire_free(&clients[1]);
    CHECK(rmdir(folder) == 0); /* no file is left in it */
    CHECK(rig_count_fds() == r.fds && !rig_has_children());
    rig_free(&r);
}

/* --- all of them ------------------------------------------------------------------------------ */

typedef void scenario(bool forgives);

/* What a series of runs may take; where that is too little, every nth is tried. ABK_THOROUGH in the
 * environment: each. */
typedef struct series {
    uint64_t k, step, begun, budget;
} series;

static series begin(uint64_t count, uint64_t took, uint64_t budget)
{
    const bool thorough = getenv("ABK_THOROUGH") != NULL;
    const uint64_t step = thorough ? 1 : count * took / budget;
    return (series){1, step < 1 ? 1 : step, abk_now(), thorough ? ABK_NEVER / 4 : budget};
}

static void next(series *self)
{
    if (abk_now() - self->begun > self->budget) { /* some take longer than the first one did */
        self->step *= 2;
        self->begun = abk_now();
    }
    self->k += self->step;
}

static void fail_allocations(scenario *run, uint64_t how_many)
{
    abk_test.allocations = 0;
    const uint64_t begun = abk_now();
    run(false);
    const uint64_t count = abk_test.allocations;
    for (series s = begin(count, abk_now() - begun, 2 * ABK_S); s.k <= count && test_failures == 0;
         next(&s)) {
        abk_test.allocations = 0;
        abk_test.fail_alloc_at = s.k;
        abk_test.fail_allocs = how_many;
        run(true);
        abk_test.fail_alloc_at = 0;
        if (test_failures > 0)
            fprintf(stderr, "with %llu failed allocations from %llu of %llu\n",
                    (unsigned long long)how_many, (unsigned long long)s.k,
                    (unsigned long long)count);
    }
}

/* Each call of this name fails in this way, one in each run. */
static void fail_calls(scenario *run, uint64_t count, uint64_t took, int what)
{
    for (series s = begin(count, took, ABK_S / 8); s.k <= count && test_failures == 0; next(&s)) {
        fault.at = s.k;
        fault.seen = 0;
        fault.what = what;
        run(false);
        if (test_failures > 0)
            fprintf(stderr, "with %s number %llu of %llu: %d\n", fault.name,
                    (unsigned long long)s.k, (unsigned long long)count, what);
    }
}

static void fail_all_calls(scenario *run)
{
    static const char *const names[] = {"read", "write", "writev", "pipe2", "accept", "clone"};
    static const int what[] = {-EINTR, -EAGAIN, -EMFILE, -ENOMEM, -EPIPE, 1};
    abk_test.before = before;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fault.name = names[i];
        fault.at = fault.seen = 0;
        const uint64_t begun = abk_now();
        run(false);
        const uint64_t count = fault.seen;
        const uint64_t took = abk_now() - begun;
        for (size_t k = 0; k < sizeof what / sizeof *what; k++)
            fail_calls(run, count, took, what[k]);
    }
    abk_test.before = NULL;
    fault.name = NULL;
}

static void each_allocation_fails_alone(void)
{
    fail_allocations(host_scenario, 1);
}
static void all_allocations_fail_from_one_on(void)
{
    fail_allocations(host_scenario, 0);
}
static void each_system_call_fails_once(void)
{
    fail_all_calls(host_scenario);
}
static void each_allocation_fails_alone_on_a_wire(void)
{
    fail_allocations(wire_scenario, 1);
}
static void all_allocations_fail_on_a_wire(void)
{
    fail_allocations(wire_scenario, 0);
}
static void each_system_call_fails_once_on_a_wire(void)
{
    fail_all_calls(wire_scenario);
}

TEST_MAIN(TEST(each_allocation_fails_alone), TEST(all_allocations_fail_from_one_on),
          TEST(each_system_call_fails_once), TEST(each_allocation_fails_alone_on_a_wire),
          TEST(all_allocations_fail_on_a_wire), TEST(each_system_call_fails_once_on_a_wire))
