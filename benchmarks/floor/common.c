#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

_Noreturn void floor_die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

void floor_reserve(floor_buffer *buffer, size_t extra)
{
    if (buffer->cap - buffer->len >= extra)
        return;
    size_t cap = buffer->cap != 0 ? buffer->cap : FLOOR_READ_BYTES;
    while (cap - buffer->len < extra) {
        if (cap > SIZE_MAX / 2) {
            errno = ENOMEM;
            floor_die("buffer");
        }
        cap *= 2;
    }
    char *data = realloc(buffer->data, cap);
    if (data == NULL)
        floor_die("buffer");
    buffer->data = data;
    buffer->cap = cap;
}

void floor_append(floor_buffer *buffer, const char *bytes, size_t len)
{
    floor_reserve(buffer, len);
    memcpy(buffer->data + buffer->len, bytes, len);
    buffer->len += len;
}

void floor_append_text(floor_buffer *buffer, const char *text)
{
    floor_append(buffer, text, strlen(text));
}

void floor_append_decimal(floor_buffer *buffer, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    floor_append(buffer, digits + at, sizeof digits - at);
}

void floor_drop(floor_buffer *buffer, size_t len)
{
    if (len == 0)
        return;
    buffer->len -= len;
    if (buffer->len != 0)
        memmove(buffer->data, buffer->data + len, buffer->len);
}

size_t floor_read(int fd, floor_buffer *buffer)
{
    floor_reserve(buffer, FLOOR_READ_BYTES);
    for (;;) {
        const ssize_t got = read(fd, buffer->data + buffer->len, buffer->cap - buffer->len);
        if (got >= 0) {
            buffer->len += (size_t)got;
            return (size_t)got;
        }
        if (errno == EAGAIN)
            floor_wait(fd, POLLIN);
        else if (errno != EINTR)
            floor_die("read");
    }
}

void floor_write_all(int fd, const char *bytes, size_t len)
{
    while (len != 0) {
        const ssize_t put = write(fd, bytes, len);
        if (put >= 0) {
            bytes += put;
            len -= (size_t)put;
        } else if (errno == EAGAIN) {
            floor_wait(fd, POLLOUT);
        } else if (errno != EINTR) {
            floor_die("write");
        }
    }
}

void floor_set_nonblocking(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        floor_die("fcntl");
}

void floor_wait(int fd, short events)
{
    struct pollfd waited = {.fd = fd, .events = events};
    while (poll(&waited, 1, -1) < 0) {
        if (errno != EINTR)
            floor_die("poll");
    }
}

floor_child floor_spawn(char *const argv[])
{
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
        floor_die("pipe2");
    posix_spawn_file_actions_t actions;
    errno = posix_spawn_file_actions_init(&actions);
    if (errno == 0)
        errno = posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    if (errno == 0)
        errno = posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    pid_t pid = 0;
    if (errno == 0)
        errno = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    if (errno != 0)
        floor_die(argv[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    return (floor_child){.pid = pid, .to = in[1], .from = out[0]};
}

int floor_reap(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            floor_die("waitpid");
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
        at++;
    return at;
}

/* From the opening quote to the byte after the closing one, NULL if there is none.
 * A quote closes the string when an even run of backslashes stands before it. */
static const char *skip_string(const char *at, const char *end)
{
    const char *const first = at + 1;
    const char *seek = first;
    while (seek < end) {
        const char *const quote = memchr(seek, '"', (size_t)(end - seek));
        if (quote == NULL)
            return NULL;
        const char *run = quote;
        while (run > first && run[-1] == '\\')
            run--;
        if ((quote - run) % 2 == 0)
            return quote + 1;
        seek = quote + 1;
    }
    return NULL;
}

static const char *skip_container(const char *at, const char *end)
{
    size_t depth = 0;
    while (at < end) {
        const char byte = *at;
        if (byte == '"') {
            at = skip_string(at, end);
            if (at == NULL)
                return NULL;
            continue;
        }
        at++;
        if (byte == '{' || byte == '[')
            depth++;
        else if ((byte == '}' || byte == ']') && --depth == 0)
            return at;
    }
    return NULL;
}

static const char *skip_value(const char *at, const char *end)
{
    if (at >= end)
        return NULL;
    if (*at == '"')
        return skip_string(at, end);
    if (*at == '{' || *at == '[')
        return skip_container(at, end);
    const char *const first = at;
    while (at < end && *at != ',' && *at != '}' && *at != ']' && skip_space(at, end) == at)
        at++;
    return at > first ? at : NULL;
}

bool floor_open(floor_walk *walk, floor_span object)
{
    const char *const end = object.at + object.len;
    const char *const at = skip_space(object.at, end);
    if (at >= end || *at != '{')
        return false;
    *walk = (floor_walk){.at = skip_space(at + 1, end), .end = end};
    return true;
}

int floor_next(floor_walk *walk, floor_span *key, floor_span *value)
{
    const char *at = walk->at;
    const char *const end = walk->end;
    if (at < end && *at == '}')
        return 0;
    if (at >= end || *at != '"')
        return -1;
    const char *const past_key = skip_string(at, end);
    if (past_key == NULL)
        return -1;
    *key = (floor_span){.at = at + 1, .len = (size_t)(past_key - at) - 2};
    at = skip_space(past_key, end);
    if (at >= end || *at != ':')
        return -1;
    const char *const first = skip_space(at + 1, end);
    const char *const past_value = skip_value(first, end);
    if (past_value == NULL)
        return -1;
    *value = (floor_span){.at = first, .len = (size_t)(past_value - first)};
    at = skip_space(past_value, end);
    if (at < end && *at == ',')
        at = skip_space(at + 1, end);
    else if (at >= end || *at != '}')
        return -1;
    walk->at = at;
    return 1;
}

bool floor_is(floor_span span, const char *text)
{
    const size_t len = strlen(text);
    return span.len == len && memcmp(span.at, text, len) == 0;
}

bool floor_decimal(floor_span span, uint64_t *value)
{
    uint64_t total = 0;
    for (size_t i = 0; i < span.len; i++) {
        const char byte = span.at[i];
        if (byte < '0' || byte > '9' || total > (UINT64_MAX - 9) / 10)
            return false;
        total = total * 10 + (uint64_t)(byte - '0');
    }
    *value = total;
    return span.len != 0;
}
