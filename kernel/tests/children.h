/* What the tests of children share: starting, reading, waiting, and that nothing is left behind. */
#ifndef ABK_CHILDREN_H
#define ABK_CHILDREN_H

#include "spawn.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_MS = 10000, /* no test waits so long unless it fails */
       FDS = 1024,
       TEXT_BYTES = 4096 };

/* valgrind keeps RLIMIT_NOFILE for itself, and dies of some commands that cannot be executed. */
static inline bool in_valgrind(void)
{
    const char *const preloaded = getenv("LD_PRELOAD");
    return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

static inline int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < FDS; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Read until the end, or the newline if only a line is asked for. */
static inline const char *read_text(int fd, bool line)
{
    static char text[TEXT_BYTES];
    size_t len = 0;
    const uint64_t limit = abk_now() + LIMIT_MS / 1000 * ABK_S;
    while (len < sizeof text - 1 && abk_now() < limit) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, LIMIT_MS);
        const ssize_t got = read(fd, text + len, line ? 1 : sizeof text - 1 - len);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
        if (got > 0)
            len += (size_t)got;
        if (line && len > 0 && text[len - 1] == '\n')
            break;
    }
    text[len] = '\0';
    return text;
}

static inline bool reap(abk_child *child, int *exit_code, int *killed_by)
{
    const uint64_t limit = abk_now() + LIMIT_MS / 1000 * ABK_S;
    while (abk_child_reap(child, exit_code, killed_by) == 0) {
        if (abk_now() > limit)
            return false;
        struct pollfd gone = {.fd = child->pidfd, .events = POLLIN};
        poll(&gone, 1, child->pidfd < 0 ? 1 : LIMIT_MS);
    }
    return true;
}

/* Wait for the end, which is to be this one; all is closed then. */
static inline void finish(abk_child *child, int exit_code, int killed_by)
{
    int code, number;
    CHECK(reap(child, &code, &number));
    CHECK(code == exit_code && number == killed_by && child->pidfd == -1);
    abk_child_close(child);
    CHECK(child->in == -1 && child->out == -1 && child->err == -1);
}

static inline bool start(const abk_order *order, abk_child *child)
{
    abk_spawn_error error = {0};
    const bool started = abk_spawn_child(order, child, &error) == ABK_OK;
    if (!started)
        fprintf(stderr, "%s: %s\n", error.step, strerror(error.number));
    CHECK(started);
    return started;
}

/* What a shell script writes; it is to end with exit code 0. order may have all but argv. */
static inline const char *shell_with(const char *script, abk_order order)
{
    char *const argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)script, NULL};
    abk_child child;
    order.argv = argv;
    if (!start(&order, &child))
        return "";
    const char *text = read_text(child.out, false);
    finish(&child, 0, -1);
    return text;
}

static inline const char *shell(const char *script)
{
    return shell_with(script, (abk_order){.argv = NULL});
}

/* That this fails so, and that nothing is left behind. */
static inline void check_failure(const abk_order *order, const char *step, int number,
                                 bool permanent)
{
    const int fds = count_fds();
    abk_child child;
    abk_spawn_error error = {0};
    CHECK(abk_spawn_child(order, &child, &error) == ABK_ESYS);
    CHECK_TEXT(error.step, step);
    CHECK(error.number == number && error.permanent == permanent);
    CHECK(count_fds() == fds);
    errno = 0;
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

static inline void check_no_command(char *command, int number)
{
    char *const argv[] = {command, NULL};
    check_failure(&(abk_order){.argv = argv}, "exec", number, true);
}

static char folder[] = "/tmp/abk-test-XXXXXX";

/* A file in the tests' folder. */
static inline char *make_file(const char *name, const char *text, mode_t mode)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    CHECK(fchmod(fd, mode) == 0);
    close(fd);
    return path;
}

static inline void make_folder(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(mkdir(path, 0700) == 0);
}

/* Whether a process that is no child of ours ends, or has ended. A zombie has. */
static inline bool ends(pid_t pid)
{
    const uint64_t limit = abk_now() + LIMIT_MS / 1000 * ABK_S;
    while (abk_now() < limit) {
        char path[64], state = 'X';
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            return true;
        if (fscanf(file, "%*d (%*[^)]) %c", &state) == 1 && state == 'Z')
            state = 'X';
        fclose(file);
        if (state == 'X')
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

static inline void test_begin(void)
{
    CHECK(mkdtemp(folder) != NULL);
    CHECK(setenv("PATH", "/bin:/usr/bin", 1) == 0); /* no folder that some may not read */
}

static inline void test_end(void)
{
    char script[64];
    snprintf(script, sizeof script, "rm -r %s", folder);
    CHECK_TEXT(shell(script), "");
    errno = 0;
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* no child is left */
}

#endif
