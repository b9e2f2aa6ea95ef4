/* Real children: how they end, with whom, and what failures leave behind. */
#include "children.h"

#include <pthread.h>

/* A child that echoes one line, and ends; nothing stays open. */
static void run_cat(void)
{
    const int fds = count_fds();
    char *const argv[] = {"/bin/cat", NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    CHECK(write(child.in, "hello\n", 6) == 6);
    close(child.in);
    child.in = -1;
    CHECK_TEXT(read_text(child.out, false), "hello\n");
    finish(&child, 0, -1);
    CHECK(count_fds() == fds);
}

/* --- failures of the system ------------------------------------------------------------------- */

static const char *failing; /* the system call to fail */
static int failing_in, failing_with;

static int before_call(const char *name, int fd)
{
    (void)fd;
    if (strcmp(name, failing) != 0 || failing_in-- > 0)
        return INT32_MAX;
    return -failing_with;
}

static void test_no_resources(void)
{
    char *const argv[] = {"/bin/cat", NULL};
    const abk_order order = {.argv = argv};
    abk_test.before = before_call;
    for (int i = 0; i < 4; i++) {
        failing = "pipe2";
        failing_in = i;
        failing_with = i == 0 ? ENFILE : EMFILE;
        check_failure(&order, "pipe", failing_with, false);
    }
    failing = "clone";
    failing_in = 0;
    failing_with = EAGAIN;
    check_failure(&order, "fork", EAGAIN, false);
    abk_test.before = NULL;
    for (uint64_t i = 1; i <= 3; i++) {
        abk_test.fail_alloc_at = abk_test.allocations + i;
        check_failure(&order, "memory", ENOMEM, false);
    }
    abk_test.fail_alloc_at = 0;
    run_cat();
}

/* Real ones: with 0 closed an end has to be moved, and there is no room for that. */
static void test_no_room_to_move(void)
{
    if (in_valgrind())
        return;
    const pid_t pid = fork();
    if (pid == 0) {
        test_failures = 0;
        close(0);
        const int next = fcntl(2, F_DUPFD, 3);
        char *const argv[] = {"/bin/cat", NULL};
        for (int more = 0; more < 8; more++) {
            const struct rlimit few = {(rlim_t)(next + 1 + more), 1024};
            setrlimit(RLIMIT_NOFILE, &few);
            check_failure(&(abk_order){.argv = argv}, "pipe", EMFILE, false);
        }
        _exit(test_failures);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* The host reaps all by itself: nothing waits for what will not come. */
static void test_children_ignored(void)
{
    struct sigaction ignored, before;
    memset(&ignored, 0, sizeof ignored);
    ignored.sa_handler = SIG_IGN;
    CHECK(sigaction(SIGCHLD, &ignored, &before) == 0);
    check_no_command("/no/such/command", ENOENT);
    char *const argv[] = {"/bin/cat", NULL};
    abk_child child;
    if (start(&(abk_order){.argv = argv}, &child)) {
        close(child.in);
        child.in = -1;
        finish(&child, -1, -1);
    }
    CHECK(sigaction(SIGCHLD, &before, NULL) == 0);
}

static void test_reaped_by_other(void)
{
    char *const argv[] = {"/bin/sh", "-c", "exit 3", NULL};
    abk_child child;
    int status;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    CHECK(waitpid(child.pid, &status, 0) == child.pid && WEXITSTATUS(status) == 3);
    finish(&child, -1, -1);
}

/* --- ending ----------------------------------------------------------------------------------- */

static void test_group(void)
{
    char *const argv[] = {"/bin/sh", "-c", "sleep 600 & echo $!; wait", NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    const pid_t grandchild = (pid_t)strtol(read_text(child.out, true), NULL, 10);
    CHECK(grandchild > 1 && kill(grandchild, 0) == 0);
    abk_child_signal(&child, SIGKILL);
    CHECK(ends(grandchild));
    CHECK_TEXT(read_text(child.out, false), ""); /* nobody holds it open */
    int code, number;
    CHECK(reap(&child, &code, &number) && code == -1 && number == SIGKILL);
    abk_child_close(&child);
}

/* One that is stopped gets its signal. */
static void test_stopped(void)
{
    char *const argv[] = {"/bin/cat", NULL};
    abk_child child;
    siginfo_t info;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    CHECK(kill(child.pid, SIGSTOP) == 0);
    CHECK(waitid(P_PID, (id_t)child.pid, &info, WSTOPPED) == 0 && info.si_code == CLD_STOPPED);
    int code, number;
    CHECK(abk_child_reap(&child, &code, &number) == 0); /* that is no end */
    abk_child_signal(&child, SIGTERM);
    finish(&child, -1, SIGTERM);
}

static void test_unread(void)
{
    char *const argv[] = {"/bin/sh", "-c", "read x; echo $x; sleep 600", NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    CHECK(kill(child.pid, SIGSTOP) == 0 && abk_child_unread(&child) == 0);
    CHECK(write(child.in, "one\n12345", 9) == 9);
    CHECK(kill(child.pid, SIGCONT) == 0);
    CHECK_TEXT(read_text(child.out, true), "one\n");
    const int64_t unread = abk_child_unread(&child);
#ifdef __linux__
    CHECK(unread == 5 || unread == 0); /* some shells read ahead */
#else
    CHECK(unread == -1);
#endif
    abk_child_signal(&child, SIGKILL);
    int code, number;
    CHECK(reap(&child, &code, &number));
    abk_child_close(&child);
    CHECK(abk_child_unread(&child) == -1);
}

/* --- parents ---------------------------------------------------------------------------------- */

static void *in_thread(void *argument)
{
    (void)argument;
    run_cat();
    check_no_command("/no/such/command", ENOENT);
    return NULL;
}

static void test_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* The parent is killed: its child goes with it, though it reads nothing. */
static void test_parent_dies(const abk_launch *launch)
{
#ifdef __linux__
    int said[2];
    CHECK(pipe(said) == 0);
    const pid_t parent = fork();
    if (parent == 0) {
        char *const argv[] = {"/bin/sleep", "600", NULL};
        abk_child child = {.pid = -1};
        abk_spawn_error error;
        abk_spawn_child(&(abk_order){.argv = argv, .launch = launch, .cwd = "/"}, &child, &error);
        if (write(said[1], &child.pid, sizeof child.pid) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    close(said[1]);
    pid_t grandchild = -1;
    CHECK(read(said[0], &grandchild, sizeof grandchild) == (ssize_t)sizeof grandchild);
    CHECK(grandchild > 1 && kill(grandchild, 0) == 0);
    CHECK(kill(parent, SIGKILL) == 0 && waitpid(parent, NULL, 0) == parent);
    CHECK(grandchild > 1 && ends(grandchild));
    close(said[0]);
#else
    (void)launch;
#endif
}

static void test_parent(void)
{
    gid_t groups[] = {65534};
    const abk_launch nobody = {.groups = groups, .group_count = 1, .has_user = true, .user = 65534};
    test_parent_dies(NULL);
    if (geteuid() == 0)
        test_parent_dies(&nobody); /* a change of user undoes it where that comes later */
}

TEST_MAIN(TEST(test_begin), TEST(test_no_resources), TEST(test_no_room_to_move),
          TEST(test_children_ignored), TEST(test_reaped_by_other), TEST(test_group),
          TEST(test_stopped), TEST(test_unread), TEST(test_thread), TEST(test_parent),
          TEST(test_end))
