/* The physical limit: a C client on plain pipes, n echo requests with a fixed number in flight.
 *
 *   driver [--n N] [--in-flight K] [--payload BYTES] [--warm-up N] [--timeout SECONDS]
 *          -- COMMAND [ARG...]
 *
 * A request is {"jsonrpc":"2.0","id":I,"method":"echo","params":{"text":"..."}} with BYTES bytes
 * of text: about 65 bytes when BYTES is 0. Every answer must carry an id in flight and the params
 * as they were sent. After each read the window is filled again and leaves in one write, so at 1
 * in flight each request is one write and one read. The clock is read once a round, when answers
 * have arrived: a latency therefore includes the making and the parsing of the frame.
 * Prints one JSON line.
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ANSWERED (UINT64_C(1) << 63)
#define NS_PER_S UINT64_C(1000000000)

typedef struct {
    uint64_t n;
    uint64_t in_flight;
    uint64_t payload;
    uint64_t warm_up;
    uint64_t timeout_s;
    char **command;
} options;

typedef struct {
    floor_child child;
    floor_buffer params;
    floor_buffer out;
    size_t written; /* the pipe has taken this much of out */
    floor_buffer in;
    uint64_t base;   /* the id of marks[0] */
    uint64_t now;    /* when the last answers arrived */
    uint64_t sent;   /* of this run */
    uint64_t done;   /* of this run */
    uint64_t *marks; /* when it was sent; once answered, ANSWERED | its latency */
} driver;

static pid_t child_pid;

static void on_alarm(int number)
{
    static const char message[] = "driver: time is up, an answer is missing\n";
    (void)number;
    const ssize_t put = write(STDERR_FILENO, message, sizeof message - 1);
    (void)put;
    kill(child_pid, SIGKILL);
    _exit(3);
}

static _Noreturn void refuse(const char *why)
{
    fprintf(stderr, "driver: %s\n", why);
    kill(child_pid, SIGKILL);
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

static void make_params(driver *self, uint64_t payload)
{
    floor_append_text(&self->params, "{\"text\":\"");
    for (uint64_t i = 0; i < payload; i++)
        floor_append(&self->params, "x", 1);
    floor_append_text(&self->params, "\"}");
}

static void make_request(driver *self)
{
    floor_append_text(&self->out, "{\"jsonrpc\":\"2.0\",\"id\":");
    floor_append_decimal(&self->out, self->base + self->sent);
    floor_append_text(&self->out, ",\"method\":\"echo\",\"params\":");
    floor_append(&self->out, self->params.data, self->params.len);
    floor_append_text(&self->out, "}\n");
    self->marks[self->sent++] = self->now;
}

static void take_answer(driver *self, floor_span line)
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
    if (more != 0)
        refuse("an answer is not a JSON object");
    if (id.at == NULL)
        return; /* a notification */
    if (!floor_decimal(id, &number) || number < self->base || number - self->base >= self->sent ||
        (self->marks[number - self->base] & ANSWERED) != 0)
        refuse("an answer has an id that is not in flight");
    if (result.at == NULL || result.len != self->params.len ||
        memcmp(result.at, self->params.data, result.len) != 0)
        refuse("an answer is not the echo of its request");
    uint64_t *const mark = &self->marks[number - self->base];
    *mark = ANSWERED | (self->now - *mark);
    self->done++;
}

static void take_answers(driver *self)
{
    size_t fresh = self->in.len;
    if (floor_read(self->child.from, &self->in) == 0)
        refuse("the command closed its stdout");
    self->now = clock_ns();
    size_t begin = 0;
    const char *newline;
    while ((newline = memchr(self->in.data + fresh, '\n', self->in.len - fresh)) != NULL) {
        const size_t end = (size_t)(newline - self->in.data);
        take_answer(self, (floor_span){.at = self->in.data + begin, .len = end - begin});
        begin = fresh = end + 1;
    }
    floor_drop(&self->in, begin);
}

/* Write once. While bytes remain, wait for either direction; true when answers can be read. */
static bool push(driver *self)
{
    if (self->out.len == 0)
        return true;
    const ssize_t put =
        write(self->child.to, self->out.data + self->written, self->out.len - self->written);
    if (put < 0 && errno != EAGAIN && errno != EINTR)
        floor_die("write");
    self->written += put > 0 ? (size_t)put : 0;
    if (self->written == self->out.len) {
        self->out.len = self->written = 0;
        return true;
    }
    struct pollfd ends[] = {{.fd = self->child.from, .events = POLLIN},
                            {.fd = self->child.to, .events = POLLOUT}};
    if (poll(ends, 2, -1) < 0 && errno != EINTR)
        floor_die("poll");
    return ends[0].revents != 0;
}

/* Send n requests and wait for their answers; the time it took, in nanoseconds. */
static uint64_t run(driver *self, uint64_t n, uint64_t in_flight)
{
    self->base += self->sent;
    self->sent = self->done = 0;
    self->now = clock_ns();
    const uint64_t began = self->now;
    while (self->done < n) {
        while (self->sent < n && self->sent - self->done < in_flight)
            make_request(self);
        if (push(self))
            take_answers(self);
    }
    return self->now - began;
}

static int by_value(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void report(driver *self, const options *wanted, uint64_t took_ns)
{
    qsort(self->marks, wanted->n, sizeof *self->marks, by_value);
    const uint64_t p50 = self->marks[(wanted->n + 1) / 2 - 1] & ~ANSWERED; /* nearest rank */
    const uint64_t p99 = self->marks[(wanted->n * 99 + 99) / 100 - 1] & ~ANSWERED;
    printf("{\"program\":\"driver\",\"rate\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f,"
           "\"n\":%llu,\"in_flight\":%llu,\"payload\":%llu}\n",
           (double)wanted->n * (double)NS_PER_S / (double)took_ns, (double)p50 / 1000.0,
           (double)p99 / 1000.0, (unsigned long long)wanted->n,
           (unsigned long long)wanted->in_flight, (unsigned long long)wanted->payload);
}

static bool parse(int argc, char **argv, options *wanted)
{
    const struct {
        const char *name;
        uint64_t *value;
    } flags[] = {{"--n", &wanted->n},
                 {"--in-flight", &wanted->in_flight},
                 {"--payload", &wanted->payload},
                 {"--warm-up", &wanted->warm_up},
                 {"--timeout", &wanted->timeout_s}};
    int at = 1;
    while (at + 1 < argc && strcmp(argv[at], "--") != 0) {
        size_t i = 0;
        while (i < sizeof flags / sizeof *flags && strcmp(argv[at], flags[i].name) != 0)
            i++;
        const floor_span text = {.at = argv[at + 1], .len = strlen(argv[at + 1])};
        if (i == sizeof flags / sizeof *flags || !floor_decimal(text, flags[i].value))
            return false;
        at += 2;
    }
    wanted->command = argv + at + 1;
    return at + 1 < argc && wanted->n > 0 && wanted->in_flight > 0;
}

int main(int argc, char **argv)
{
    options wanted = {.n = 100000, .in_flight = 1, .warm_up = 2000, .timeout_s = 60};
    if (!parse(argc, argv, &wanted)) {
        fputs("usage: driver [--n N] [--in-flight K] [--payload BYTES] [--warm-up N]\n"
              "              [--timeout SECONDS] -- COMMAND [ARG...]\n", stderr);
        return 2;
    }
    driver self = {.base = 1};
    const uint64_t most = wanted.n > wanted.warm_up ? wanted.n : wanted.warm_up;
    self.marks = calloc(most, sizeof *self.marks);
    if (self.marks == NULL)
        floor_die("calloc");
    make_params(&self, wanted.payload);
    self.child = floor_spawn(wanted.command);
    child_pid = self.child.pid;
    floor_set_nonblocking(self.child.to);
    if (signal(SIGALRM, on_alarm) == SIG_ERR)
        floor_die("signal");
    alarm((unsigned)wanted.timeout_s);
    run(&self, wanted.warm_up, wanted.in_flight);
    const uint64_t took_ns = run(&self, wanted.n, wanted.in_flight);
    close(self.child.to);
    const int code = floor_reap(self.child.pid);
    report(&self, &wanted, took_ns);
    if (code != 0)
        fprintf(stderr, "driver: the command exited with %d\n", code);
    return code == 0 ? 0 : 1;
}
