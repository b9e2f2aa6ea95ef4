/* The worker that every figure is taken with: NDJSON JSON-RPC 2.0 on stdin and stdout.
 *
 *   echo_worker [--flush batch|each] [--witness DIR]
 *
 * stream {"count": N}  N chunk notifications, then the answer
 * prompt {"count": N}  the same, the chunks in the words of ACP: session/update
 * text {"bytes": N}    answered with {"text": "xxx..."} of N bytes
 * hold                 never answered
 * anything else        answered with its own params, or null
 *
 * Ids, params and the sessionId of a prompt go back as they are spelled. Notifications and responses are ignored. All answers
 * to one read leave in one write (--flush each: one write an answer). At the end of stdin the
 * program exits 0; a last line without its newline is not a line. With --witness all bytes are
 * appended to the file DIR/PID before any is answered: it says what came here, however this ends.
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    floor_span id;
    floor_span method;
    floor_span params;
    floor_span session;
} request;

typedef struct {
    floor_buffer in;
    floor_buffer out;
    bool flush_each;
} worker;

static void flush(worker *self)
{
    floor_write_all(STDOUT_FILENO, self->out.data, self->out.len);
    self->out.len = 0;
}

static bool parse(floor_span line, request *found)
{
    *found = (request){{NULL, 0}, {NULL, 0}, {NULL, 0}, {NULL, 0}};
    floor_walk walk;
    if (!floor_open(&walk, line))
        return false;
    floor_span key;
    floor_span value;
    int more;
    while ((more = floor_next(&walk, &key, &value)) > 0) {
        if (floor_is(key, "id"))
            found->id = value;
        else if (floor_is(key, "method"))
            found->method = value;
        else if (floor_is(key, "params"))
            found->params = value;
        else if (floor_is(key, "sessionId"))
            found->session = value;
    }
    return more == 0;
}

static void begin_answer(worker *self, const request *asked)
{
    floor_append_text(&self->out, "{\"jsonrpc\":\"2.0\",\"id\":");
    floor_append(&self->out, asked->id.at, asked->id.len);
    floor_append_text(&self->out, ",\"result\":");
}

static void end_answer(worker *self)
{
    floor_append_text(&self->out, "}\n");
    if (self->flush_each)
        flush(self);
}

static void answer(worker *self, const request *asked)
{
    begin_answer(self, asked);
    if (asked->params.at != NULL)
        floor_append(&self->out, asked->params.at, asked->params.len);
    else
        floor_append_text(&self->out, "null");
    end_answer(self);
}

/* The number under this name in the params, 0 without one. */
static uint64_t asked_number(const request *asked, const char *name)
{
    floor_walk walk;
    if (asked->params.at == NULL || !floor_open(&walk, asked->params))
        return 0;
    uint64_t count = 0;
    floor_span key;
    floor_span value;
    while (floor_next(&walk, &key, &value) > 0) {
        if (floor_is(key, name) && !floor_decimal(value, &count))
            count = 0;
    }
    return count;
}

static void append_chunk(worker *self, const request *asked)
{
    floor_append_text(&self->out, "{\"jsonrpc\":\"2.0\",\"method\":\"chunk\",\"params\":"
                                  "{\"_meta\":{\"requestId\":");
    floor_append(&self->out, asked->id.at, asked->id.len);
    floor_append_text(&self->out, "},\"text\":\"x\"}}\n");
}

/* With the sessionId on top where the request had one: some clients find their chunks by it. */
static void append_update(worker *self, const request *asked)
{
    floor_append_text(&self->out, "{\"jsonrpc\":\"2.0\",\"method\":\"session/update\",");
    if (asked->session.at != NULL) {
        floor_append_text(&self->out, "\"sessionId\":");
        floor_append(&self->out, asked->session.at, asked->session.len);
        floor_append_text(&self->out, ",");
    }
    floor_append_text(&self->out, "\"params\":{\"_meta\":{\"requestId\":");
    floor_append(&self->out, asked->id.at, asked->id.len);
    floor_append_text(&self->out,
                      "},\"update\":{\"sessionUpdate\":\"agent_message_chunk\","
                      "\"content\":{\"type\":\"text\",\"text\":\"x\"}}}}\n");
}

static void stream(worker *self, const request *asked,
                   void (*append)(worker *self, const request *asked))
{
    for (uint64_t left = asked_number(asked, "count"); left != 0; left--) {
        append(self, asked);
        if (self->flush_each || self->out.len >= FLOOR_READ_BYTES)
            flush(self);
    }
    answer(self, asked);
}

static void answer_text(worker *self, const request *asked)
{
    begin_answer(self, asked);
    floor_append_text(&self->out, "{\"text\":\"");
    const size_t len = (size_t)asked_number(asked, "bytes");
    floor_reserve(&self->out, len);
    memset(self->out.data + self->out.len, 'x', len);
    self->out.len += len;
    floor_append_text(&self->out, "\"}");
    end_answer(self);
}

static void serve_line(worker *self, floor_span line)
{
    request asked;
    if (!parse(line, &asked)) {
        fprintf(stderr, "echo_worker: skipped a line of %zu bytes: not a JSON object\n", line.len);
        return;
    }
    if (asked.id.at == NULL || asked.method.at == NULL || floor_is(asked.method, "\"hold\""))
        return;
    if (floor_is(asked.method, "\"stream\""))
        stream(self, &asked, append_chunk);
    else if (floor_is(asked.method, "\"prompt\""))
        stream(self, &asked, append_update);
    else if (floor_is(asked.method, "\"text\""))
        answer_text(self, &asked);
    else
        answer(self, &asked);
}

/* Serve the whole lines of self->in; fresh is where the bytes of the last read begin, so a long
 * line is searched once. */
static void serve(worker *self, size_t fresh)
{
    const char *const data = self->in.data;
    size_t begin = 0;
    const char *newline;
    while ((newline = memchr(data + fresh, '\n', self->in.len - fresh)) != NULL) {
        const size_t end = (size_t)(newline - data);
        serve_line(self, (floor_span){.at = data + begin, .len = end - begin});
        begin = fresh = end + 1;
    }
    floor_drop(&self->in, begin);
}

static int open_witness(const char *dir)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%ld", dir, (long)getpid()) >= (int)sizeof path)
        floor_die(dir);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        floor_die(path);
    return fd;
}

int main(int argc, char **argv)
{
    worker self = {.flush_each = false};
    int witness = -1;
    int at = 1;
    for (; at + 1 < argc; at += 2) {
        if (strcmp(argv[at], "--flush") == 0 && strcmp(argv[at + 1], "each") == 0)
            self.flush_each = true;
        else if (strcmp(argv[at], "--flush") == 0 && strcmp(argv[at + 1], "batch") == 0)
            self.flush_each = false;
        else if (strcmp(argv[at], "--witness") == 0)
            witness = open_witness(argv[at + 1]);
        else
            break;
    }
    if (at != argc) {
        fputs("usage: echo_worker [--flush batch|each] [--witness DIR]\n", stderr);
        return 2;
    }
    for (;;) {
        const size_t fresh = self.in.len;
        const size_t got = floor_read(STDIN_FILENO, &self.in);
        if (got == 0)
            return 0;
        if (witness >= 0)
            floor_write_all(witness, self.in.data + fresh, got);
        serve(&self, fresh);
        flush(&self);
    }
}
