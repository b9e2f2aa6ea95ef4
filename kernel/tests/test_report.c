/* Events of a bus as lines of the daemon's log: what they say, and what bounds them. */
#include "report.h"
#include "test.h"

#include <fcntl.h>
#include <unistd.h>

static abkd_log record;
static abkd_report report;
static int fds[2];
static char got[1024 * 1024];
static size_t got_len;

static void open_report(void)
{
    CHECK(pipe(fds) == 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    abkd_log_open(&record, fds[1], ABK_LOG_INFO, false);
    report = (abkd_report){.log = &record};
    got_len = 0;
}

static void read_log(void)
{
    abkd_log_flush(&record);
    for (ssize_t n; (n = read(fds[0], got + got_len, sizeof got - 1 - got_len)) > 0;)
        got_len += (size_t)n;
    got[got_len] = '\0';
}

/* End the report; the lines are in got, without their times. */
static void close_report(void)
{
    read_log();
    abkd_report_close(&report);
    abkd_log_close(&record, 0);
    close(fds[0]);
    close(fds[1]);
    char *to = got;
    for (const char *at = got; *at != '\0';) {
        const char *line = strchr(at, ' ') + 1;
        const size_t len = (size_t)(strchr(line, '\n') + 1 - line);
        at = line + len;
        memmove(to, line, len);
        to += len;
    }
    *to = '\0';
}

static abk_event of_worker(int type, int32_t worker)
{
    return (abk_event){.type = type, .worker = worker, .generation = 1, .pool = "p"};
}

static void tell_stderr(int32_t worker, const char *data)
{
    abk_event event = of_worker(ABK_EV_STDERR, worker);
    event.data = data;
    event.len = strlen(data);
    abkd_report_event(&report, &event);
}

static void tell_state(int32_t worker, uint32_t generation, int state, int pid)
{
    abk_event event = of_worker(ABK_EV_WORKER, worker);
    event.generation = generation;
    event.a = state;
    event.b = pid;
    abkd_report_event(&report, &event);
}

static void stderr_comes_in_lines_of_each_worker(void)
{
    open_report();
    tell_stderr(0, "one\r\ntw");
    tell_stderr(1, "other\n");
    tell_stderr(0, "o\n\nthree");
    tell_stderr(0, "");
    close_report();
    CHECK_TEXT(got, "INFO  worker=0 pool=p worker_stderr: one\n"
                    "INFO  worker=1 pool=p worker_stderr: other\n"
                    "INFO  worker=0 pool=p worker_stderr: two\n");
}

static void a_line_without_an_end_is_told_with_the_next_process(void)
{
    open_report();
    tell_state(0, 1, ABK_WORKER_READY, 7);
    tell_stderr(0, "last words");
    tell_state(0, 2, ABK_WORKER_STARTING, 0);
    tell_stderr(0, "again");
    tell_state(0, 2, ABK_WORKER_STOPPED, 0);
    CHECK(report.count == 0);
    close_report();
    CHECK_TEXT(got, "INFO  worker=0 pool=p worker_ready: takes work, pid 7\n"
                    "INFO  worker=0 pool=p worker_stderr: last words\n"
                    "INFO  worker=0 pool=p worker_starting: its process starts\n"
                    "INFO  worker=0 pool=p worker_stopped: has ended for good\n"
                    "INFO  worker=0 pool=p worker_stderr: again\n");
}

static void a_long_line_of_stderr_is_cut(void)
{
    static char text[3 * ABKD_STDERR_LINE];
    memset(text, 'x', sizeof text - 2);
    text[sizeof text - 2] = '\n';
    open_report();
    tell_stderr(0, text);
    tell_stderr(0, "next\n");
    close_report();
    const char *end = strchr(got, '\n');
    CHECK(end - strstr(got, ": ") - 2 == ABKD_STDERR_LINE);
    CHECK(memcmp(end - 4, "x...", 4) == 0);
    CHECK_TEXT(end + 1, "INFO  worker=0 pool=p worker_stderr: next\n");
}

static void a_loud_worker_is_bounded_and_hides_no_other(void)
{
    open_report();
    for (int i = 0; i < 3 * ABKD_STDERR_BURST; i++) {
        tell_stderr(0, "loud\n");
        if (i % 100 == 0)
            read_log();
    }
    tell_stderr(1, "quiet\n");
    report.sources[0]->stderr_lines.ends_at = 0; /* ten seconds later */
    tell_stderr(0, "after\n");
    close_report();
    int loud = 0;
    for (const char *at = got; (at = strstr(at, ": loud\n")) != NULL; at++)
        loud++;
    CHECK(loud == ABKD_STDERR_BURST);
    CHECK(strstr(got, "worker=1 pool=p worker_stderr: quiet\n") != NULL);
    CHECK(strstr(got, ": after (2000 more of these were not logged)\n") != NULL);
}

static void a_bad_line_shows_its_beginning(void)
{
    abk_event event = of_worker(ABK_EV_LINE_BAD, 2);
    event.text = "not a JSON object";
    event.text_len = strlen(event.text);
    event.data = "hello\r\n";
    event.len = 7;
    event.count = 7;
    open_report();
    for (int i = 0; i < 2 * ABKD_BAD_BURST; i++)
        abkd_report_event(&report, &event);
    close_report();
    const char *line = "WARN  worker=2 pool=p bad_line: not a JSON object (7 bytes): hello\n";
    CHECK(strncmp(got, line, strlen(line)) == 0);
    CHECK(strlen(got) == ABKD_BAD_BURST * strlen(line));
}

static void a_death_is_told_once(void)
{
    abk_event event = of_worker(ABK_EV_LOG, 0);
    open_report();
    event.a = ABK_LOG_WARNING;
    event.text = "it died";
    event.text_len = 7;
    abkd_report_event(&report, &event);
    event.type = ABK_EV_WORKER;
    event.a = ABK_WORKER_BACKOFF;
    event.text = "{\"message\":\"it died\"}";
    event.text_len = strlen(event.text);
    abkd_report_event(&report, &event);
    tell_state(1, 1, ABK_WORKER_BACKOFF, 0); /* killed on purpose: nobody else says it */
    tell_state(1, 1, ABK_WORKER_BACKOFF, 0); /* a hold: no change of state */
    close_report();
    CHECK_TEXT(got, "WARN  worker=0 pool=p worker_died: it died\n"
                    "INFO  worker=1 pool=p worker_backoff: has ended, and starts again\n");
}

static void clients_and_the_kernel_itself_have_their_lines(void)
{
    abk_event event = {.type = ABK_EV_CLIENT, .worker = -1, .count = 3, .a = 1};
    open_report();
    event.text = "127.0.0.1:5";
    event.text_len = strlen(event.text);
    abkd_report_event(&report, &event);
    event.a = 2;
    event.b = 1;
    event.text_len = 0;
    abkd_report_event(&report, &event);
    event = (abk_event){.type = ABK_EV_LOG, .worker = -1, .a = ABK_LOG_ERROR};
    event.text = "no";
    event.text_len = 2;
    abkd_report_event(&report, &event);
    event.type = ABK_EV_LINES;
    abkd_report_event(&report, &event);
    close_report();
    CHECK_TEXT(got, "INFO  client_came: client 3: 127.0.0.1:5\n"
                    "INFO  client_done: client 3 (stdio)\n"
                    "ERROR kernel: no\n");
}

TEST_MAIN(TEST(stderr_comes_in_lines_of_each_worker),
          TEST(a_line_without_an_end_is_told_with_the_next_process),
          TEST(a_long_line_of_stderr_is_cut), TEST(a_loud_worker_is_bounded_and_hides_no_other),
          TEST(a_bad_line_shows_its_beginning), TEST(a_death_is_told_once),
          TEST(clients_and_the_kernel_itself_have_their_lines))
