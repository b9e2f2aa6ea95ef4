/* A blind relay: the least that a process between a client and a worker can do.
 *
 *   relay -- COMMAND [ARG...]
 *
 * Copies stdin to the command and the command's stdout to stdout, through one level-triggered
 * epoll, without looking at a byte. A readable end costs three system calls: epoll_wait, read,
 * write. What the other end does not take at once is kept, and that source rests until it is
 * gone. At the end of stdin the command's stdin is closed; at the end of its stdout the relay
 * exits as the command did. Both ends have to be pipes or sockets.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { MAX_EVENTS = 4 };

/* Invariant: source is in the epoll while kept is empty, sink is in it while kept is not. */
typedef struct {
    int epoll;
    int source;
    int sink;
    floor_buffer kept;
    bool ended;
} flow;

static void watch(flow *self, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = self};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        floor_die("epoll_ctl");
}

static void unwatch(flow *self, int fd)
{
    if (epoll_ctl(self->epoll, EPOLL_CTL_DEL, fd, NULL) < 0)
        floor_die("epoll_ctl");
}

/* Write once; true when nothing is kept any more. */
static bool push(flow *self)
{
    const ssize_t put = write(self->sink, self->kept.data, self->kept.len);
    if (put < 0 && errno != EAGAIN && errno != EINTR)
        floor_die("write");
    floor_drop(&self->kept, put > 0 ? (size_t)put : 0);
    return self->kept.len == 0;
}

static void pull(flow *self)
{
    if (floor_read(self->source, &self->kept) == 0) {
        self->ended = true;
        unwatch(self, self->source);
        close(self->sink);
    } else if (!push(self)) {
        unwatch(self, self->source);
        watch(self, self->sink, EPOLLOUT);
    }
}

static void step(flow *self)
{
    if (self->kept.len == 0) {
        pull(self);
    } else if (push(self)) {
        unwatch(self, self->sink);
        watch(self, self->source, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "--") != 0) {
        fputs("usage: relay -- COMMAND [ARG...]\n", stderr);
        return 2;
    }
    const floor_child child = floor_spawn(argv + 2);
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        floor_die("epoll_create1");
    flow there = {.epoll = epoll, .source = STDIN_FILENO, .sink = child.to};
    flow back = {.epoll = epoll, .source = child.from, .sink = STDOUT_FILENO};
    flow *const both[] = {&there, &back};
    for (size_t i = 0; i < 2; i++) {
        floor_set_nonblocking(both[i]->source);
        floor_set_nonblocking(both[i]->sink);
        watch(both[i], both[i]->source, EPOLLIN);
    }
    while (!back.ended) {
        struct epoll_event events[MAX_EVENTS];
        const int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            floor_die("epoll_wait");
        for (int i = 0; i < ready; i++)
            step(events[i].data.ptr);
    }
    return floor_reap(child.pid);
}
