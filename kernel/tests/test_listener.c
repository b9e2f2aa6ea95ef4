/* Clients of a unix socket: many, strangers to each other, slow ones, gone ones. */
#include "wire.h"

#include <sys/stat.h>

typedef struct house {
    rig rig;
    char folder[32];
    char path[64];
} house;

static void house_open(house *self, const char *config, const abk_listener *more)
{
    const abk_options options = {.size = sizeof options};
    abk_listener listener = more == NULL ? (abk_listener){.size = sizeof listener} : *more;
    abk_error error = {0};
    strcpy(self->folder, "/tmp/abk-test-XXXXXX");
    CHECK(mkdtemp(self->folder) != NULL);
    snprintf(self->path, sizeof self->path, "%s/socket", self->folder);
    listener.unix_path = self->path;
    rig_make(&self->rig, config, &options);
    CHECK(abk_listen(self->rig.bus, &listener, NULL, 0, &error) == ABK_OK);
    CHECK(abk_start(self->rig.bus, &error) == ABK_OK);
}

static void house_close(house *self, wire *clients, int count)
{
    CHECK(abk_stop(self->rig.bus, 0.0, 2.0) == ABK_OK);
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (!abk_stopped(self->rig.bus) && abk_now() < late) {
        rig_step(&self->rig, 20);
        for (int i = 0; i < count; i++)
            wire_hear(&clients[i]);
    }
    CHECK(abk_stopped(self->rig.bus));
    abk_destroy(self->rig.bus);
    for (int i = 0; i < count; i++)
        wire_free(&clients[i]);
    CHECK(access(self->path, F_OK) != 0 && rmdir(self->folder) == 0);
    CHECK(rig_count_fds() == self->rig.fds && !rig_has_children());
    rig_free(&self->rig);
}

static void clients_are_strangers(void)
{
    enum { CLIENTS = 5 };
    house h;
    wire all[CLIENTS];
    house_open(&h, rig_config("", "", ""), NULL);
    for (int i = 0; i < CLIENTS; i++) {
        wire_connect(&all[i], h.path);
        SAY(&h.rig, &all[i], "{\"id\":1,\"method\":\"hold\"}\n");
    }
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == CLIENTS);
    SAY(&h.rig, &all[0], "{\"id\":2,\"method\":\"note\"}\n{\"id\":3,\"method\":\"go\"}\n");
    for (int i = 0; i < CLIENTS; i++) {
        HEAR(&h.rig, &all[i], "\"id\":1,\"result\":\"went\"");
        CHECK(!wire_heard(&all[i], "\"method\":\"note\""));
    }
    HEAR(&h.rig, &all[0], "\"id\":3,\"result\":\"done\"");
    CHECK(wire_count(&all[1], "\n") == 1 && rig_stats(&h.rig).dropped_notifications == 1);
    CHECK(rig_stats(&h.rig).clients == CLIENTS);
    house_close(&h, all, CLIENTS);
}

static void tokens_of_progress_are_put_back(void)
{
    house h;
    wire a;
    house_open(&h, rig_config("", "", ""), NULL);
    wire_connect(&a, h.path);
    SAY(&h.rig, &a,
        "{\"id\":\"x\",\"method\":\"flood\",\"params\":{\"n\":1,"
        "\"_meta\":{\"progressToken\":\"t\"}}}\n");
    HEAR(&h.rig, &a, "\"_meta\":{\"requestId\":\"x\"},\"n\":0");
    HEAR(&h.rig, &a, "\"id\":\"x\",\"result\":\"flooded\"");
    house_close(&h, &a, 1);
}

static void a_half_closed_client_gets_its_answers_and_a_gone_one_is_forgotten(void)
{
    house h;
    wire all[2];
    house_open(&h, rig_config("", "", ""), NULL);
    wire_connect(&all[0], h.path);
    wire_connect(&all[1], h.path);
    SAY(&h.rig, &all[0], "{\"id\":1,\"method\":\"hold\"}\n");
    SAY(&h.rig, &all[1], "{\"id\":1,\"method\":\"hold\"}\n{\"id\":2,\"method\":\"ask\"}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 3);
    HEAR(&h.rig, &all[1], "question");
    CHECK(shutdown(all[0].to, SHUT_WR) == 0);
    close(all[1].to);
    all[1].to = all[1].from = -1;
    UNTIL(&h.rig, rig_count(&h.rig, ABK_EV_CLIENT, 0) == 1);
    CHECK(rig_stats(&h.rig).live_requests == 1);
    wire other;
    wire_connect(&other, h.path);
    SAY(&h.rig, &other, "{\"id\":1,\"method\":\"go\"}\n");
    HEAR(&h.rig, &all[0], "\"id\":1,\"result\":\"went\"");
    UNTIL(&h.rig, rig_count(&h.rig, ABK_EV_CLIENT, 0) == 2);
    HEAR(&h.rig, &other, "\"id\":1,");
    wire_free(&all[1]);
    all[1] = other;
    house_close(&h, all, 2);
}

/* An end that comes together with what was said is no edge of its own. */
static void one_that_says_all_at_once_is_answered_and_forgotten(void)
{
    static const char *const lines[] = {"{\"id\":1,\"method\":\"echo\"}\n", "{\"method\":\"note\"}\n"};
    house h;
    wire all[2];
    house_open(&h, rig_config("", "", ""), NULL);
    for (int i = 0; i < 2; i++) {
        wire_connect(&all[i], h.path);
        SAY(&h.rig, &all[i], lines[i]);
        CHECK(shutdown(all[i].to, SHUT_WR) == 0);
    }
    HEAR(&h.rig, &all[0], "\"id\":1,\"result\":\"done\"");
    UNTIL(&h.rig, rig_count(&h.rig, ABK_EV_CLIENT, 0) == 2);
    house_close(&h, all, 2);
}

static void a_token_comes_first(void)
{
    house h;
    wire all[3];
    house_open(&h, rig_config("", "", ""),
               &(abk_listener){.size = sizeof(abk_listener), .token = "secret"});
    for (int i = 0; i < 3; i++)
        wire_connect(&all[i], h.path);
    SAY(&h.rig, &all[0], "{\"id\":1,\"method\":\"echo\"}\n{\"id\":2,\"method\":\"echo\"}\n");
    SAY(&h.rig, &all[1], "{\"id\":1,\"method\":\"bus/auth\",\"params\":{\"token\":\"secreT\"}}\n");
    SAY(&h.rig, &all[2],
        "{\"id\":1,\"method\":\"bus/auth\",\"params\":{\"token\":\"secret\"}}\n"
        "{\"id\":2,\"method\":\"echo\"}\n{\"id\":3,\"method\":\"bus/tap\"}\n");
    HEAR(&h.rig, &all[0], "unauthorized");
    HEAR(&h.rig, &all[1], "unauthorized");
    HEAR(&h.rig, &all[2], "\"id\":2,\"result\":\"done\"");
    HEAR(&h.rig, &all[2], "\"id\":3,\"error\":{\"code\":-32601"); /* no admin */
    CHECK(wire_count(&all[0], "\n") == 1);
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    house_close(&h, all, 3);
}

/* What nobody may say before the token: not even what is no message at all. */
static void a_stranger_cannot_speak_without_its_token(void)
{
    house h;
    wire all[3];
    house_open(&h, rig_config("", "", ""),
               &(abk_listener){.size = sizeof(abk_listener), .token = "secret"});
    for (int i = 0; i < 3; i++)
        wire_connect(&all[i], h.path);
    SAY(&h.rig, &all[0], "nonsense\n");
    SAY(&h.rig, &all[1], "{\"id\":1,\"result\":1}\n");
    SAY(&h.rig, &all[2], "{\"id\":1}\n");
    for (int i = 0; i < 3; i++)
        HEAR(&h.rig, &all[i], "unauthorized");
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 0);
    house_close(&h, all, 3);
}

static void one_that_does_not_show_its_token_is_turned_away_in_time(void)
{
    enum { MOST = 64 };
    house h;
    static wire all[MOST + 2];
    house_open(&h, rig_config("", "", "\"auth_timeout_s\":30"),
               &(abk_listener){.size = sizeof(abk_listener), .token = "secret"});
    wire_connect(&all[0], h.path);
    SAY(&h.rig, &all[0], "{\"id\":1,\"method\":\"bus/auth\",\"params\":{\"token\":\"secret\"}}\n");
    HEAR(&h.rig, &all[0], "\"id\":1,\"result\"");
    for (int i = 1; i < MOST + 2; i++)
        wire_connect(&all[i], h.path);
    UNTIL(&h.rig, rig_count(&h.rig, ABK_EV_CLIENT, 0) == 1); /* the first of the strangers gave way */
    for (size_t i = 0; i < h.rig.event_count; i++) {
        const abk_event *event = &h.rig.events[i].event;
        if (event->type == ABK_EV_CLIENT && event->a == 0)
            CHECK_TEXT(event->text, "too many without a token");
    }
    UNTIL(&h.rig, (wire_hear(&all[1]), all[1].ended));
    CHECK(rig_stats(&h.rig).clients == MOST + 1);
    abk_test.later += abk_ns(31);
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    HEAR(&h.rig, &all[2], "unauthorized");
    SAY(&h.rig, &all[0], "{\"id\":2,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &all[0], "\"id\":2,\"result\"");
    abk_test.later = 0;
    house_close(&h, all, MOST + 2);
}

/* --- slow clients ---------------------------------------------------------------------------- */

#define NARROW "\"max_output_queue\":10000"

static void a_client_that_reads_slowly_hurts_nobody_else(void)
{
    house h;
    wire all[2];
    house_open(&h, rig_config("", "", NARROW), NULL);
    wire_connect(&all[0], h.path);
    wire_connect(&all[1], h.path);
    SAY(&h.rig, &all[0], "{\"id\":1,\"method\":\"flood\",\"params\":{\"n\":20000}}\n");
    SAY(&h.rig, &all[1], "{\"id\":1,\"method\":\"flood\",\"params\":{\"n\":20000}}\n");
    HEAR(&h.rig, &all[1], "\"id\":1,");
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == 0);
    HEAR(&h.rig, &all[0], "slow_client");
    CHECK(wire_count(&all[0], "\"id\":1,\"error\"") == 1);
    house_close(&h, all, 2);
}

static void one_that_takes_nothing_is_disconnected(void)
{
    house h;
    wire all[2];
    house_open(&h, rig_config("", "", "\"backpressure_timeout_sec\":0.1"), NULL);
    wire_connect(&all[0], h.path);
    wire_connect(&all[1], h.path);
    SAY(&h.rig, &all[0], "{\"id\":1,\"method\":\"big\",\"params\":{\"n\":1000000}}\n");
    UNTIL(&h.rig, rig_count(&h.rig, ABK_EV_CLIENT, 0) == 1);
    CHECK_TEXT(rig_last(&h.rig, ABK_EV_CLIENT)->text, "slow_client");
    SAY(&h.rig, &all[1], "{\"id\":1,\"method\":\"echo\"}\n");
    HEAR(&h.rig, &all[1], "done");
    house_close(&h, all, 2);
}

/* It is given up at the very moment at which the kernel does something for it. */
static void a_full_client_may_be_given_up_while_it_cancels(void)
{
    house h;
    wire all[2];
    char lines[1024] = "{\"id\":1,\"method\":\"hold\"}\n{\"id\":2,\"method\":\"echo\"}\n"
                       "{\"id\":3,\"method\":\"echo\"}\n";
    house_open(&h, rig_config("", ",\"max_in_flight\":1", NARROW), NULL);
    wire_connect(&all[0], h.path);
    wire_connect(&all[1], h.path);
    SAY(&h.rig, &all[1], "{\"id\":1,\"method\":\"bus/status\"}\n");
    HEAR(&h.rig, &all[1], "running");
    for (int i = 0; i < 300; i++)
        strcat(lines, "x\n");
    strcat(lines, "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":2}}\n");
    SAY(&h.rig, &all[0], lines);
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    CHECK(rig_stats(&h.rig).live_requests == 0);
    house_close(&h, all, 2);
}

static void a_full_client_may_be_given_up_while_it_waits_for_a_lease(void)
{
    house h;
    wire all[2];
    house_open(&h, rig_config("", "", NARROW), NULL);
    wire_connect(&all[0], h.path);
    wire_connect(&all[1], h.path);
    SAY(&h.rig, &all[1],
        "{\"id\":1,\"method\":\"bus/session\",\"params\":{\"id\":\"x\","
        "\"exclusive\":true}}\n");
    HEAR(&h.rig, &all[1], "\"worker\":0}");
    SAY(&h.rig, &all[0],
        "{\"id\":1,\"method\":\"big\",\"params\":{\"n\":900000},\"sessionId\":\"x\"}\n"
        "{\"id\":2,\"method\":\"bus/session\",\"params\":{\"exclusive\":true,"
        "\"wait_s\":0.3}}\n"
        "{\"id\":3,\"method\":\"bus/session\",\"params\":{\"exclusive\":true,"
        "\"wait_s\":0.3}}\n");
    UNTIL(&h.rig, rig_stats(&h.rig).clients == 1);
    house_close(&h, all, 2);
}

/* --- paths ----------------------------------------------------------------------------------- */

static void a_path_is_taken_over_only_from_the_dead(void)
{
    const abk_options options = {.size = sizeof options};
    abk_error error = {0};
    house h;
    struct stat mode;
    house_open(&h, rig_config("", "", ""), NULL);
    CHECK(stat(h.path, &mode) == 0 && (mode.st_mode & 0777) == 0600);
    rig other;
    rig_make(&other, rig_config("", "", ""), &options);
    abk_listener listener = {.size = sizeof listener, .unix_path = h.path};
    CHECK(abk_listen(other.bus, &listener, NULL, 0, &error) == ABK_EINVAL);
    CHECK(error.number == EADDRINUSE && access(h.path, F_OK) == 0);
    char file[80];
    snprintf(file, sizeof file, "%s/file", h.folder);
    listener.unix_path = file;
    close(open(file, O_CREAT | O_CLOEXEC, 0600));
    CHECK(abk_listen(other.bus, &listener, NULL, 0, &error) == ABK_EINVAL);
    CHECK(unlink(file) == 0);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, file, strlen(file));
    CHECK(bind(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    close(fd); /* nobody listens on what it leaves */
    char bound[100];
    CHECK(abk_listen(other.bus, &listener, bound, sizeof bound, &error) == ABK_OK);
    CHECK_TEXT(bound, file);
    abk_destroy(other.bus);
    CHECK(access(file, F_OK) != 0);
    rig_free(&other);
    house_close(&h, NULL, 0);
}

static void tcp_beyond_loopback_needs_a_token(void)
{
    const abk_options options = {.size = sizeof options};
    abk_error error = {0};
    char bound[100] = "";
    rig r;
    rig_make(&r, rig_config("", "", ""), &options);
    abk_listener listener = {.size = sizeof listener, .host = "0.0.0.0"};
    CHECK(abk_listen(r.bus, &listener, bound, sizeof bound, &error) == ABK_EINVAL);
    listener.host = "127.0.0.1";
    CHECK(abk_listen(r.bus, &listener, bound, sizeof bound, &error) == ABK_OK);
    CHECK(strncmp(bound, "127.0.0.1:", 10) == 0);
    listener.host = "";
    listener.token = "t";
    CHECK(abk_listen(r.bus, &listener, bound, 5, &error) == ABK_OK && strlen(bound) == 4);
    abk_destroy(r.bus);
    CHECK(rig_count_fds() == r.fds);
    rig_free(&r);
}

/* No step comes after it: what the host has left to know it hears from the events. */
static void whom_the_end_leaves_is_counted_and_told_of(void)
{
    enum { CLIENTS = 3 };
    house h;
    wire all[CLIENTS];
    abk_event event;
    int left = 0;
    house_open(&h, rig_config("", "", ""), NULL);
    for (int i = 0; i < CLIENTS; i++) {
        wire_connect(&all[i], h.path);
        SAY(&h.rig, &all[i], "{\"id\":1,\"method\":\"hold\"}\n");
    }
    UNTIL(&h.rig, rig_stats(&h.rig).live_requests == CLIENTS);
    abk_kill_now(h.rig.bus, 1.0);
    abk_kill_now(h.rig.bus, 1.0);
    while (abk_next_event(h.rig.bus, &event) == 1) {
        const bool of_client = event.type == ABK_EV_CLIENT && event.a == 0;
        left += of_client && memmem(event.text, event.text_len, "has ended", 9) != NULL;
    }
    CHECK(left == CLIENTS);
    CHECK(rig_stats(&h.rig).clients == 0 && rig_stats(&h.rig).client_disconnects == CLIENTS);
    house_close(&h, all, CLIENTS);
}

TEST_MAIN(TEST(clients_are_strangers), TEST(tokens_of_progress_are_put_back),
          TEST(a_half_closed_client_gets_its_answers_and_a_gone_one_is_forgotten),
          TEST(one_that_says_all_at_once_is_answered_and_forgotten), TEST(a_token_comes_first),
          TEST(a_stranger_cannot_speak_without_its_token),
          TEST(one_that_does_not_show_its_token_is_turned_away_in_time),
          TEST(a_client_that_reads_slowly_hurts_nobody_else),
          TEST(one_that_takes_nothing_is_disconnected),
          TEST(a_full_client_may_be_given_up_while_it_cancels),
          TEST(a_full_client_may_be_given_up_while_it_waits_for_a_lease),
          TEST(a_path_is_taken_over_only_from_the_dead), TEST(tcp_beyond_loopback_needs_a_token),
          TEST(whom_the_end_leaves_is_counted_and_told_of))
