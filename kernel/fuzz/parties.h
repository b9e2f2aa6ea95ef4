/* The parties of fuzz_bus.c: the input, workers and clients, which are ends of pipes and sockets,
 * and what must hold for all that they hear. */
#ifndef ABK_FUZZ_PARTIES_H
#define ABK_FUZZ_PARTIES_H

#include "../src/buf.h"
#include "../src/scan.h"
#include "../src/spawn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { WORKERS = 12, CLIENTS = 3, REQUESTS = 256, IDS = 16, HELD = 64 * 1024, ID_BYTES = 96 };

/* --- the input -------------------------------------------------------------------------------- */

static const uint8_t *input, *input_end;

static uint8_t byte(void)
{
    return input < input_end ? *input++ : 0;
}
static uint32_t below(uint32_t n)
{
    return byte() % n;
}

/* Bytes of the input, as many as its next byte says. */
static abk_text raw(void)
{
    const size_t want = byte();
    const size_t left = (size_t)(input_end - input);
    const size_t len = want < left ? want : left;
    const abk_text text = {(const char *)input, (uint32_t)len};
    if (memmem(input, len, "serial", 6) != NULL)
        return (abk_text){"", 0}; /* that one is ours */
    input += len;
    return text;
}

/* --- the state ------------------------------------------------------------------------------- */

typedef struct stream { /* of lines that are heard, as far as they are not ended */
    char text[HELD];
    size_t len;
} stream;

typedef struct worker {
    bool lives;
    int in, out, err, exit;  /* the worker's ends; -1: closed */
    bool torn;               /* raw bytes may stand before the next newline that it writes */
    char ids[IDS][ID_BYTES]; /* of requests that it has read */
    uint32_t id_count;
    stream heard;
} worker;

typedef struct request {
    int64_t key;
    char id[ID_BYTES];
    int ends;
    bool withdrawn, removed;
    uint32_t times; /* that a worker has read it */
} request;

typedef struct client {
    int to, from;
    uint64_t asked, answered; /* lines that it said; responses that it got */
    stream heard;
} client;

static abk_bus *bus;
static worker workers[WORKERS];
static uint32_t worker_count;
static client clients[CLIENTS];
static request requests[REQUESTS];
static uint32_t request_count;
static bool forgives; /* an allocation failed: ends may be missing */
static char path[64]; /* of the listener; empty: there is none */

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- lines ----------------------------------------------------------------------------------- */

/* A frame of the input's choice; its serial is the number of the request, -1 for what is none.
 * It is an id twice, a member twice, and whatever else a client may do. */
static size_t make_line(char *line, size_t size, int64_t serial, char *id)
{
    static const char *const ids[] = {"1",   "2",    "1.0",   "\"1\"",   "\"\\u0031\"",
                                      "1e0", "null", "12345", "\"x y\"", "-0.0",
                                      "3",   "4",    "5"};
    static const char *const methods[] = {
        "echo",       "session/new",     "session/load",
        "bus/credit", "$/cancelRequest", "notifications/cancelled",
        "bus/status", "bus/session",     "bus/session_end",
        "bus/watch",  "bus/tap",         "bus/restart",
        "bus/resize", "bus/auth",        "$/cancel_request"};
    static const char *const extra[] = {"",
                                        ",\"id\":1",
                                        ",\"_meta\":{\"progressToken\":\"t\\u0031\"}",
                                        ",\"sessionId\":\"s\"",
                                        ",\"exclusive\":true,\"wait_s\":0.01,\"id\":\"s\"",
                                        ",\"events\":[\"worker_changed\",\"client\",\"line_bad\"]",
                                        ",\"instances\":2,\"pool\":\"a\"",
                                        ",\"requestId\":\"1\"",
                                        ",\"_meta\":{\"requestId\":1}"};
    static const char *const top[] = {"",
                                      ",\"sessionId\":\"s\"",
                                      ",\"pool\":\"a\"",
                                      ",\"pool\":\"b\"",
                                      ",\"sessionId\":\"t\",\"pool\":\"a\"",
                                      ",\"id\":\"again\"",
                                      ",\"sessionId\":7",
                                      ",\"method\":\"echo\""};
    const uint8_t shape = byte();
    const uint8_t pad = byte();
    const char *which = ids[shape % 13];
    const size_t padding = pad > 200 ? (size_t)(pad - 200) * 150 : 0;
    snprintf(id, ID_BYTES, "%s", which);
    int len;
    if (shape >= 240)
        len = snprintf(line, size, "{\"id\":%s,\"result\":{}}\n", which);
    else
        len = snprintf(
            line, size,
            "{\"jsonrpc\":\"2.0\"%s%s,\"method\":\"%s\",\"params\":{\"serial\":%lld%s}%s%*s}\n",
            (pad & 1) != 0 ? "" : ",\"id\":", (pad & 1) != 0 ? "" : which, methods[byte() % 15],
            (pad & 1) != 0 ? -1LL : (long long)serial, extra[byte() % 9], top[byte() % 8],
            (int)padding, "");
    return len < 0 || (size_t)len >= size ? 0 : (size_t)len;
}

/* --- workers --------------------------------------------------------------------------------- */

static void worker_die(worker *self)
{
    self->lives = false;
    close_one(&self->in);
    close_one(&self->out);
    close_one(&self->err);
    close_one(&self->exit);
}

static int spawn(const abk_order *order, abk_child *child, abk_spawn_error *error)
{
    int fds[4][2];
    (void)order;
    worker *self = NULL;
    for (uint32_t i = 0; i < WORKERS && self == NULL; i++)
        self = workers[i].lives ? NULL : &workers[i];
    const bool missing = below(16) == 1;
    if (self == NULL || missing) {
        *error = (abk_spawn_error){.number = missing ? ENOENT : EAGAIN,
                                   .step = missing ? "exec" : "fork",
                                   .permanent = missing};
        return ABK_ESYS;
    }
    worker_die(self); /* what is left of one before it */
    for (int i = 0; i < 4; i++) {
        MUST(pipe2(fds[i], O_CLOEXEC | O_NONBLOCK) == 0);
        fcntl(fds[i][0], F_SETPIPE_SZ, 4096);
    }
    self->lives = true;
    self->torn = false;
    self->id_count = 0;
    self->heard.len = 0;
    self->in = fds[0][0];
    self->out = fds[1][1];
    self->err = fds[2][1];
    self->exit = fds[3][1];
    *child =
        (abk_child){.pid = (pid_t)(0x40000000 + worker_count++), /* above any that there can be */
                    .pidfd = fds[3][0],
                    .in = fds[0][1],
                    .out = fds[1][0],
                    .err = fds[2][0]};
    return ABK_OK;
}

/* A whole line of a kernel's pipe: it is JSON, and no request of the host comes twice or after it
 * was removed. They say which they are in params.serial. */
static void worker_read_line(worker *self, const char *line, size_t len)
{
    static const abk_path path_ = {1, {{"serial", 6}}};
    abk_message m;
    MUST(abk_scan(line, len, &m) == ABK_OK);
    abk_value serial;
    if (m.params.kind == ABK_OBJECT && abk_scan_path(&m.params, &path_, &serial)) {
        const long number = strtol(serial.at, NULL, 10);
        if (number >= 0 && number < (long)request_count && m.method.kind == ABK_STRING) {
            request *which = &requests[number];
            MUST(++which->times == 1 && !which->removed);
        }
    }
    const abk_text id = abk_value_raw(&m.id);
    if (m.id.kind != ABK_ABSENT && id.len < ID_BYTES)
        snprintf(self->ids[self->id_count++ % IDS], ID_BYTES, "%.*s", (int)id.len, id.at);
}

static void worker_read(worker *self, size_t most)
{
    stream *heard = &self->heard;
    if (self->in < 0)
        return;
    const size_t room = sizeof heard->text - heard->len;
    const ssize_t got = read(self->in, heard->text + heard->len, most < room ? most : room);
    if (got <= 0)
        return;
    heard->len += (size_t)got;
    size_t from = 0;
    for (const char *end; (end = memchr(heard->text + from, '\n', heard->len - from)) != NULL;) {
        const size_t size = (size_t)(end - heard->text) + 1 - from;
        worker_read_line(self, heard->text + from, size);
        from += size;
    }
    memmove(heard->text, heard->text + from, heard->len - from);
    heard->len -= from;
    if (heard->len == sizeof heard->text)
        worker_die(self); /* a frame that is too long for this worker */
}

static void worker_write(worker *self, const char *at, size_t len)
{
    if (self->out >= 0 && len > 0 && write(self->out, at, len) < (ssize_t)len)
        self->torn = true;
}

/* --- what workers do -------------------------------------------------------------------------- */

static void worker_speak(worker *self)
{
    static char line[8192];
    const char *id = self->id_count > 0
                         ? self->ids[below(IDS) % (self->id_count < IDS ? self->id_count : IDS)]
                         : "\"anyio-bus/handshake\"";
    static const char *const results[] = {"{}", "{\"sessionId\":\"s\"}", "{\"sessionId\":\"made\"}",
                                          "null"};
    const uint8_t what = byte();
    const char *result = results[(what >> 4) & 3];
    int len;
    switch (what & 15) {
    case 0:
    case 1:
    case 2:
    case 3: len = snprintf(line, sizeof line, "{\"id\":%s,\"result\":%s}\n", id, result); break;
    case 4:
        len = snprintf(line, sizeof line, "{\"id\":%s,\"error\":{\"message\":\"no\"}}\n", id);
        break;
    case 5:
        len = snprintf(line, sizeof line,
                       "{\"method\":\"n\",\"params\":{\"_meta\":{\"requestId\":%s}}}\n", id);
        break;
    case 6:
        len = snprintf(line, sizeof line, "{\"method\":\"n\",\"params\":{\"progressToken\":%s}}\n",
                       id);
        break;
    case 7:
        len = snprintf(line, sizeof line,
                       "{\"id\":%u,\"method\":\"ask\",\"params\":{\"_meta\":{\"requestId\":%s}}}\n",
                       what >> 4, id);
        break;
    case 8:
        len = snprintf(line, sizeof line,
                       "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":%u}}\n", what >> 4);
        break;
    case 9:
        len = snprintf(line, sizeof line, "{\"method\":\"notifications/tools/list_changed\"}\n");
        break;
    case 10:
        len = snprintf(line, sizeof line, "{\"id\":%s,\"result\":\"%*s\"}\n", id, 3000, "");
        break;
    case 11: len = snprintf(line, sizeof line, "{\"method\":\"m\",\"sessionId\":\"s\"}\n"); break;
    case 12: len = snprintf(line, sizeof line, "{\"id\":%s,\"res", id); break;
    case 13: len = snprintf(line, sizeof line, "\n"); break;
    default: len = snprintf(line, sizeof line, "%*s\n", 100 + what, "x"); break;
    }
    worker_write(self, line, (size_t)len);
}

static void worker_act(void)
{
    worker *self = &workers[below(4)];
    const uint8_t what = byte();
    if (!self->lives)
        return;
    switch (what % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: worker_speak(self); break;
    case 5:
    case 6: worker_read(self, 65536); break;
    case 7: worker_read(self, what); break;
    case 8: {
        const abk_text text = raw();
        worker_write(self, text.at, text.len);
        break;
    }
    case 9: {
        const abk_text text = raw();
        if (self->err >= 0 && text.len > 0)
            (void)!write(self->err, text.at, text.len);
        break;
    }
    case 10: close_one(&self->out); break;
    case 11: close_one(&self->in); break;
    case 12: close_one(&self->err); break;
    case 13: close_one(&self->exit); break; /* gone, though something holds its pipes */
    case 14: worker_die(self); break;
    default:
        worker_read(self, 65536);
        worker_speak(self);
        break;
    }
}

/* --- clients --------------------------------------------------------------------------------- */

static void client_hear(client *self)
{
    stream *heard = &self->heard;
    const ssize_t got = self->from < 0 ? -1
                                       : read(self->from, heard->text + heard->len,
                                              sizeof heard->text - heard->len);
    if (got <= 0)
        return;
    heard->len += (size_t)got;
    size_t from = 0;
    for (const char *end; (end = memchr(heard->text + from, '\n', heard->len - from)) != NULL;) {
        const size_t size = (size_t)(end - heard->text) + 1 - from;
        abk_message m = {0};
        if (size < 1000 && !memmem(heard->text + from, size, "bus/", 4)) {
            MUST(abk_scan(heard->text + from, size, &m) == ABK_OK);
            self->answered += abk_role_of(&m) == ABK_RESPONSE;
        }
        from += size;
    }
    MUST(self->answered <= self->asked);
    memmove(heard->text, heard->text + from, heard->len - from);
    heard->len -= from;
    if (heard->len == sizeof heard->text)
        heard->len = 0; /* longer than it cares for */
}

static void client_connect(client *self)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    if (self->to >= 0 || path[0] == '\0')
        return;
    self->heard.len = 0;
    self->asked = self->answered = 0;
    self->to = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    MUST(self->to >= 0);
    self->from = dup(self->to);
    if (connect(self->to, (const struct sockaddr *)&address, sizeof address) < 0) {
        close_one(&self->to);
        close_one(&self->from);
    }
}

static void client_act(void)
{
    static char line[16384];
    char id[ID_BYTES];
    client *self = &clients[below(CLIENTS)];
    const uint8_t what = byte();
    switch (what % 12) {
    case 0:
        if (self != &clients[0])
            client_connect(self);
        break;
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6: {
        const size_t len = make_line(line, sizeof line, -1, id);
        self->asked++;
        if (self->to >= 0)
            (void)!write(self->to, line, len);
        break;
    }
    case 7: {
        const abk_text text = raw();
        for (uint32_t i = 0; i < text.len; i++)
            self->asked += text.at[i] == '\n';
        if (self->to >= 0)
            (void)!write(self->to, text.at, text.len);
        break;
    }
    case 8:
    case 9: client_hear(self); break;
    case 10:
        if (self->to >= 0 && self != &clients[0])
            shutdown(self->to, SHUT_WR);
        else
            close_one(&self->to);
        break;
    default:
        close_one(&self->to);
        close_one(&self->from);
        break;
    }
}

#endif
