/* A client over two pipes, alone or beside the host: its lines, its answers, its end. */
#include "wire.h"

#define SOON "\"restart_delay_s\":0.01,\"restart_delay_max_s\":0.01"

static void ids_pass_as_they_are(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    SAY(&r, &s.wire,
        "{\"id\":1.50e1,\"method\":\"echo\",\"params\":{}}\n"
        "{\"id\":\"\\u00e4\",\"method\":\"echo\"}\n{\"id\":null,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "\"id\":1.50e1,\"result\":\"done\"");
    HEAR(&r, &s.wire, "\"id\":\"\\u00e4\",\"result\":\"done\"");
    HEAR(&r, &s.wire, "\"id\":null,\"result\":\"done\"");
    served_close(&r, &s);
}

static void lines_that_are_no_message_are_answered(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", "\"max_input_buffer\":200"), false);
    SAY(&r, &s.wire, "\n \r\nnonsense\n[]\n{\"id\":7}\n{\"id\":8,\"method\":\"echo\",\"id\":9}\n");
    HEAR(&r, &s.wire, "\"id\":9,\"result\"");
    CHECK(wire_count(&s.wire, "-32700") == 2 && wire_count(&s.wire, "-32600") == 1);
    CHECK(wire_count(&s.wire, "\n") == 4 && !wire_heard(&s.wire, "\"id\":8"));
    char line[400];
    memset(line, ' ', sizeof line);
    memcpy(line, "{\"id\":77,\"method\":\"echo\"}", 25);
    line[sizeof line - 1] = '\n';
    wire_say(&r, &s.wire, line, sizeof line);
    HEAR(&r, &s.wire, "\"id\":77,\"error\":{\"code\":-32054");
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "\"id\":1,\"result\"");
    served_close(&r, &s);
}

static void two_clients_may_use_the_same_id(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), true);
    const int held = rig_ask(&r, "hold", "");
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"hold\"}\n{\"id\":\"1\",\"method\":\"hold\"}\n");
    UNTIL(&r, rig_stats(&r).live_requests == 3);
    rig_ask(&r, "go", "");
    CHECK_HAS(rig_answer(&r, held), "\"went\"");
    HEAR(&r, &s.wire, "\"id\":1,\"result\":\"went\"");
    HEAR(&r, &s.wire, "\"id\":\"1\",\"result\":\"went\"");
    SAY(&r, &s.wire, "{\"id\":2,\"method\":\"flood\",\"params\":{\"n\":2}}\n");
    HEAR(&r, &s.wire, "\"id\":2,\"result\":\"flooded\"");
    CHECK(wire_count(&s.wire, "\"requestId\":2}") == 2 && r.notes == 0);
    served_close(&r, &s);
}

static void a_workers_request_finds_the_client_and_its_answer_the_worker(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    SAY(&r, &s.wire, "{\"id\":5,\"method\":\"ask\"}\n");
    HEAR(&r, &s.wire, "\"id\":\"w1\",\"method\":\"question\"");
    SAY(&r, &s.wire, "{\"id\":\"other\",\"result\":1}\n{\"id\":\"w1\",\"result\":1}\n");
    HEAR(&r, &s.wire, "\"id\":5,\"result\":\"heard\"");
    CHECK(rig_stats(&r).stray_answers == 1);
    SAY(&r, &s.wire, "{\"id\":6,\"method\":\"ask\"}\n");
    HEAR(&r, &s.wire, "\"id\":\"w1\",\"method\":\"question\"");
    SAY(&r, &s.wire, "{\"id\":7,\"method\":\"exit\"}\n");
    HEAR(&r, &s.wire, "\"method\":\"$/cancelRequest\",\"params\":{\"id\":\"w1\"}");
    served_close(&r, &s);
}

static void a_cancel_before_it_is_written_and_after(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", ",\"max_in_flight\":1", "\"cancel_grace_s\":0.1"), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"hold\"}\n");
    UNTIL(&r, rig_stats(&r).bytes_out > 0);
    SAY(&r, &s.wire,
        "{\"id\":2,\"method\":\"exit\"}\n"
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":2}}\n"
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":99}}\n"
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
    HEAR(&r, &s.wire, "\"id\":2,\"error\":{\"code\":-32800");
    HEAR(&r, &s.wire, "\"id\":1,\"error\":{\"code\":-32800,\"message\":\"cancelled\"}");
    SAY(&r, &s.wire, "{\"id\":3,\"method\":\"stuck\"}\n");
    UNTIL(&r, rig_stats(&r).messages_out >= 3);
    SAY(&r, &s.wire, "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":3}}\n");
    HEAR(&r, &s.wire, "\"id\":3,\"error\":{\"code\":-32800");
    served_close(&r, &s);
}

static void the_end_of_its_input_waits_for_what_is_pending(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"hold\"}\n{\"id\":2,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "\"id\":2");
    SAY(&r, &s.wire, "{\"method\":\"go\"}\n{\"id\":3,\"method\":\"ec");
    close(s.wire.to);
    s.wire.to = -1;
    HEAR(&r, &s.wire, "\"id\":1,\"result\":\"went\"");
    UNTIL(&r, rig_count(&r, ABK_EV_CLIENT, 2) == 1);
    CHECK(!wire_heard(&s.wire, "\"id\":3"));
    for (int i = 0; i < 5; i++)
        rig_step(&r, 1);
    CHECK(rig_count(&r, ABK_EV_CLIENT, 2) == 1);
    served_close(&r, &s);
}

static void a_client_that_is_gone_takes_its_requests_along(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"stuck\"}\n{\"id\":2,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "\"id\":2");
    close(s.wire.from);
    s.wire.from = -1;
    SAY(&r, &s.wire, "{\"id\":3,\"method\":\"echo\"}\n");
    UNTIL(&r, rig_count(&r, ABK_EV_CLIENT, 0) == 1);
    CHECK(rig_stats(&r).live_requests == 0);
    UNTIL(&r, rig_stats(&r).cancelled >= 1);
    served_close(&r, &s);
}

static void workers_wait_for_a_sole_client_that_reads_slowly(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"flood\",\"params\":{\"n\":100000}}\n");
    uint64_t before = 0;
    int idle = 0;
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (idle < 50 && abk_now() < late) { /* until nothing moves any more */
        rig_step(&r, 2);
        const uint64_t now = rig_stats(&r).bytes_in;
        idle = now == before && now > 0 ? idle + 1 : 0;
        before = now;
    }
    CHECK(before >= 4 * 1024 * 1024 && before < 6 * 1024 * 1024);
    HEAR(&r, &s.wire, "\"id\":1,\"result\":\"flooded\"");
    CHECK(wire_count(&s.wire, "\"method\":\"chunk\"") == 100000);
    served_close(&r, &s);
}

static void the_kernel_answers_its_own_methods(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", SOON), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"bus/status\"}\n");
    HEAR(&r, &s.wire, "\"statistics\":{");
    CHECK_HAS(s.wire.text, "\"state\":\"running\"");
    SAY(&r, &s.wire,
        "{\"id\":2,\"method\":\"bus/watch\",\"params\":{\"events\":[\"worker_changed\","
        "\"line_bad\",\"client\"]}}\n{\"id\":3,\"method\":\"garbage\"}\n"
        "{\"id\":4,\"method\":\"bus/resize\",\"params\":{\"pool\":\"a\",\"instances\":2}}\n");
    HEAR(&r, &s.wire, "\"event\":\"line_bad\"");
    HEAR(&r, &s.wire,
         "\"pool\":\"a\",\"worker\":1,\"generation\":1,"
         "\"state\":\"ready\"");
    SAY(&r, &s.wire,
        "{\"id\":5,\"method\":\"bus/restart\",\"params\":{\"pool\":\"a\",\"worker\":1}}\n");
    HEAR(&r, &s.wire, "\"worker\":1,\"generation\":2,\"state\":\"ready\"");
    SAY(&r, &s.wire,
        "{\"id\":6,\"method\":\"bus/nothing\"}\n{\"id\":7,\"method\":\"bus/resize\"}\n"
        "{\"id\":8,\"method\":\"bus/session_end\",\"params\":{\"id\":\"x\"}}\n"
        "{\"method\":\"bus/status\"}\n{\"method\":\"bus/session\"}\n");
    HEAR(&r, &s.wire, "\"id\":8,\"error\":{\"code\":-32602");
    HEAR(&r, &s.wire, "\"id\":6,\"error\":{\"code\":-32601");
    HEAR(&r, &s.wire, "\"id\":7,\"error\":{\"code\":-32602");
    served_close(&r, &s);
}

static void a_session_may_have_a_worker_for_itself(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", SOON), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "\"id\":1,\"result\"");
    SAY(&r, &s.wire,
        "{\"id\":2,\"method\":\"bus/session\",\"params\":{\"id\":\"x\",\"exclusive\":true}}\n");
    HEAR(&r, &s.wire, "\"id\":2,\"result\":{\"id\":\"x\",\"worker\":0}");
    SAY(&r, &s.wire,
        "{\"id\":3,\"method\":\"bus/session\",\"params\":{\"exclusive\":true,\"wait_s\":0.05}}\n"
        "{\"id\":4,\"method\":\"bus/session\",\"params\":{\"id\":\"x\",\"exclusive\":true}}\n"
        "{\"id\":5,\"method\":\"echo\",\"sessionId\":\"x\"}\n{\"id\":6,\"method\":\"echo\"}\n");
    HEAR(&r, &s.wire, "no_free_worker");
    HEAR(&r, &s.wire, "session_in_use");
    HEAR(&r, &s.wire, "\"id\":5,\"result\"");
    CHECK(!wire_heard(&s.wire, "\"id\":6,"));
    SAY(&r, &s.wire, "{\"id\":7,\"method\":\"bus/session_end\",\"params\":{\"id\":\"x\"}}\n");
    HEAR(&r, &s.wire, "\"id\":7,\"result\":{}");
    HEAR(&r, &s.wire, "\"id\":6,\"result\"");
    SAY(&r, &s.wire, "{\"id\":8,\"method\":\"bus/session\",\"params\":{\"id\":\"\\u0079\"}}\n");
    HEAR(&r, &s.wire, "\"id\":8,\"result\":{\"id\":\"y\",\"worker\":0}");
    served_close(&r, &s);
}

static void a_tap_shows_every_line(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", SOON), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"bus/tap\"}\n{\"id\":2,\"method\":\"garbage\"}\n");
    HEAR(&r, &s.wire,
         "\"direction\":\"to_worker\",\"pool\":\"a\",\"worker\":0,\"generation\":1,"
         "\"kind\":\"request\",\"id\":2,\"method\":\"garbage\",\"request\":2");
    HEAR(&r, &s.wire, "\"kind\":\"bad\",\"size\":9");
    HEAR(&r, &s.wire, "\"line\":\"bm9uc2Vuc2UK\"");
    HEAR(&r, &s.wire, "\"kind\":\"response\",\"id\":2,\"request\":2");
    served_close(&r, &s);
}

static void a_tap_that_is_refused_leaves_the_one_that_is_there(void)
{
    static const char *const bad[] = {"{\"pool\":\"nowhere\"}", "{\"worker\":\"x\"}"};
    char line[128];
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", SOON), false);
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"bus/tap\",\"params\":{\"worker\":9}}\n");
    HEAR(&r, &s.wire, "\"id\":1,\"result\"");
    for (size_t i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "{\"id\":2,\"method\":\"bus/tap\",\"params\":%s}\n", bad[i]);
        SAY(&r, &s.wire, line);
        HEAR(&r, &s.wire, "\"id\":2,\"error\"");
        wire_forget(&s.wire);
        SAY(&r, &s.wire, "{\"id\":3,\"method\":\"echo\"}\n");
        HEAR(&r, &s.wire, "\"id\":3,\"result\"");
        CHECK(!wire_heard(&s.wire, "bus/frame"));
    }
    served_close(&r, &s);
}

static void what_is_in_flight_at_a_kill_is_answered(void)
{
    rig r;
    served s;
    served_open(&r, &s, rig_config("", ",\"max_in_flight\":1", ""), true);
    const int held = rig_ask(&r, "stuck", "");
    abk_flush(r.bus);
    const int waits = rig_ask(&r, "echo", "");
    SAY(&r, &s.wire, "{\"id\":1,\"method\":\"echo\"}\n");
    UNTIL(&r, rig_stats(&r).live_requests == 3);
    abk_kill_now(r.bus, 1.0);
    for (abk_event event; abk_next_event(r.bus, &event) == 1;)
        rig_take(&r, &event);
    CHECK(r.ends[held].code == ABK_CODE_SHUTTING_DOWN && r.ends[held].sent);
    CHECK(r.ends[waits].code == ABK_CODE_SHUTTING_DOWN && !r.ends[waits].sent);
    CHECK(wire_hear(&s.wire) && wire_heard(&s.wire, "\"id\":1,\"error\":{\"code\":-32055"));
    CHECK(rig_stats(&r).live_requests == 0 && abk_stopped(r.bus));
    served_close(&r, &s);
}

/* --- memory ---------------------------------------------------------------------------------- */

static void the_steady_path_over_pipes_allocates_nothing(void)
{
    enum { WARM = 1000, ALL = 11000, AT_ONCE = 32 };
    rig r;
    served s;
    served_open(&r, &s, rig_config("", "", ""), false);
    uint64_t before = 0;
    size_t begun = 0;
    size_t ended = 0;
    char line[128];
    const uint64_t late = abk_now() + 3 * RIG_PATIENCE;
    while (ended < ALL && abk_now() < late) {
        for (; begun < ALL && begun - ended < AT_ONCE; begun++) {
            snprintf(line, sizeof line, "{\"jsonrpc\":\"2.0\",\"id\":%zu,\"method\":\"echo\"}\n",
                     begun);
            SAY(&r, &s.wire, line);
        }
        abk_step(r.bus, 20);
        for (abk_event event; abk_next_event(r.bus, &event) == 1;)
            ;
        while (wire_hear(&s.wire))
            ;
        ended += wire_count(&s.wire, "\n");
        wire_forget(&s.wire);
        if (before == 0 && ended >= WARM)
            before = abk_test.allocations;
    }
    CHECK(ended == ALL && abk_test.allocations == before);
    served_close(&r, &s);
}

TEST_MAIN(TEST(ids_pass_as_they_are), TEST(lines_that_are_no_message_are_answered),
          TEST(two_clients_may_use_the_same_id),
          TEST(a_workers_request_finds_the_client_and_its_answer_the_worker),
          TEST(a_cancel_before_it_is_written_and_after),
          TEST(the_end_of_its_input_waits_for_what_is_pending),
          TEST(a_client_that_is_gone_takes_its_requests_along),
          TEST(workers_wait_for_a_sole_client_that_reads_slowly),
          TEST(the_kernel_answers_its_own_methods), TEST(a_session_may_have_a_worker_for_itself),
          TEST(a_tap_shows_every_line),
          TEST(a_tap_that_is_refused_leaves_the_one_that_is_there),
          TEST(what_is_in_flight_at_a_kill_is_answered), TEST(the_steady_path_over_pipes_allocates_nothing))
