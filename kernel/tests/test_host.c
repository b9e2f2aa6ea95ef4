/* The process as a client: what becomes of its requests, and what it is told. */
#include "rig.h"

#include <fcntl.h>
#include <limits.h>

#define ONE_AT_A_TIME ",\"max_in_flight\":1"

/* --- answers --------------------------------------------------------------------------------- */

static void a_request_is_answered_by_its_worker(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int id = rig_ask(&r, "echo", "");
    CHECK(strcmp(rig_answer(&r, id), "\"done\"") == 0);
    const abk_stats stats = rig_stats(&r);
    CHECK(stats.messages_out == 1 && stats.messages_in == 1 && stats.live_requests == 0);
    CHECK(stats.workers == 1 && stats.bytes_out > 0 && stats.bytes_in > 0);
    rig_close(&r);
}

static void answers_that_trickle_in_are_whole(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int id = rig_ask(&r, "slow", "");
    CHECK(strcmp(rig_answer(&r, id), "\"slow\"") == 0);
    rig_close(&r);
}

static void a_line_may_be_as_long_as_the_limit_and_no_longer(void)
{
    rig r;
    rig_open(&r, rig_config("", "", "\"max_input_buffer\":1000"));
    const size_t around = strlen("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\"}\n");
    char params[32];
    snprintf(params, sizeof params, "\"n\":%zu", 1000 - around);
    CHECK(strlen(rig_answer(&r, rig_ask(&r, "big", params))) == 1000 - around + 2);
    snprintf(params, sizeof params, "\"n\":%zu", 1001 - around);
    const int over = rig_ask(&r, "big", params);
    CHECK_HAS(rig_answer(&r, over), "\"limit_bytes\":1000");
    CHECK(r.ends[over].failures == 1 && r.ends[over].code == ABK_CODE_FRAME_TOO_LARGE);
    CHECK(r.ends[over].sent);
    const abk_event *bad = rig_last(&r, ABK_EV_LINE_BAD);
    CHECK(bad != NULL && bad->count == 1001 && bad->len == 200);
    snprintf(params, sizeof params, "\"n\":200000");
    const int far = rig_ask(&r, "big", params);
    rig_answer(&r, far);
    CHECK(r.ends[far].code == ABK_CODE_FRAME_TOO_LARGE);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    rig_close(&r);
}

static void a_bad_line_costs_itself(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "garbage", "")), "good");
    CHECK(rig_count(&r, ABK_EV_LINE_BAD, -1) == 4);
    const abk_stats stats = rig_stats(&r);
    CHECK(stats.bad_lines == 4 && stats.messages_in == 5); /* the empty one is neither */
    rig_close(&r);
}

static void answers_that_fit_nothing_are_counted(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "stray", ""));
    CHECK(rig_stats(&r).stray_answers == 2);
    rig_close(&r);
}

static void requests_of_a_worker_reach_the_host_and_its_answer_the_worker(void)
{
    static const char line[] = "{\"jsonrpc\":\"2.0\",\"id\":\"w1\",\"result\":{}}\n";
    const abk_route route = {.size = sizeof route};
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int id = rig_ask(&r, "ask", "");
    UNTIL(&r, r.notes == 1);
    CHECK(abk_submit(r.bus, &route, line, sizeof line - 1) == 0);
    CHECK_HAS(rig_answer(&r, id), "heard");
    rig_close(&r);
}

#ifdef F_SETPIPE_SZ
static bool may_widen(void)
{
    int fds[2];
    CHECK(pipe(fds) == 0);
    const bool may = fcntl(fds[0], F_SETPIPE_SZ, 1 << 20) >= 1 << 20;
    close(fds[0]);
    close(fds[1]);
    return may;
}

static void pipes_of_a_worker_are_widened_for_frames_of_megabytes(void)
{
    static char line[1500000];
    const abk_route route = RIG_ROUTE;
    rig r;
    if (!may_widen()) {
        fprintf(stderr, "*** NOT TESTED: this user may not widen pipes ***\n");
        return;
    }
    rig_open(&r, rig_config("", "", ""));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "pipes", "")), "\"65536 65536\"");
    rig_answer(&r, rig_ask(&r, "big", "\"n\":1500000"));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "pipes", "")), "\"65536 1048576\"");
    memset(line, ' ', sizeof line - 1);
    memcpy(line, "{\"method\":\"note_nothing\"}", 25);
    line[sizeof line - 1] = '\n';
    CHECK(abk_submit(r.bus, &route, line, sizeof line) == 0);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "pipes", "")), "\"1048576 1048576\"");
    rig_close(&r);
}
#endif

/* --- the flags of a run of lines ---------------------------------------------------------------
 */

static void the_only_request_in_flight_is_named(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int first = rig_ask(&r, "flood", "\"n\":3");
    UNTIL(&r, rig_ended(&r, first));
    size_t named = 0;
    for (size_t i = 0; i < r.event_count; i++) {
        const abk_event *event = &r.events[i].event;
        if (event->type == ABK_EV_LINES && (event->a & ABK_ONLY_ANSWERS) == 0) {
            named++;
            CHECK(event->key == r.ends[first].key);
            CHECK_TEXT(event->text, "1");
        }
    }
    CHECK(named > 0 && r.notes == 3);
    rig_forget(&r);
    const int held = rig_ask(&r, "hold", "");
    const int second = rig_ask(&r, "flood", "\"n\":1");
    UNTIL(&r, rig_ended(&r, second));
    for (size_t i = 0; i < r.event_count; i++) {
        if (r.events[i].event.type == ABK_EV_LINES)
            CHECK(r.events[i].event.key == 0);
    }
    rig_ask(&r, "go", "");
    rig_answer(&r, held);
    rig_close(&r);
}

/* As in `framings` of worker.c. */
static void of_chunks_of_our_own_workers_the_params_are_told(void)
{
    static const char *const params[] = {
        "{\"text\":\"a\"}\n{\"text\":\"a\"}\n",
        "{}\n{}\n",
        "{ \"a\" : [{}, \"}\"] }\n{ \"a\" : [{}, \"}\"] }\n",
    };
    for (int i = 0; i < 13; i++) {
        char n[16];
        snprintf(n, sizeof n, "\"n\":%d", i);
        rig r;
        rig_open(&r, rig_config("", "", ""));
        rig_ask(&r, "framing", n);
        UNTIL(&r, r.notes == 2);
        const abk_event *event = rig_last(&r, ABK_EV_LINES);
        if (i < 3) {
            CHECK(event->a == ABK_ONLY_CHUNKS);
            CHECK_TEXT(event->data, params[i]);
        } else {
            CHECK(event->a == ABK_ONLY_CALLS);
            CHECK_HAS(event->data, "{\"");
        }
        rig_close(&r);
    }
}

static void notifications_that_the_host_does_not_want_are_counted_and_paid_for(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(abk_hear(r.bus, "b", false) == ABK_ENOENT && abk_hear(NULL, "a", false) == ABK_EINVAL);
    CHECK(abk_hear(r.bus, "a", false) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "flood", "\"n\":3000")), "flooded");
    CHECK(r.notes == 0 && rig_stats(&r).unheard == 3000);
    CHECK(rig_stats(&r).messages_in == 3001 && rig_stats(&r).dropped_notifications == 0);
    rig_answer(&r, rig_ask(&r, "holler", "\"n\":200"));
    CHECK(r.notes == 0 && strstr(rig_status(&r), "\"throttled\":0") == NULL);
    rig_answer(&r, rig_ask(&r, "ask_and_cancel", ""));
    CHECK(r.notes == 2); /* a request, and its cancellation */
    CHECK(abk_hear(r.bus, "a", true) == ABK_OK);
    rig_answer(&r, rig_ask(&r, "flood", "\"n\":3"));
    CHECK(r.notes == 5 && rig_stats(&r).unheard == 3200);
    rig_close(&r);
}

static void notifications_come_and_are_no_waste_while_the_host_taps(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(abk_hear(r.bus, "a", false) == ABK_OK && abk_tap(r.bus, true) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "flood", "\"n\":3000")), "flooded");
    CHECK(r.notes == 3000 && rig_stats(&r).unheard == 0);
    CHECK_HAS(rig_status(&r), "\"throttled\":0");
    rig_close(&r);
}

static void a_probe_is_nobodys_work(void)
{
    const abk_route probe = {.size = sizeof probe, .worker = -1, .flags = ABK_ROUTE_PROBE};
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask_on(&r, &probe, "hold", "");
    const int flood = rig_ask(&r, "flood", "\"n\":1");
    UNTIL(&r, rig_ended(&r, flood));
    CHECK_HAS(rig_status(&r), "\"in_flight\":0");
    bool named = false;
    for (size_t i = 0; i < r.event_count; i++)
        named = named || r.events[i].event.key == r.ends[flood].key;
    CHECK(named);
    rig_ask(&r, "go", "");
    rig_answer(&r, held);
    rig_close(&r);
}

static void an_orphan_has_no_key_and_a_stray_answer(void)
{
    static const char line[] = "{\"jsonrpc\":\"2.0\",\"id\":\"o\",\"method\":\"echo\"}\n";
    const abk_route route = {.size = sizeof route, .worker = -1, .flags = ABK_ROUTE_ORPHAN};
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(abk_submit(r.bus, &route, line, sizeof line - 1) == 0);
    UNTIL(&r, rig_stats(&r).stray_answers == 1);
    CHECK(r.notes == 0);
    rig_close(&r);
}

static void events_that_are_not_taken_are_not_lost(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    rig_answer(&r, rig_ask(&r, "echo", ""));
    const int id = rig_ask(&r, "flood", "\"n\":50");
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (abk_step(r.bus, 20) == 0 && abk_now() < late)
        ;
    const int waiting = abk_step(r.bus, 0);
    CHECK(waiting > 0 && abk_step(r.bus, -1) == waiting && abk_flush(r.bus) == waiting);
    UNTIL(&r, rig_ended(&r, id));
    CHECK(r.notes == 50);
    rig_close(&r);
}

/* --- refusals -------------------------------------------------------------------------------- */

static int64_t submit(rig *self, const char *pool, const char *line)
{
    const abk_route route = {.size = sizeof route, .worker = -1, .pool = pool};
    return abk_submit(self->bus, &route, line, strlen(line));
}

static void what_is_no_frame_is_refused(void)
{
    static const char *const bad[] = {"",
                                      "\n",
                                      "{}",
                                      "{\"id\":1,\"method\":\"a\"}",
                                      "nonsense\n",
                                      "[]\n",
                                      "{\"id\":1,\"method\":\"a\"}\n\n",
                                      "{\"id\":1,\n\"method\":\"a\"}\n"};
    rig r;
    rig_open(&r, rig_config("", "", "\"max_input_buffer\":100"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(submit(&r, NULL, bad[i]) == ABK_EREFUSED);
    CHECK(submit(&r, "b", "{\"id\":1,\"method\":\"a\"}\n") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "-32052");
    char line[102];
    memset(line, ' ', sizeof line);
    memcpy(line, "{\"method\":\"a\"}", 14);
    line[100] = '\n';
    line[101] = '\0';
    CHECK(submit(&r, "a", line) == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "-32054");
    CHECK(submit(&r, "a", line + 1) == ABK_EREFUSED); /* no object */
    line[99] = '\n';
    line[100] = '\0';
    CHECK(submit(&r, "a", line) == 0);
    const abk_route nowhere = {.size = sizeof nowhere, .worker = 99};
    CHECK(rig_ask_on(&r, &nowhere, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "worker_gone");
    CHECK(rig_stats(&r).routing_errors == sizeof bad / sizeof *bad + 4);
    rig_close(&r);
}

static void an_id_in_use_is_refused_by_its_value(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int held = rig_ask(&r, "hold", "");
    CHECK(submit(&r, "a", "{\"id\":1,\"method\":\"echo\"}\n") == ABK_EREFUSED);
    CHECK(submit(&r, "a", "{\"id\":1.0e0,\"method\":\"echo\"}\n") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "duplicate_id");
    CHECK(abk_find(r.bus, "10e-1", 5) == r.ends[held].key);
    CHECK(abk_find(r.bus, "\"1\"", 3) == ABK_ENOENT);
    size_t len = 0;
    const char *id = abk_id(r.bus, r.ends[held].key, &len);
    CHECK(id != NULL && len == 1 && id[0] == '1');
    rig_ask(&r, "go", "");
    rig_answer(&r, held);
    CHECK(abk_find(r.bus, "1", 1) == ABK_ENOENT && abk_id(r.bus, r.ends[held].key, &len) == NULL);
    CHECK(abk_withdraw(r.bus, r.ends[held].key, NULL, 0) == ABK_ENOENT);
    CHECK(abk_withdraw(r.bus, -5, NULL, 0) == ABK_ENOENT && abk_withdraw(r.bus, 0, NULL, 0) < 0);
    CHECK(abk_withdraw(r.bus, INT64_MAX, NULL, 0) == ABK_ENOENT);
    rig_close(&r);
}

static void what_waits_is_bounded_and_in_order(void)
{
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, "\"max_queued\":3"));
    const int held = rig_ask(&r, "hold", "");
    for (int i = 0; i < 3; i++)
        CHECK(rig_ask(&r, "echo", "") > 0);
    CHECK(rig_ask(&r, "echo", "") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "max_queued");
    CHECK(rig_stats(&r).queued_requests == 3);
    CHECK_HAS(rig_status(&r), "\"in_flight\":1,\"queued\":3");
    CHECK(submit(&r, "a", "{\"method\":\"go\"}\n") == 0); /* has a reserve, overtakes */
    rig_answer(&r, held);
    rig_answer(&r, held + 1);
    rig_answer(&r, held + 3);
    CHECK(rig_ended(&r, held + 2));
    rig_close(&r);
}

static int64_t submit_row(const rig *r, const char *method, int64_t first, const char *params, uint32_t count)
{
    const abk_route route = {.size = sizeof route, .worker = -1};
    const abk_row row = {.size = sizeof row,
                         .method = method,
                         .method_len = strlen(method),
                         .params = params,
                         .params_len = strlen(params),
                         .first = first,
                         .count = count};
    return abk_submit_row(r->bus, &route, &row);
}

static void many_are_taken_at_once_or_none(void)
{
    static const char three[] = "{}\n[1]\n{\"a\":[{\"b\":1}]}\n";
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, "\"max_queued\":3"));
    r.asked = 12;
    CHECK(submit_row(&r, "\"echo\"", 1, "{}\n{}", 2) == 0);
    CHECK(submit_row(&r, "\"echo\"", 1, "", 0) == 0);
    CHECK(submit_row(&r, "\"echo\"", 1, three, 2) == 0);
    CHECK(submit_row(&r, "\"echo\"", 1, three, 4) == 0);
    CHECK(submit_row(&r, "echo", 1, three, 3) == 0);
    CHECK(submit_row(&r, "5", 1, three, 3) == 0);
    CHECK(submit_row(&r, "\"echo\"", 0, three, 3) == ABK_EINVAL);
    CHECK(submit_row(&r, "\"echo\"", INT64_MAX - 1, three, 3) == ABK_EINVAL);
    CHECK(submit_row(&r, "\"echo\"", 1, three, 3) == 3);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    CHECK(submit_row(&r, "\"hold\"", 5, "{}\n", 1) == 1);
    CHECK(submit_row(&r, "\"hold\"", 4, "{}\n{}\n", 2) == 1); /* 5 is in use */
    CHECK(submit_row(&r, "\"echo\"", 6, "{}\n{}\n", 2) == 2);
    CHECK(submit_row(&r, "\"echo\"", 8, three, 3) == 0); /* no room for all */
    CHECK(abk_withdraw(r.bus, abk_find(r.bus, "5", 1), NULL, 0) == ABK_REMOVED);
    CHECK(abk_withdraw(r.bus, abk_find(r.bus, "4", 1), NULL, 0) == ABK_REMOVED);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    for (int id = 8; id <= 12; id++)
        r.ends[id].withdrawn = true; /* never asked */
    r.ends[4].withdrawn = r.ends[5].withdrawn = true;
    rig_close(&r);
}

static void params_of_a_row_are_one_object_or_array(void)
{
    static const char *const wrong[] = {"5\n",        "\"{}\"\n",          "null\n",      "{\n",  " \n",
                                        "{}{}\n",     "{},\"id\":9\n",     " {}\n",       "{} \n", "{}}\n",
                                        "{\"a\":1},\"pool\":\"b\"\n", "[1\n", "]\n",  "{\"a\"}\n", "\"\n"};
    rig r;
    rig_open(&r, rig_config("", "", ""));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(submit_row(&r, "\"echo\"", 1, wrong[i], 1) == 0);
    CHECK(submit_row(&r, "\"echo\"", 1, "{}\n\"{}\"\n", 2) == 0); /* none, so that none counts twice */
    CHECK(rig_stats(&r).live_requests == 0 && rig_stats(&r).messages_out == 0);
    r.asked = 3;
    CHECK(submit_row(&r, "\"ec\\u0068o\"", 1, "{}\n", 1) == 1);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    CHECK(submit_row(&r, "\"echo\"", 2, "\n[1]\n", 2) == 2); /* an empty line is for none */
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    for (int id = 1; id <= 3; id++)
        CHECK(r.ends[id].answers == 1);
    rig_close(&r);
}

static void results_that_stand_beside_each_other_are_one_array(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    r.asked = 5;
    CHECK(submit_row(&r, "\"hold\"", 3, "{}\n{}\n{}\n", 3) == 3);
    CHECK(submit(&r, "a", "{\"id\":2,\"method\":\"hold\"}\n") > 0);
    CHECK(submit(&r, "a", "{\"method\":\"go\"}\n") == 0);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    const abk_event *event = rig_last(&r, ABK_EV_RESULTS);
    CHECK(rig_count(&r, ABK_EV_RESULTS, -1) == 1 && event->count == 4);
    for (int id = 2; id <= 5; id++)
        CHECK(strcmp(r.ends[id].text, "[\"went\",\"went\",\"went\",\"went\"]") == 0);
    r.ends[1].withdrawn = true; /* never asked */
    rig_close(&r);
}

/* --- withdrawal ------------------------------------------------------------------------------ */

static void what_was_not_written_is_removed_and_never_runs(void)
{
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, ""));
    const int first = rig_ask(&r, "hold", "");
    const int queued = rig_ask(&r, "exit", "\"n\":1");
    rig_withdraw(&r, queued, ABK_REMOVED); /* in the queue of its pool */
    rig_withdraw(&r, first, ABK_REMOVED);  /* in the out-queue of its worker */
    rig_withdraw(&r, first, ABK_ENOENT);
    r.ends[first].withdrawn = true;
    rig_answer(&r, rig_ask(&r, "go", ""));
    const abk_stats stats = rig_stats(&r);
    CHECK(stats.withdrawn == 2 && stats.cancelled == 0 && stats.messages_in == 1);
    rig_close(&r);
}

static void what_was_written_is_cancelled_and_its_late_answer_dropped(void)
{
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, ""));
    const int id = rig_ask(&r, "hold", "");
    abk_flush(r.bus);
    rig_withdraw(&r, id, ABK_CANCELLED);
    rig_withdraw(&r, id, ABK_ENOENT);
    r.ends[id].withdrawn = true;
    CHECK(rig_stats(&r).live_requests == 0);
    const int next = rig_ask(&r, "echo", ""); /* the tombstone holds the only place */
    CHECK(rig_stats(&r).queued_requests == 1);
    rig_answer(&r, next);
    const abk_stats stats = rig_stats(&r);
    CHECK(stats.late_answers == 1 && stats.cancelled == 1 && stats.stray_answers == 0);
    rig_close(&r);
}

static void a_tombstone_that_nobody_answers_ends_with_its_grace(void)
{
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, "\"cancel_grace_s\":0.1"));
    const int id = rig_ask(&r, "stuck", "");
    abk_flush(r.bus);
    rig_withdraw(&r, id, ABK_CANCELLED);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(rig_stats(&r).late_answers == 0);
    rig_close(&r);
}

static void a_tombstone_ends_with_its_worker(void)
{
    rig r;
    rig_open(&r, rig_config("", ONE_AT_A_TIME, "\"restart_delay_s\":0.01"));
    const int id = rig_ask(&r, "stuck", "");
    abk_flush(r.bus);
    rig_withdraw(&r, id, ABK_CANCELLED);
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    rig_close(&r);
}

static void each_profile_cancels_in_its_way(void)
{
    static const struct {
        const char *pool;
        const char *told;
    } all[] = {
        {",\"cancel\":\"lsp\"", "\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}"},
        {",\"cancel\":\"mcp\"",
         "\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1,\"reason\":\"why\"}"},
        {",\"cancel\":\"acp\"", "\"method\":\"$/cancel_request\",\"params\":{\"requestId\":1}"},
        {",\"cancel\":\"none\"", NULL}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        rig r;
        rig_open(&r, rig_config("", all[i].pool, "\"cancel_grace_s\":60"));
        CHECK(abk_tap(r.bus, true) == ABK_OK);
        const int id = rig_ask(&r, "stuck", "");
        abk_flush(r.bus);
        rig_withdraw(&r, id, ABK_CANCELLED);
        rig_answer(&r, rig_ask(&r, "echo", ""));
        bool told = false;
        for (size_t k = 0; k < r.event_count; k++)
            told = told || (r.events[k].event.type == ABK_EV_FRAME && all[i].told != NULL &&
                            strstr(r.events[k].event.text, all[i].told) != NULL);
        CHECK(told == (all[i].told != NULL));
        rig_close(&r);
    }
}

/* More pieces than one call or one step writes. */
static void what_many_withdrawals_leave_is_written(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    for (int i = 1; i <= 1000; i++)
        CHECK(rig_ask(&r, "echo", "") == i);
    for (int i = 2; i <= 1000; i += 2)
        rig_withdraw(&r, i, ABK_REMOVED);
    UNTIL(&r, rig_stats(&r).live_requests == 0);
    rig_close(&r);
}

static void a_narrow_queue_is_written_all_the_same(void)
{
    const abk_route route = RIG_ROUTE;
    rig r;
    rig_open(&r, rig_config("", "", "\"max_output_queue\":1"));
    const int held = rig_ask(&r, "hold", "");
    for (int i = 0; i < 100; i++)
        CHECK(abk_submit(r.bus, &route, "{\"method\":\"nothing\"}\n", 21) == 0);
    CHECK(abk_submit(r.bus, &route, "{\"method\":\"go\"}\n", 16) == 0);
    rig_answer(&r, held);
    rig_close(&r);
}

static void a_torn_frame_is_sent_and_a_waiting_one_is_not(void)
{
    static char line[300000];
    const abk_route route = RIG_ROUTE;
    rig r;
    rig_open(&r, rig_config("", "", "\"restart_delay_s\":0.01"));
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "never_read", "")), "deaf");
    memset(line, ' ', sizeof line - 1);
    memcpy(line, "{\"id\":2,\"method\":\"echo\"}", 24);
    line[sizeof line - 1] = '\n';
    CHECK(abk_submit(r.bus, &route, line, sizeof line) > 0);
    r.ends[2].key = abk_find(r.bus, "2", 1);
    r.asked = 2;
    abk_flush(r.bus); /* a pipe does not take all of it */
    const int behind = rig_ask(&r, "echo", "");
    abk_flush(r.bus);
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    rig_answer(&r, 2);
    rig_answer(&r, behind);
    CHECK(r.ends[2].failures == 1 && r.ends[2].sent && r.ends[2].code == ABK_CODE_WORKER_LOST);
    CHECK(r.ends[behind].failures == 1 && !r.ends[behind].sent);
    rig_close(&r);
}

#ifdef F_SETPIPE_SZ
#define LINUX_TESTS TEST(pipes_of_a_worker_are_widened_for_frames_of_megabytes),
#else
#define LINUX_TESTS
#endif

TEST_MAIN(LINUX_TESTS TEST(what_many_withdrawals_leave_is_written),
          TEST(a_narrow_queue_is_written_all_the_same), TEST(a_request_is_answered_by_its_worker),
          TEST(answers_that_trickle_in_are_whole),
          TEST(a_line_may_be_as_long_as_the_limit_and_no_longer), TEST(a_bad_line_costs_itself),
          TEST(answers_that_fit_nothing_are_counted),
          TEST(requests_of_a_worker_reach_the_host_and_its_answer_the_worker),
          TEST(the_only_request_in_flight_is_named),
          TEST(of_chunks_of_our_own_workers_the_params_are_told),
          TEST(notifications_that_the_host_does_not_want_are_counted_and_paid_for),
          TEST(notifications_come_and_are_no_waste_while_the_host_taps), TEST(a_probe_is_nobodys_work),
          TEST(an_orphan_has_no_key_and_a_stray_answer),
          TEST(events_that_are_not_taken_are_not_lost), TEST(what_is_no_frame_is_refused),
          TEST(an_id_in_use_is_refused_by_its_value), TEST(what_waits_is_bounded_and_in_order),
          TEST(many_are_taken_at_once_or_none),
          TEST(params_of_a_row_are_one_object_or_array),
          TEST(results_that_stand_beside_each_other_are_one_array),
          TEST(what_was_not_written_is_removed_and_never_runs),
          TEST(what_was_written_is_cancelled_and_its_late_answer_dropped),
          TEST(a_tombstone_that_nobody_answers_ends_with_its_grace),
          TEST(a_tombstone_ends_with_its_worker), TEST(each_profile_cancels_in_its_way),
          TEST(a_torn_frame_is_sent_and_a_waiting_one_is_not))
