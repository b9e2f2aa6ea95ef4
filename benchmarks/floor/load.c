/* Load on a daemon's unix socket: many clients in one process, behind one epoll.
 *
 *   load --unix PATH [--clients N] [--in-flight K] [--n N | --seconds S] [--payload BYTES]
 *        [--sessions S] [--pool ID] [--warm-up N] [--timeout SECONDS]
 *
 * N connections keep K requests in flight each, --n in total or for --seconds. A request is
 * {"jsonrpc":"2.0","id":I,"method":"echo","params":{"text":"C..."}}: C is the number of the
 * connection, then BYTES bytes follow. All connections use the same ids, so an answer that reached
 * the wrong one has the wrong text. Every answer must carry an id in flight on its connection and
 * the params as they were sent; anything else ends the program with 1. With --sessions the requests
 * go round as many sessionIds, whichever connection sends them; --warm-up of at least as many makes
 * them known before the clock runs. What one read of a connection made room for leaves in one
 * write. The clock is read once for each read. Prints one JSON line.
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

enum { MAX_EVENTS = 64, SHOWN_BYTES = 300 };

typedef struct {
    const char *path;
    const char *pool;
    uint64_t clients;
    uint64_t in_flight;
    uint64_t n;
    uint64_t seconds;
    uint64_t payload;
    uint64_t sessions;
    uint64_t warm_up;
    uint64_t timeout_s;
} options;

/* A place for one request of a connection; id % in_flight is its number. */
typedef struct {
    uint64_t id; /* of the request that is in flight here, else of the next one */
    uint64_t sent_ns;
    bool busy;
} place;

typedef struct {
    int fd;
    uint64_t number;
    floor_buffer params;
    floor_buffer out;
    floor_buffer in;
    place *places;
    uint64_t *free_places;
    uint64_t free_count;
    bool blocked; /* the socket takes no more of out for now */
} client;

typedef struct {
    options wanted;
    int epoll;
    client *clients;
    uint64_t now;
    uint64_t most;    /* requests of this run, unless the time is up before */
    uint64_t ends_ns; /* when no more are sent, 0 for never */
    uint64_t sent;    /* of this run */
    uint64_t done;    /* of this run */
    uint64_t asked;   /* of all runs */
    floor_buffer latencies; /* uint64_t, of this run */
} load;

static void on_alarm(int number)
{
    static const char message[] = "load: time is up, an answer is missing\n";
    (void)number;
    const ssize_t put = write(STDERR_FILENO, message, sizeof message - 1);
    (void)put;
    _exit(3);
}

static _Noreturn void refuse(const client *self, const char *why, floor_span line)
{
    fprintf(stderr, "load: client %llu: %s: %.*s\n", (unsigned long long)self->number, why,
            (int)(line.len < SHOWN_BYTES ? line.len : SHOWN_BYTES), line.len == 0 ? "" : line.at);
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

/* --- connections ----------------------------------------------------------------------------- */

static void watch(const load *self, client *one, int how)
{
    struct epoll_event event = {.events = one->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN,
                                .data.ptr = one};
    if (epoll_ctl(self->epoll, how, one->fd, &event) < 0)
        floor_die("epoll_ctl");
}

static void *take_memory(uint64_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        floor_die("calloc");
    return memory;
}

static void open_client(load *self, client *one, uint64_t number)
{
    const uint64_t in_flight = self->wanted.in_flight;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, self->wanted.path); /* parse() has seen that it fits */
    one->number = number;
    one->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&address, sizeof address) < 0)
        floor_die(self->wanted.path);
    floor_set_nonblocking(one->fd);
    floor_append_text(&one->params, "{\"text\":\"");
    floor_append_decimal(&one->params, number);
    for (uint64_t i = 0; i < self->wanted.payload; i++)
        floor_append(&one->params, "x", 1);
    floor_append_text(&one->params, "\"}");
    one->places = take_memory(in_flight, sizeof *one->places);
    one->free_places = take_memory(in_flight, sizeof *one->free_places);
    for (uint64_t i = 0; i < in_flight; i++) {
        one->places[i].id = i + in_flight; /* none is 0 */
        one->free_places[one->free_count++] = i;
    }
    watch(self, one, EPOLL_CTL_ADD);
}

/* --- requests -------------------------------------------------------------------------------- */

static void make_request(load *self, client *one)
{
    place *here = &one->places[one->free_places[--one->free_count]];
    here->busy = true;
    here->sent_ns = self->now;
    floor_append_text(&one->out, "{\"jsonrpc\":\"2.0\",\"id\":");
    floor_append_decimal(&one->out, here->id);
    if (self->wanted.pool != NULL) {
        floor_append_text(&one->out, ",\"pool\":\"");
        floor_append_text(&one->out, self->wanted.pool);
        floor_append_text(&one->out, "\"");
    }
    if (self->wanted.sessions != 0) {
        floor_append_text(&one->out, ",\"sessionId\":\"s");
        floor_append_decimal(&one->out, self->asked % self->wanted.sessions);
        floor_append_text(&one->out, "\"");
    }
    floor_append_text(&one->out, ",\"method\":\"echo\",\"params\":");
    floor_append(&one->out, one->params.data, one->params.len);
    floor_append_text(&one->out, "}\n");
    self->sent++;
    self->asked++;
}

static void push(load *self, client *one)
{
    if (one->out.len != 0) {
        const ssize_t put = send(one->fd, one->out.data, one->out.len, MSG_NOSIGNAL);
        if (put < 0 && errno != EAGAIN && errno != EINTR)
            floor_die("send");
        floor_drop(&one->out, put > 0 ? (size_t)put : 0);
    }
    const bool blocked = one->out.len != 0;
    if (blocked != one->blocked) {
        one->blocked = blocked;
        watch(self, one, EPOLL_CTL_MOD);
    }
}

static bool may_send(const load *self)
{
    return self->sent < self->most && (self->ends_ns == 0 || self->now < self->ends_ns);
}

static void fill(load *self, client *one)
{
    while (one->free_count != 0 && may_send(self))
        make_request(self, one);
    push(self, one);
}

/* --- answers --------------------------------------------------------------------------------- */

static void take_answer(load *self, client *one, floor_span line)
{
    floor_span id = {NULL, 0};
    floor_span result = {NULL, 0};
    floor_span key;
    floor_span value;
    floor_walk walk;
    int more = -1;
    if (floor_open(&walk, line)) {
        while ((more = floor_next(&walk, &key, &value)) > 0) {
            if (floor_is(key, "id"))
                id = value;
            else if (floor_is(key, "result"))
                result = value;
        }
    }
    uint64_t number = 0;
    if (more != 0 || id.at == NULL || result.at == NULL || !floor_decimal(id, &number))
        refuse(one, "not an answer", line);
    const uint64_t at = number % self->wanted.in_flight;
    place *here = &one->places[at];
    if (!here->busy || here->id != number)
        refuse(one, "an answer to nothing that is in flight", line);
    if (result.len != one->params.len || memcmp(result.at, one->params.data, result.len) != 0)
        refuse(one, "a wrong result", line);
    const uint64_t took_ns = self->now - here->sent_ns;
    floor_append(&self->latencies, (const char *)&took_ns, sizeof took_ns);
    here->busy = false;
    here->id += self->wanted.in_flight;
    one->free_places[one->free_count++] = at;
    self->done++;
}

static void take_answers(load *self, client *one)
{
    size_t fresh = one->in.len;
    if (floor_read(one->fd, &one->in) == 0)
        refuse(one, "the daemon closed the connection", (floor_span){NULL, 0});
    self->now = clock_ns();
    size_t begin = 0;
    const char *newline;
    while ((newline = memchr(one->in.data + fresh, '\n', one->in.len - fresh)) != NULL) {
        const size_t end = (size_t)(newline - one->in.data);
        take_answer(self, one, (floor_span){.at = one->in.data + begin, .len = end - begin});
        begin = fresh = end + 1;
    }
    floor_drop(&one->in, begin);
}

/* --- a run ----------------------------------------------------------------------------------- */

static void step(load *self)
{
    struct epoll_event events[MAX_EVENTS];
    const int ready = epoll_wait(self->epoll, events, MAX_EVENTS, -1);
    if (ready < 0 && errno != EINTR)
        floor_die("epoll_wait");
    for (int i = 0; i < ready; i++) {
        client *one = events[i].data.ptr;
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0)
            take_answers(self, one);
        fill(self, one);
    }
}

/* Send most requests, or as many as seconds allow unless they are 0, and wait for all answers; the
 * time it took, in nanoseconds. */
static uint64_t run(load *self, uint64_t most, uint64_t seconds)
{
    self->latencies.len = 0;
    self->most = most;
    self->sent = self->done = 0;
    self->now = clock_ns();
    const uint64_t began = self->now;
    self->ends_ns = seconds == 0 ? 0 : began + seconds * NS_PER_S;
    for (uint64_t i = 0; i < self->wanted.clients; i++)
        fill(self, &self->clients[i]);
    while (self->done < self->sent || may_send(self))
        step(self);
    return self->now - began;
}

static int by_value(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void report(const load *self, uint64_t took_ns)
{
    const uint64_t n = self->done;
    uint64_t *each = (uint64_t *)(void *)self->latencies.data; /* realloc() aligns it */
    qsort(each, n, sizeof *each, by_value);
    const uint64_t p50 = each[(n + 1) / 2 - 1]; /* nearest rank */
    const uint64_t p99 = each[(n * 99 + 99) / 100 - 1];
    printf("{\"program\":\"load\",\"rate\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f,"
           "\"max_us\":%.2f,\"n\":%llu,\"clients\":%llu,\"in_flight\":%llu,\"payload\":%llu,"
           "\"sessions\":%llu}\n",
           (double)n * (double)NS_PER_S / (double)took_ns, (double)p50 / 1000.0,
           (double)p99 / 1000.0, (double)each[n - 1] / 1000.0, (unsigned long long)n,
           (unsigned long long)self->wanted.clients, (unsigned long long)self->wanted.in_flight,
           (unsigned long long)self->wanted.payload, (unsigned long long)self->wanted.sessions);
}

static bool parse(int argc, char **argv, options *wanted)
{
    const struct {
        const char *name;
        const char **text;
        uint64_t *value;
    } flags[] = {{"--unix", &wanted->path, NULL},        {"--pool", &wanted->pool, NULL},
                 {"--clients", NULL, &wanted->clients},  {"--in-flight", NULL, &wanted->in_flight},
                 {"--n", NULL, &wanted->n},              {"--seconds", NULL, &wanted->seconds},
                 {"--payload", NULL, &wanted->payload},  {"--sessions", NULL, &wanted->sessions},
                 {"--warm-up", NULL, &wanted->warm_up},  {"--timeout", NULL, &wanted->timeout_s}};
    const size_t count = sizeof flags / sizeof *flags;
    int at = 1;
    for (; at + 1 < argc; at += 2) {
        size_t i = 0;
        while (i < count && strcmp(argv[at], flags[i].name) != 0)
            i++;
        const floor_span text = {.at = argv[at + 1], .len = strlen(argv[at + 1])};
        if (i == count || (flags[i].value != NULL && !floor_decimal(text, flags[i].value)))
            return false;
        if (flags[i].text != NULL)
            *flags[i].text = argv[at + 1];
    }
    return at == argc && wanted->path != NULL && wanted->clients > 0 && wanted->in_flight > 0 &&
           wanted->n > 0 && strlen(wanted->path) < sizeof ((struct sockaddr_un *)NULL)->sun_path;
}

int main(int argc, char **argv)
{
    load self = {.wanted = {.clients = 1, .in_flight = 1, .n = 100000, .warm_up = 2000,
                            .timeout_s = 60}};
    if (!parse(argc, argv, &self.wanted)) {
        fputs("usage: load --unix PATH [--clients N] [--in-flight K] [--n N | --seconds S]\n"
              "            [--payload BYTES] [--sessions S] [--pool ID] [--warm-up N]\n"
              "            [--timeout SECONDS]\n", stderr);
        return 2;
    }
    if (signal(SIGALRM, on_alarm) == SIG_ERR)
        floor_die("signal");
    alarm((unsigned)self.wanted.timeout_s);
    self.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self.epoll < 0)
        floor_die("epoll_create1");
    self.clients = take_memory(self.wanted.clients, sizeof *self.clients);
    for (uint64_t i = 0; i < self.wanted.clients; i++)
        open_client(&self, &self.clients[i], i);
    run(&self, self.wanted.warm_up, 0);
    const uint64_t most = self.wanted.seconds == 0 ? self.wanted.n : UINT64_MAX;
    const uint64_t took_ns = run(&self, most, self.wanted.seconds);
    report(&self, took_ns);
    return 0;
}
