/* Start a worker process and end it. The child leads its own session and group, has pipes on 0, 1
 * and 2 and no other fd, default signals, an empty mask, and on Linux dies with the thread that
 * spawned it (PDEATHSIG, checked again). Only async-signal-safe calls run in the child.
 */
#ifndef ABK_SPAWN_H
#define ABK_SPAWN_H

#include "config.h"

typedef struct abk_child {
    pid_t pid;
    int pidfd; /* -1 where the system has none, and once it is closed */
    int in;    /* our ends, non-blocking, CLOEXEC; -1 once closed */
    int out;
    int err;
} abk_child;

typedef struct abk_order {
    char *const *argv;
    const abk_env *const *env; /* layers on top of this process's environment, later ones win */
    const uint32_t *env_counts;
    uint32_t env_layers;
    const char *cwd;          /* NULL: ours */
    const abk_launch *launch; /* NULL: nothing of it */
} abk_order;

typedef struct abk_spawn_error {
    int number;       /* errno */
    const char *step; /* "exec", "cwd", "user", "groups", "rlimits", "nice", "session", "fork",
                       * "pipe", "memory": static */
    bool permanent;   /* starting it again cannot help: missing, or not executable */
} abk_spawn_error;

/* ABK_OK and *child, or ABK_ESYS and *error; nothing is left behind then. Returns after exec. */
int abk_spawn_child(const abk_order *order, abk_child *child, abk_spawn_error *error);

/* Send a signal to its group, then SIGCONT. What is gone is no error. Not after it was reaped: its
 * number may be somebody else's then. */
void abk_child_signal(const abk_child *child, int number);

/* Reap it without waiting: 1 when it is gone (exit_code >= 0, or killed_by > 0; both -1 where
 * somebody else has reaped it), 0 while it runs. Closes pidfd when it is gone: it is not to be
 * watched any more by then. */
int abk_child_reap(abk_child *child, int *exit_code, int *killed_by);

/* Bytes of its stdin that it has not read; -1 where the system does not tell. */
int64_t abk_child_unread(const abk_child *child);

/* Close what is open of the pipes and the pidfd. */
void abk_child_close(abk_child *child);

#endif
