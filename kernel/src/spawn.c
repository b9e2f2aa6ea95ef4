/* Start a worker process and end it: see spawn.h. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#ifndef __alpha__ /* the same everywhere else; the headers may be older than the system */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#endif
#endif

#ifdef __GLIBC__
typedef __rlimit_resource_t resource_name; /* an enumeration there */
#else
typedef int resource_name;
#endif

extern char **environ;

enum { STACK_BYTES = 64 * 1024, MOST_FDS = 65536, FIRST_FREE_FD = 3, PIPES = 4 };
static const char default_path[] = "/bin:/usr/bin"; /* Python's os.defpath */

/* Where the child failed; NOWHERE: it did not. */
enum { NOWHERE, AT_EXEC, AT_RLIMITS, AT_NICE, AT_GROUPS, AT_USER, AT_CWD, AT_SESSION, AT_PIPE };
static const char *const steps[] = {"", "exec", "rlimits", "nice", "groups",
                                    "user", "cwd", "session", "pipe"};

typedef struct bad_news {
    int number; /* errno */
    int step;
} bad_news;

/* What the child needs, prepared before it is made: in it nothing may be allocated. */
typedef struct birth {
    const abk_order *order;
    char **env;
    char **candidates; /* paths to try, in order; ends with NULL */
    int ends[3];       /* its 0, 1 and 2, all above 2 */
    int report;        /* where it writes what failed */
    int most_fds;
    pid_t parent;
    sigset_t none;
    /* Written by the child; seen here only where it shares our memory, and then it has executed its
     * command, or ended, before it returned from the clone. Else the report tells. */
    bool shared;
    bad_news news;
} birth;

/* --- in the child ---
 * Async-signal-safe calls only, and none that reaches other threads. It shares the memory of a
 * process whose threads go on, on a stack of its own: AddressSanitizer must not take its frames for
 * theirs.
 */

#if defined(__GNUC__)
#define IN_CHILD __attribute__((no_sanitize_address))
#else
#define IN_CHILD
#endif

IN_CHILD static _Noreturn void give_up(birth *self, int number, int step)
{
    const bad_news news = {number, step};
    self->news = news;
    const ssize_t put = write(self->report, &news, sizeof news);
    (void)put; /* whoever reads it is gone, then */
    _exit(127);
}

/* All of them: exec hands on what is ignored and what is blocked. */
IN_CHILD static void default_signals(const birth *self)
{
#ifdef __linux__
    /* Past the C library, which keeps two for itself. The system's struct is all zeros for SIG_DFL,
     * in whatever order its members are. */
    static const unsigned long plain[8];
    for (int number = 1; number <= 64; number++)
        syscall(SYS_rt_sigaction, number, plain, NULL, 8);
#else
    struct sigaction plain;
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &plain, NULL); /* some are refused, and are what they are */
#endif
    sigprocmask(SIG_SETMASK, &self->none, NULL);
}

IN_CHILD static void set_fds(birth *self)
{
    for (int fd = 0; fd < FIRST_FREE_FD; fd++) {
        if (dup2(self->ends[fd], fd) < 0)
            give_up(self, errno, AT_PIPE);
    }
    const int keep = self->report; /* which exec closes */
#ifdef SYS_close_range
    const unsigned first = FIRST_FREE_FD;
    const unsigned kept = (unsigned)keep;
    if (syscall(SYS_close_range, kept + 1, ~0U, 0) == 0 &&
        (kept == first || syscall(SYS_close_range, first, kept - 1, 0) == 0))
        return;
#endif
    for (int fd = FIRST_FREE_FD; fd < self->most_fds; fd++) {
        if (fd != keep)
            close(fd);
    }
}

#if defined(SYS_setresuid32) /* where the plain ones take 16 bits */
enum { SET_UIDS = SYS_setresuid32, SET_GIDS = SYS_setresgid32, SET_GROUPS = SYS_setgroups32 };
#elif defined(__linux__)
enum { SET_UIDS = SYS_setresuid, SET_GIDS = SYS_setresgid, SET_GROUPS = SYS_setgroups };
#endif

/* The C library's own would make all threads of the parent do the same. */
IN_CHILD static int set_user(uid_t user)
{
#ifdef __linux__
    return (int)syscall(SET_UIDS, user, user, user);
#else
    return setuid(user);
#endif
}

IN_CHILD static int set_groups(const abk_launch *launch)
{
    if (launch->group_count == 0) {
        errno = EINVAL;
        return -1;
    }
    const gid_t primary = launch->groups[0];
#ifdef __linux__
    if (syscall(SET_GROUPS, (size_t)launch->group_count, launch->groups) < 0)
        return -1;
    return (int)syscall(SET_GIDS, primary, primary, primary);
#else
    return setgroups((int)launch->group_count, launch->groups) < 0 ? -1 : setgid(primary);
#endif
}

IN_CHILD static void apply(birth *self, const abk_launch *launch)
{
    for (uint32_t i = 0; i < launch->rlimit_count; i++) {
        const abk_rlimit *limit = &launch->rlimits[i];
        if (setrlimit((resource_name)limit->resource, &limit->limit) < 0)
            give_up(self, errno, AT_RLIMITS);
    }
    errno = 0;
    if (launch->nice != 0 && nice(launch->nice) == -1 && errno != 0)
        give_up(self, errno, AT_NICE);
    if (launch->groups != NULL && set_groups(launch) < 0)
        give_up(self, errno, AT_GROUPS);
    if (launch->has_user && set_user(launch->user) < 0)
        give_up(self, errno, AT_USER);
    if (launch->has_umask)
        umask(launch->umask);
}

IN_CHILD static void die_with_parent(const birth *self)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != self->parent) /* it died before that */
        _exit(127);
#else
    (void)self;
#endif
}

/* As os.execvpe: what is not there is passed over, and told of only if nothing else was wrong. */
IN_CHILD static _Noreturn void execute(birth *self)
{
    int missing = ENOENT;
    int wrong = 0;
    for (char **path = self->candidates; *path != NULL; path++) {
        execve(*path, self->order->argv, self->env);
        if (errno == ENOENT || errno == ENOTDIR)
            missing = errno;
        else if (wrong == 0)
            wrong = errno;
    }
    give_up(self, wrong != 0 ? wrong : missing, AT_EXEC);
}

IN_CHILD static int live(void *argument)
{
    birth *self = argument;
    self->shared = true;
    if (setsid() < 0)
        give_up(self, errno, AT_SESSION);
    default_signals(self);
    set_fds(self);
    if (self->order->launch != NULL)
        apply(self, self->order->launch);
    die_with_parent(self); /* after the change of user, which would undo it */
    if (self->order->cwd != NULL && chdir(self->order->cwd) < 0)
        give_up(self, errno, AT_CWD);
    execute(self);
}

/* --- before: the environment and the command -------------------------------------------------- */

/* Whether a layer sets or removes this variable, at or behind this place. */
static bool replaced(const abk_order *order, uint32_t layer, uint32_t at, const char *name,
                     size_t len)
{
    for (; layer < order->env_layers; layer++, at = 0) {
        for (; at < order->env_counts[layer]; at++) {
            const char *other = order->env[layer][at].name;
            if (strncmp(other, name, len) == 0 && other[len] == '\0')
                return true;
        }
    }
    return false;
}

static char *put_text(char *to, const char *from, size_t len)
{
    memcpy(to, from, len);
    return to + len;
}

/* How many variables there may be, and how many bytes the new ones need. */
static size_t measure_env(const abk_order *order, size_t *bytes)
{
    size_t count = 0;
    while (environ != NULL && environ[count] != NULL)
        count++;
    *bytes = 0;
    for (uint32_t layer = 0; layer < order->env_layers; layer++) {
        for (uint32_t i = 0; i < order->env_counts[layer]; i++) {
            const abk_env *item = &order->env[layer][i];
            count++;
            *bytes += strlen(item->name) + (item->value == NULL ? 0 : strlen(item->value)) + 2;
        }
    }
    return count;
}

/* environ and the layers on top of it, in one allocation; NULL: out of memory. */
static char **make_env(const abk_order *order)
{
    size_t bytes;
    const size_t count = measure_env(order, &bytes);
    char **env = abk_alloc((count + 1) * sizeof *env + bytes);
    if (env == NULL)
        return NULL;
    char *text = (char *)(env + count + 1);
    size_t at = 0;
    for (char **own = environ; own != NULL && *own != NULL && at < count; own++) {
        if (!replaced(order, 0, 0, *own, strcspn(*own, "=")))
            env[at++] = *own;
    }
    for (uint32_t layer = 0; layer < order->env_layers; layer++) {
        for (uint32_t i = 0; i < order->env_counts[layer] && at < count; i++) {
            const abk_env *item = &order->env[layer][i];
            const size_t len = strlen(item->name);
            if (item->value == NULL || replaced(order, layer, i + 1, item->name, len))
                continue;
            env[at++] = text;
            text = put_text(text, item->name, len);
            *text++ = '=';
            text = put_text(text, item->value, strlen(item->value) + 1);
        }
    }
    return env;
}

static const char *find_path(char *const *env)
{
    for (; *env != NULL; env++) {
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    }
    return default_path;
}

/* The files that a command may mean, in one allocation; NULL: out of memory. An empty part of PATH
 * is the working directory. */
static char **make_candidates(const char *command, char *const *env)
{
    const size_t command_len = strlen(command);
    const char *path = strchr(command, '/') != NULL ? "" : find_path(env);
    size_t count = 1;
    for (const char *p = path; *p != '\0'; p++)
        count += *p == ':';
    char **all = abk_alloc((count + 1) * sizeof *all + strlen(path) + count * (command_len + 2));
    if (all == NULL)
        return NULL;
    char *text = (char *)(all + count + 1);
    for (size_t i = 0; i < count; i++) {
        const size_t len = strcspn(path, ":");
        all[i] = text;
        text = put_text(text, path, len);
        if (len > 0 && path[len - 1] != '/')
            *text++ = '/';
        text = put_text(text, command, command_len + 1);
        path += len + 1; /* after the last part nothing is read there */
    }
    return all;
}

/* --- before: pipes ---------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        abk_sys_close(*fd);
    *fd = -1;
}

/* A pipe of which neither end is 0, 1 or 2: those are the child's own places. */
static int make_pipe(int fds[2])
{
    if (abk_sys_pipe2(fds, O_CLOEXEC) < 0) {
        fds[0] = fds[1] = -1;
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= FIRST_FREE_FD)
            continue;
        const int higher = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
        const int number = errno;
        abk_sys_close(fds[i]);
        fds[i] = higher;
        errno = number;
        if (higher < 0)
            return -1;
    }
    return 0;
}

static int make_pipes(int fds[PIPES][2])
{
    for (int i = 0; i < PIPES; i++) {
        if (make_pipe(fds[i]) < 0)
            return -1;
    }
    return 0;
}

static void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static int open_pidfd(pid_t pid)
{
#ifdef SYS_pidfd_open
    return (int)syscall(SYS_pidfd_open, pid, 0); /* CLOEXEC by itself */
#else
    (void)pid;
    return -1;
#endif
}

/* --- the parent ------------------------------------------------------------------------------- */

/* The same as _PERMANENT in anyio_bus/_io/posix.py. */
static bool is_permanent(int number)
{
    static const int all[] = {ENOENT, EACCES, EPERM, ENOEXEC,      ENOTDIR,
                              EISDIR, ELOOP,  E2BIG, ENAMETOOLONG, EINVAL};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] == number)
            return true;
    }
    return false;
}

static int fail(abk_spawn_error *error, int number, const char *step)
{
    *error = (abk_spawn_error){.number = number, .step = step, .permanent = is_permanent(number)};
    return ABK_ESYS;
}

static int count_fds(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > MOST_FDS)
        return MOST_FDS;
    return (int)limit.rlim_cur;
}

/* Make the child with all signals blocked, since no handler of ours is to run in it. */
static pid_t give_birth(birth *self, char *stack)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigemptyset(&self->none);
    pthread_sigmask(SIG_BLOCK, &all, &before);
#ifdef __linux__
    const int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
#endif
    const pid_t pid = abk_sys_clone(live, stack + STACK_BYTES, self);
    const int number = errno;
#ifdef __linux__
    /* A change of user takes this from the memory, which was ours as well. */
    if (dumpable == 1 && pid > 0 && self->shared && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1)
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#endif
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = number;
    return pid;
}

/* Learn what went wrong in the child; NOWHERE: nothing did, it executes its command. */
static bad_news hear(const birth *self, int fd)
{
    if (self->shared)
        return self->news;
    bad_news news = {0, NOWHERE};
    ssize_t got;
    do
        got = read(fd, &news, sizeof news);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof news ? news : (bad_news){0, NOWHERE};
}

static int spawn(birth *self, int fds[PIPES][2], char *stack, abk_child *child,
                 abk_spawn_error *error)
{
    int *const theirs[PIPES] = {&fds[0][0], &fds[1][1], &fds[2][1], &fds[3][1]};
    for (int i = 0; i < 3; i++)
        self->ends[i] = *theirs[i];
    self->report = *theirs[3];
    self->most_fds = count_fds();
    self->parent = getpid();
    const pid_t pid = give_birth(self, stack);
    if (pid < 0)
        return fail(error, errno, "fork");
    for (int i = 0; i < PIPES; i++)
        close_fd(theirs[i]);
    const bad_news news = hear(self, fds[3][0]);
    if (news.step != NOWHERE) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return fail(error, news.number, steps[news.step]);
    }
    *child = (abk_child){pid, open_pidfd(pid), fds[0][1], fds[1][0], fds[2][0]};
    fds[0][1] = fds[1][0] = fds[2][0] = -1;
    set_nonblocking(child->in);
    set_nonblocking(child->out);
    set_nonblocking(child->err);
    return ABK_OK;
}

int abk_spawn_child(const abk_order *order, abk_child *child, abk_spawn_error *error)
{
#ifdef ABK_TEST
    if (abk_test.spawn != NULL)
        return abk_test.spawn(order, child, error);
#endif
    birth self = {.order = order};
    int fds[PIPES][2]; /* in, out, err, the report */
    for (int i = 0; i < PIPES; i++)
        fds[i][0] = fds[i][1] = -1;
    char *stack = abk_realloc(NULL, STACK_BYTES);
    self.env = make_env(order);
    self.candidates = self.env == NULL ? NULL : make_candidates(order->argv[0], self.env);
    int result;
    if (stack == NULL || self.candidates == NULL)
        result = fail(error, ENOMEM, "memory");
    else if (make_pipes(fds) < 0)
        result = fail(error, errno, "pipe");
    else
        result = spawn(&self, fds, stack, child, error);
    for (int i = 0; i < PIPES; i++) {
        close_fd(&fds[i][0]);
        close_fd(&fds[i][1]);
    }
    abk_free(self.candidates);
    abk_free(self.env);
    abk_free(stack);
    return result;
}

/* --- after ------------------------------------------------------------------------------------ */

void abk_child_signal(const abk_child *child, int number)
{
    if (child->pid <= 1)
        return; /* kill(2) would take these for everybody, or for ourselves */
    kill(-child->pid, number);
    kill(-child->pid, SIGCONT);
}

#ifdef __linux__
static int ask(const abk_child *child, int *exit_code, int *killed_by)
{
    enum { BY_PIDFD = 3 }; /* P_PIDFD, which older headers do not have */
    siginfo_t info;
    memset(&info, 0, sizeof info);
    int result = -1;
    errno = EINVAL;
    if (child->pidfd >= 0) /* the pid may be another's, if somebody else has reaped this child */
        result = waitid((idtype_t)BY_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG);
    if (result < 0 && errno == EINVAL)
        result = waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG);
    if (result < 0 || info.si_pid == 0)
        return result;
    if (info.si_code == CLD_EXITED)
        *exit_code = info.si_status;
    else
        *killed_by = info.si_status;
    return 1;
}
#else
static int ask(const abk_child *child, int *exit_code, int *killed_by)
{
    int status;
    const pid_t got = waitpid(child->pid, &status, WNOHANG);
    if (got <= 0)
        return (int)got;
    if (WIFEXITED(status))
        *exit_code = WEXITSTATUS(status);
    else
        *killed_by = WTERMSIG(status);
    return 1;
}
#endif

int abk_child_reap(abk_child *child, int *exit_code, int *killed_by)
{
    *exit_code = *killed_by = -1;
    const int result = ask(child, exit_code, killed_by);
    if (result == 0 || (result < 0 && errno == EINTR))
        return 0;
    close_fd(&child->pidfd);
    return 1; /* an error means that somebody else has reaped it */
}

int64_t abk_child_unread(const abk_child *child)
{
#ifdef __linux__
    int bytes = 0;
    return child->in >= 0 && ioctl(child->in, FIONREAD, &bytes) == 0 ? bytes : -1;
#else
    (void)child; /* elsewhere an end that is written to tells of nothing */
    return -1;
#endif
}

void abk_child_close(abk_child *child)
{
    close_fd(&child->in);
    close_fd(&child->out);
    close_fd(&child->err);
    close_fd(&child->pidfd);
}
