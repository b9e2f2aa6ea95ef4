/* The worker of the tests: what it does stands in the methods of its requests, and, for what
 * happens before the first of them, in its arguments. Requests are {"id", "method", "params":
 * {...}}. */
#include "../src/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_HELD = 4096, ID_BYTES = 128 };

static char held[MOST_HELD][ID_BYTES]; /* ids of requests that wait for "go" */
static int held_count;
static char asked_for[ID_BYTES]; /* the request that waits for the client's answer */
static bool mute, refuses;

/* --- writing --------------------------------------------------------------------------------- */

static void put(const char *at, size_t len)
{
    while (len > 0) {
        const ssize_t n = write(1, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0);
        at += n;
        len -= (size_t)n;
    }
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    static char text[1 << 20];
    va_list arguments;
    va_start(arguments, format);
    const int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(text, (size_t)len);
}

static void answer(const char *id, const char *result)
{
    say("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n", id, result);
}

/* --- reading params -------------------------------------------------------------------------- */

static bool member(const abk_message *m, const char *name, abk_value *found)
{
    const abk_path path = {1, {{name, (uint32_t)strlen(name)}}};
    return m->params.kind == ABK_OBJECT && abk_scan_path(&m->params, &path, found);
}

static long number(const abk_message *m)
{
    abk_value value;
    return member(m, "n", &value) ? strtol(value.at, NULL, 10) : 0;
}

static const char *text(const abk_message *m, char *out, size_t size)
{
    abk_value value;
    if (!member(m, "text", &value) || value.kind != ABK_STRING)
        value = (abk_value){.at = ""};
    snprintf(out, size, "%.*s", (int)value.len, value.at);
    return out;
}

/* --- methods --------------------------------------------------------------------------------- */

static void go(void)
{
    static char lines[MOST_HELD * (ID_BYTES + 40)]; /* one write */
    size_t len = 0;
    for (int i = 0; i < held_count; i++)
        len += (size_t)sprintf(lines + len, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":\"went\"}\n", held[i]);
    put(lines, len);
    held_count = 0;
}

static void cancelled(const abk_message *m)
{
    abk_value id;
    if (!member(m, "id", &id) && !member(m, "requestId", &id))
        return;
    const abk_text raw = abk_value_raw(&id);
    for (int i = 0; i < held_count; i++) {
        if (strlen(held[i]) != raw.len || memcmp(held[i], raw.at, raw.len) != 0)
            continue;
        say("{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":-32800,\"message\":\"cancelled\"}}"
            "\n",
            held[i]);
        memmove(held[i], held[i + 1], (size_t)(held_count - i - 1) * ID_BYTES);
        held_count--;
        return;
    }
}

/* One that outlives its group: it holds stdout and says something now and then. */
static void escape(void)
{
    int out[2];
    char byte;
    if (pipe(out) < 0)
        _exit(9);
    if (fork() == 0) {
        setsid();
        close(out[0]);
        close(out[1]);
        for (int i = 0; i < 200; i++) {
            say("{\"jsonrpc\":\"2.0\",\"method\":\"escaped\",\"params\":{\"n\":%d}}\n", i);
            usleep(10000);
        }
        _exit(0);
    }
    close(out[1]);
    _exit(read(out[0], &byte, 1) == 0 ? 0 : 9); /* it is out of the group now */
}

static void big(const char *id, long n)
{
    char *much = malloc((size_t)n + 1);
    if (much == NULL)
        _exit(9);
    memset(much, 'x', (size_t)n);
    say("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":\"", id);
    put(much, (size_t)n);
    say("\"}\n");
    free(much);
}

static void flood(const char *id, long n)
{
    for (long i = 0; i < n; i++)
        say("{\"jsonrpc\":\"2.0\",\"method\":\"chunk\",\"params\":{\"_meta\":{\"requestId\":%s},"
            "\"n\":%ld}}\n",
            id, i);
    answer(id, "\"flooded\"");
}

/* What is no message: empty lines. */
static void babble(const char *id, long n)
{
    static char bytes[1 << 16];
    memset(bytes, '\n', sizeof bytes);
    for (long i = 0; i < n; i++)
        put(bytes, sizeof bytes);
    answer(id, "1");
}

/* Long notifications. */
static void holler(const char *id, long n)
{
    static char words[50000];
    memset(words, 'x', sizeof words - 1);
    for (long i = 0; i < n; i++)
        say("{\"method\":\"holler\",\"params\":{\"text\":\"%s\"}}\n", words);
    answer(id, "1");
}

/* Bad lines, as short as can be, at once. */
static void rave(const char *id, long n)
{
    static char lines[400000];
    const size_t size = n > 0 ? 2 * (size_t)n : 1000;
    for (size_t i = 0; i < size; i++)
        lines[i] = i % 2 == 0 ? 'x' : '\n';
    put(lines, size);
    answer(id, "1");
}

/* A line that is too long. */
static void drone(const char *id, long n)
{
    static char bytes[1 << 16];
    memset(bytes, 'x', sizeof bytes);
    for (long i = 0; i < n; i++)
        put(bytes, sizeof bytes);
    say("\n");
    answer(id, "1");
}

static void one_by_one(const char *id)
{
    char line[256];
    snprintf(line, sizeof line, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":\"slow\"}\n", id);
    for (const char *at = line; *at != '\0'; at++)
        put(at, 1);
}

static void tell_fds(const char *id)
{
    char list[128] = "\"";
    for (int fd = 0; fd < 256; fd++) {
        const size_t at = strlen(list);
        if (fcntl(fd, F_GETFD) >= 0 && at < sizeof list - 8)
            snprintf(list + at, sizeof list - at, "%d ", fd);
    }
    strcat(list, "\"");
    answer(id, list);
}

/* Those that end the process, or a pipe; false: none of them. */
static bool end_somehow(const char *method, const char *id, const abk_message *m)
{
    if (strcmp(method, "exit") == 0)
        _exit((int)number(m));
    if (strcmp(method, "raise") == 0)
        raise((int)number(m));
    else if (strcmp(method, "escape") == 0)
        escape();
    else if (strcmp(method, "half") == 0) {
        say("{\"jsonrpc\":\"2.0\",\"id\":%s,\"res", id);
        _exit(0);
    } else if (strcmp(method, "close_stdout") == 0)
        close(1);
    else if (strcmp(method, "close_stdin") == 0) {
        close(0);
        answer(id, "\"closed\"");
        pause();
    } else if (strcmp(method, "never_read") == 0) {
        answer(id, "\"deaf\"");
        for (;;)
            pause();
    } else
        return false;
    return true;
}

/* Lines that begin as those of chunks do, or nearly; the first three are such. */
static const char *const framings[] = {
    ABK_CHUNK_START "{\"text\":\"a\"}" ABK_CHUNK_END "\n",
    ABK_CHUNK_START "{}" ABK_CHUNK_END "\n",
    ABK_CHUNK_START "{ \"a\" : [{}, \"}\"] }" ABK_CHUNK_END "\n",
    ABK_CHUNK_START "{},\"id\":1}\n",
    ABK_CHUNK_START "{},\"sessionId\":\"s\"}\n",
    ABK_CHUNK_START "{},\"params\":{}}\n",
    ABK_CHUNK_START "{} }\n",
    ABK_CHUNK_START "{}} \n",
    ABK_CHUNK_START "{}}\r\n",
    ABK_CHUNK_START " {}}\n",
    ABK_CHUNK_START "[]}\n",
    "{\"jsonrpc\":\"2.0\", \"method\":\"chunk\",\"params\":{}}\n",
    "{\"method\":\"chunk\",\"params\":{}}\n",
};

/* Those that say something; false: none of them. */
static bool speak(const char *method, const char *id, const abk_message *m)
{
    char words[512];
    char quoted[600];
    if (strcmp(method, "garbage") == 0) {
        say("nonsense\n[1]\n{}\n\n{\"id\":true,\"result\":1}\n");
        answer(id, "\"good\"");
    } else if (strcmp(method, "big") == 0)
        big(id, number(m));
    else if (strcmp(method, "babble") == 0)
        babble(id, number(m));
    else if (strcmp(method, "holler") == 0)
        holler(id, number(m));
    else if (strcmp(method, "rave") == 0)
        rave(id, number(m));
    else if (strcmp(method, "drone") == 0)
        drone(id, number(m));
    else if (strcmp(method, "flood") == 0)
        flood(id, number(m));
#ifdef F_GETPIPE_SZ
    else if (strcmp(method, "pipes") == 0) {
        snprintf(words, sizeof words, "\"%d %d\"", fcntl(0, F_GETPIPE_SZ), fcntl(1, F_GETPIPE_SZ));
        answer(id, words);
    }
#endif
    else if (strcmp(method, "framing") == 0)
        say("%s%s", framings[number(m)], framings[number(m)]);
    else if (strcmp(method, "slow") == 0)
        one_by_one(id);
    else if (strcmp(method, "stray") == 0) {
        say("{\"id\":\"nobody\",\"result\":1}\n{\"id\":null,\"error\":{}}\n");
        answer(id, "1");
    } else if (strcmp(method, "note") == 0) {
        say("{\"jsonrpc\":\"2.0\",\"method\":\"note\",\"params\":{}}\n");
        answer(id, "1");
    } else if (strcmp(method, "broadcast") == 0) {
        say("{\"method\":\"notifications/tools/list_changed\"}\n");
        answer(id, "1");
    } else if (strcmp(method, "of_session") == 0) {
        say("{\"method\":\"of_session\",\"params\":{\"sessionId\":\"%s\"}}\n",
            text(m, words, sizeof words));
        answer(id, "1");
    } else if (strcmp(method, "ask_and_cancel") == 0) {
        say("{\"id\":\"w2\",\"method\":\"question\",\"params\":{\"_meta\":{\"requestId\":%s}}}\n"
            "{\"method\":\"$/cancelRequest\",\"params\":{\"id\":\"w2\"}}\n",
            id);
        answer(id, "1");
    } else if (strcmp(method, "bus/credit") == 0) {
        abk_value of;
        if (member(m, "id", &of))
            say("{\"method\":\"credited\",\"params\":{\"_meta\":{\"requestId\":%.*s}}}\n",
                (int)abk_value_raw(&of).len, abk_value_raw(&of).at);
    } else if (strcmp(method, "ask") == 0) {
        snprintf(asked_for, sizeof asked_for, "%s", id);
        say("{\"jsonrpc\":\"2.0\",\"id\":\"w1\",\"method\":\"question\",\"params\":"
            "{\"_meta\":{\"requestId\":%s}}}\n",
            id);
    } else if (strcmp(method, "stderr") == 0) {
        fprintf(stderr, "%s\n", text(m, words, sizeof words));
        answer(id, "1");
    } else if (strcmp(method, "fds") == 0)
        tell_fds(id);
    else if (strcmp(method, "env") == 0) {
        const char *value = getenv(text(m, words, sizeof words));
        snprintf(quoted, sizeof quoted, value == NULL ? "null" : "\"%.500s\"", value);
        answer(id, quoted);
    } else if (strcmp(method, "cwd") == 0) {
        snprintf(quoted, sizeof quoted, "\"%s\"", getcwd(words, sizeof words));
        answer(id, quoted);
    } else if (strcmp(method, "session/new") == 0) {
        snprintf(quoted, sizeof quoted, "{\"sessionId\":\"%.500s\"}", text(m, words, sizeof words));
        answer(id, quoted);
    } else
        return false;
    return true;
}

static void take(const char *line, size_t len)
{
    abk_message m;
    char id[ID_BYTES] = "null";
    char method[64];
    if (abk_scan(line, len, &m) != ABK_OK)
        _exit(7);
    const abk_text raw = m.id.kind == ABK_ABSENT ? ABK_TEXT("null") : abk_value_raw(&m.id);
    snprintf(id, sizeof id, "%.*s", (int)raw.len, raw.at);
    if (m.method.kind != ABK_STRING) {
        if (m.result.kind != ABK_ABSENT)
            answer(asked_for, "\"heard\"");
        else
            answer(asked_for, "\"refused\"");
        return;
    }
    snprintf(method, sizeof method, "%.*s", (int)m.method.len, m.method.at);
    if (strcmp(method, "initialize") == 0 && mute)
        return;
    if (strcmp(method, "initialize") == 0 && refuses) {
        say("{\"id\":%s,\"error\":{\"code\":1,\"message\":\"not you\"}}\n", id);
        return;
    }
    if (strcmp(method, "hold") == 0 && held_count < MOST_HELD)
        memcpy(held[held_count++], id, sizeof id);
    else if (strcmp(method, "go") == 0)
        go();
    else if (strncmp(method, "$/cancel", 8) == 0 || strcmp(method, "notifications/cancelled") == 0)
        cancelled(&m);
    else if (strcmp(method, "stuck") == 0 || end_somehow(method, id, &m) || speak(method, id, &m))
        return;
    if (m.id.kind != ABK_ABSENT && strcmp(method, "hold") != 0)
        answer(id, "\"done\"");
}

/* --- the whole ------------------------------------------------------------------------------- */

static void on_start(const char *argument)
{
    if (strncmp(argument, "exit=", 5) == 0)
        _exit(atoi(argument + 5));
    if (strcmp(argument, "cry") == 0) {
        fprintf(stderr, "I cannot\n");
        _exit(1);
    }
    if (strcmp(argument, "mute") == 0)
        mute = true;
    if (strcmp(argument, "refuse") == 0)
        refuses = true;
    if (strcmp(argument, "stubborn") == 0)
        signal(SIGTERM, SIG_IGN);
    if (strncmp(argument, "once=", 5) == 0) { /* the first of its kind dies, those after it live */
        const int fd = open(argument + 5, O_CREAT | O_EXCL, 0600);
        if (fd >= 0)
            _exit(1);
    }
}

int main(int argc, char **argv)
{
    static char buffer[1 << 21];
    size_t len = 0;
    bool stays = false;
    long late = 0; /* answers that nobody waits for, when its input has ended */
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "late=", 5) == 0)
            late = atol(argv[i] + 5);
        on_start(argv[i]);
        stays = stays || strcmp(argv[i], "stubborn") == 0 || strcmp(argv[i], "stays") == 0;
    }
    for (ssize_t got; (got = read(0, buffer + len, sizeof buffer - len)) > 0;) {
        len += (size_t)got;
        size_t from = 0;
        for (char *end; (end = memchr(buffer + from, '\n', len - from)) != NULL;) {
            const size_t size = (size_t)(end - buffer) - from + 1;
            take(buffer + from, size);
            from += size;
        }
        memmove(buffer, buffer + from, len - from);
        len -= from;
    }
    while (late-- > 0)
        answer("\"late\"", "\"for nobody, though its worker cannot know that\"");
    while (stays)
        pause();
    return 0;
}
