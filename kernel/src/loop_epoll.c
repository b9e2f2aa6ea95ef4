/* The loop on epoll(7): see loop.h. An event without a watch is the timer's or the eventfd's. */
#include "loop.h"

#ifdef __linux__

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { BY_EPOLL, ALWAYS }; /* abk_watch.way */

static int add_inner(const abk_loop *loop, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = NULL}};
    return epoll_ctl(loop->fd, EPOLL_CTL_ADD, fd, &event);
}

int abk_loop_open(abk_loop *loop)
{
    *loop = (abk_loop){.timer_fd = -1, .wake_fd = -1, .armed = ABK_NEVER};
    loop->fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->fd >= 0)
        loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->timer_fd >= 0 && add_inner(loop, loop->timer_fd) == 0)
        return ABK_OK;
    const int number = errno;
    abk_loop_close(loop);
    errno = number;
    return ABK_ESYS;
}

void abk_loop_close(abk_loop *loop)
{
    int *const fds[] = {&loop->wake_fd, &loop->timer_fd, &loop->fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            abk_sys_close(*fds[i]);
        *fds[i] = -1;
    }
}

/* --- what cannot be polled ------------------------------------------------------------------- */

/* The host, which polls loop->fd, is to see that there is something to do. */
static int start_waking(abk_loop *loop)
{
    if (loop->wake_fd >= 0)
        return 0;
    loop->wake_fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop->wake_fd < 0)
        return -1;
    if (add_inner(loop, loop->wake_fd) == 0)
        return 0;
    const int number = errno;
    abk_sys_close(loop->wake_fd);
    loop->wake_fd = -1;
    errno = number;
    return -1;
}

static int add_always(abk_loop *loop, abk_watch *watch)
{
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] != NULL)
            continue;
        if (start_waking(loop) < 0)
            return -1;
        loop->always[i] = watch;
        watch->way = ALWAYS;
        return 0;
    }
    errno = ENOSPC;
    return -1;
}

static void drop_always(abk_loop *loop, abk_watch *watch)
{
    bool left = false;
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] == watch)
            loop->always[i] = NULL;
        left = left || loop->always[i] != NULL;
    }
    watch->way = BY_EPOLL;
    if (!left && loop->wake_fd >= 0) {
        abk_sys_close(loop->wake_fd); /* which takes it out of the epoll */
        loop->wake_fd = -1;
    }
}

/* --- what can -------------------------------------------------------------------------------- */

static int change(abk_loop *loop, abk_watch *watch, uint8_t interest)
{
    struct epoll_event event = {.data = {.ptr = watch}};
    if ((interest & ABK_READ) != 0)
        event.events |= EPOLLIN;
    if (interest == ABK_READ && watch->edge)
        event.events |= EPOLLET;
    if ((interest & ABK_WRITE) != 0)
        event.events |= EPOLLOUT;
    const int operation = watch->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(loop->fd, operation, watch->fd, &event) == 0)
        return 0;
    return errno == EPERM && operation == EPOLL_CTL_ADD ? add_always(loop, watch) : -1;
}

int abk_loop_watch(abk_loop *loop, abk_watch *watch, uint8_t interest)
{
    if (interest == watch->interest)
        return ABK_OK;
    if (loop->fd < 0) {
        watch->interest = interest;
        return ABK_OK;
    }
    if (interest == 0) {
        if (watch->way == ALWAYS)
            drop_always(loop, watch);
        else /* an error means that it is not there, which is what is wanted */
            epoll_ctl(loop->fd, EPOLL_CTL_DEL, watch->fd, &(struct epoll_event){.events = 0});
    } else if (watch->way != ALWAYS && change(loop, watch, interest) < 0) {
        return ABK_ESYS;
    }
    watch->interest = interest;
    return ABK_OK;
}

void abk_loop_again(abk_loop *loop, abk_watch *watch)
{
    if (watch->edge && watch->fd >= 0 && watch->interest == ABK_READ && watch->way == BY_EPOLL &&
        loop->fd >= 0)
        change(loop, watch, ABK_READ);
}

int abk_loop_watch_exit(abk_loop *loop, abk_watch *watch, pid_t pid)
{
    (void)pid;
    if (watch->fd >= 0)
        return abk_loop_watch(loop, watch, ABK_READ);
    errno = EBADF;
    return ABK_ESYS;
}

int abk_loop_arm(abk_loop *loop, uint64_t deadline)
{
    if (deadline >= loop->armed || loop->fd < 0)
        return ABK_OK;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(deadline / ABK_S),
                                         .tv_nsec = (long)(deadline % ABK_S)}};
    if (deadline == 0)
        at.it_value.tv_nsec = 1; /* 0 would disarm it */
    if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
        return ABK_ESYS;
    loop->armed = deadline;
    return ABK_OK;
}

/* --- waiting --------------------------------------------------------------------------------- */

static void drain_timer(abk_loop *loop)
{
    uint64_t times;
    if (read(loop->timer_fd, &times, sizeof times) == (ssize_t)sizeof times)
        loop->armed = ABK_NEVER;
}

static uint8_t what_of(uint32_t events)
{
    if ((events & (EPOLLHUP | EPOLLERR)) != 0)
        return ABK_READ | ABK_WRITE;
    return (uint8_t)(((events & EPOLLIN) != 0 ? ABK_READ : 0) |
                     ((events & EPOLLOUT) != 0 ? ABK_WRITE : 0));
}

int abk_loop_wait(abk_loop *loop, abk_ready *ready, int max, int wait_ms)
{
    struct epoll_event events[ABK_BATCH];
    int most = max < ABK_BATCH ? max : ABK_BATCH;
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] != NULL && most > 1)
            most--; /* what is always ready has its place in each batch */
    }
    const int got = epoll_wait(loop->fd, events, most, loop->wake_fd < 0 ? wait_ms : 0);
    if (got < 0)
        return errno == EINTR ? 0 : ABK_ESYS;
    int count = 0;
    for (int i = 0; i < got; i++) {
        abk_watch *watch = events[i].data.ptr;
        if (watch == NULL) {
            drain_timer(loop);
            continue;
        }
        if ((events[i].events & (EPOLLHUP | EPOLLERR)) != 0)
            abk_loop_again(loop, watch); /* its end is behind what is read now, and no edge any more */
        ready[count++] = (abk_ready){watch, what_of(events[i].events)};
    }
    for (size_t i = 0; i < ABK_ALWAYS && count < max; i++) {
        if (loop->always[i] != NULL)
            ready[count++] = (abk_ready){loop->always[i], loop->always[i]->interest};
    }
    return count;
}

#endif
