/* The loop on kqueue(2): see loop.h. An event without a watch is the timer's or the wake-up's. */
#include "loop.h"

#if defined(__APPLE__) || defined(__FreeBSD__)

#include <errno.h>
#include <sys/event.h>
#include <sys/stat.h>
#include <time.h>

enum { BY_KQUEUE, ALWAYS, EXIT }; /* abk_watch.way */
enum { TIMER = 1, WAKE = 2 };     /* of our own events */

static int send(const abk_loop *loop, struct kevent change)
{
    int result;
    do
        result = kevent(loop->fd, &change, 1, NULL, 0, NULL);
    while (result < 0 && errno == EINTR);
    return result;
}

int abk_loop_open(abk_loop *loop)
{
    *loop = (abk_loop){.timer_fd = -1, .wake_fd = -1, .armed = ABK_NEVER};
    loop->fd = kqueue(); /* no child inherits it, not even over fork */
    return loop->fd < 0 ? ABK_ESYS : ABK_OK;
}

void abk_loop_close(abk_loop *loop)
{
    if (loop->fd >= 0)
        abk_sys_close(loop->fd);
    loop->fd = -1;
}

/* --- what cannot be polled ------------------------------------------------------------------- */

static bool any_always(const abk_loop *loop)
{
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] != NULL)
            return true;
    }
    return false;
}

/* The host, which polls loop->fd, is to see that there is something to do: without EV_CLEAR such an
 * event stays. */
static int start_waking(const abk_loop *loop)
{
    struct kevent wake = {.ident = WAKE, .filter = EVFILT_USER, .flags = EV_ADD};
    if (send(loop, wake) < 0)
        return -1;
    wake.flags = 0;
    wake.fflags = NOTE_TRIGGER;
    return send(loop, wake);
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
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] == watch)
            loop->always[i] = NULL;
    }
    watch->way = BY_KQUEUE;
    if (!any_always(loop))
        send(loop, (struct kevent){.ident = WAKE, .filter = EVFILT_USER, .flags = EV_DELETE});
}

/* A kqueue takes regular files, but they are not readable at their end. */
static bool is_file(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
}

/* --- what can -------------------------------------------------------------------------------- */

static int change_filter(const abk_loop *loop, abk_watch *watch, int16_t filter, bool on)
{
    struct kevent change = {.ident = (uintptr_t)watch->fd, .filter = filter, .udata = watch};
    change.flags = on ? EV_ADD : EV_DELETE;
    const int result = send(loop, change);
    return on ? result : 0; /* an error means that it is not there, which is what is wanted */
}

/* From one set of filters to another; what was done is undone where the second fails. */
static int change(const abk_loop *loop, abk_watch *watch, uint8_t from, uint8_t to)
{
    const bool reads = (to & ABK_READ) != 0;
    const bool writes = (to & ABK_WRITE) != 0;
    const bool read_changes = ((from ^ to) & ABK_READ) != 0;
    if (read_changes && change_filter(loop, watch, EVFILT_READ, reads) < 0)
        return -1;
    if (((from ^ to) & ABK_WRITE) == 0 || change_filter(loop, watch, EVFILT_WRITE, writes) == 0)
        return 0;
    const int number = errno;
    if (read_changes)
        change_filter(loop, watch, EVFILT_READ, !reads);
    errno = number;
    return -1;
}

static int add(abk_loop *loop, abk_watch *watch, uint8_t interest)
{
    if (is_file(watch->fd))
        return add_always(loop, watch);
    if (change(loop, watch, 0, interest) == 0)
        return 0;
    const bool unpolled = errno == EINVAL || errno == ENODEV || errno == EPERM || errno == ENOTSUP;
    return unpolled ? add_always(loop, watch) : -1;
}

static void forget_exit(const abk_loop *loop, abk_watch *watch)
{
    struct kevent change = {.ident = (uintptr_t)watch->fd, .filter = EVFILT_PROC};
    change.flags = EV_DELETE;
    send(loop, change); /* it is gone by itself once it was told of */
    watch->way = BY_KQUEUE;
}

int abk_loop_watch(abk_loop *loop, abk_watch *watch, uint8_t interest)
{
    if (interest == watch->interest)
        return ABK_OK;
    if (loop->fd >= 0 && watch->way == EXIT) {
        if (interest == 0)
            forget_exit(loop, watch);
    } else if (loop->fd >= 0 && watch->way == ALWAYS) {
        if (interest == 0)
            drop_always(loop, watch);
    } else if (loop->fd >= 0) {
        const int result = watch->interest == 0 ? add(loop, watch, interest)
                                                : change(loop, watch, watch->interest, interest);
        if (result < 0)
            return ABK_ESYS;
    }
    watch->interest = interest;
    return ABK_OK;
}

void abk_loop_again(abk_loop *loop, abk_watch *watch) { (void)loop, (void)watch; }

int abk_loop_watch_exit(abk_loop *loop, abk_watch *watch, pid_t pid)
{
    const struct kevent change = {.ident = (uintptr_t)pid,
                                  .filter = EVFILT_PROC,
                                  .flags = EV_ADD | EV_ONESHOT,
                                  .fflags = NOTE_EXIT,
                                  .udata = watch};
    if (loop->fd < 0)
        return ABK_OK;
    if (send(loop, change) < 0) /* ESRCH: gone already */
        return ABK_ESYS;
    watch->fd = pid; /* what it is removed by, and a sign that it is watched */
    watch->way = EXIT;
    watch->interest = ABK_READ;
    return ABK_OK;
}

int abk_loop_arm(abk_loop *loop, uint64_t deadline)
{
    if (deadline >= loop->armed || loop->fd < 0)
        return ABK_OK;
    const uint64_t now = abk_now();
    const uint64_t left = deadline > now ? deadline - now : 1;
    struct kevent change = {.ident = TIMER, .filter = EVFILT_TIMER, .fflags = NOTE_NSECONDS};
    change.flags = EV_ADD | EV_ONESHOT;
    change.data = left < INTPTR_MAX ? (intptr_t)left : INTPTR_MAX;
    if (send(loop, change) < 0)
        return ABK_ESYS;
    loop->armed = deadline;
    return ABK_OK;
}

/* --- waiting --------------------------------------------------------------------------------- */

static uint8_t what_of(const struct kevent *event)
{
    if (event->filter == EVFILT_PROC)
        return ABK_READ;
    if ((event->flags & (EV_EOF | EV_ERROR)) != 0)
        return ABK_READ | ABK_WRITE;
    return event->filter == EVFILT_READ ? ABK_READ : ABK_WRITE;
}

int abk_loop_wait(abk_loop *loop, abk_ready *ready, int max, int wait_ms)
{
    struct kevent events[ABK_BATCH];
    int most = max < ABK_BATCH ? max : ABK_BATCH;
    for (size_t i = 0; i < ABK_ALWAYS; i++) {
        if (loop->always[i] != NULL && most > 1)
            most--; /* what is always ready has its place in each batch */
    }
    const int ms = any_always(loop) ? 0 : wait_ms;
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    const int got = kevent(loop->fd, NULL, 0, events, most, ms < 0 ? NULL : &time);
    if (got < 0)
        return errno == EINTR ? 0 : ABK_ESYS;
    int count = 0;
    for (int i = 0; i < got; i++) {
        if (events[i].filter == EVFILT_TIMER)
            loop->armed = ABK_NEVER;
        else if (events[i].udata != NULL)
            ready[count++] = (abk_ready){events[i].udata, what_of(&events[i])};
    }
    for (size_t i = 0; i < ABK_ALWAYS && count < max; i++) {
        if (loop->always[i] != NULL)
            ready[count++] = (abk_ready){loop->always[i], loop->always[i]->interest};
    }
    return count;
}

#endif
