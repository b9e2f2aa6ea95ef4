/* Wait for fds, for the ends of processes and for one deadline: epoll(7) here, kqueue(2) there.
 * Level-triggered, but for the pipes whose owner says that it needs no more: an epoll looks once less
 * at each of them then. The whole difference between systems is in loop_epoll.c
 * and loop_kqueue.c.
 *
 * Owners embed an abk_watch. What is closed in the middle of a batch may still be named by a later
 * event of that batch: owners set fd to -1 and stay allocated until the batch is over. An fd is
 * closed after it is no longer watched: its number may be somebody else's then.
 */
#ifndef ABK_LOOP_H
#define ABK_LOOP_H

#include "base.h"

enum {
    ABK_READ = 1,
    ABK_WRITE = 2,
    ABK_ENDS = 4 /* hang-ups and errors alone, where the system tells of them (epoll) */
};

typedef struct abk_watch {
    int fd;           /* -1: not watched */
    uint8_t interest; /* ABK_READ | ABK_WRITE; 0: not registered */
    uint8_t kind;     /* the owner's, for dispatch */
    uint8_t way;      /* the loop's: how it is watched */
    bool edge;        /* a pipe whose owner reads until a read is short, or calls abk_loop_again() */
    void *owner;
} abk_watch;

typedef struct abk_ready {
    abk_watch *watch;
    uint8_t what; /* ABK_READ, ABK_WRITE; a hang-up or error is both */
} abk_ready;

enum { ABK_BATCH = 64, ABK_ALWAYS = 4 };

typedef struct abk_loop {
    int fd;         /* the epoll or kqueue, which the host may poll; -1: closed */
    int timer_fd;   /* timerfd; -1 with kqueue */
    int wake_fd;    /* an eventfd that is readable while always[] has one; -1: none, or kqueue */
    uint64_t armed; /* the deadline that is set; ABK_NEVER: none */
    abk_watch *always[ABK_ALWAYS]; /* those that cannot be polled and so are always ready */
} abk_loop;

int abk_loop_open(abk_loop *loop); /* ABK_OK or ABK_ESYS with errno */
void abk_loop_close(abk_loop *loop);

/* Change what is watched: registers, modifies or, with interest 0, removes. An fd that cannot be
 * polled, such as a regular file or /dev/null, counts as always ready; there may be ABK_ALWAYS of
 * them. With a closed loop nothing happens. ABK_OK or ABK_ESYS, which leaves it as it was; removing
 * never fails. */
int abk_loop_watch(abk_loop *loop, abk_watch *watch, uint8_t interest);

/* Tell again of an edge watch what it may not have read. */
void abk_loop_again(abk_loop *loop, abk_watch *watch);

/* Watch for the end of a process, once: readable when it is gone. watch->fd is its pidfd, which is
 * all that Linux needs; kqueue sets it to the pid. ABK_ESYS: somebody has to ask for it instead. */
int abk_loop_watch_exit(abk_loop *loop, abk_watch *watch, pid_t pid);

/* Be ready at this time (abk_now()) at the latest; a later deadline than the armed one costs
 * nothing, and wakes up once too often. */
int abk_loop_arm(abk_loop *loop, uint64_t deadline);

/* Wait at most wait_ms (-1: for ever); returns how many are ready, 0 for none or a deadline. Events
 * of the timer are not among them. EINTR is 0. ABK_ESYS. */
int abk_loop_wait(abk_loop *loop, abk_ready *ready, int max, int wait_ms);

#endif
