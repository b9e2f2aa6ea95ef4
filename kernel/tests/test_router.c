/* Which worker gets a request. */
#include "rig.h"

#define THREE ",\"instances\":3"

static void all_ready(rig *self, size_t count)
{
    UNTIL(self, rig_count(self, ABK_EV_WORKER, ABK_WORKER_READY) == count);
}

/* How many requests each worker has in flight, as the status says: "2 0 1". */
static const char *spread(rig *self)
{
    static char text[64];
    text[0] = '\0';
    const char *at = rig_status(self);
    while ((at = strstr(at, "\"in_flight\":")) != NULL) {
        at += strlen("\"in_flight\":");
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d",
                 text[0] == '\0' ? "" : " ", atoi(at));
    }
    return text;
}

static void go(rig *self, int workers)
{
    for (int i = 0; i < workers; i++)
        rig_ask_worker(self, i, "go", "");
    UNTIL(self, rig_stats(self).live_requests == 0);
}

static void the_least_busy_gets_it_and_ties_go_round(void)
{
    rig r;
    rig_open(&r, rig_config("", THREE, ""));
    all_ready(&r, 3);
    for (int i = 0; i < 6; i++)
        rig_ask(&r, "hold", "");
    CHECK_TEXT(spread(&r), "2 2 2");
    rig_ask_worker(&r, 0, "hold", "");
    rig_ask_worker(&r, 2, "hold", "");
    rig_ask(&r, "hold", "");
    CHECK_TEXT(spread(&r), "3 3 3");
    go(&r, 3);
    int seen = 0;
    for (int i = 0; i < 3; i++) { /* each in turn, though all are idle each time */
        rig_answer(&r, rig_ask(&r, "echo", ""));
        seen |= 1 << rig_last(&r, ABK_EV_RESULTS)->worker;
    }
    CHECK(seen == 7);
    rig_close(&r);
}

static void in_turn_means_the_next_one(void)
{
    rig r;
    rig_open(&r, rig_config("", THREE ",\"balance\":\"round_robin\"", ""));
    all_ready(&r, 3);
    for (int i = 0; i < 3; i++)
        rig_ask_worker(&r, 0, "hold", "");
    for (int i = 0; i < 3; i++)
        rig_ask(&r, "hold", "");
    CHECK_TEXT(spread(&r), "4 1 1");
    go(&r, 3);
    rig_close(&r);
}

static void an_idle_timeout_packs(void)
{
    rig r;
    rig_open(&r, rig_config("", THREE ",\"idle_timeout_s\":60,\"max_in_flight\":2", ""));
    all_ready(&r, 3);
    int first = -1;
    for (int i = 0; i < 4; i++) {
        rig_answer(&r, rig_ask(&r, "echo", ""));
        const int worker = rig_last(&r, ABK_EV_RESULTS)->worker;
        first = first < 0 ? worker : first;
        CHECK(worker == first);
    }
    rig_close(&r);
}

static void what_is_full_is_passed_over_and_then_all_wait(void)
{
    rig r;
    rig_open(&r, rig_config("", THREE ",\"max_in_flight\":1", ""));
    all_ready(&r, 3);
    for (int i = 0; i < 5; i++)
        rig_ask(&r, "hold", "");
    CHECK_TEXT(spread(&r), "1 1 1");
    CHECK(rig_stats(&r).queued_requests == 2);
    for (int round = 0; round < 5 && rig_stats(&r).live_requests > 0; round++) {
        for (int32_t i = 0; i < 3; i++) {
            const abk_route to = {.size = sizeof to, .worker = i};
            CHECK(abk_submit(r.bus, &to, "{\"method\":\"go\"}\n", 16) == 0);
        }
        for (int i = 0; i < 10; i++)
            rig_step(&r, 10);
    }
    CHECK(rig_stats(&r).live_requests == 0);
    rig_close(&r);
}

static void a_worker_says_when_it_was_given_its_last_request(void)
{
    rig r;
    rig_open(&r, rig_config("", ",\"max_requests\":3", ""));
    all_ready(&r, 1);
    rig_step(&r, 0);
    rig_forget(&r);
    for (int i = 0; i < 3; i++)
        rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(rig_count(&r, ABK_EV_WORKER, ABK_WORKER_READY) == 1);
    CHECK_HAS(rig_status(&r), "\"served\":3");
    rig_close(&r);
}

static void pools_are_apart(void)
{
    static char config[10000];
    snprintf(config, sizeof config,
             "{\"pools\":[{\"id\":\"a\",\"command\":[\"%s\"]},{\"id\":\"b\",\"command\":[\"%s\"],"
             "\"envelope\":\"strip\"}]}",
             rig_worker(), rig_worker());
    abk_route route = RIG_ROUTE;
    rig r;
    rig_open(&r, config);
    all_ready(&r, 2);
    CHECK(rig_ask_on(&r, &route, "echo", "") == ABK_EREFUSED); /* which one? */
    CHECK_HAS(rig_refusal(&r), "-32052");
    route.pool = "b";
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &route, "echo", "")), "done");
    CHECK(rig_last(&r, ABK_EV_RESULTS)->worker == 1);
    route.worker = 0;
    CHECK(rig_ask_on(&r, &route, "echo", "") == ABK_EREFUSED); /* not in that pool */
    static const char line[] =
        "{\"pool\":\"b\",\"id\":2,\"sessionId\":\"s\",\"method\":\"hold\"}\n";
    const abk_route any = RIG_ROUTE;
    CHECK(abk_tap(r.bus, true) == ABK_OK);
    const int64_t key = abk_submit(r.bus, &any, line, sizeof line - 1);
    CHECK(key > 0);
    r.asked = 2;
    r.ends[2] = (rig_end){.key = key, .withdrawn = true};
    abk_flush(r.bus);
    CHECK(abk_withdraw(r.bus, key, NULL, 0) == ABK_CANCELLED);
    UNTIL(&r, rig_last(&r, ABK_EV_FRAME) != NULL);
    for (size_t i = 0; i < r.event_count; i++) {
        if (r.events[i].event.type == ABK_EV_FRAME &&
            strstr(r.events[i].event.text, "hold") != NULL)
            CHECK_HAS(r.events[i].event.text, "\"message\":{\"id\":2,\"method\":\"hold\"}");
    }
    rig_close(&r);
}

static void a_tap_begins_with_the_next_frame(void)
{
    enum { PAD = 300000 };
    static char line[PAD + 64];
    const abk_route route = RIG_ROUTE;
    rig r;
    rig_open(&r, rig_config("", "", ""));
    all_ready(&r, 1);
    const pid_t pid = rig_last(&r, ABK_EV_WORKER)->b;
    CHECK(pid > 0 && kill(pid, SIGSTOP) == 0);
    const int len = snprintf(line, sizeof line, "{\"method\":\"long\",\"params\":[\"%0*d\"]}\n", PAD, 0);
    CHECK(abk_submit(r.bus, &route, line, (size_t)len) == 0);
    abk_flush(r.bus); /* as much as the pipe takes */
    CHECK(abk_tap(r.bus, true) == ABK_OK);
    const int next = rig_ask(&r, "echo", "");
    CHECK(kill(pid, SIGCONT) == 0);
    rig_answer(&r, next);
    CHECK_HAS(rig_last(&r, ABK_EV_FRAME)->text, "from_worker");
    size_t frames = 0;
    for (size_t i = 0; i < r.event_count; i++) {
        const abk_event *event = &r.events[i].event;
        if (event->type != ABK_EV_FRAME)
            continue;
        frames++;
        CHECK(strstr(event->text, "\"kind\":\"bad\"") == NULL);
    }
    CHECK(frames == 2); /* the request, the answer */
    CHECK(abk_tap(r.bus, false) == ABK_OK && abk_tap(r.bus, true) == ABK_OK);
    rig_forget(&r);
    rig_answer(&r, rig_ask(&r, "echo", ""));
    CHECK(rig_count(&r, ABK_EV_FRAME, -1) == 2);
    rig_close(&r);
}

static void sessions_are_one_set_in_all_pools(void)
{
    static char config[10000];
    snprintf(config, sizeof config,
             "{\"pools\":[{\"id\":\"a\",\"command\":[\"%s\"],\"max_in_flight\":1},{\"id\":\"b\","
             "\"command\":[\"%s\"],\"session\":\"acp\"}]}",
             rig_worker(), rig_worker());
    abk_route a = {
        .size = sizeof a, .worker = -1, .pool = "a", .session = "made", .session_len = 4};
    const abk_route b = {.size = sizeof b, .worker = -1, .pool = "b"};
    rig r;
    rig_open(&r, config);
    all_ready(&r, 2);
    const int held = rig_ask_worker(&r, 0, "hold", "");
    CHECK(held == ABK_EREFUSED); /* it names no pool */
    const abk_route in_a = {.size = sizeof in_a, .worker = 0, .pool = "a"};
    const int busy = rig_ask_on(&r, &in_a, "hold", "");
    const int waits = rig_ask_on(&r, &a, "echo", ""); /* the session waits for a place */
    CHECK(busy > 0 && waits > 0);
    CHECK_HAS(rig_answer(&r, rig_ask_on(&r, &b, "session/new", "\"text\":\"made\"")), "made");
    CHECK(rig_ask_on(&r, &a, "echo", "") == ABK_EREFUSED); /* it is in the other pool now */
    CHECK_HAS(rig_refusal(&r), "session_elsewhere");
    CHECK(abk_submit(r.bus, &in_a, "{\"method\":\"go\"}\n", 16) == 0);
    CHECK_HAS(rig_answer(&r, busy), "went");
    CHECK_HAS(rig_answer(&r, waits), "done");
    rig_close(&r);
}

TEST_MAIN(TEST(the_least_busy_gets_it_and_ties_go_round), TEST(in_turn_means_the_next_one),
          TEST(an_idle_timeout_packs), TEST(what_is_full_is_passed_over_and_then_all_wait),
          TEST(a_worker_says_when_it_was_given_its_last_request), TEST(pools_are_apart),
          TEST(a_tap_begins_with_the_next_frame), TEST(sessions_are_one_set_in_all_pools))
