/* The loop: what is ready, when it wakes up, what happens at the edges. */
#include "loop.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { LIMIT_MS = 10000 }; /* no test waits for this unless it fails */

/* Whether the host would be woken. */
static bool wakes(const abk_loop *loop, int ms)
{
    struct pollfd host = {.fd = loop->fd, .events = POLLIN};
    return poll(&host, 1, ms) == 1;
}

static void close_pair(const int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

static void put_byte(int fd) { CHECK(write(fd, "x", 1) == 1); }

static void take_byte(int fd)
{
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
}

static void test_open(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    CHECK(abk_loop_open(&loop) == ABK_OK);
    CHECK((fcntl(loop.fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(!wakes(&loop, 0) && abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 1) == 0);
    abk_loop_close(&loop);
    CHECK(loop.fd == -1);
    abk_loop_close(&loop);
    abk_watch watch = {.fd = 0}; /* with a closed loop nothing happens */
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_OK && watch.interest == ABK_READ);
    CHECK(abk_loop_watch(&loop, &watch, 0) == ABK_OK && watch.interest == 0);
    CHECK(abk_loop_arm(&loop, 1) == ABK_OK);
}

/* Ready as long as there is something, and for what was asked for. */
static void test_levels(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    int fds[2];
    int owner;
    CHECK(abk_loop_open(&loop) == ABK_OK && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    abk_watch watch = {.fd = fds[0], .kind = 7, .owner = &owner};
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_OK && watch.interest == ABK_READ);
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_OK);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0 && !wakes(&loop, 0));
    put_byte(fds[1]);
    for (int i = 0; i < 3; i++) {
        CHECK(wakes(&loop, LIMIT_MS) && abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 1);
        CHECK(ready[0].watch == &watch && ready[0].what == ABK_READ);
    }
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ | ABK_WRITE) == ABK_OK);
    uint8_t what = 0;
    for (int count = abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS); count > 0; count--)
        what |= ready[count - 1].what; /* kqueue tells of each on its own */
    CHECK(what == (ABK_READ | ABK_WRITE));
    CHECK(abk_loop_watch(&loop, &watch, ABK_WRITE) == ABK_OK);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS) == 1 && ready[0].what == ABK_WRITE);
    CHECK(abk_loop_watch(&loop, &watch, 0) == ABK_OK && watch.interest == 0);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0 && !wakes(&loop, 0));
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_OK);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 1);
    take_byte(fds[0]);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0);
    abk_loop_close(&loop);
    close_pair(fds);
}

static void test_hang_up(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    int read_end[2], write_end[2];
    CHECK(abk_loop_open(&loop) == ABK_OK && pipe(read_end) == 0 && pipe(write_end) == 0);
    abk_watch in = {.fd = read_end[0]}, out = {.fd = write_end[1]};
    CHECK(abk_loop_watch(&loop, &in, ABK_READ) == ABK_OK);
    close(read_end[1]);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS) == 1);
    CHECK(ready[0].watch == &in && ready[0].what == (ABK_READ | ABK_WRITE));
    CHECK(abk_loop_watch(&loop, &in, 0) == ABK_OK);
    CHECK(abk_loop_watch(&loop, &out, ABK_WRITE) == ABK_OK);
    close(write_end[0]);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS) == 1);
    CHECK(ready[0].watch == &out && ready[0].what == (ABK_READ | ABK_WRITE));
    abk_loop_close(&loop);
    close(read_end[0]);
    close(write_end[1]);
}

static void test_errors(void)
{
    abk_loop loop;
    int fds[2];
    CHECK(abk_loop_open(&loop) == ABK_OK && pipe(fds) == 0);
    abk_watch watch = {.fd = fds[0]};
    close_pair(fds);
    errno = 0;
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_ESYS && errno == EBADF);
    CHECK(watch.interest == 0);
    watch = (abk_watch){.fd = -1};
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_ESYS);
    CHECK(abk_loop_watch(&loop, &watch, 0) == ABK_OK);
    abk_loop_close(&loop);
}

/* --- the deadline ----------------------------------------------------------------------------- */

static void test_deadline(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    CHECK(abk_loop_open(&loop) == ABK_OK && loop.armed == ABK_NEVER);
    CHECK(abk_loop_arm(&loop, ABK_NEVER) == ABK_OK && loop.armed == ABK_NEVER);
    const uint64_t far = abk_now() + 3600 * ABK_S;
    CHECK(abk_loop_arm(&loop, far) == ABK_OK && loop.armed == far);
    CHECK(abk_loop_arm(&loop, far + 1) == ABK_OK && loop.armed == far);
    CHECK(!wakes(&loop, 0));
    const uint64_t near = abk_now() + ABK_S / 50;
    CHECK(abk_loop_arm(&loop, near) == ABK_OK && loop.armed == near);
    CHECK(abk_loop_arm(&loop, far) == ABK_OK && loop.armed == near);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS) == 0);
    CHECK(abk_now() >= near && loop.armed == ABK_NEVER);
    CHECK(!wakes(&loop, 0)); /* drained, and not set again by itself */
    const uint64_t past[] = {0, 1, near};
    for (int i = 0; i < 3; i++) {
        CHECK(abk_loop_arm(&loop, past[i]) == ABK_OK && loop.armed == past[i]);
        CHECK(wakes(&loop, LIMIT_MS)); /* the host sees it */
        CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 0 && loop.armed == ABK_NEVER);
    }
    CHECK(abk_loop_arm(&loop, ABK_NEVER / 4) == ABK_OK && !wakes(&loop, 0));
    abk_loop_close(&loop);
}

static void test_deadline_among_others(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    int fds[2];
    CHECK(abk_loop_open(&loop) == ABK_OK && pipe(fds) == 0);
    abk_watch watch = {.fd = fds[0]};
    CHECK(abk_loop_watch(&loop, &watch, ABK_READ) == ABK_OK);
    put_byte(fds[1]);
    CHECK(abk_loop_arm(&loop, 0) == ABK_OK);
    for (uint64_t limit = abk_now() + 10 * ABK_S; loop.armed == 0 && abk_now() < limit;)
        CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 1 && ready[0].watch == &watch);
    CHECK(loop.armed == ABK_NEVER);
    abk_loop_close(&loop);
    close_pair(fds);
}

static void on_alarm(int number) { (void)number; }

static void test_interrupted(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    CHECK(abk_loop_open(&loop) == ABK_OK && sigaction(SIGALRM, &action, &before) == 0);
    /* Again and again, so that none comes too early to be seen. */
    const struct itimerval soon = {{.tv_usec = 10000}, {.tv_usec = 10000}};
    const struct itimerval never = {{0, 0}, {0, 0}};
    const uint64_t start = abk_now();
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS) == 0);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(abk_now() - start < (LIMIT_MS / 1000) * ABK_S);
    sigaction(SIGALRM, &before, NULL);
    abk_loop_close(&loop);
}

/* --- what cannot be polled -------------------------------------------------------------------- */

static int temporary_file(void)
{
    char path[] = "/tmp/abk-test-XXXXXX";
    const int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0);
    return fd;
}

static void test_always(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    int fds[2];
    CHECK(abk_loop_open(&loop) == ABK_OK && pipe(fds) == 0);
    abk_watch file = {.fd = temporary_file()}, null = {.fd = open("/dev/null", O_RDWR | O_CLOEXEC)};
    abk_watch other = {.fd = fds[0]};
    CHECK(abk_loop_watch(&loop, &other, ABK_READ) == ABK_OK);
    CHECK(abk_loop_watch(&loop, &null, ABK_READ) == ABK_OK && wakes(&loop, 0));
    for (int i = 0; i < 2; i++) {
        CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 1 && wakes(&loop, 0));
        CHECK(ready[0].watch == &null && ready[0].what == ABK_READ);
    }
    CHECK(abk_loop_watch(&loop, &null, ABK_READ | ABK_WRITE) == ABK_OK);
    CHECK(abk_loop_watch(&loop, &file, ABK_WRITE) == ABK_OK);
    put_byte(fds[1]);
    CHECK(abk_loop_arm(&loop, 0) == ABK_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 3);
        CHECK(ready[0].watch == &other && ready[1].watch == &null && ready[2].watch == &file);
        CHECK(ready[1].what == (ABK_READ | ABK_WRITE) && ready[2].what == ABK_WRITE);
    }
    CHECK(loop.armed == ABK_NEVER); /* the timer is seen all the same */
    take_byte(fds[0]);
    CHECK(abk_loop_watch(&loop, &null, 0) == ABK_OK && wakes(&loop, 0));
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 1 && ready[0].watch == &file);
    CHECK(abk_loop_watch(&loop, &file, 0) == ABK_OK && !wakes(&loop, 0));
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0);
    CHECK(abk_loop_watch(&loop, &file, ABK_READ) == ABK_OK && wakes(&loop, 0)); /* and again */
    abk_loop_close(&loop);
    close(file.fd);
    close(null.fd);
    close_pair(fds);
}

static void test_too_many_always(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    abk_watch files[ABK_ALWAYS + 1];
    CHECK(abk_loop_open(&loop) == ABK_OK);
    for (int i = 0; i <= ABK_ALWAYS; i++) {
        files[i] = (abk_watch){.fd = temporary_file()};
        const int result = abk_loop_watch(&loop, &files[i], ABK_READ);
        CHECK(result == (i < ABK_ALWAYS ? ABK_OK : ABK_ESYS));
    }
    CHECK(files[ABK_ALWAYS].interest == 0);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, -1) == ABK_ALWAYS);
    CHECK(abk_loop_wait(&loop, ready, 2, -1) == 2); /* never more than there is room for */
    CHECK(abk_loop_watch(&loop, &files[0], 0) == ABK_OK);
    CHECK(abk_loop_watch(&loop, &files[ABK_ALWAYS], ABK_READ) == ABK_OK);
    abk_loop_close(&loop);
    for (int i = 0; i <= ABK_ALWAYS; i++)
        close(files[i].fd);
}

/* --- batches ---------------------------------------------------------------------------------- */

/* More are ready than a batch holds: all have their turn. */
static void test_fair(void)
{
    enum { PAIRS = ABK_BATCH + 20 };
    static abk_watch watches[PAIRS];
    static int others[PAIRS];
    static bool seen[PAIRS];
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    CHECK(abk_loop_open(&loop) == ABK_OK);
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];
        CHECK(pipe(fds) == 0);
        watches[i] = (abk_watch){.fd = fds[0]};
        others[i] = fds[1];
        put_byte(fds[1]);
        CHECK(abk_loop_watch(&loop, &watches[i], ABK_READ) == ABK_OK);
    }
    int count = 0;
    for (int round = 0; round < PAIRS && count < PAIRS; round++) {
        const int got = abk_loop_wait(&loop, ready, ABK_BATCH, LIMIT_MS);
        CHECK(got > 0 && got <= ABK_BATCH);
        for (int i = 0; i < got; i++) {
            count += !seen[ready[i].watch - watches];
            seen[ready[i].watch - watches] = true;
        }
    }
    CHECK(count == PAIRS);
    CHECK(abk_loop_wait(&loop, ready, 3, LIMIT_MS) == 3);
    abk_loop_close(&loop);
    for (int i = 0; i < PAIRS; i++) {
        close(watches[i].fd);
        close(others[i]);
    }
}

/* --- ends of processes ------------------------------------------------------------------------ */

static int pidfd_of(pid_t pid)
{
#ifdef SYS_pidfd_open
    return (int)syscall(SYS_pidfd_open, pid, 0);
#else
    (void)pid;
    return -1;
#endif
}

static void test_exit(void)
{
    abk_loop loop;
    abk_ready ready[ABK_BATCH];
    int fds[2];
    CHECK(abk_loop_open(&loop) == ABK_OK && pipe(fds) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) == 1 ? 3 : 4);
    }
    abk_watch exit_watch = {.fd = pidfd_of(pid)};
    const int pidfd = exit_watch.fd;
#ifdef __linux__
    const bool watched = pidfd >= 0; /* valgrind's Linux has none */
#else
    const bool watched = true;
#endif
    CHECK((abk_loop_watch_exit(&loop, &exit_watch, pid) == ABK_OK) == watched);
    CHECK(abk_loop_wait(&loop, ready, ABK_BATCH, 0) == 0);
    put_byte(fds[1]);
    if (watched) {
        CHECK(wakes(&loop, LIMIT_MS) && abk_loop_wait(&loop, ready, ABK_BATCH, -1) == 1);
        CHECK(ready[0].watch == &exit_watch && ready[0].what == ABK_READ && exit_watch.fd >= 0);
    }
    CHECK(abk_loop_watch(&loop, &exit_watch, 0) == ABK_OK && !wakes(&loop, 0));
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3);
#ifdef __linux__
    abk_watch none = {.fd = -1}; /* without a pidfd somebody has to ask */
    CHECK(abk_loop_watch_exit(&loop, &none, pid) == ABK_ESYS && none.interest == 0);
#endif
    abk_loop_close(&loop);
    if (pidfd >= 0)
        close(pidfd);
    close_pair(fds);
}

/* --- no fds ----------------------------------------------------------------------------------- */

static int first_free(void)
{
    const int fd = fcntl(0, F_DUPFD, 0);
    close(fd);
    return fd;
}

static void test_no_fds(void)
{
    struct rlimit before, few;
    abk_loop loop;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const int next = first_free();
    for (int more = 0; more < 4; more++) { /* so many can be opened */
        few = (struct rlimit){(rlim_t)(next + more), before.rlim_max};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        const int result = abk_loop_open(&loop);
        const int number = errno;
        CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
        CHECK(result == ABK_OK || (result == ABK_ESYS && number == EMFILE && loop.fd == -1));
        CHECK(result == ABK_OK || first_free() == next);
        CHECK(more > 0 || result == ABK_ESYS);
        abk_loop_close(&loop);
        CHECK(first_free() == next);
    }
}

TEST_MAIN(TEST(test_open), TEST(test_levels), TEST(test_hang_up), TEST(test_errors),
          TEST(test_deadline), TEST(test_deadline_among_others), TEST(test_interrupted),
          TEST(test_always), TEST(test_too_many_always), TEST(test_fair), TEST(test_exit),
          TEST(test_no_fds))
