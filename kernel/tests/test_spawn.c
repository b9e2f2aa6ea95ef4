/* Real children: how they start, and what they find. */
#include "children.h"

#ifdef __linux__
#include <sys/prctl.h>
#endif

/* --- starting --------------------------------------------------------------------------------- */

static void test_echo(void)
{
    const int fds = count_fds();
    char *const argv[] = {"/bin/cat", NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    CHECK(child.pid > 1);
    const int ours[] = {child.in, child.out, child.err};
    for (int i = 0; i < 3; i++) {
        CHECK((fcntl(ours[i], F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((fcntl(ours[i], F_GETFL) & O_NONBLOCK) != 0);
    }
    CHECK(write(child.in, "hello\n", 6) == 6);
    CHECK_TEXT(read_text(child.out, true), "hello\n");
    int code, number;
    CHECK(abk_child_reap(&child, &code, &number) == 0 && code == -1 && number == -1);
    close(child.in);
    child.in = -1;
    CHECK_TEXT(read_text(child.out, false), "");
    finish(&child, 0, -1);
    CHECK(count_fds() == fds);
}

static void test_ends(void)
{
    char *const seven[] = {"/bin/sh", "-c", "echo bad >&2; exit 7", NULL};
    char *const killed[] = {"/bin/sh", "-c", "kill -USR1 $$", NULL};
    abk_child child;
    if (start(&(abk_order){.argv = seven}, &child)) {
        CHECK_TEXT(read_text(child.err, false), "bad\n");
        finish(&child, 7, -1);
    }
    if (start(&(abk_order){.argv = killed}, &child))
        finish(&child, -1, SIGUSR1);
}

static void test_missing(void)
{
    check_no_command("no-such-command-at-all", ENOENT);
    check_no_command("/no/such/command", ENOENT);
    check_no_command("/dev/null/command", ENOTDIR);
    check_no_command("/tmp", EACCES);
    check_no_command(make_file("plain", "#!/bin/sh\n", 0644), EACCES);
    if (!in_valgrind()) {
        check_no_command(make_file("garbage", "no program at all\n", 0755), ENOEXEC);
        check_no_command(make_file("script", "#!/no/such/interpreter\n", 0755), ENOENT);
    }
    char *const argv[] = {"/bin/cat", NULL};
    check_failure(&(abk_order){.argv = argv, .cwd = "/no/such/folder"}, "cwd", ENOENT, true);
    check_failure(&(abk_order){.argv = argv, .cwd = "/dev/null"}, "cwd", ENOTDIR, true);
}

static void test_cwd(void)
{
    make_file("here", "#!/bin/sh\npwd\n", 0755);
    char *const argv[] = {"./here", NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv, .cwd = folder}, &child))
        return;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%s\n", folder);
    CHECK_TEXT(read_text(child.out, false), wanted);
    finish(&child, 0, -1);
}

/* --- the environment and PATH ----------------------------------------------------------------- */

static void test_env(void)
{
    CHECK(setenv("ABK_OURS", "ours", 1) == 0 && setenv("ABK_GONE", "gone", 1) == 0);
    CHECK(setenv("ABK_CHANGED", "before", 1) == 0 && setenv("ABK_NE", "ours", 1) == 0);
    const abk_env first[] = {{"ABK_GONE", NULL}, {"ABK_CHANGED", "first"}, {"ABK_NEW", "new"},
                             {"ABK_BOTH", "1"},  {"ABK_DROPPED", "1"},     {"ABK_TWICE", "1"},
                             {"ABK_TWICE", "2"}, {"ABK_EMPTY", ""},        {"ABK_BACK", NULL}};
    const abk_env second[] = {{"ABK_BOTH", "2"}, {"ABK_DROPPED", NULL}, {"ABK_OUR", "="},
                              {"ABK_BACK", "back"}};
    const abk_env *const layers[] = {first, second};
    const uint32_t counts[] = {9, 4};
    static const char *const wanted[] = {
        "\nABK_BACK=back\n", "\nABK_CHANGED=first\n", "\nABK_EMPTY=\n", "\nABK_NE=ours\n",
        "\nABK_NEW=new\n",   "\nABK_OUR==\n",          "\nABK_OURS=ours\n", "\nABK_TWICE=2\n",
        "\nABK_BOTH=2\n"};
    char *const argv[] = {"env", NULL}; /* a shell would tidy up */
    abk_child child;
    if (start(&(abk_order){.argv = argv, .env = layers, .env_counts = counts, .env_layers = 2},
              &child)) {
        const char *const text = read_text(child.out, false);
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            CHECK(strstr(text, wanted[i]) != NULL);
        int count = 0;
        for (const char *at = text; (at = strstr(at, "\nABK_")) != NULL; at++)
            count++;
        CHECK(count == (int)(sizeof wanted / sizeof *wanted));
        finish(&child, 0, -1);
    }
    unsetenv("ABK_OURS");
    unsetenv("ABK_GONE");
    unsetenv("ABK_CHANGED");
    unsetenv("ABK_NE");
}

/* Run "prog" with this PATH, in the tests' folder. */
static int run_with_path(const char *path, const char *says, abk_spawn_error *error)
{
    char *const argv[] = {"prog", NULL};
    const abk_env env[] = {{"PATH", path}};
    const abk_env *const layers[] = {env};
    const uint32_t counts[] = {1};
    const abk_order order = {.argv = argv, .env = layers, .env_counts = counts, .env_layers = 1,
                             .cwd = folder};
    abk_child child;
    *error = (abk_spawn_error){.number = 0};
    if (abk_spawn_child(&order, &child, error) < 0)
        return error->number;
    CHECK_TEXT(read_text(child.out, false), says);
    finish(&child, 0, -1);
    return 0;
}

static void test_path(void)
{
    abk_spawn_error error;
    make_folder("bad");
    make_folder("odd");
    make_folder("good");
    make_file("bad/prog", "#!/bin/sh\n", 0644);
    make_file("odd/prog", "garbage\n", 0755);
    make_file("good/prog", "#!/bin/sh\necho good\n", 0755);
    CHECK(run_with_path("bad", "", &error) == EACCES && error.permanent);
    CHECK(run_with_path("none:bad:none", "", &error) == EACCES);
    CHECK(run_with_path("none:/dev/null", "", &error) == ENOTDIR);
    CHECK(run_with_path("odd:bad", "", &error) == ENOEXEC);
    CHECK(run_with_path("bad:odd", "", &error) == EACCES);
    CHECK(run_with_path("bad:odd:good", "good\n", &error) == 0);
    CHECK(run_with_path("good/:bad", "good\n", &error) == 0);
    CHECK(run_with_path("", "", &error) == ENOENT);
    make_file("prog", "#!/bin/sh\necho here\n", 0755);
    CHECK(run_with_path("", "here\n", &error) == 0);
    CHECK(run_with_path("none:", "here\n", &error) == 0);
    CHECK(run_with_path("none::good", "here\n", &error) == 0);
    CHECK(run_with_path(NULL, "", &error) == ENOENT); /* the default has no such command */
    char *const argv[] = {"sh", "-c", ":", NULL};
    const abk_env env[] = {{"PATH", NULL}};
    const abk_env *const layers[] = {env};
    const uint32_t counts[] = {1};
    abk_child child;
    if (start(&(abk_order){.argv = argv, .env = layers, .env_counts = counts, .env_layers = 1},
              &child))
        finish(&child, 0, -1); /* but this one */
}

/* --- what is inherited, and what not ---------------------------------------------------------- */

static void on_signal(int number) { (void)number; }

static bool blocks(const sigset_t *mask, int number) { return sigismember(mask, number) == 1; }

/* A child finds no signal blocked, ignored or caught, and the spawner's mask is as it was. */
static void check_signals(const sigset_t *blocked)
{
    char *const argv[] = {"/bin/cat", "/proc/self/status", NULL};
    sigset_t before, after;
    abk_child child;
    CHECK(sigprocmask(SIG_SETMASK, blocked, &before) == 0);
    if (start(&(abk_order){.argv = argv}, &child)) {
        const char *const status = read_text(child.out, false);
        CHECK(strstr(status, "\nSigBlk:\t0000000000000000\n") != NULL);
        CHECK(strstr(status, "\nSigIgn:\t0000000000000000\n") != NULL);
        CHECK(strstr(status, "\nSigCgt:\t0000000000000000\n") != NULL);
        finish(&child, 0, -1);
    }
    CHECK(sigprocmask(SIG_SETMASK, &before, &after) == 0);
    CHECK(blocks(&after, SIGTERM) && blocks(&after, SIGUSR1) == blocks(blocked, SIGUSR1));
}

static void test_signals(void)
{
    const int ignored[] = {SIGPIPE, SIGHUP, SIGINT, SIGRTMAX};
    struct sigaction before[4], caught, before_caught;
    sigset_t blocked;
    for (int i = 0; i < 4; i++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_IGN;
        CHECK(sigaction(ignored[i], &action, &before[i]) == 0);
    }
    memset(&caught, 0, sizeof caught);
    caught.sa_handler = on_signal;
    CHECK(sigaction(SIGUSR2, &caught, &before_caught) == 0);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    check_signals(&blocked);
    sigfillset(&blocked);
    check_signals(&blocked);
    for (int i = 0; i < 4; i++) {
        struct sigaction now;
        CHECK(sigaction(ignored[i], &before[i], &now) == 0 && now.sa_handler == SIG_IGN);
    }
    CHECK(sigaction(SIGUSR2, &before_caught, &caught) == 0 && caught.sa_handler == on_signal);
}

static void test_session(void)
{
    char *const argv[] = {"/bin/sh", "-c", "read a b c d e f rest </proc/$$/stat; echo $a $e $f",
                          NULL};
    abk_child child;
    if (!start(&(abk_order){.argv = argv}, &child))
        return;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%d %d %d\n", (int)child.pid, (int)child.pid, (int)child.pid);
    CHECK_TEXT(read_text(child.out, false), wanted);
    finish(&child, 0, -1);
}

static void test_fds(void)
{
    /* Not close-on-exec, low and high: 3 and the one after the report's are edges. */
    int leaks[12];
    for (int i = 0; i < 12; i++) {
        leaks[i] = fcntl(0, F_DUPFD, i < 6 ? 3 : 100 * i);
        CHECK(leaks[i] >= 0);
    }
    const char *const left = shell("n=3; while [ $n -lt 1300 ]; do\n"
                                   "[ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done; :");
    CHECK_TEXT(left, "");
    for (int i = 0; i < 12; i++)
        close(leaks[i]);
}

/* In a process of its own, of which 0, 1 and 2 are closed. */
static void test_std_fds_closed(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        for (int fd = 0; fd < 3; fd++)
            close(fd);
        char *const argv[] = {"/bin/sh", "-c", "read x; echo $x; echo err >&2", NULL};
        abk_child child;
        abk_spawn_error error;
        if (abk_spawn_child(&(abk_order){.argv = argv}, &child, &error) < 0)
            _exit(1);
        if (child.in < 3 || child.out < 3 || child.err < 3)
            _exit(2);
        if (write(child.in, "line\n", 5) != 5 || strcmp(read_text(child.out, false), "line\n") != 0)
            _exit(3);
        if (strcmp(read_text(child.err, false), "err\n") != 0)
            _exit(4);
        for (int fd = 0; fd < 3; fd++) {
            if (fcntl(fd, F_GETFD) >= 0 && fd != child.pidfd)
                _exit(5);
        }
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* --- options ---------------------------------------------------------------------------------- */

static void test_options(void)
{
    const int resource = in_valgrind() ? RLIMIT_FSIZE : RLIMIT_NOFILE;
    const rlim_t unit = resource == RLIMIT_FSIZE ? 512 : 1; /* of ulimit */
    abk_rlimit limits[] = {{resource, {33 * unit, 34 * unit}}, {RLIMIT_CORE, {0, 0}}};
    const abk_launch launch = {.rlimits = limits, .rlimit_count = 2, .nice = 3, .has_umask = true,
                               .umask = 027};
    const mode_t ours = umask(022);
    errno = 0;
    const int before = nice(0);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "33 34 0 0027 %d\n", before + 3 > 19 ? 19 : before + 3);
    const char *const script =
        resource == RLIMIT_FSIZE
            ? "echo $(ulimit -Sf) $(ulimit -Hf) $(ulimit -c) $(umask) $(nice)"
            : "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -c) $(umask) $(nice)";
    CHECK_TEXT(shell_with(script, (abk_order){.argv = NULL, .launch = &launch}), wanted);
    CHECK(umask(ours) == 022 && nice(0) == before);
    limits[0].limit.rlim_cur = 35 * unit; /* above the hard one */
    char *const argv[] = {"/bin/cat", NULL};
    check_failure(&(abk_order){.argv = argv, .launch = &launch}, "rlimits", EINVAL, true);
    const abk_launch none = {.has_umask = true, .umask = 0};
    CHECK_TEXT(shell_with("umask", (abk_order){.argv = NULL, .launch = &none}), "0000\n");
}

static void test_user(void)
{
    gid_t groups[] = {65533, 12, 65534};
    const abk_launch launch = {.groups = groups, .group_count = 3, .has_user = true, .user = 65534};
    const abk_order order = {.argv = NULL, .launch = &launch, .cwd = "/"};
    if (geteuid() != 0) {
        char *const argv[] = {"/bin/cat", NULL};
        check_failure(&(abk_order){.argv = argv, .launch = &launch}, "groups", EPERM, true);
        return;
    }
    CHECK_TEXT(shell_with("grep -E '^[UG]id' /proc/self/status", order),
               "Uid:\t65534\t65534\t65534\t65534\nGid:\t65533\t65533\t65533\t65533\n");
    CHECK_TEXT(shell_with("id -G", order), "65533 12 65534\n");
#ifdef __linux__
    CHECK(geteuid() == 0 && getegid() != 65533);
    CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1); /* a change of user takes that */
#endif
}

/* A user who may not: as one who is nobody, in a process of its own. */
static void test_no_rights(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        test_failures = 0;
        if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
            _exit(9);
        char *const argv[] = {"/bin/cat", NULL};
        const abk_launch user = {.has_user = true, .user = 0};
        const abk_launch nicer = {.nice = -5};
        check_failure(&(abk_order){.argv = argv, .launch = &user}, "user", EPERM, true);
        check_failure(&(abk_order){.argv = argv, .launch = &nicer}, "nice", EPERM, true);
        _exit(test_failures);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

TEST_MAIN(TEST(test_begin), TEST(test_echo), TEST(test_ends), TEST(test_missing), TEST(test_cwd),
          TEST(test_env), TEST(test_path), TEST(test_signals), TEST(test_session), TEST(test_fds),
          TEST(test_std_fds_closed), TEST(test_options), TEST(test_user), TEST(test_no_rights),
          TEST(test_end))
