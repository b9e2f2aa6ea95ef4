/* Workers that start, end, die, and what falls with them; the primitives that steer this. */
#include "../src/bus.h"
#include "rig.h"

#include <sys/ioctl.h>

#define SOON "\"restart_delay_s\":0.01,\"restart_delay_max_s\":0.01"
#define WITH_HANDSHAKE                                                                             \
    ",\"ready\":{\"method\":\"initialize\",\"then_notify\":\"initialized\",\"timeout_s\":0.2}"

/* --- death ----------------------------------------------------------------------------------- */

static void a_death_fails_what_is_in_flight_and_a_successor_follows(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    rig_answer(&r, rig_ask(&r, "stderr", "\"text\":\"my last words\""));
    UNTIL(&r, rig_count(&r, ABK_EV_STDERR, -1) == 1);
    const int held = rig_ask(&r, "hold", "");
    const int dies = rig_ask(&r, "exit", "\"n\":3");
    rig_answer(&r, held);
    rig_answer(&r, dies);
    CHECK(r.ends[held].failures == 1 && r.ends[held].code == ABK_CODE_WORKER_LOST);
    CHECK(r.ends[dies].failures == 1 && r.ends[dies].sent);
    CHECK_HAS(r.ends[dies].text, "\"exit_code\":3");
    CHECK_HAS(r.ends[dies].text, "\"stderr_tail\":\"my last words\\n\"");
    CHECK_HAS(r.ends[dies].text, "\"pid\":");
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    const abk_event *last = rig_last(&r, ABK_EV_RESULTS);
    CHECK(last != NULL && last->generation == 2 && rig_stats(&r).worker_restarts == 1);
    rig_close(&r);
}

static void a_signal_is_named(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    const int id = rig_ask(&r, "raise", "\"n\":9");
    CHECK_HAS(rig_answer(&r, id), "SIGKILL");
    CHECK_HAS(r.ends[id].text, "\"signal\":9");
    rig_close(&r);
}

static void half_a_line_is_a_bad_one(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    const int id = rig_ask(&r, "half", "");
    CHECK_HAS(rig_answer(&r, id), "-32050");
    const abk_event *bad = rig_last(&r, ABK_EV_LINE_BAD);
    CHECK(bad != NULL && strcmp(bad->text, "unterminated last line") == 0);
    rig_close(&r);
}

static void a_worker_that_closes_a_pipe_is_ended(void)
{
    rig r;
    rig_open(&r, rig_config(",\"stays\"", "", SOON));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "close_stdout", "")), "closed its stdout");
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "close_stdin", "")), "closed");
    UNTIL(&r, rig_ended(&r, 2));
    const int id = rig_ask(&r, "echo", "");
    CHECK_HAS(rig_answer(&r, id), "closed its stdin");
    CHECK(!r.ends[id].sent);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    rig_close(&r);
}

static void what_outlives_its_group_is_read_for_a_while_and_no_longer(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    const int id = rig_ask(&r, "escape", "");
    CHECK_HAS(rig_answer(&r, id), "-32050");
    CHECK(r.notes > 0);
    rig_close(&r);
}

/* Its last lines and its burial may come in one step; the lines are still there then. */
static void lines_live_as_long_as_their_events(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    const int id = rig_ask(&r, "escape", "");
    UNTIL(&r, r.notes > 0);
    for (int i = 0; i < 20; i++)
        rig_step(&r, 5);
    const uint64_t later = abk_now() + ABK_S * 3 / 10; /* more than the last output may take */
    while (abk_now() < later)
        poll(NULL, 0, 10);
    CHECK_HAS(rig_answer(&r, id), "-32050");
    rig_close(&r);
}

static void a_command_that_is_not_there_parks_and_refuses(void)
{
    rig r;
    rig_open(&r, "{\"pools\":[{\"id\":\"a\",\"command\":\"/does/not/exist\"}]}");
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_PARKED);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "\"phase\":\"spawn\"");
    CHECK_HAS(rig_refusal(&r), "\"errno\":2");
    CHECK(abk_check_pool(r.bus, "a") == ABK_EREFUSED && abk_check_pool(r.bus, "b") == ABK_ENOENT);
    CHECK_HAS(rig_status(&r), "\"state\":\"parked\"");
    rig_close(&r);
}

static void starts_that_fail_park_and_fail_what_waits(void)
{
    rig r;
    rig_open(&r, rig_config(",\"cry\"", "", SOON ",\"start_attempts\":2,\"park_retry_s\":0.1"));
    const int id = rig_ask(&r, "echo", "");
    CHECK_HAS(rig_answer(&r, id), "I cannot");
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_PARKED);
    CHECK(abk_check_pool(r.bus, "a") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "\"phase\":\"start\"");
    rig_forget(&r);
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_PARKED) > 0); /* it was tried again */
    CHECK(abk_drain(r.bus, 0, 0, false) == ABK_OK);
    rig_forget(&r);
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_STARTING) > 0);
    rig_close(&r);
}

static void too_many_deaths_park(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON ",\"max_restarts\":1"));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "exit", "\"n\":1")), "-32050");
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_READY) == 2);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "exit", "\"n\":1")), "-32050");
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_PARKED);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "max_restarts=1");
    rig_close(&r);
}

/* --- handshakes ------------------------------------------------------------------------------ */

static void a_worker_is_ready_when_it_has_answered(void)
{
    rig r;
    rig_open(&r, rig_config("", WITH_HANDSHAKE, SOON));
    CHECK(rig_state(&r, 0) != ABK_WORKER_READY);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    CHECK(rig_stats(&r).stray_answers == 0 && r.notes == 0);
    rig_close(&r);
}

static void one_that_does_not_answer_or_refuses_parks(void)
{
    static const char *const how[] = {",\"mute\"", ",\"refuse\"", ",\"exit=4\""};
    static const char *const why[] = {"did not answer", "not you", "before its handshake"};
    for (size_t i = 0; i < 3; i++) {
        rig r;
        rig_open(&r, rig_config(how[i], WITH_HANDSHAKE, SOON ",\"start_attempts\":1"));
        const int id = rig_ask(&r, "echo", "");
        CHECK_HAS(rig_answer(&r, id), why[i]);
        CHECK_HAS(r.ends[id].text, i < 2 ? "\"phase\":\"handshake\"" : "\"phase\":\"start\"");
        CHECK(r.ends[id].code == ABK_CODE_NO_WORKER && !r.ends[id].sent);
        rig_close(&r);
    }
}

/* --- ending ---------------------------------------------------------------------------------- */

static void a_stop_lets_finish_then_fails_then_ends(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask(&r, "hold", "");
    abk_flush(r.bus);
    CHECK(abk_stop(r.bus, 30.0, 5.0) == ABK_OK);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "-32055");
    const abk_route route = RIG_ROUTE;
    CHECK(abk_submit(r.bus, &route, "{\"method\":\"go\"}\n", 16) == 0);
    UNTIL(&r, abk_stopped(r.bus));
    CHECK(r.ends[held].answers == 1);
    CHECK(abk_submit(r.bus, &route, "{\"method\":\"go\"}\n", 16) == ABK_ESTATE);
    rig_close(&r);
}

static void a_second_stop_ends_sooner(void)
{
    rig r;
    rig_open(&r, rig_config(",\"stubborn\"", "", ""));
    const int held = rig_ask(&r, "stuck", "");
    const uint64_t begun = abk_now();
    CHECK(abk_stop(r.bus, 600.0, 600.0) == ABK_OK);
    rig_step(&r, 0);
    CHECK(abk_stop(r.bus, 0.0, 600.0) == ABK_OK);
    rig_step(&r, 0);
    CHECK(r.ends[held].failures == 1 && r.ends[held].code == ABK_CODE_SHUTTING_DOWN);
    CHECK(!abk_stopped(r.bus));
    CHECK(abk_spawn(r.bus, "a", NULL) == ABK_ESTATE); /* which nobody would end */
    CHECK(abk_resize(r.bus, "a", 3, 0.0) == ABK_ESTATE);
    CHECK(abk_stop(r.bus, 0.0, 0.1) == ABK_OK);
    UNTIL(&r, abk_stopped(r.bus));
    CHECK(abk_now() - begun < 300 * ABK_S);
    CHECK(abk_stop(r.bus, 0.0, 0.1) == ABK_OK);
    rig_close(&r);
}

static void the_ladder_closes_stdin_then_terms_then_kills(void)
{
    static const char *const how[] = {"", ",\"stays\"", ",\"stubborn\""};
    for (size_t i = 0; i < 3; i++) {
        rig r;
        rig_open(&r, rig_config(how[i], "", ""));
        rig_answer(&r, rig_ask(&r, "echo", ""));
        CHECK(abk_stop(r.bus, 0.0, i == 0 ? 600.0 : 0.5) == ABK_OK);
        UNTIL(&r, abk_stopped(r.bus));
        CHECK(rig_state(&r, 0) == ABK_WORKER_STOPPED);
        rig_close(&r);
    }
}

/* Else it could not end by itself: its pipe would be full. */
static void what_a_worker_writes_in_the_end_is_read_though_nobody_wants_it(void)
{
    rig r;
    rig_open(&r, rig_config(",\"late=20000\"", "", ""));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(abk_stop(r.bus, 0.0, 600.0) == ABK_OK); /* no signal comes in the time of this test */
    UNTIL(&r, abk_stopped(r.bus));
    CHECK(rig_stats(&r).stray_answers == 20000);
    rig_close(&r);
}

static void what_is_no_line_at_all_is_paid_for_too(void)
{
    static const char *const how[] = {"babble", "drone"};
    for (size_t i = 0; i < 2; i++) {
        rig r;
        rig_open(&r, rig_config("", "", "\"max_input_buffer\":65536"));
        rig_answer(&r, rig_ask(&r, how[i], "\"n\":100"));
        CHECK(strstr(rig_status(&r), "\"throttled\":0") == NULL);
        rig_close(&r);
    }
}

static void bad_lines_are_paid_for_one_by_one(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "rave", ""));
    CHECK(rig_stats(&r).bad_lines == 500); /* 1000 bytes alone would cost next to nothing */
    CHECK(strstr(rig_status(&r), "\"throttled\":0") == NULL);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    rig_close(&r);
}

/* Have a worker write so many bad lines that wait to be read together; return how often it rests. */
static uint64_t rests_for(rig *r, const abk_process *process, int lines)
{
    const uint64_t before = process->throttled;
    const int room = process->wide_out ? 2 * lines : 16384;
    int unread = 0;
    char params[32];
    snprintf(params, sizeof params, "\"n\":%d", lines);
    CHECK(abk_pause(r->bus, 0) == ABK_OK);
    const int id = rig_ask(r, "rave", params);
    UNTIL(r, ioctl(process->child.out, FIONREAD, &unread) == 0 && unread >= room);
    CHECK(abk_resume(r->bus, 0) == ABK_OK);
    while (!rig_ended(r, id)) {
        rig_step(r, 0);
        CHECK(process->rest_until < r->bus->now + ABK_S);
        if (process->rest_until != 0) {
            CHECK_HAS(rig_status(r), "\"paused\":true"); /* no probe may take it for ill */
            abk_test.later += ABK_S;
        }
    }
    return process->throttled - before;
}

static void no_rest_is_long_however_much_is_bad(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "big", "\"n\":2000000")); /* its pipe holds more from now on */
    const abk_process *process = ABK_OF(abk_list_first(&r.bus->processes), abk_process, link);
    rests_for(&r, process, 200000);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(rests_for(&r, process, 200000) >= 400000 / 65536); /* it is read less at once, */
    CHECK(process->told_bad);
    rig_answer(&r, rig_ask(&r, "big", "\"n\":200000"));
    CHECK(!process->told_bad); /* until much is good */
    rig_close(&r);
    abk_test.later = 0;
}

static void nothing_is_started_after_the_end(void)
{
    rig r;
    rig_open(&r,
             rig_config(",\"exit=1\"", "", SOON ",\"start_attempts\":1000,\"max_restarts\":1000"));
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_BACKOFF);
    abk_kill_now(r.bus, 1.0);
    CHECK(abk_stopped(r.bus) && !rig_has_children());
    const uint64_t started = rig_stats(&r).worker_restarts;
    const uint64_t later = abk_now() + ABK_S / 10; /* its next start would be due by then */
    while (abk_now() < later) {
        rig_step(&r, 0);
        poll(NULL, 0, 5);
    }
    CHECK(!rig_has_children() && rig_stats(&r).worker_restarts == started);
    abk_destroy(r.bus);
    CHECK(rig_count_fds() == r.fds);
    rig_free(&r);
}

static void a_drained_worker_finishes_and_has_a_successor(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask(&r, "hold", "");
    abk_flush(r.bus);
    CHECK(abk_drain(r.bus, 0, 60.0, false) == ABK_OK);
    CHECK(rig_ask(&r, "echo", "") > 0);
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_DRAINING);
    CHECK(abk_submit(r.bus, &(abk_route){.size = sizeof(abk_route)}, "{\"method\":\"go\"}\n", 16) ==
          0);
    CHECK_HAS(rig_answer(&r, held), "went");
    CHECK_HAS(rig_answer(&r, 2), "done");
    CHECK(rig_last(&r, ABK_EV_RESULTS)->generation == 2);
    CHECK(abk_drain(r.bus, 0, 0.0, true) == ABK_OK);
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_STOPPED);
    CHECK(abk_drain(r.bus, 0, 0.0, true) == ABK_ENOENT);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "-32051");
    CHECK(abk_resize(r.bus, "a", 1, 0.0) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    rig_close(&r);
}

static void a_second_drain_ends_sooner(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask(&r, "stuck", "");
    abk_flush(r.bus);
    CHECK(abk_drain(r.bus, 0, 600.0, false) == ABK_OK);
    CHECK(abk_drain(r.bus, 0, 0.01, false) == ABK_OK);
    CHECK_HAS(rig_answer(&r, held), "-32050");
    rig_close(&r);
}

static void a_kill_with_a_fault_says_so_and_counts(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON ",\"max_restarts\":1"));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    const int id = rig_ask(&r, "stuck", "");
    CHECK(abk_kill(r.bus, 0, "is too fat") == ABK_OK);
    CHECK_HAS(rig_answer(&r, id), "is too fat and was killed");
    for (int i = 0; i < 3; i++) { /* these are not counted */
        UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_READY);
        CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
        UNTIL(&r, rig_state(&r, 0) != ABK_WORKER_READY);
    }
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    CHECK(abk_kill(r.bus, 7, NULL) == ABK_ENOENT);
    rig_close(&r);
}

static void a_resting_worker_starts_when_it_is_needed(void)
{
    rig r;
    rig_open(&r, rig_config("", ",\"instances\":2", ""));
    CHECK_HAS(rig_answer(&r, rig_ask_worker(&r, 1, "echo", "")), "done");
    const int held = rig_ask_worker(&r, 0, "hold", "");
    CHECK(abk_rest(r.bus, 0) == 0 && abk_rest(r.bus, 1) == 1 && abk_rest(r.bus, 1) == 0);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_VACANT);
    CHECK_HAS(rig_status(&r), "\"state\":\"vacant\"");
    rig_ask(&r, "echo", ""); /* the other one is busy */
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_READY);
    CHECK(abk_rest(r.bus, 1) >= 0);
    rig_ask_worker(&r, 0, "go", "");
    rig_answer(&r, held);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_VACANT || rig_state(&r, 1) == ABK_WORKER_READY);
    CHECK(abk_drain(r.bus, 1, 0.0, false) == ABK_OK);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_READY);
    rig_close(&r);
}

static void a_pool_grows_and_shrinks(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(abk_resize(r.bus, "a", 3, 0.0) == ABK_OK && abk_resize(r.bus, "b", 3, 0.0) == ABK_ENOENT);
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_READY) == 3);
    CHECK_HAS(rig_status(&r), "\"instances\":3");
    CHECK(abk_resize(r.bus, "a", 1, 0.0) == ABK_OK);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_STOPPED && rig_state(&r, 2) == ABK_WORKER_STOPPED);
    CHECK(rig_state(&r, 0) == ABK_WORKER_READY && rig_stats(&r).workers == 1);
    CHECK(abk_spawn(r.bus, "a", NULL) == 3 && abk_spawn(r.bus, "b", NULL) == ABK_ENOENT);
    UNTIL(&r, rig_state(&r, 3) == ABK_WORKER_READY);
    CHECK_HAS(rig_answer(&r, rig_ask_worker(&r, 3, "echo", "")), "done");
    rig_close(&r);
}

static bool readable(rig *self)
{
    struct pollfd look = {.fd = abk_fd(self->bus), .events = POLLIN};
    return poll(&look, 1, 0) == 1;
}

/* What a call has brought about is there to be taken, for a host that waits for the fd, too. */
static void what_happens_between_steps_wakes_the_host(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(readable(&r)); /* it has started */
    rig_answer(&r, rig_ask(&r, "echo", ""));
    while (readable(&r))
        rig_step(&r, 0);
    CHECK(abk_hold(r.bus, 0) == ABK_OK && readable(&r));
    const size_t before = r.event_count;
    while (readable(&r))
        rig_step(&r, 0);
    CHECK(r.event_count > before);
    rig_close(&r);
}

/* The refusal points to what was there when it was made, whatever comes before it is read. */
static void a_refusal_outlives_what_it_tells_of(void)
{
    rig r;
    rig_open(&r, rig_config(",\"cry\"", "", "\"start_attempts\":1,\"park_retry_s\":0"));
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_PARKED);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK(abk_drain(r.bus, 0, 0.0, false) == ABK_OK); /* there is hope again */
    CHECK_HAS(rig_refusal(&r), "\"stderr_tail\":\"I cannot");
    rig_close(&r);
}

static void a_paused_worker_is_not_heard_until_it_is_resumed(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(abk_pause(r.bus, 0) == ABK_OK);
    const int id = rig_ask(&r, "stderr", "\"text\":\"done\"");
    UNTIL(&r, rig_count(&r, ABK_EV_STDERR, -1) == 1);
    for (int i = 0; i < 10; i++)
        rig_step(&r, 5);
    CHECK(!rig_ended(&r, id));
    CHECK_HAS(rig_status(&r), "\"paused\":true");
    CHECK(abk_resume(r.bus, 0) == ABK_OK);
    rig_answer(&r, id);
    CHECK(abk_pause(r.bus, 0) == ABK_OK);
    const int last = rig_ask(&r, "exit", "\"n\":0");
    CHECK_HAS(rig_answer(&r, last), "-32050"); /* its end resumes it */
    CHECK(abk_pause(r.bus, 0) == ABK_OK);
    rig_close(&r);
}

TEST_MAIN(
    TEST(a_death_fails_what_is_in_flight_and_a_successor_follows), TEST(a_signal_is_named),
    TEST(half_a_line_is_a_bad_one), TEST(a_worker_that_closes_a_pipe_is_ended),
    TEST(what_outlives_its_group_is_read_for_a_while_and_no_longer),
    TEST(lines_live_as_long_as_their_events), TEST(a_command_that_is_not_there_parks_and_refuses),
    TEST(starts_that_fail_park_and_fail_what_waits), TEST(too_many_deaths_park),
    TEST(a_worker_is_ready_when_it_has_answered), TEST(one_that_does_not_answer_or_refuses_parks),
    TEST(a_stop_lets_finish_then_fails_then_ends), TEST(a_second_stop_ends_sooner),
    TEST(the_ladder_closes_stdin_then_terms_then_kills),
    TEST(what_a_worker_writes_in_the_end_is_read_though_nobody_wants_it),
    TEST(what_is_no_line_at_all_is_paid_for_too), TEST(bad_lines_are_paid_for_one_by_one),
    TEST(no_rest_is_long_however_much_is_bad),
    TEST(nothing_is_started_after_the_end),
    TEST(a_drained_worker_finishes_and_has_a_successor), TEST(a_second_drain_ends_sooner),
    TEST(a_kill_with_a_fault_says_so_and_counts), TEST(a_resting_worker_starts_when_it_is_needed),
    TEST(what_happens_between_steps_wakes_the_host),
          TEST(a_refusal_outlives_what_it_tells_of), TEST(a_pool_grows_and_shrinks), TEST(a_paused_worker_is_not_heard_until_it_is_resumed))
