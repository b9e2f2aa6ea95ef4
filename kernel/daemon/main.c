/* anyio-busd: a bus as a program of its own, for clients on stdio, TCP and unix sockets.
 *
 * Everything that a program alone may do is done here: signals, stdin and stdout, exit. Signals
 * come as a readable fd that the bus watches: a signalfd, or a pipe that a handler writes to.
 */
#include "args.h"
#include "log.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/signalfd.h>
#endif

enum {
    CONFIG_BYTES = 4 * 1024 * 1024,
    TOKEN_BYTES = 4096,
    RETRY_LOG_MS = 100, /* how soon to try again while stderr is full */
    LAST_LOG_MS = 500   /* how long its reader may take in the end */
};
static const double GRACE_S = 5.0; /* the stop ladder */
static const double REAP_S = 1.0;  /* after a kill */

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef struct abkd_daemon {
    abkd_options options;
    abkd_log log;
    abkd_report report;
    abk_bus *bus;
    char token[TOKEN_BYTES + 1];
    int signals; /* readable when a signal came */
    bool stopping;
    bool killed;
} abkd_daemon;

__attribute__((format(printf, 2, 3))) static int fail(int code, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "anyio-busd: %s\n", text);
    return code;
}

/* --- what is read before anything starts ------------------------------------------------------ */

/* Fds 0 to 2 are open, so that no file of ours takes their place. */
static int hold_standard_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
        if (fd < 0)
            return fail(EXIT_FAILED, "/dev/null: %s", strerror(errno));
    } while (fd <= STDERR_FILENO);
    close(fd);
    return 0;
}

/* Read fd to its end, or at least so many lines: the length, -1 with errno, EFBIG where it has more
 * than max bytes. */
static ssize_t read_whole(int fd, char *at, size_t max, int lines)
{
    size_t len = 0;
    int seen = 0;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        const ssize_t n = read(fd, at + len, max + 1 - len);
        if (n == 0)
            return (ssize_t)len;
        for (ssize_t i = 0; i < n; i++)
            seen += at[len + (size_t)i] == '\n';
        if (n > 0)
            len += (size_t)n;
        else if (errno == EAGAIN)
            poll(&ready, 1, -1);
        else if (errno != EINTR)
            return -1;
        if (len > max) {
            errno = EFBIG;
            return -1;
        }
        if (lines > 0 && seen >= lines)
            return (ssize_t)len;
    }
}

static int read_file(const char *name, int fd, char *at, size_t max, size_t *len)
{
    const ssize_t n = fd < 0 ? -1 : read_whole(fd, at, max, 0);
    const int number = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0 && number == EFBIG)
        return fail(EXIT_FAILED, "%s: it has more than %zu bytes", name, max);
    if (n < 0)
        return fail(EXIT_FAILED, "%s: %s", name, strerror(number));
    *len = (size_t)n;
    return 0;
}

/* The token is all of a text but for the ends of its line. */
static int take_token(abkd_daemon *daemon, const char *name)
{
    const size_t len = strlen(daemon->token);
    const size_t line = strcspn(daemon->token, "\r\n");
    if (line == 0 || line + strspn(daemon->token + line, "\r\n") != len)
        return fail(EXIT_FAILED, "%s: a token of one line is needed", name);
    daemon->token[line] = '\0';
    return 0;
}

static int read_token(abkd_daemon *daemon)
{
    const char *name = daemon->options.token_file;
    size_t len = 0;
    struct stat is;
    const int fd = open(name, O_RDONLY | O_CLOEXEC);
    const bool open_to_others = fd >= 0 && fstat(fd, &is) == 0 && S_ISREG(is.st_mode) &&
                                (is.st_mode & (S_IRGRP | S_IROTH)) != 0;
    if (read_file(name, fd, daemon->token, TOKEN_BYTES, &len) != 0)
        return EXIT_FAILED;
    if (strlen(daemon->token) != len)
        return fail(EXIT_FAILED, "%s: a token of one line is needed", name);
    const int taken = take_token(daemon, name);
    if (taken == 0 && open_to_others) /* secrets that containers mount are often like that */
        abkd_log_say(&daemon->log, ABK_LOG_WARNING, "token_readable",
                     "%s can be read by others than its owner (mode %04o)", name,
                     (unsigned)(is.st_mode & 07777));
    return taken;
}

/* What is asked of stdin by `-`: the configuration, and the token in the line after it. */
static int read_stdin(abkd_daemon *daemon, char *json, size_t *len)
{
    const abkd_options *options = &daemon->options;
    const bool token = options->token_line && options->action == ABKD_RUN;
    const int lines = options->config_line + token;
    if (lines == 0)
        return 0;
    const ssize_t n = read_whole(STDIN_FILENO, json, CONFIG_BYTES + TOKEN_BYTES, lines);
    if (n < 0)
        return fail(EXIT_FAILED, errno == EFBIG ? "stdin: its lines are too long" : "stdin: %s",
                    strerror(errno));
    const char *end = json + n;
    const char *first = memchr(json, '\n', (size_t)n);
    const char *rest = first == NULL ? end : first + 1;
    *len = (size_t)((first == NULL ? end : first) - json);
    if (options->config_line && *len > CONFIG_BYTES)
        return fail(EXIT_FAILED, "stdin: it has more than %d bytes", CONFIG_BYTES);
    if (!token)
        return 0;
    const char *from = options->config_line ? rest : json;
    const char *to = memchr(from, '\n', (size_t)(end - from));
    const size_t size = (size_t)((to == NULL ? end : to) - from);
    if (size > TOKEN_BYTES || memchr(from, '\0', size) != NULL)
        return fail(EXIT_FAILED, "stdin: this is no token");
    memcpy(daemon->token, from, size);
    return take_token(daemon, "stdin");
}

/* Make the bus; *name is where its configuration came from. */
static int make_bus(abkd_daemon *daemon, const char **name)
{
    static char fd_name[32];
    const abkd_options *options = &daemon->options;
    char *json = malloc(CONFIG_BYTES + TOKEN_BYTES + 1);
    size_t len = 0;
    abk_error error;
    *name = options->config_line ? "stdin" : options->config;
    if (options->config == NULL) {
        snprintf(fd_name, sizeof fd_name, "fd %d", options->config_fd);
        *name = fd_name;
    }
    int failed = json == NULL ? fail(EXIT_FAILED, "out of memory") : 0;
    if (failed == 0)
        failed = read_stdin(daemon, json, &len);
    if (failed == 0 && !options->config_line) {
        const int fd = options->config == NULL ? options->config_fd
                                               : open(options->config, O_RDONLY | O_CLOEXEC);
        failed = read_file(*name, fd, json, CONFIG_BYTES, &len);
    }
    if (failed == 0 && hold_standard_fds() == 0) { /* the configuration may have been fd 0 */
        const abk_options made = {.size = sizeof made,
                                  .strict = options->strict || options->action == ABKD_CHECK};
        daemon->bus = abk_create(json, len, &made, &error);
        if (daemon->bus == NULL) {
            const char *text = error.text; /* it says "config: " where the name is not known */
            fail(EXIT_FAILED, "%s: %s", *name, text + (strncmp(text, "config: ", 8) == 0 ? 8 : 0));
        }
    }
    free(json);
    return daemon->bus == NULL ? EXIT_FAILED : 0;
}

/* --- signals ---------------------------------------------------------------------------------- */

static const int signal_numbers[] = {SIGTERM, SIGINT, SIGHUP};
enum { SIGNAL_COUNT = sizeof signal_numbers / sizeof *signal_numbers };

#ifndef __linux__
static volatile int signal_pipe[2];

static void note_signal(int number)
{
    const int saved = errno;
    const unsigned char byte = (unsigned char)number;
    if (write(signal_pipe[1], &byte, 1) < 0) { /* full: there are more than enough in it */
    }
    errno = saved;
}

static int open_signal_pipe(const sigset_t *set)
{
    int fds[2];
    const struct sigaction action = {.sa_handler = note_signal};
    if (pipe(fds) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        signal_pipe[i] = fds[i];
    }
    for (int i = 0; i < SIGNAL_COUNT; i++) {
        if (sigismember(set, signal_numbers[i]) == 1)
            sigaction(signal_numbers[i], &action, NULL);
    }
    return sigprocmask(SIG_UNBLOCK, set, NULL) < 0 ? -1 : fds[0];
}
#endif

/* An fd that is readable when a signal came; -1 with errno. */
static int open_signals(void)
{
    sigset_t set;
    struct sigaction old;
    /* Shells start what is in the background with SIGINT ignored; who sends it means it. SIGHUP
     * stays ignored where it is: that is what nohup does. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigemptyset(&set);
    for (int i = 0; i < SIGNAL_COUNT; i++) {
        if (sigaction(signal_numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaddset(&set, signal_numbers[i]);
    }
#ifdef __linux__
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
#else
    return open_signal_pipe(&set);
#endif
}

/* The number of the next signal that came; 0: none. */
static int next_signal(int fd)
{
#ifdef __linux__
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
#else
    unsigned char byte;
    return read(fd, &byte, 1) == 1 ? byte : 0;
#endif
}

static const char *signal_name(int number)
{
    return number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGHUP";
}

/* --- start ------------------------------------------------------------------------------------ */

static int listen_at(abkd_daemon *daemon, const abkd_address *address)
{
    const abkd_options *options = &daemon->options;
    const bool tcp = address->path == NULL;
    const abk_listener listener = {
        .size = sizeof listener,
        .unix_path = address->path,
        .unix_mode = address->admin ? 0 : options->unix_mode,
        .host = tcp ? address->host : NULL,
        .port = address->port,
        .admin = address->admin,
        .pauses = options->end_with_stdin,
        .insecure = tcp && options->insecure_tcp,
        .token = tcp && options->token_file != NULL ? daemon->token : NULL,
    };
    char bound[512];
    abk_error error;
    const int code = abk_listen(daemon->bus, &listener, bound, sizeof bound, &error);
    if (code >= 0) {
        abkd_log_say(&daemon->log, ABK_LOG_INFO, "listening", "%s %s%s", tcp ? "tcp" : "unix",
                     bound, address->admin ? " (admin)" : "");
        return 0;
    }
    abkd_log_flush(&daemon->log);
    /* What could be allowed by a flag is wrong use; the library names that flag. */
    const bool usage = strstr(error.text, "--insecure-tcp") != NULL;
    return fail(usage ? EXIT_USAGE : EXIT_FAILED, "%s", error.text);
}

/* Bind first, spawn later: a port that is taken costs no worker. */
static int start(abkd_daemon *daemon)
{
    const abkd_options *options = &daemon->options;
    abk_error error;
    int code = 0;
    daemon->signals = open_signals();
    if (daemon->signals < 0)
        return fail(EXIT_FAILED, "signals: %s", strerror(errno));
    if (options->token_file != NULL && !options->token_line)
        code = read_token(daemon);
    for (uint32_t i = 0; code == 0 && i < options->address_count; i++)
        code = listen_at(daemon, &options->addresses[i]);
    if (code != 0)
        return code;
    if (options->stdio && abk_serve(daemon->bus, STDIN_FILENO, STDOUT_FILENO, &error) < 0)
        return fail(EXIT_FAILED, "%s", error.text);
    if (abk_watch_fd(daemon->bus, daemon->signals) < 0)
        return fail(EXIT_FAILED, "signals cannot be waited for");
    if (options->end_with_stdin && !options->stdio && abk_watch_fd(daemon->bus, STDIN_FILENO) < 0)
        return fail(EXIT_FAILED, "stdin cannot be waited for");
    if (abk_start(daemon->bus, &error) < 0)
        return fail(EXIT_FAILED, "%s", error.text);
    abkd_log_say(&daemon->log, ABK_LOG_INFO, "ready", "anyio-busd %s, pid %d, serves %s%s",
                 abk_version(), (int)getpid(), options->stdio ? "stdin and stdout" : "",
                 options->address_count == 0 ? ""
                 : options->stdio            ? " and listens"
                                             : "whoever connects");
    return 0;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void stop(abkd_daemon *daemon, double drain_s, const char *why)
{
    if (daemon->stopping)
        return;
    daemon->stopping = true;
    abkd_log_say(&daemon->log, ABK_LOG_INFO, "stopping", "%s", why);
    abk_stop(daemon->bus, drain_s, GRACE_S);
}

static void take_signals(abkd_daemon *daemon)
{
    for (int number; (number = next_signal(daemon->signals)) != 0;) {
        if (!daemon->stopping)
            stop(daemon, abk_drain_timeout(daemon->bus), signal_name(number));
        else if (number != SIGHUP) /* which some send right after another one */
            daemon->killed = true;
    }
}

/* What stands in stdin has been read, and is not for us; its end is. */
static void take_stdin(abkd_daemon *daemon)
{
    char nothing[4096];
    const ssize_t n = read(STDIN_FILENO, nothing, sizeof nothing);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0) { /* or the end would be there again in every step */
        dup2(null, STDIN_FILENO);
        close(null);
    }
    stop(daemon, abk_drain_timeout(daemon->bus), "stdin has ended");
}

static void take_event(abkd_daemon *daemon, const abk_event *event)
{
    const bool alone = daemon->options.address_count == 0 || daemon->options.end_with_stdin;
    abkd_report_event(&daemon->report, event);
    if (event->type == ABK_EV_WAKE && event->a == STDIN_FILENO)
        take_stdin(daemon);
    else if (event->type == ABK_EV_WAKE)
        take_signals(daemon);
    else if (event->type == ABK_EV_CLIENT && event->b == 1 && event->a != 1 && alone)
        stop(daemon, event->a == 3 ? abk_drain_timeout(daemon->bus) : 0.0,
             event->a == 0 ? "the only client went away" : "stdin has ended");
}

static int run(abkd_daemon *daemon)
{
    abk_event event;
    while (!daemon->killed && !abk_stopped(daemon->bus)) {
        const int wait_ms = abkd_log_flush(&daemon->log) ? RETRY_LOG_MS : -1;
        const int code = abk_step(daemon->bus, wait_ms);
        if (code < 0) {
            abkd_log_say(&daemon->log, ABK_LOG_ERROR, "failed", "abk_step: %d, %s", code,
                         strerror(errno));
            daemon->killed = true;
        }
        while (abk_next_event(daemon->bus, &event) == 1)
            take_event(daemon, &event);
    }
    if (daemon->killed) {
        abkd_log_say(&daemon->log, ABK_LOG_WARNING, "killed", "cut short: the workers are killed");
        abk_kill_now(daemon->bus, REAP_S);
        return EXIT_FAILED;
    }
    abkd_log_say(&daemon->log, ABK_LOG_INFO, "stopped", "nothing is left");
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    static abkd_daemon daemon;
    char error[512];
    const char *name;
    abkd_options *options = &daemon.options;
    if (hold_standard_fds() != 0)
        return EXIT_FAILED;
    if (abkd_parse(argc, argv, options, error, sizeof error) < 0)
        return fail(EXIT_USAGE, "%s (see anyio-busd --help)", error);
    if (options->action == ABKD_HELP || options->action == ABKD_VERSION) {
        printf("%s%s\n", options->action == ABKD_HELP ? abkd_help() : "anyio-busd ",
               options->action == ABKD_HELP ? "" : abk_version());
        return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
    }
    if (options->log_level < 0)
        options->log_level = abkd_wants_debug(getenv("DEBUG_STDIO")) ? ABK_LOG_DEBUG : ABK_LOG_INFO;
    int code = make_bus(&daemon, &name);
    if (code == 0 && options->action == ABKD_CHECK) {
        printf("%s: ok\n", name);
        code = fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
    } else if (code == 0) {
        abkd_log_open(&daemon.log, STDERR_FILENO, options->log_level, options->log_json);
        daemon.report.log = &daemon.log;
        code = start(&daemon);
        if (code == 0)
            code = run(&daemon);
        abk_destroy(daemon.bus);
        daemon.bus = NULL;
        abkd_report_close(&daemon.report);
        abkd_log_close(&daemon.log, LAST_LOG_MS);
        close(daemon.signals);
    }
    abk_destroy(daemon.bus);
    return code;
}
