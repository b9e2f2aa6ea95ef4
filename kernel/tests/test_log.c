/* The log of the daemon: its two formats, what is cut, dropped and counted, and that it never waits
 * nor changes the file that it writes to. */
#include "log.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static char got[4 * ABKD_LOG_BYTES];

/* What can be read from fd now, without a NUL in it. */
static const char *read_all(int fd)
{
    size_t len = 0;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    for (ssize_t n; (n = read(fd, got + len, sizeof got - 1 - len)) > 0;)
        len += (size_t)n;
    got[len] = '\0';
    return got;
}

static void write_text(abkd_log *log, const char *text, size_t len)
{
    abkd_log_write(log, &(abkd_entry){.level = ABK_LOG_INFO, .event = "told", .pool = "echo",
                                      .worker = 3, .text = text, .len = len});
}

/* One line with this text, as it comes out, without its time where that stands in front. */
static const char *written(const char *text, size_t len, bool json)
{
    static abkd_log log;
    int fds[2];
    CHECK(pipe(fds) == 0);
    abkd_log_open(&log, fds[1], ABK_LOG_INFO, json);
    write_text(&log, text, len);
    CHECK(!abkd_log_flush(&log));
    abkd_log_close(&log, 0);
    read_all(fds[0]);
    close(fds[0]);
    close(fds[1]);
    return json ? strstr(got, "\"level\"") : strchr(got, ' ') + 1;
}

static void text_lines_name_worker_pool_and_event(void)
{
    CHECK_TEXT(written("hello", 5, false), "INFO  worker=3 pool=echo told: hello\n");
    CHECK(strlen(got) == strlen("2026-11-29T10:00:00.123Z ") + strlen(strchr(got, ' ') + 1));
    CHECK(got[10] == 'T' && got[19] == '.' && got[23] == 'Z');
}

static void json_lines_have_the_same(void)
{
    CHECK_TEXT(written("hello", 5, true),
               "\"level\":\"info\",\"event\":\"told\",\"pool\":\"echo\",\"worker\":3,"
               "\"text\":\"hello\"}\n");
    CHECK(strncmp(got, "{\"time\":\"20", 11) == 0);
}

static void controls_and_what_is_no_utf8_are_escaped(void)
{
    static const char text[] = "a\nb\x1b[31m\t\"\\\x00\xc3\xbc\xff\xc2\x9b\xed\xa0\x80";
    const size_t len = sizeof text - 1;
    CHECK_TEXT(strstr(written(text, len, false), "told: "),
               "told: a\\nb\\x1b[31m\t\"\\\\x00\xc3\xbc\\xff\\x9b\\xed\\xa0\\x80\n");
    CHECK_TEXT(strstr(written(text, len, true), "\"text\""),
               "\"text\":\"a\\nb\\u001b[31m\\u0009\\\"\\\\\\u0000\xc3\xbc\\ufffd\\u009b"
               "\\ufffd\\ufffd\\ufffd\"}\n");
}

static void a_long_line_is_cut_and_says_so(void)
{
    static char text[3 * ABKD_LINE_BYTES];
    memset(text, '\n', sizeof text);
    for (int json = 0; json < 2; json++) {
        const char *line = written(text, sizeof text, json == 1);
        const size_t len = strlen(got);
        CHECK(line != NULL && len <= ABKD_LINE_BYTES && len > ABKD_LINE_BYTES - 64);
        CHECK_TEXT(got + len - (json ? 8 : 6), json ? "\\n...\"}\n" : "\\n...\n");
    }
}

static void what_is_below_the_level_is_not_written(void)
{
    static abkd_log log;
    int fds[2];
    CHECK(pipe(fds) == 0);
    abkd_log_open(&log, fds[1], ABK_LOG_WARNING, false);
    abkd_log_say(&log, ABK_LOG_INFO, "no", "%d", 1);
    abkd_log_say(&log, ABK_LOG_ERROR, "yes", "%d", 2);
    abkd_log_close(&log, 0);
    CHECK_TEXT(strchr(read_all(fds[0]), ' '), " ERROR yes: 2\n");
    close(fds[0]);
    close(fds[1]);
}

/* Fill what stands behind fds[1], read it at fds[0], and look for the note between. */
static void fill_and_drain(int fds[2])
{
    static abkd_log log;
    static char text[1000];
    memset(text, 'x', sizeof text);
    const int flags = fcntl(fds[1], F_GETFL);
    abkd_log_open(&log, fds[1], ABK_LOG_INFO, false);
    for (int i = 0; i < 2000; i++) { /* 2 MB: more than any pipe, socket or buffer here holds */
        write_text(&log, text, sizeof text);
        abkd_log_flush(&log);
    }
    CHECK(abkd_log_flush(&log) && log.dropped > 0);
    CHECK(fcntl(fds[1], F_GETFL) == flags && (flags & O_NONBLOCK) == 0);
    const uint64_t dropped = log.dropped;
    size_t lines = 0, notes = 0;
    char note[64];
    snprintf(note, sizeof note, "log_dropped: %llu log lines were dropped\n",
             (unsigned long long)dropped);
    for (bool left = true; left;) {
        left = abkd_log_flush(&log);
        for (const char *at = read_all(fds[0]); (at = strchr(at, '\n')) != NULL; at++)
            lines++;
        notes += strstr(got, note) != NULL;
    }
    CHECK(log.dropped == 0 && log.len == 0);
    CHECK(notes == 1);
    CHECK(lines == 2000 - dropped + 1);
    abkd_log_close(&log, 0);
    close(fds[0]);
    close(fds[1]);
}

static void a_full_pipe_costs_lines_and_no_time(void)
{
    int fds[2];
    CHECK(pipe(fds) == 0);
    fill_and_drain(fds);
}

static void a_full_socket_costs_lines_and_no_time(void)
{
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    fill_and_drain(fds);
}

static void a_pipe_that_cannot_be_opened_anew_is_asked_first(void)
{
    static abkd_log log;
    static char text[1000];
    int fds[2];
    memset(text, 'x', sizeof text);
    CHECK(pipe(fds) == 0);
    abkd_log_open(&log, fds[1], ABK_LOG_INFO, false);
    abkd_log_close(&log, 0);
    log.fd = fds[1];
    log.asked = true;
    for (int i = 0; i < 300; i++)
        write_text(&log, text, sizeof text);
    CHECK(abkd_log_flush(&log));
    CHECK(strlen(read_all(fds[0])) >= 32 * 1024);
    close(fds[0]);
    close(fds[1]);
}

static void nobody_reading_is_no_error(void)
{
    static abkd_log log;
    int fds[2];
    signal(SIGPIPE, SIG_IGN); /* as the daemon has it */
    CHECK(pipe(fds) == 0);
    abkd_log_open(&log, fds[1], ABK_LOG_INFO, false);
    close(fds[0]);
    write_text(&log, "lost", 4);
    CHECK(!abkd_log_flush(&log) && log.len == 0);
    abkd_log_close(&log, 0);
    close(fds[1]);
    abkd_log_open(&log, -1, ABK_LOG_INFO, false); /* a closed stderr */
    write_text(&log, "lost", 4);
    CHECK(!abkd_log_flush(&log));
    abkd_log_close(&log, 0);
}

static void a_file_is_appended_to(void)
{
    static abkd_log log;
    FILE *file = tmpfile();
    CHECK(file != NULL);
    for (int i = 0; file != NULL && i < 2; i++) {
        abkd_log_open(&log, fileno(file), ABK_LOG_INFO, false);
        write_text(&log, "kept", 4);
        abkd_log_close(&log, 0);
    }
    rewind(file);
    char line[200];
    int lines = 0;
    while (fgets(line, sizeof line, file) != NULL)
        lines += strstr(line, "told: kept\n") != NULL;
    CHECK(lines == 2);
    fclose(file);
}

TEST_MAIN(TEST(text_lines_name_worker_pool_and_event), TEST(json_lines_have_the_same),
          TEST(controls_and_what_is_no_utf8_are_escaped), TEST(a_long_line_is_cut_and_says_so),
          TEST(what_is_below_the_level_is_not_written), TEST(a_full_pipe_costs_lines_and_no_time),
          TEST(a_full_socket_costs_lines_and_no_time),
          TEST(a_pipe_that_cannot_be_opened_anew_is_asked_first), TEST(nobody_reading_is_no_error),
          TEST(a_file_is_appended_to))
