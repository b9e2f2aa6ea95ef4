/* Whose line is it: clients on a wire, and what their workers say. Housekeeping, with a clock of
 * its own. */
#include "wire.h"

typedef struct house {
    rig rig;
    char folder[32];
    char path[64];
    wire a, b;
} house;

static void house_open(house *self, const char *config, bool host)
{
    const abk_options options = {.size = sizeof options, .host = host};
    strcpy(self->folder, "/tmp/abk-test-XXXXXX");
    CHECK(mkdtemp(self->folder) != NULL);
    snprintf(self->path, sizeof self->path, "%s/socket", self->folder);
    const abk_listener listener = {.size = sizeof listener, .unix_path = self->path};
    rig_make(&self->rig, config, &options);
    CHECK(abk_listen(self->rig.bus, &listener, NULL, 0, NULL) == ABK_OK);
    CHECK(abk_start(self->rig.bus, NULL) == ABK_OK);
    wire_connect(&self->a, self->path);
    wire_connect(&self->b, self->path);
    SAY(&self->rig, &self->b, "{\"id\":\"first\",\"method\":\"echo\"}\n");
    HEAR(&self->rig, &self->b, "\"first\"");
    wire_forget(&self->b);
}

static void house_close(house *self)
{
    CHECK(abk_stop(self->rig.bus, 0.0, 2.0) == ABK_OK);
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (!abk_stopped(self->rig.bus) && abk_now() < late) {
        rig_step(&self->rig, 20);
        wire_hear(&self->a);
        wire_hear(&self->b);
    }
    CHECK(abk_stopped(self->rig.bus));
    rig_check_ends(&self->rig);
    abk_destroy(self->rig.bus);
    wire_free(&self->a);
    wire_free(&self->b);
    CHECK(rmdir(self->folder) == 0);
    CHECK(rig_count_fds() == self->rig.fds && !rig_has_children());
    rig_free(&self->rig);
}

static void pass(house *self, double seconds)
{
    abk_test.later += abk_ns(seconds);
    for (int i = 0; i < 4; i++)
        rig_step(&self->rig, 0);
}

/* --- whose line is it ------------------------------------------------------------------------- */

static void credit_goes_to_the_worker_of_its_request(void)
{
    house h;
    house_open(&h, rig_config("", ",\"instances\":2", ""), false);
    SAY(&h.rig, &h.a, "{\"id\":\"mine\",\"method\":\"hold\"}\n");
    SAY(&h.rig, &h.b, "{\"id\":\"mine\",\"method\":\"hold\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 2);
    SAY(&h.rig, &h.a, "{\"method\":\"bus/credit\",\"params\":{\"id\":\"mine\",\"bytes\":5}}\n");
    HEAR(&h.rig, &h.a, "\"method\":\"credited\",\"params\":{\"_meta\":{\"requestId\":\"mine\"}}");
    CHECK(!wire_hear(&h.b));
    SAY(&h.rig, &h.b,
        "{\"method\":\"bus/credit\",\"params\":{\"id\":\"nobody's\"}}\n"
        "{\"id\":2,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &h.b, "\"id\":2,");
    CHECK(!wire_heard(&h.b, "credited"));
    house_close(&h);
}

static void what_names_a_session_goes_to_its_owner(void)
{
    house h;
    house_open(&h, rig_config("", ",\"session\":\"acp\"", ""), false);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"session/new\",\"params\":{\"text\":\"s1\"}}\n");
    HEAR(&h.rig, &h.a, "\"sessionId\":\"s1\"");
    SAY(&h.rig, &h.b, "{\"id\":1,\"method\":\"of_session\",\"params\":{\"text\":\"s1\"}}\n");
    HEAR(&h.rig, &h.a, "\"method\":\"of_session\"");
    HEAR(&h.rig, &h.b, "\"id\":1,");
    CHECK(!wire_heard(&h.b, "of_session"));
    SAY(&h.rig, &h.a, "{\"id\":2,\"method\":\"hold\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    SAY(&h.rig, &h.b, "{\"id\":2,\"method\":\"of_session\",\"params\":{\"text\":\"unknown\"}}\n");
    HEAR(&h.rig, &h.b, "\"id\":2,");
    CHECK(!wire_heard(&h.a, "unknown") && !wire_heard(&h.b, "unknown"));
    CHECK(rig_stats(&h.rig).dropped_notifications == 1);
    house_close(&h);
}

static void a_list_that_changed_concerns_all(void)
{
    house h;
    house_open(&h, rig_config("", ",\"cancel\":\"mcp\"", ""), true);
    SAY(&h.rig, &h.b, "{\"id\":1,\"method\":\"hold\"}\n"); /* nobody is the only one at work */
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"broadcast\"}\n");
    HEAR(&h.rig, &h.a, "tools/list_changed");
    HEAR(&h.rig, &h.b, "tools/list_changed");
    UNTIL(&h.rig, h.rig.notes == 1);
    house_close(&h);
}

static void a_worker_may_cancel_what_it_asked(void)
{
    house h;
    house_open(&h, rig_config("", "", ""), false);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"ask_and_cancel\"}\n");
    HEAR(&h.rig, &h.a,
         "\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}"); /* as it was shown */
    HEAR(&h.rig, &h.a,
         "{\"id\":1,\"method\":\"question\",\"params\":{\"_meta\":{\"requestId\":1}}}");
    house_close(&h);
}

static void the_host_beside_others_answers_its_own_workers(void)
{
    house h;
    house_open(&h, rig_config("", "", ""), true);
    const int id = rig_ask(&h.rig, "ask", "");
    UNTIL(&h.rig, h.rig.notes == 1);
    CHECK_HAS(rig_last(&h.rig, ABK_EV_LINES)->data,
              "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"question\"");
    const abk_route route = RIG_ROUTE;
    CHECK(abk_submit(h.rig.bus, &route, "{\"id\":1,\"result\":{}}\n", 21) == 0);
    CHECK_HAS(rig_answer(&h.rig, id), "heard");
    house_close(&h);
}

/* The ids of its requests are rewritten; so are those in what it says of them. */
static void what_the_host_says_of_its_requests_finds_them(void)
{
    static const char credit[] = "{\"method\":\"bus/credit\",\"params\":{\"id\":1,\"bytes\":5}}\n";
    static const char first[] = "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n";
    static const char third[] = "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":3}}\n";
    static const char of_a[] = "{\"method\":\"bus/credit\",\"params\":{\"id\":\"of a\"}}\n";
    const abk_route route = RIG_ROUTE;
    house h;
    house_open(&h, rig_config("", ",\"max_in_flight\":2", ""), true);
    SAY(&h.rig, &h.a, "{\"id\":\"of a\",\"method\":\"hold\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    const int held = rig_ask(&h.rig, "hold", "");
    CHECK(held == 1 && abk_submit(h.rig.bus, &route, credit, sizeof credit - 1) == 0);
    UNTIL(&h.rig, h.rig.notes == 1);
    CHECK_HAS(rig_last(&h.rig, ABK_EV_LINES)->data, "\"requestId\":1}");
    CHECK(abk_submit(h.rig.bus, &route, of_a, sizeof of_a - 1) == 0); /* which goes nowhere */
    CHECK(abk_submit(h.rig.bus, &route, first, sizeof first - 1) == 0);
    CHECK_HAS(rig_answer(&h.rig, held), "\"message\":\"cancelled\"");
    const int stuck = rig_ask(&h.rig, "stuck", "");
    const int waits = rig_ask(&h.rig, "echo", "");
    CHECK(waits == 3 && abk_submit(h.rig.bus, &route, third, sizeof third - 1) == 0);
    CHECK_HAS(rig_answer(&h.rig, waits), "cancelled before it was sent");
    CHECK(h.rig.ends[waits].code == ABK_CODE_CANCELLED && !h.rig.ends[waits].sent);
    rig_withdraw(&h.rig, stuck, ABK_REMOVED);
    CHECK(h.rig.notes == 1);
    house_close(&h);
}

/* Under MCP no answer follows a cancel; but the host waits for the end of each of its keys. */
static void what_the_host_cancels_under_mcp_has_an_end(void)
{
    static const char line[] = "{\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}\n";
    const abk_route route = RIG_ROUTE;
    house h;
    house_open(&h, rig_config("", ",\"cancel\":\"mcp\"", ""), true);
    const int held = rig_ask(&h.rig, "stuck", "");
    abk_flush(h.rig.bus);
    CHECK(abk_submit(h.rig.bus, &route, line, sizeof line - 1) == 0);
    pass(&h, 6); /* cancel_grace_s */
    CHECK_HAS(rig_answer(&h.rig, held), "-32800");
    abk_test.later = 0;
    house_close(&h);
}

static void an_answer_of_the_host_that_fits_nothing_reaches_no_worker(void)
{
    static const char line[] = "{\"id\":77,\"result\":1}\n";
    const abk_route route = RIG_ROUTE;
    house h;
    house_open(&h, rig_config("", "", ""), true);
    CHECK(abk_submit(h.rig.bus, &route, line, sizeof line - 1) == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&h.rig), "unknown_id");
    CHECK(rig_stats(&h.rig).stray_answers == 1);
    CHECK_HAS(rig_answer(&h.rig, rig_ask(&h.rig, "echo", "")), "done");
    house_close(&h);
}

/* --- answers that do not reach the worker that has asked ------------------------------------- */

static void one_that_is_too_long_is_an_error_to_its_worker(void)
{
    static const char *const lines[] = {"{\"id\":1,\"result\":\"%0400d\"}\n",
                                        "{\"result\":\"%0400d\",\"id\":2}\n"};
    house h;
    char line[512];
    house_open(&h, rig_config("", "", "\"max_input_buffer\":300"), false);
    for (int i = 0; i < 2; i++) {
        wire_forget(&h.a);
        SAY(&h.rig, &h.a, "{\"id\":9,\"method\":\"ask\"}\n");
        HEAR(&h.rig, &h.a, "question");
        snprintf(line, sizeof line, lines[i], 0);
        SAY(&h.rig, &h.a, line);
        HEAR(&h.rig, &h.a, "\"id\":9,\"result\":\"refused\"");
        CHECK(wire_count(&h.a, "\n") == 2);
        snprintf(line, sizeof line, "{\"id\":%d,\"result\":1}\n", i + 1); /* it is over */
        SAY(&h.rig, &h.a, line);
        HEAR(&h.rig, &h.a, "\"id\":null,\"error\":{\"code\":-32600");
        HEAR(&h.rig, &h.a, "unknown_id");
    }
    house_close(&h);
}

static void one_that_is_not_understood_is_the_clients_to_say_again(void)
{
    static const struct {
        const char *line, *heard;
    } all[] = {{"{\"id\":1,\"result\":}\n", "\"id\":null,\"error\":{\"code\":-32700"},
               {"{\"id\":\"1\",\"result\":1}\n", "\"id\":null,\"error\":{\"code\":-32600"},
               {"{\"id\":1}\n", "\"id\":1,\"error\":{\"code\":-32600"},
               {"{\"result\":[\"%0400d\"],\"id\":1,\"x\":1}\n", "\"id\":null,\"error\":{\"code\":-32054"},
               {"{\"id\":1,\"x\":[],\"result\":\"%0400d\"}\n", "\"id\":1,\"error\":{\"code\":-32054"}};
    house h;
    char line[512];
    house_open(&h, rig_config("", "", "\"max_input_buffer\":300"), false);
    SAY(&h.rig, &h.a, "{\"id\":9,\"method\":\"ask\"}\n");
    HEAR(&h.rig, &h.a, "question");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        wire_forget(&h.a);
        snprintf(line, sizeof line, all[i].line, 0);
        SAY(&h.rig, &h.a, line);
        HEAR(&h.rig, &h.a, all[i].heard);
    }
    wire_forget(&h.a);
    SAY(&h.rig, &h.a, "{\"id\":null,\"error\":{}}\n{\"id\":1,\"result\":1}\n");
    HEAR(&h.rig, &h.a, "\"id\":9,\"result\":\"heard\"");
    CHECK(wire_count(&h.a, "\n") == 1); /* an error about an error would never end */
    house_close(&h);
}

static void one_that_finds_no_room_is_an_error_to_its_worker(void)
{
    enum { PAD = 10000, TIMES = 130 }; /* more than the pipe and the reserve take */
    house h;
    static char pad[PAD + 64];
    house_open(&h, rig_config("", "", "\"max_queued\":1,\"max_output_queue\":1000"), false);
    snprintf(pad, sizeof pad, "{\"method\":\"nothing\",\"params\":[\"%0*d\"]}\n", PAD, 0);
    SAY(&h.rig, &h.a, "{\"id\":9,\"method\":\"ask\"}\n");
    HEAR(&h.rig, &h.a, "question");
    const abk_event *ready = rig_last(&h.rig, ABK_EV_WORKER);
    const pid_t pid = ready == NULL ? 0 : ready->b;
    CHECK(pid > 0 && kill(pid, SIGSTOP) == 0);
    for (int i = 0; i < TIMES; i++)
        SAY(&h.rig, &h.a, pad);
    UNTIL(&h.rig, rig_stats(&h.rig).routing_errors > 1);
    SAY(&h.rig, &h.a, "{\"id\":1,\"result\":1}\n{\"id\":1,\"result\":1}\n");
    HEAR(&h.rig, &h.a, "unknown_id");
    CHECK(kill(pid, SIGCONT) == 0);
    HEAR(&h.rig, &h.a, "\"id\":9,\"result\":\"refused\"");
    house_close(&h);
}

static void under_mcp_no_answer_follows_a_cancel(void)
{
    house h;
    house_open(&h, rig_config("", ",\"cancel\":\"mcp\"", ""), false);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"hold\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    SAY(&h.rig, &h.a,
        "{\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}\n"
        "{\"id\":2,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &h.a, "\"id\":2,");
    UNTIL(&h.rig, rig_stats(&h.rig).late_answers == 1);
    CHECK(wire_count(&h.a, "\n") == 1);
    house_close(&h);
}

static void a_client_has_a_limit_of_its_own(void)
{
    house h;
    house_open(&h, rig_config("", "", "\"max_pending\":2"), false);
    SAY(&h.rig, &h.a,
        "{\"id\":1,\"method\":\"hold\"}\n{\"id\":2,\"method\":\"hold\"}\n"
        "{\"id\":3,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &h.a, "max_pending=2");
    SAY(&h.rig, &h.b, "{\"id\":3,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &h.b, "\"id\":3,\"result\"");
    house_close(&h);
}

static void one_that_waits_for_a_lease_may_give_up(void)
{
    house h;
    house_open(&h, rig_config("", "", "\"restart_delay_s\":0.01"), false);
    SAY(&h.rig, &h.b,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"x\","
        "\"exclusive\":true}}\n");
    HEAR(&h.rig, &h.b, "\"worker\":0}");
    SAY(&h.rig, &h.a,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"exclusive\":true}}\n"
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
    HEAR(&h.rig, &h.a, "\"id\":1,\"error\":{\"code\":-32800");
    SAY(&h.rig, &h.a,
        "{\"id\":2,\"method\":\"bus/session\",\"params\":{\"id\":\"y\","
        "\"exclusive\":true}}\n");
    SAY(&h.rig, &h.b, "{\"id\":2,\"method\":\"exit\",\"sessionId\":\"x\"}\n");
    HEAR(&h.rig, &h.b, "\"id\":2,\"error\":{\"code\":-32050");
    HEAR(&h.rig, &h.a, "\"id\":2,\"result\":{\"id\":\"y\",\"worker\":0}");
    house_close(&h);
}

static void no_worker_is_ready(house *self)
{
    SAY(&self->rig, &self->b, "{\"id\":\"x\",\"method\":\"exit\"}\n");
    HEAR(&self->rig, &self->b, "\"id\":\"x\",\"error\"");
    wire_forget(&self->b);
}

static void a_session_that_was_promised_stays_until_it_is_ended(void)
{
    house h;
    house_open(&h, rig_config("", "", "\"restart_delay_s\":600,\"max_sessions\":1"), false);
    no_worker_is_ready(&h);
    SAY(&h.rig, &h.a,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"s\"}}\n"
        "{\"id\":2,\"method\":\"echo\",\"sessionId\":\"s\"}\n"
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":2}}\n");
    HEAR(&h.rig, &h.a, "\"worker\":null}");
    HEAR(&h.rig, &h.a, "\"id\":2,\"error\":{\"code\":-32800");
    SAY(&h.rig, &h.b, "{\"id\":1,\"method\":\"echo\",\"sessionId\":\"t\"}\n");
    HEAR(&h.rig, &h.b, "max_sessions=1");
    SAY(&h.rig, &h.a, "{\"id\":3,\"method\":\"bus/session_end\",\"params\":{\"id\":\"s\"}}\n");
    HEAR(&h.rig, &h.a, "\"id\":3,\"result\":{}");
    SAY(&h.rig, &h.a, "{\"id\":4,\"method\":\"bus/session\",\"params\":{\"id\":\"u\"}}\n");
    HEAR(&h.rig, &h.a, "\"id\":4,\"result\"");
    close(h.a.to);
    h.a.to = h.a.from = -1;
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    SAY(&h.rig, &h.b, "{\"id\":2,\"method\":\"bus/session\",\"params\":{\"id\":\"t\"}}\n");
    HEAR(&h.rig, &h.b, "\"id\":2,\"result\"");
    house_close(&h);
}

static void a_session_that_has_not_begun_ends_with_the_last_who_waits_for_it(void)
{
    static const char line[] = "{\"id\":1,\"method\":\"echo\",\"sessionId\":\"s\"}\n";
    house h;
    house_open(&h, rig_config("", "", "\"restart_delay_s\":600"), false);
    no_worker_is_ready(&h);
    SAY(&h.rig, &h.a, line);
    UNTIL(&h.rig, rig_stats(&h.rig).queued_requests == 1);
    SAY(&h.rig, &h.b, line);
    UNTIL(&h.rig, rig_stats(&h.rig).queued_requests == 2);
    close(h.a.to);
    h.a.to = h.a.from = -1;
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    CHECK(abk_drain(h.rig.bus, 0, 0.0, false) == ABK_OK); /* a worker, at last */
    HEAR(&h.rig, &h.b, "\"id\":1,\"result\"");
    CHECK(rig_stats(&h.rig).sessions == 1);
    close(h.b.to);
    h.b.to = h.b.from = -1;
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 0);
    CHECK(rig_stats(&h.rig).sessions == 0);
    house_close(&h);
}

/* However many one client has that wait, there is room for those of others. */
static void a_client_has_a_share_of_those_that_wait_for_a_lease(void)
{
    enum { SHARE = 1024 / 2 };
    house h;
    house_open(&h, rig_config("", "", ""), false);
    SAY(&h.rig, &h.b,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"x\",\"exclusive\":true}}\n");
    HEAR(&h.rig, &h.b, "\"worker\":0}");
    for (int i = 0; i <= SHARE; i++)
        SAY(&h.rig, &h.a,
            "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"exclusive\":true}}\n");
    HEAR(&h.rig, &h.a, "\"reason\":\"max_waiting\"");
    CHECK(wire_count(&h.a, "\n") == 1 && wire_heard(&h.a, "its share of 1024"));
    SAY(&h.rig, &h.b,
        "{\"id\":2,\"method\":\"bus/session\",\"params\":{\"exclusive\":true,\"wait_s\":0}}\n");
    HEAR(&h.rig, &h.b, "no_free_worker"); /* it has waited, for no time */
    SAY(&h.rig, &h.a,
        "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n"
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"exclusive\":true}}\n"
        "{\"id\":3,\"method\":\"bus/session\",\"params\":{\"exclusive\":true}}\n");
    HEAR(&h.rig, &h.a, "\"id\":3,\"error\"");
    CHECK(wire_count(&h.a, "max_waiting") == 2 && wire_count(&h.a, "-32800") == 1);
    house_close(&h);
}

static void a_lease_that_does_not_become_quiet_is_given_back_after_wait_s(void)
{
    house h;
    house_open(&h, rig_config("", "", ""), false);
    SAY(&h.rig, &h.b, "{\"id\":1,\"method\":\"hold\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    SAY(&h.rig, &h.a,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"x\",\"exclusive\":true,"
        "\"wait_s\":50}}\n");
    UNTIL(&h.rig, strstr(rig_status(&h.rig), "\"lease\":\"x\"") != NULL);
    pass(&h, 51);
    HEAR(&h.rig, &h.a, "no_free_worker");
    CHECK_HAS(rig_status(&h.rig), "\"held\":false");
    CHECK(rig_stats(&h.rig).sessions == 0);
    SAY(&h.rig, &h.b, "{\"id\":2,\"method\":\"go\"}\n");
    HEAR(&h.rig, &h.b, "\"id\":1,\"result\"");
    abk_test.later = 0;
    house_close(&h);
}

/* What is no request may outlive its client, in the queue of a worker that is not up. */
static void what_a_gone_client_left_waiting_is_dropped_with_its_worker(void)
{
    house h;
    house_open(&h, rig_config("", ",\"session\":\"acp\"", "\"restart_delay_s\":600"), false);
    SAY(&h.rig, &h.a,
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"x\","
        "\"exclusive\":true,\"rebind\":true}}\n");
    HEAR(&h.rig, &h.a, "\"worker\":0}");
    SAY(&h.rig, &h.a, "{\"id\":2,\"method\":\"exit\",\"params\":{\"sessionId\":\"x\"}}\n");
    HEAR(&h.rig, &h.a, "\"id\":2,\"error\"");
    SAY(&h.rig, &h.a, "{\"method\":\"session/load\",\"params\":{\"sessionId\":\"x\"}}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).queued_requests == 1);
    close(h.a.to);
    h.a.to = h.a.from = -1;
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    rig_step(&h.rig, 0);
    CHECK(abk_drain(h.rig.bus, 0, 0.0, true) == ABK_OK);
    UNTIL(&h.rig, rig_state(&h.rig, 0) == ABK_WORKER_STOPPED);
    CHECK(rig_stats(&h.rig).queued_requests == 0);
    house_close(&h);
}

/* --- housekeeping ----------------------------------------------------------------------------- */

static void sessions_that_nobody_uses_end(void)
{
    house h;
    house_open(&h, rig_config("", "", "\"session_idle_s\":100"), false);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"echo\",\"sessionId\":\"old\"}\n");
    HEAR(&h.rig, &h.a, "\"id\":1,");
    pass(&h, 60);
    SAY(&h.rig, &h.a, "{\"id\":2,\"method\":\"hold\",\"sessionId\":\"new\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 1);
    CHECK(rig_stats(&h.rig).sessions == 2);
    pass(&h, 60);
    CHECK(rig_stats(&h.rig).sessions == 2); /* its worker is at work, for one of them */
    SAY(&h.rig, &h.a, "{\"id\":3,\"method\":\"go\"}\n");
    HEAR(&h.rig, &h.a, "\"id\":2,");
    HEAR(&h.rig, &h.a, "\"id\":3,");
    pass(&h, 60);
    pass(&h, 60);
    CHECK(rig_stats(&h.rig).sessions == 0);
    abk_test.later = 0;
    house_close(&h);
}

static void memory_that_is_not_needed_goes_back(void)
{
    house h;
    house_open(&h, rig_config("", "", ""), false);
    SAY(&h.rig, &h.a, "{\"id\":1,\"method\":\"big\",\"params\":{\"n\":3000000}}\n");
    HEAR(&h.rig, &h.a, "\"id\":1,");
    HEAR(&h.rig, &h.a, "x\"}\n");
    for (int i = 0; i < 5; i++)
        pass(&h, 6);
    wire_forget(&h.a);
    SAY(&h.rig, &h.a, "{\"id\":2,\"method\":\"big\",\"params\":{\"n\":100}}\n");
    HEAR(&h.rig, &h.a, "\"id\":2,");
    abk_test.later = 0;
    house_close(&h);
}

/* Time that stands still or leaps changes nothing but what is due. */
static void a_leap_of_the_clock_fires_what_is_due_once(void)
{
    house h;
    house_open(&h, rig_config("", ",\"max_in_flight\":1", "\"cancel_grace_s\":50"), true);
    const int id = rig_ask(&h.rig, "stuck", "");
    abk_flush(h.rig.bus);
    rig_withdraw(&h.rig, id, ABK_CANCELLED);
    const int next = rig_ask(&h.rig, "echo", "");
    pass(&h, 40);
    CHECK(!rig_ended(&h.rig, next));
    pass(&h, 11);
    CHECK_HAS(rig_answer(&h.rig, next), "done");
    abk_test.later = 0;
    house_close(&h);
}

TEST_MAIN(TEST(credit_goes_to_the_worker_of_its_request),
          TEST(what_names_a_session_goes_to_its_owner), TEST(a_list_that_changed_concerns_all),
          TEST(a_worker_may_cancel_what_it_asked),
          TEST(the_host_beside_others_answers_its_own_workers),
          TEST(what_the_host_says_of_its_requests_finds_them),
          TEST(what_the_host_cancels_under_mcp_has_an_end),
          TEST(an_answer_of_the_host_that_fits_nothing_reaches_no_worker),
          TEST(one_that_is_too_long_is_an_error_to_its_worker),
          TEST(one_that_is_not_understood_is_the_clients_to_say_again),
          TEST(one_that_finds_no_room_is_an_error_to_its_worker),
          TEST(under_mcp_no_answer_follows_a_cancel), TEST(a_client_has_a_limit_of_its_own),
          TEST(one_that_waits_for_a_lease_may_give_up),
          TEST(a_session_that_was_promised_stays_until_it_is_ended),
          TEST(a_session_that_has_not_begun_ends_with_the_last_who_waits_for_it),
          TEST(a_client_has_a_share_of_those_that_wait_for_a_lease),
          TEST(a_lease_that_does_not_become_quiet_is_given_back_after_wait_s),
          TEST(what_a_gone_client_left_waiting_is_dropped_with_its_worker),
          TEST(sessions_that_nobody_uses_end), TEST(memory_that_is_not_needed_goes_back),
          TEST(a_leap_of_the_clock_fires_what_is_due_once))
