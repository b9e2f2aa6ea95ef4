/* Sessions, holds and leases: which worker has them, and what becomes of them when it is gone. */
#include "rig.h"

#define SOON "\"restart_delay_s\":0.01,\"restart_delay_max_s\":0.01"
#define TWO ",\"instances\":2"

static int worker_of(rig *self, const char *session)
{
    size_t len = 0;
    char text[2048];
    const char *at = abk_find_session(self->bus, session, strlen(session), &len);
    if (at == NULL)
        return -1;
    snprintf(text, sizeof text, "%.*s", (int)len, at);
    if (strstr(text, "\"failure\"") != NULL)
        return -2; /* it is lost */
    const char *worker = strstr(text, "\"worker\":");
    return worker == NULL ? -2 : atoi(worker + 9);
}

static void all_ready(rig *self, size_t count)
{
    UNTIL(self, rig_count(self, ABK_EV_WORKER, ABK_WORKER_READY) >= count);
}

/* --- sessions -------------------------------------------------------------------------------- */

static void a_session_stays_with_its_worker(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO, SOON));
    all_ready(&r, 2);
    rig_answer(&r, rig_ask_session(&r, "s", 0, "echo"));
    const int worker = worker_of(&r, "s");
    CHECK(worker >= 0);
    for (int i = 0; i < 5; i++) {
        rig_answer(&r, rig_ask_session(&r, "s", 0, "echo"));
        CHECK(rig_last(&r, ABK_EV_RESULTS)->worker == worker);
    }
    CHECK(rig_stats(&r).sessions == 1);
    CHECK(abk_end_session(r.bus, "s", 1) == ABK_OK && abk_end_session(r.bus, "s", 1) == ABK_ENOENT);
    CHECK(worker_of(&r, "s") == -1 && rig_stats(&r).sessions == 0);
    rig_close(&r);
}

static void a_lost_session_is_refused_once(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    rig_answer(&r, rig_ask_session(&r, "s", 0, "echo"));
    const int dies = rig_ask_session(&r, "s", 0, "exit");
    rig_answer(&r, dies);
    CHECK(worker_of(&r, "s") == -2);
    CHECK(rig_ask_session(&r, "s", 0, "echo") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "-32056");
    CHECK_HAS(rig_refusal(&r), "\"session\":\"s\"");
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    rig_answer(&r, rig_ask_session(&r, "s", 0, "exit"));
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", ABK_ROUTE_REBIND, "echo")), "done");
    rig_close(&r);
}

static void what_waits_with_rebind_goes_to_another_and_without_fails(void)
{
    rig r;
    rig_open(&r, rig_config("", ",\"max_in_flight\":1", SOON));
    rig_answer(&r, rig_ask_session(&r, "s", 0, "echo"));
    const int held = rig_ask_session(&r, "s", 0, "stuck");
    const int fails = rig_ask_session(&r, "s", 0, "echo");
    const int lives = rig_ask_session(&r, "s", ABK_ROUTE_REBIND, "echo");
    abk_flush(r.bus);
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    CHECK_HAS(rig_answer(&r, lives), "done");
    CHECK(r.ends[held].failures == 1 && r.ends[fails].failures == 1 && !r.ends[fails].sent);
    rig_close(&r);
}

static void sessions_are_bounded_and_lost_ones_give_way(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON ",\"max_sessions\":2"));
    rig_answer(&r, rig_ask_session(&r, "a", 0, "echo"));
    rig_answer(&r, rig_ask_session(&r, "b", 0, "echo"));
    CHECK(rig_ask_session(&r, "c", 0, "echo") == ABK_EREFUSED);
    CHECK_HAS(rig_refusal(&r), "max_sessions");
    rig_answer(&r, rig_ask_session(&r, "b", 0, "exit"));
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "c", 0, "echo")), "done");
    CHECK(worker_of(&r, "a") == -1 && worker_of(&r, "b") == -2);
    rig_close(&r);
}

static void a_session_that_never_began_leaves_nothing(void)
{
    rig r;
    rig_open(&r,
             rig_config("", ",\"max_in_flight\":1", SOON ",\"max_queued\":1,\"max_sessions\":1"));
    const int held = rig_ask(&r, "hold", "");
    const int waits = rig_ask_session(&r, "s", 0, "echo");
    CHECK(rig_ask_session(&r, "s", 0, "echo") == ABK_EREFUSED);
    rig_withdraw(&r, waits, ABK_REMOVED);
    const int other = rig_ask_session(&r, "t", 0, "echo"); /* there is room again */
    CHECK(other > 0);
    CHECK(abk_end_session(r.bus, "t", 1) == ABK_OK); /* something waits for it: it stays */
    const abk_route route = RIG_ROUTE;
    CHECK(abk_submit(r.bus, &route, "{\"method\":\"go\"}\n", 16) == 0);
    rig_answer(&r, held);
    CHECK_HAS(rig_answer(&r, other), "done");
    rig_close(&r);
}

static void a_result_may_name_a_session(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO ",\"session\":\"acp\"", SOON));
    all_ready(&r, 2);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "session/new", "\"text\":\"made\"")), "made");
    const int worker = worker_of(&r, "made");
    CHECK(worker >= 0);
    for (int i = 0; i < 4; i++) {
        rig_answer(&r, rig_ask(&r, "echo", "\"sessionId\":\"made\""));
        CHECK(rig_last(&r, ABK_EV_RESULTS)->worker == worker);
    }
    rig_ask_worker(&r, worker, "exit", "");
    UNTIL(&r, worker_of(&r, "made") == -2);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "session/load", "\"sessionId\":\"made\"")), "done");
    CHECK(worker_of(&r, "made") >= 0);
    rig_close(&r);
}

/* --- holds and leases ------------------------------------------------------------------------ */

static void a_held_worker_takes_only_what_names_it(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    const int busy = rig_ask(&r, "hold", "");
    abk_flush(r.bus);
    CHECK(abk_hold(r.bus, 0) == ABK_OK && abk_hold(r.bus, 9) == ABK_ENOENT);
    CHECK_HAS(rig_status(&r), "\"held\":true");
    rig_step(&r, 0);
    rig_forget(&r);
    const int waits = rig_ask(&r, "echo", "");
    rig_answer(&r, rig_ask_worker(&r, 0, "go", ""));
    rig_answer(&r, busy);
    UNTIL(&r, rig_count(&r, ABK_EV_WORKER, ABK_WORKER_READY) == 1); /* it is quiet now */
    CHECK(!rig_ended(&r, waits));
    CHECK(abk_release(r.bus, 0) == ABK_OK);
    CHECK_HAS(rig_answer(&r, waits), "done");
    rig_close(&r);
}

static void a_lease_ends_with_its_worker(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    CHECK(abk_lease(r.bus, 0, "s", 1, false) == ABK_OK);
    CHECK(abk_lease(r.bus, 0, "t", 1, false) == ABK_EREFUSED);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    CHECK_HAS(rig_status(&r), "\"lease\":\"s\"");
    rig_answer(&r, rig_ask_session(&r, "s", 0, "exit"));
    for (int i = 0; i < 3; i++) { /* for ever, until it is ended */
        CHECK(rig_ask_session(&r, "s", ABK_ROUTE_REBIND, "echo") == ABK_EREFUSED);
        CHECK_HAS(rig_refusal(&r), "-32056");
    }
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done"); /* the successor is not held */
    CHECK(abk_end_session(r.bus, "s", 1) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    rig_close(&r);
}

static void a_lease_with_rebind_goes_on(void)
{
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    CHECK(abk_lease(r.bus, 0, "s", 1, true) == ABK_OK);
    const int dies = rig_ask_session(&r, "s", 0, "exit");
    rig_answer(&r, dies);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    CHECK_HAS(rig_status(&r), "\"lease\":\"s\"");
    const int other = rig_ask(&r, "echo", "");
    CHECK(abk_end_session(r.bus, "s", 1) == ABK_OK);
    CHECK_HAS(rig_answer(&r, other), "done");
    rig_close(&r);
}

static void a_worker_may_be_made_for_a_session(void)
{
    static const char *const env[] = {"WORD=mine", "HOME", NULL};
    const abk_extra extra = {
        .size = sizeof extra, .session = "s", .session_len = 1, .env = env, .cwd = "/"};
    const abk_route route = {.size = sizeof route, .worker = -1, .session = "s", .session_len = 1};
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    CHECK(abk_spawn(r.bus, "a", &extra) == 1);
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &route, "env", "\"text\":\"WORD\"")), "mine");
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &route, "env", "\"text\":\"HOME\"")), "null");
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &route, "cwd", "")), "\"/\"");
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &route, "fds", "")), "\"0 1 2 \"");
    CHECK_HAS(rig_status(&r), "\"instances\":1");
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    CHECK(rig_last(&r, ABK_EV_RESULTS)->worker == 0);
    CHECK(abk_end_session(r.bus, "s", 1) == ABK_OK);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_STOPPED);
    rig_close(&r);
}

static void one_made_for_a_session_ends_when_it_is_lost(void)
{
    const abk_extra extra = {.size = sizeof extra, .session = "s", .session_len = 1};
    rig r;
    rig_open(&r, rig_config("", "", SOON));
    CHECK(abk_spawn(r.bus, "a", &extra) == 1);
    rig_answer(&r, rig_ask_session(&r, "s", 0, "exit"));
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_STOPPED);
    CHECK(rig_ask_session(&r, "s", 0, "echo") == ABK_EREFUSED);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    rig_close(&r);
}

static void one_session_has_one_lease(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO, SOON));
    all_ready(&r, 2);
    CHECK(abk_lease(r.bus, 0, "s", 1, true) == ABK_OK);
    CHECK(abk_lease(r.bus, 1, "s", 1, true) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    CHECK(worker_of(&r, "s") == 1);
    CHECK(abk_end_session(r.bus, "s", 1) == ABK_OK);
    CHECK(strstr(rig_status(&r), "\"lease\":\"s\"") == NULL);
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask(&r, "echo", "")), "done");
    rig_close(&r);
}

static void a_worker_that_takes_a_leased_session_takes_its_lease(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO ",\"session\":\"acp\"", SOON));
    all_ready(&r, 2);
    CHECK(abk_lease(r.bus, 0, "made", 4, true) == ABK_OK);
    rig_answer(&r, rig_ask(&r, "session/new", "\"text\":\"made\"")); /* the other one is held */
    CHECK(worker_of(&r, "made") == 1);
    CHECK(abk_end_session(r.bus, "made", 4) == ABK_OK);
    CHECK(strstr(rig_status(&r), "\"lease\":\"made\"") == NULL);
    CHECK(abk_kill(r.bus, 0, NULL) == ABK_OK);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    rig_close(&r);
}

/* What waits in the lane of a slot without a process ends when there will be none. */
static void what_waits_for_a_released_lease_ends_with_its_slot(void)
{
    rig r;
    rig_open(&r, "{\"pools\":[{\"id\":\"a\",\"command\":\"/does/not/exist\"}],"
                 "\"limits\":{\"park_retry_s\":0.05}}");
    UNTIL(&r, rig_state(&r, 0) == ABK_WORKER_PARKED);
    CHECK(abk_lease(r.bus, 0, "s", 1, true) == ABK_OK);
    CHECK(abk_drain(r.bus, 0, 0.0, false) == ABK_OK); /* it tries again */
    const int id = rig_ask_session(&r, "s", 0, "echo");
    CHECK(id > 0);
    CHECK(abk_release(r.bus, 0) == ABK_OK);
    CHECK_HAS(rig_answer(&r, id), "\"phase\":\"spawn\"");
    rig_close(&r);
}

static void what_waits_for_a_session_that_moves_keeps_its_worker(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO ",\"max_in_flight\":1", SOON));
    all_ready(&r, 2);
    rig_answer(&r, rig_ask_session(&r, "s", 0, "echo"));
    const int worker = worker_of(&r, "s");
    const int held = rig_ask_session(&r, "s", 0, "hold");
    const int waits = rig_ask_session(&r, "s", ABK_ROUTE_REBIND, "echo");
    CHECK(abk_lease(r.bus, 1 - worker, "s", 1, true) == ABK_OK);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    CHECK(!rig_ended(&r, waits) && abk_end_session(r.bus, "s", 1) == ABK_OK);
    CHECK(abk_kill(r.bus, worker, NULL) == ABK_OK);
    CHECK_HAS(rig_answer(&r, held), "-32050");
    CHECK_HAS(rig_answer(&r, waits), "done");
    rig_close(&r);
}

static void one_that_is_stopped_cannot_be_lent(void)
{
    rig r;
    rig_open(&r, rig_config("", TWO, SOON));
    all_ready(&r, 2);
    CHECK(abk_rest(r.bus, 1) == 1);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_VACANT);
    CHECK(abk_drain(r.bus, 1, 0.0, true) == ABK_OK); /* it is over at once, and known for a while */
    CHECK(abk_lease(r.bus, 1, "s", 1, true) == ABK_ENOENT && abk_hold(r.bus, 1) == ABK_ENOENT);
    UNTIL(&r, rig_state(&r, 1) == ABK_WORKER_STOPPED);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "s", 0, "echo")), "done");
    rig_close(&r);
}

static void an_empty_session_is_none(void)
{
    rig r;
    rig_open(&r, rig_config("", "", ""));
    CHECK(abk_lease(r.bus, 0, NULL, 0, false) == ABK_EINVAL);
    CHECK(abk_lease(r.bus, 0, "", 0, false) == ABK_EINVAL);
    CHECK(abk_end_session(r.bus, NULL, 0) == ABK_ENOENT);
    CHECK(abk_find_session(r.bus, NULL, 0, &(size_t){0}) == NULL);
    const abk_extra extra = {.size = sizeof extra, .session = ""};
    CHECK(abk_spawn(r.bus, "a", &extra) == ABK_EINVAL);
    CHECK_HAS(rig_answer(&r, rig_ask_session(&r, "", 0, "echo")), "done");
    CHECK(rig_stats(&r).sessions == 0);
    rig_close(&r);
}

TEST_MAIN(TEST(a_session_stays_with_its_worker), TEST(a_lost_session_is_refused_once),
          TEST(what_waits_with_rebind_goes_to_another_and_without_fails),
          TEST(sessions_are_bounded_and_lost_ones_give_way),
          TEST(a_session_that_never_began_leaves_nothing), TEST(a_result_may_name_a_session),
          TEST(a_held_worker_takes_only_what_names_it), TEST(a_lease_ends_with_its_worker),
          TEST(a_lease_with_rebind_goes_on), TEST(a_worker_may_be_made_for_a_session),
          TEST(one_made_for_a_session_ends_when_it_is_lost), TEST(one_session_has_one_lease),
          TEST(a_worker_that_takes_a_leased_session_takes_its_lease),
          TEST(what_waits_for_a_released_lease_ends_with_its_slot),
          TEST(one_that_is_stopped_cannot_be_lent),
          TEST(what_waits_for_a_session_that_moves_keeps_its_worker),
          TEST(an_empty_session_is_none))
