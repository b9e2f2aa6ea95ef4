/* Start a worker process and end it: see spawn.h. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif
#ifndef NSIG
#define NSIG 65
#endif

extern char **environ;

enum { STACK_BYTES = 64 * 1024, MOST_FDS = 65536 };
static const char default_path[] = "/usr/local/bin:/usr/bin:/bin";

/* What the child needs, prepared before it is made: in it nothing may be allocated. */
typedef struct birth {
    const abk_order *order;
    char **env;
    char **candidates; /* paths to try, in order; ends with NULL */
    int ends[3];       /* its 0, 1 and 2, all above 2 */
    int report;        /* written to where something fails */
    pid_t parent;
    sigset_t none;
} birth;

typedef struct bad_news {
    int number;
    int step; /* in steps[] */
} bad_news;

enum { AT_EXEC, AT_RLIMITS, AT_NICE, AT_GROUPS, AT_USER, AT_CWD, AT_SESSION };
static const char *const steps[] = {"exec", "rlimits", "nice", "groups", "user", "cwd", "session"};

/* --- in the child: async-signal-safe calls only, and no wrapper that reaches other threads -------- */

static void give_up(const birth *self, int number, int step)
{
    const bad_news news = {number, step};
    const ssize_t put = write(self->report, &news, sizeof news);
    (void)put;
    _exit(127);
}

static void default_signals(const birth *self)
{
    struct sigaction plain;
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &plain, NULL); /* some are refused, and are what they are */
    sigprocmask(SIG_SETMASK, &self->none, NULL);
}

static void close_others(int keep)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned)keep + 1, ~0U, 0) == 0 &&
        (keep == 3 || syscall(SYS_close_range, 3U, (unsigned)keep - 1, 0) == 0))
        return;
#endif
    for (int fd = 3; fd < MOST_FDS; fd++) {
        if (fd != keep)
            close(fd);
    }
}

/* The C library's own would change all threads of a process whose memory this may still share. */
static int set_user(uid_t user)
{
#ifdef __linux__
    return (int)syscall(SYS_setresuid, user, user, user);
#else
    return setuid(user);
#endif
}

static int set_groups(const abk_launch *launch)
{
#ifdef __linux__
    if (syscall(SYS_setgroups, (size_t)launch->group_count, launch->groups) < 0)
        return -1;
    return (int)syscall(SYS_setresgid, launch->groups[0], launch->groups[0], launch->groups[0]);
#else
    return setgroups((int)launch->group_count, launch->groups) < 0 ? -1 : setgid(launch->groups[0]);
#endif
}

static void apply(const birth *self, const abk_launch *launch)
{
    for (uint32_t i = 0; i < launch->rlimit_count; i++) {
        if (setrlimit(launch->rlimits[i].resource, &launch->rlimits[i].limit) < 0)
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

static void die_with_parent(const birth *self)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != self->parent) /* it died before that */
        _exit(127);
#else
    (void)self;
#endif
}

static int live(void *argument)
{
    const birth *self = argument;
    if (setsid() < 0)
        give_up(self, errno, AT_SESSION);
    default_signals(self);
    for (int fd = 0; fd < 3; fd++)
        dup2(self->ends[fd], fd);
    close_others(self->report);
    if (self->order->launch != NULL)
        apply(self, self->order->launch);
    die_with_parent(self); /* after the change of user, which would undo it */
    if (self->order->cwd != NULL && chdir(self->order->cwd) < 0)
        give_up(self, errno, AT_CWD);
    int number = ENOENT;
    for (char **path = self->candidates; *path != NULL; path++) {
        execve(*path, self->order->argv, self->env);
        if (errno != ENOENT && errno != ENOTDIR && (number == ENOENT || errno != EACCES))
            number = errno; /* as execvp(3): a file that may not be executed is told of */
    }
    give_up(self, number, AT_EXEC);
    return 127;
}

/* --- before ---------------------------------------------------------------------------------- */

static size_t name_length(const char *variable) { return strcspn(variable, "="); }

/* Whether a later layer sets or removes this variable. */
static bool overridden(const abk_order *order, uint32_t from, const char *name, size_t len)
{
    for (uint32_t layer = from; layer < order->env_layers; layer++) {
        for (uint32_t i = 0; i < order->env_counts[layer]; i++) {
            const char *other = order->env[layer][i].name;
            if (strlen(other) == len && memcmp(other, name, len) == 0)
                return true;
        }
    }
    return false;
}

/* environ and the layers on top of it, in one allocation. */
static char **make_env(const abk_order *order)
{
    size_t count = 1;
    size_t bytes = 0;
    for (char **own = environ; own != NULL && *own != NULL; own++)
        count++;
    for (uint32_t layer = 0; layer < order->env_layers; layer++) {
        for (uint32_t i = 0; i < order->env_counts[layer]; i++) {
            const abk_env *env = &order->env[layer][i];
            count++;
            bytes += strlen(env->name) + (env->value == NULL ? 0 : strlen(env->value)) + 2;
        }
    }
    char **env = abk_alloc(count * sizeof *env + bytes);
    if (env == NULL)
        return NULL;
    char *text = (char *)(env + count);
    size_t at = 0;
    for (char **own = environ; own != NULL && *own != NULL; own++) {
        if (!overridden(order, 0, *own, name_length(*own)))
            env[at++] = *own;
    }
    for (uint32_t layer = 0; layer < order->env_layers; layer++) {
        for (uint32_t i = 0; i < order->env_counts[layer]; i++) {
            const abk_env *item = &order->env[layer][i];
            if (item->value == NULL || overridden(order, layer + 1, item->name, strlen(item->name)))
                continue;
            env[at++] = text;
            text += sprintf(text, "%s=%s", item->name, item->value) + 1;
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

/* The files that a command may mean, in one allocation. */
static char **make_candidates(const char *command, char *const *env)
{
    const char *path = strchr(command, '/') != NULL ? NULL : find_path(env);
    size_t count = 2;
    for (const char *p = path; p != NULL && *p != '\0'; p++)
        count += *p == ':';
    const size_t command_len = strlen(command);
    const size_t bytes = (path == NULL ? 0 : strlen(path)) + count * (command_len + 3);
    char **all = abk_alloc((count + 1) * sizeof *all + bytes);
    if (all == NULL)
        return NULL;
    char *text = (char *)(all + count + 1);
    size_t at = 0;
    if (path == NULL) {
        all[at++] = memcpy(text, command, command_len + 1);
        return all;
    }
    for (const char *p = path;; p++) {
        const size_t len = strcspn(p, ":");
        all[at++] = text;
        text += sprintf(text, "%.*s/%s", len == 0 ? 1 : (int)len, len == 0 ? "." : p, command) + 1;
        p += len;
        if (*p == '\0')
            return all;
    }
}

/* --- pipes ----------------------------------------------------------------------------------- */

static void close_all(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0)
            abk_sys_close(fds[i]);
        fds[i] = -1;
    }
}

/* A pipe of which neither end is 0, 1 or 2: those are the child's own places. */
static int make_pipe(int fds[2])
{
    if (abk_sys_pipe2(fds, O_CLOEXEC) < 0) {
        fds[0] = fds[1] = -1;
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        if (fds[i] > 2)
            continue;
        const int higher = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        const int number = errno;
        abk_sys_close(fds[i]);
        fds[i] = higher;
        errno = number;
    }
    return fds[0] < 0 || fds[1] < 0 ? -1 : 0;
}

static int set_nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

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

static bool is_permanent(const bad_news *news)
{
    if (news->step != AT_EXEC)
        return news->step != AT_SESSION && news->number != EAGAIN && news->number != ENOMEM;
    return news->number == ENOENT || news->number == EACCES || news->number == ENOEXEC ||
           news->number == ENOTDIR || news->number == EISDIR || news->number == ELOOP ||
           news->number == ENAMETOOLONG || news->number == EPERM || news->number == E2BIG;
}

static pid_t give_birth(birth *self, char *stack)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigemptyset(&self->none);
    sigprocmask(SIG_BLOCK, &all, &before); /* no handler of ours is to run in the child */
    const pid_t pid = abk_sys_clone(live, stack + STACK_BYTES, self);
    const int number = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = number;
    return pid;
}

/* Read what went wrong in the child; false: nothing did, it executes its command. */
static bool hear(int fd, bad_news *news)
{
    ssize_t got;
    do
        got = read(fd, news, sizeof *news);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof *news;
}

static int spawn(birth *self, int pipes[8], char *stack, abk_child *child, abk_spawn_error *error)
{
    self->ends[0] = pipes[0];
    self->ends[1] = pipes[3];
    self->ends[2] = pipes[5];
    self->report = pipes[7];
    self->parent = getpid();
    const pid_t pid = give_birth(self, stack);
    if (pid < 0) {
        *error = (abk_spawn_error){.number = errno, .step = "fork"};
        return ABK_ESYS;
    }
    bad_news news;
    int *const theirs[] = {&pipes[0], &pipes[3], &pipes[5], &pipes[7]};
    for (size_t i = 0; i < 4; i++)
        close_all(theirs[i], 1);
    if (hear(pipes[6], &news)) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        *error = (abk_spawn_error){news.number, steps[news.step], is_permanent(&news)};
        return ABK_ESYS;
    }
    *child = (abk_child){pid, open_pidfd(pid), pipes[1], pipes[2], pipes[4]};
    set_nonblocking(child->in);
    set_nonblocking(child->out);
    set_nonblocking(child->err);
    pipes[1] = pipes[2] = pipes[4] = -1;
    return ABK_OK;
}

int abk_spawn_child(const abk_order *order, abk_child *child, abk_spawn_error *error)
{
    birth self = {.order = order};
    int pipes[8] = {-1, -1, -1, -1, -1, -1, -1, -1}; /* stdin, stdout, stderr, report */
    char *stack = abk_realloc(NULL, STACK_BYTES);
    self.env = make_env(order);
    self.candidates = self.env == NULL ? NULL : make_candidates(order->argv[0], self.env);
    int result = ABK_ESYS;
    if (stack == NULL || self.candidates == NULL)
        *error = (abk_spawn_error){.number = ENOMEM, .step = "memory"};
    else if (make_pipe(pipes) < 0 || make_pipe(pipes + 2) < 0 || make_pipe(pipes + 4) < 0 ||
             make_pipe(pipes + 6) < 0)
        *error = (abk_spawn_error){.number = errno, .step = "pipe"};
    else
        result = spawn(&self, pipes, stack, child, error);
    close_all(pipes, 8);
    abk_free(self.candidates);
    abk_free(self.env);
    abk_free(stack);
    return result;
}

/* --- after ----------------------------------------------------------------------------------- */

void abk_child_signal(const abk_child *child, int number)
{
    if (child->pid <= 1)
        return;
    kill(-child->pid, number);
    kill(-child->pid, SIGCONT);
}

static int gone(abk_child *child)
{
    if (child->pidfd >= 0)
        abk_sys_close(child->pidfd);
    child->pidfd = -1;
    return 1;
}

int abk_child_reap(abk_child *child, int *exit_code, int *killed_by)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    *exit_code = *killed_by = -1;
    if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG) < 0)
        return errno == EINTR ? 0 : gone(child); /* somebody else has reaped it */
    if (info.si_pid == 0)
        return 0;
    if (info.si_code == CLD_EXITED)
        *exit_code = info.si_status;
    else
        *killed_by = info.si_status;
    return gone(child);
}

int64_t abk_child_unread(const abk_child *child)
{
    int bytes = 0;
    return child->in >= 0 && ioctl(child->in, FIONREAD, &bytes) == 0 ? bytes : -1;
}

void abk_child_close(abk_child *child)
{
    int *const fds[] = {&child->in, &child->out, &child->err, &child->pidfd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        close_all(fds[i], 1);
}
