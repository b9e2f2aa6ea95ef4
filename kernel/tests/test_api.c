/* What a program may rely on: forks, threads, signals, several buses, misuse, memory. */
#include "rig.h"

#include <pthread.h>

/* --- forks ----------------------------------------------------------------------------------- */

static int in_child(rig *self)
{
    const abk_route route = RIG_ROUTE;
    abk_event event;
    abk_stats stats;
    size_t len;
    int bad = 0;
    bad += abk_step(self->bus, 0) != ABK_EFORK;
    bad += abk_busy_poll(self->bus, 1000000, -1) != ABK_EFORK;
    bad += abk_fd(self->bus) != -1;
    bad += abk_submit(self->bus, &route, "{\"method\":\"a\"}\n", 15) != ABK_EFORK;
    const abk_row row = {.size = sizeof row, .method = "\"a\"", .method_len = 3, .params = "{}\n",
                         .params_len = 3, .first = 1, .count = 1};
    bad += abk_submit_row(self->bus, &route, &row) != ABK_EFORK;
    bad += abk_flush(self->bus) != ABK_EFORK;
    bad += abk_withdraw(self->bus, 1, NULL, 0) != ABK_EFORK;
    bad += abk_stop(self->bus, 0, 0) != ABK_EFORK;
    bad += abk_start(self->bus, NULL) != ABK_EFORK;
    bad += abk_serve(self->bus, 0, 1, NULL) != ABK_EFORK;
    bad += abk_watch_fd(self->bus, 0) != ABK_EFORK;
    const abk_listener listener = {.size = sizeof listener, .host = "127.0.0.1"};
    bad += abk_listen(self->bus, &listener, NULL, 0, NULL) != ABK_EFORK;
    bad += abk_kill(self->bus, 0, NULL) != ABK_EFORK;
    bad += abk_spawn(self->bus, "a", NULL) != ABK_EFORK;
    bad += abk_tap(self->bus, true) != ABK_EFORK;
    bad += abk_statistics(self->bus, &stats) != ABK_EFORK;
    bad += abk_status(self->bus, &len) != NULL || abk_refusal(self->bus, &len) != NULL;
    bad += abk_find(self->bus, "1", 1) != ABK_EFORK || abk_id(self->bus, 1, &len) != NULL;
    bad += abk_next_event(self->bus, &event) != 0;
    abk_kill_now(self->bus, 1.0);
    return bad;
}

static void wait_for(pid_t pid)
{
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_fork_leaves_the_bus_to_its_parent(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask(&r, "hold", "");
    rig_answer(&r, rig_ask(&r, "echo", ""));
    for (int i = 0; i < 2; i++) {
        const pid_t pid = fork();
        if (pid == 0) {
            const int bad = in_child(&r);
            if (i == 0)
                abk_abandon(r.bus);
            else
                abk_destroy(r.bus);
            const int left = rig_count_fds() - r.fds;
            if (bad != 0 || left > 0) /* valgrind closes one of its own */
                fprintf(stderr, "in the fork: %d calls wrong, %d fds left\n", bad, left);
            _exit(bad != 0 || left > 0);
        }
        wait_for(pid);
    }
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "go", "")), "done");
    CHECK_HAS(rig_answer(&r, held), "went");
    rig_close(&r);
}

static void a_fork_leaves_served_pipes_and_sockets_as_they_are(void)
{
    char path[] = "/tmp/abk-test-XXXXXX";
    const abk_options options = {.size = sizeof options};
    int in[2], out[2];
    rig r;
    CHECK(pipe(in) == 0 && pipe(out) == 0 && mkdtemp(path) != NULL);
    char name[64];
    snprintf(name, sizeof name, "%s/s", path);
    const abk_listener listener = {.size = sizeof listener, .unix_path = name};
    rig_make(&r, rig_config("", "", ""), &options);
    CHECK(abk_serve(r.bus, in[0], out[1], NULL) == ABK_OK);
    CHECK(abk_listen(r.bus, &listener, NULL, 0, NULL) == ABK_OK);
    CHECK(abk_start(r.bus, NULL) == ABK_OK);
    const pid_t pid = fork();
    if (pid == 0) {
        abk_abandon(r.bus);
        _exit(0);
    }
    wait_for(pid);
    CHECK((fcntl(in[0], F_GETFL) & O_NONBLOCK) != 0 && (fcntl(out[1], F_GETFL) & O_NONBLOCK) != 0);
    CHECK(access(name, F_OK) == 0);
    static const char line[] = "{\"id\":1,\"method\":\"echo\"}\n";
    char got[256] = "";
    CHECK(write(in[1], line, sizeof line - 1) == sizeof line - 1);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    ssize_t len = 0;
    UNTIL(&r, len > 0 || (len = read(out[0], got, sizeof got - 1)) > 0);
    CHECK_HAS(got, "done");
    rig_close(&r);
    CHECK((fcntl(in[0], F_GETFL) & O_NONBLOCK) == 0 && access(name, F_OK) != 0);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
    rmdir(path);
}

/* --- several --------------------------------------------------------------------------------- */

static void two_buses_live_in_one_process(void)
{
    rig a, b;
    rig_open(&a, rig_config("", "", ""));
    rig_open(&b, rig_config("", "", ""));
    const int first = rig_ask(&a, "echo", "");
    const int second = rig_ask(&b, "hold", "");
    rig_answer(&a, first);
    CHECK(abk_submit(b.bus, &(abk_route)RIG_ROUTE, "{\"method\":\"go\"}\n", 16) == 0);
    CHECK_HAS(rig_answer(&b, second), "went");
    b.fds = a.fds;
    abk_destroy(a.bus);
    rig_free(&a);
    rig_close(&b);
}

enum { THREADS = 10, ROUNDS = 20 };

static void *run_one(void *argument)
{
    rig *self = argument;
    for (int i = 0; i < ROUNDS; i++) {
        const int id = rig_ask(self, i % 5 == 4 ? "exit" : "echo", "");
        const uint64_t late = abk_now() + RIG_PATIENCE;
        while (!rig_ended(self, id) && abk_now() < late)
            rig_step(self, 50);
    }
    abk_stop(self->bus, 0.0, 1.0);
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (!abk_stopped(self->bus) && abk_now() < late)
        rig_step(self, 50);
    return NULL;
}

/* Each is made by the thread that steps it: workers die with the thread that made them. */
static const char *threads_config;
static void *make_and_run(void *argument)
{
    const char *config = threads_config;
    const abk_options options = {.size = sizeof options, .host = true};
    rig *self = argument;
    self->bus = abk_create(config, strlen(config), &options, NULL);
    return self->bus == NULL || abk_start(self->bus, NULL) < 0 ? NULL : run_one(self);
}

static void ten_buses_live_in_ten_threads(void)
{
    static rig all[THREADS];
    pthread_t threads[THREADS];
    const int fds = rig_count_fds();
    threads_config = rig_config("", "", "\"restart_delay_s\":0.01,\"max_restarts\":1000");
    for (int i = 0; i < THREADS; i++) {
        all[i] = (rig){.ends = calloc(RIG_MOST_ENDS, sizeof(rig_end))};
        CHECK(pthread_create(&threads[i], NULL, make_and_run, &all[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(all[i].asked == ROUNDS);
        rig_check_ends(&all[i]);
        abk_destroy(all[i].bus);
        rig_free(&all[i]);
    }
    CHECK(rig_count_fds() == fds && !rig_has_children());
}

/* --- signals --------------------------------------------------------------------------------- */

static void nobody_dies_of_a_closed_pipe(void)
{
    for (int i = 0; i < 2; i++) {
        signal(SIGPIPE, i == 0 ? SIG_DFL : SIG_IGN);
        rig r;
        rig_open(&r, rig_config(",\"stays\"", "", "\"restart_delay_s\":0.01"));
        rig_answer(&r, rig_ask(&r, "close_stdin", ""));
        const int id = rig_ask(&r, "echo", "");
        rig_answer(&r, id);
        CHECK(r.ends[id].failures == 1);
        sigset_t waiting;
        sigpending(&waiting);
        CHECK(sigismember(&waiting, SIGPIPE) == 0);
        rig_close(&r);
    }
    signal(SIGPIPE, SIG_DFL);
}

/* --- misuse ---------------------------------------------------------------------------------- */

static void calls_out_of_turn_are_refused(void)
{
    const abk_options options = {.size = sizeof options, .host = true};
    const abk_options small = {.size = 1};
    const abk_route route = RIG_ROUTE;
    const abk_route old = {.size = 1};
    abk_error error;
    rig r;
    CHECK(abk_create("{}", 2, &small, &error) == NULL && error.code == ABK_EINVAL);
    CHECK(abk_create("{}", 2, NULL, &error) == NULL &&
          abk_create("{", 1, &options, &error) == NULL);
    rig_make(&r, rig_config("", "", ""), &options);
    CHECK(abk_step(r.bus, 0) == ABK_ESTATE && abk_kill(r.bus, 0, NULL) == ABK_ESTATE);
    CHECK(abk_submit(r.bus, &route, "{\"method\":\"a\"}\n", 15) == ABK_ESTATE);
    CHECK(abk_serve(r.bus, -1, -1, &error) == ABK_ESYS && error.number == EBADF);
    CHECK(rig_stats(&r).clients == 0);
    CHECK(abk_start(r.bus, &error) == ABK_OK && abk_start(r.bus, &error) == ABK_ESTATE);
    CHECK(abk_serve(r.bus, 0, 1, &error) == ABK_ESTATE);
    const abk_listener listener = {.size = sizeof listener, .host = "127.0.0.1"};
    CHECK(abk_listen(r.bus, &listener, NULL, 0, &error) == ABK_ESTATE);
    CHECK(abk_submit(r.bus, NULL, "{\"method\":\"a\"}\n", 15) == ABK_EINVAL);
    CHECK(abk_submit(r.bus, &old, "{\"method\":\"a\"}\n", 15) == ABK_EINVAL);
    rig_close(&r);
    CHECK(abk_step(NULL, 0) == ABK_EINVAL && abk_fd(NULL) == -1 && abk_stopped(NULL));
    abk_destroy(NULL);
    abk_abandon(NULL);
    abk_kill_now(NULL, 0);
}

static void a_bus_that_never_started_can_be_stopped_and_destroyed(void)
{
    const abk_options options = {.size = sizeof options};
    rig r;
    rig_make(&r, rig_config("", "", ""), &options);
    CHECK(abk_stop(r.bus, 0, 0) == ABK_OK && abk_stopped(r.bus));
    CHECK(abk_start(r.bus, NULL) == ABK_ESTATE);
    abk_destroy(r.bus);
    CHECK(rig_count_fds() == r.fds);
    rig_free(&r);
}

static void a_watched_fd_wakes_a_step(void)
{
    int fds[2];
    rig r;
    CHECK(pipe(fds) == 0);
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(abk_watch_fd(r.bus, fds[0]) == ABK_OK);
    CHECK(write(fds[1], "x", 1) == 1);
    UNTIL(&r, rig_count(&r, ABK_EV_WAKE, fds[0]) > 0);
    CHECK(write(fds[1], "x", 1) == 1);
    CHECK(abk_watch_fd(r.bus, 9999) == ABK_ESYS);
    abk_destroy(r.bus);
    close(fds[0]);
    close(fds[1]);
    rig_free(&r);
}

/* Between a primitive that has something to tell and the next step the fd says so. */
static void the_fd_is_readable_while_there_is_something_to_do(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    struct pollfd look = {.fd = abk_fd(r.bus), .events = POLLIN};
    rig_answer(&r, rig_ask(&r, "echo", ""));
    const int id = rig_ask(&r, "slow", "");
    abk_flush(r.bus);
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (!rig_ended(&r, id) && abk_now() < late) {
        CHECK(poll(&look, 1, 10000) == 1);
        rig_step(&r, 0);
    }
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    CHECK(poll(&look, 1, 10000) == 1);
    rig_close(&r);
}

/* --- memory ---------------------------------------------------------------------------------- */

enum { STEADY = 10000, AT_ONCE = 32 };

static void a_busy_poll_ends_with_an_answer_or_its_time(void)
{
    rig r;
    int other[2];
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    const int first = rig_ask(&r, "echo", "");
    CHECK(abk_flush(r.bus) == 0);
    CHECK(abk_busy_poll(r.bus, RIG_PATIENCE / 1000, -1) == 1 && !rig_ended(&r, first));
    CHECK(abk_step(r.bus, 0) == 1); /* what it has found is still there to be taken */
    CHECK_HAS(rig_answer(&r, first), "done");

    const int held = rig_ask(&r, "hold", "");
    CHECK(abk_flush(r.bus) == 0);
    const uint64_t begun = abk_now();
    CHECK(pipe(other) == 0);
    CHECK(abk_busy_poll(r.bus, 20000, other[0]) == 0 && abk_now() - begun >= ABK_S / 50);
    CHECK(write(other[1], "x", 1) == 1); /* the host has something else to do */
    const uint64_t busy = abk_now();
    CHECK(abk_busy_poll(r.bus, RIG_PATIENCE / 1000, other[0]) == 0);
    CHECK(abk_now() - busy < RIG_PATIENCE);
    CHECK(abk_stop(r.bus, 30.0, 5.0) == ABK_OK); /* it does not wait for what is in flight */
    CHECK(abk_busy_poll(r.bus, RIG_PATIENCE / 1000, -1) == 0 && !rig_ended(&r, held));
    struct pollfd at = {.fd = abk_fd(r.bus), .events = POLLIN};
    CHECK(poll(&at, 1, 0) == 1); /* who sleeps on it looks, lest an end be missed */
    CHECK(close(other[0]) == 0 && close(other[1]) == 0);
    rig_close(&r);
}

static void run_many(abk_bus *bus, int count)
{
    const abk_route route = RIG_ROUTE;
    char line[128];
    int begun = 0;
    int ended = 0;
    const uint64_t late = abk_now() + 3 * RIG_PATIENCE;
    while (ended < count && abk_now() < late) {
        for (; begun < count && begun - ended < AT_ONCE; begun++) {
            const int len = snprintf(line, sizeof line,
                                     "{\"jsonrpc\":\"2.0\",\"id\":\"r%d\","
                                     "\"method\":\"echo\",\"params\":{}}\n",
                                     begun);
            CHECK(abk_submit(bus, &route, line, (size_t)len) > 0);
        }
        abk_step(bus, 100);
        for (abk_event event; abk_next_event(bus, &event) == 1;)
            ended += event.type == ABK_EV_LINES ? (int)event.count : 0;
    }
    CHECK(ended == count);
}

static void the_steady_path_allocates_nothing(void)
{
    rig r;
    rig_open(&r, rig_config("", ",\"instances\":2", ""));
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_READY) == 2);
    run_many(r.bus, STEADY / 10);
    const uint64_t before = abk_test.allocations;
    run_many(r.bus, STEADY);
    CHECK(abk_test.allocations == before);
    rig_close(&r);
}

TEST_MAIN(TEST(a_fork_leaves_the_bus_to_its_parent),
          TEST(a_fork_leaves_served_pipes_and_sockets_as_they_are),
          TEST(two_buses_live_in_one_process), TEST(ten_buses_live_in_ten_threads),
          TEST(nobody_dies_of_a_closed_pipe), TEST(calls_out_of_turn_are_refused),
          TEST(a_bus_that_never_started_can_be_stopped_and_destroyed),
          TEST(a_watched_fd_wakes_a_step), TEST(the_fd_is_readable_while_there_is_something_to_do),
          TEST(a_busy_poll_ends_with_an_answer_or_its_time),
          TEST(the_steady_path_allocates_nothing))
