/* The log: see log.h. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_END = 32, NAME_BYTES = 256 }; /* kept free for the end of a line; longest pool name */

/* --- one line --------------------------------------------------------------------------------- */

typedef struct line {
    size_t len;
    size_t limit; /* what may be put; more is cut */
    bool cut;
    char at[ABKD_LINE_BYTES];
} line;

static void put(line *to, const char *bytes, size_t len)
{
    if (to->cut || len > to->limit - to->len) {
        to->cut = true;
        return;
    }
    memcpy(to->at + to->len, bytes, len);
    to->len += len;
}

static void put_text(line *to, const char *text) { put(to, text, strlen(text)); }

__attribute__((format(printf, 2, 3))) static void put_format(line *to, const char *format, ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_text(to, text);
}

/* The length of the UTF-8 character at the front, and its code; 0 if there is none. */
static size_t read_character(const unsigned char *at, size_t len, unsigned *code)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t size = at[0] < 0x80 ? 1
                        : (at[0] & 0xe0) == 0xc0 ? 2
                        : (at[0] & 0xf0) == 0xe0 ? 3
                        : (at[0] & 0xf8) == 0xf0 ? 4
                                                 : 0;
    if (size == 0 || size > len)
        return 0;
    *code = size == 1 ? at[0] : at[0] & (0xffU >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (at[i] & 0x3f);
    }
    const bool surrogate = *code >= 0xd800 && *code < 0xe000;
    return *code < least[size] || *code > 0x10ffff || surrogate ? 0 : size;
}

/* Controls cannot reach a terminal, nor break a line in two. */
static void put_plain(line *to, const char *text, size_t len)
{
    const unsigned char *at = (const unsigned char *)text, *const end = at + len;
    while (at < end && !to->cut) {
        unsigned code = 0;
        const size_t size = read_character(at, (size_t)(end - at), &code);
        if (size == 0)
            put_format(to, "\\x%02x", at[0]);
        else if (code == '\n')
            put_text(to, "\\n");
        else if (code != '\t' && (code < ' ' || (code >= 0x7f && code < 0xa0)))
            put_format(to, "\\x%02x", code);
        else
            put(to, (const char *)at, size);
        at += size == 0 ? 1 : size;
    }
}

static void put_json(line *to, const char *text, size_t len)
{
    const unsigned char *at = (const unsigned char *)text, *const end = at + len;
    while (at < end && !to->cut) {
        unsigned code = 0;
        const size_t size = read_character(at, (size_t)(end - at), &code);
        if (size == 0)
            put_text(to, "\\ufffd");
        else if (code == '"' || code == '\\')
            put_format(to, "\\%c", (int)code);
        else if (code == '\n')
            put_text(to, "\\n");
        else if (code < ' ' || (code >= 0x7f && code < 0xa0))
            put_format(to, "\\u%04x", code);
        else
            put(to, (const char *)at, size);
        at += size == 0 ? 1 : size;
    }
}

static void put_time(line *to)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char text[32];
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    put_text(to, text);
    put_format(to, ".%03ldZ", now.tv_nsec / 1000000);
}

static size_t name_length(const char *name)
{
    const size_t len = strlen(name);
    return len < NAME_BYTES ? len : NAME_BYTES;
}

static const char level_names[][8] = {"debug", "info", "warning", "error"};

static void put_text_line(line *to, const abkd_entry *entry, bool colour)
{
    static const char shown[][8] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
    static const char colours[][8] = {"\x1b[2m", "", "\x1b[33m", "\x1b[31m"};
    const bool coloured = colour && colours[entry->level][0] != '\0';
    put_time(to);
    put_text(to, " ");
    if (coloured)
        put_text(to, colours[entry->level]);
    put_text(to, shown[entry->level]);
    if (coloured)
        put_text(to, "\x1b[0m");
    if (entry->worker >= 0)
        put_format(to, " worker=%d", (int)entry->worker);
    if (entry->pool != NULL) {
        put_text(to, " pool=");
        put_plain(to, entry->pool, name_length(entry->pool));
    }
    put_text(to, " ");
    put_text(to, entry->event);
    put_text(to, ": ");
    put_plain(to, entry->text, entry->len);
}

static void put_json_line(line *to, const abkd_entry *entry)
{
    put_text(to, "{\"time\":\"");
    put_time(to);
    put_format(to, "\",\"level\":\"%s\"", level_names[entry->level]);
    put_text(to, ",\"event\":\"");
    put_text(to, entry->event);
    put_text(to, "\"");
    if (entry->pool != NULL) {
        put_text(to, ",\"pool\":\"");
        put_json(to, entry->pool, name_length(entry->pool));
        put_text(to, "\"");
    }
    if (entry->worker >= 0)
        put_format(to, ",\"worker\":%d", (int)entry->worker);
    put_text(to, ",\"text\":\"");
    put_json(to, entry->text, entry->len);
}

/* Append one line; false where it does not fit. */
static bool hold(abkd_log *log, const abkd_entry *entry)
{
    line made;
    made.len = 0;
    made.limit = sizeof made.at - LINE_END;
    made.cut = false;
    if (log->json)
        put_json_line(&made, entry);
    else
        put_text_line(&made, entry, log->colour);
    const bool cut = made.cut;
    made.limit = sizeof made.at;
    made.cut = false;
    put_text(&made, cut ? "..." : "");
    put_text(&made, log->json ? "\"}\n" : "\n");
    if (made.len > sizeof log->held - log->len)
        return false;
    memcpy(log->held + log->len, made.at, made.len);
    log->len += made.len;
    return true;
}

/* --- out -------------------------------------------------------------------------------------- */

void abkd_log_open(abkd_log *log, int fd, int level, bool json)
{
    struct stat is;
    memset(log, 0, offsetof(abkd_log, held));
    log->fd = fd;
    log->level = level;
    log->json = json;
    if (fstat(fd, &is) < 0)
        return;
    const bool terminal = S_ISCHR(is.st_mode) && isatty(fd) == 1;
    const char *plain = getenv("NO_COLOR");
    log->colour = terminal && !json && (plain == NULL || plain[0] == '\0');
    log->socket = S_ISSOCK(is.st_mode);
    if (!S_ISFIFO(is.st_mode) && !terminal)
        return;
    int anew = -1;
#ifdef __linux__
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    anew = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
#endif
    log->asked = anew < 0; /* it belongs to another user, or this is no Linux */
    log->opened = anew >= 0;
    log->fd = log->opened ? anew : fd;
}

/* Hold the line that says how many were dropped, if there are any and it fits. */
static void tell_dropped(abkd_log *log)
{
    if (log->dropped == 0)
        return;
    char text[64];
    const int len =
        snprintf(text, sizeof text, "%llu log line%s dropped", (unsigned long long)log->dropped,
                 log->dropped == 1 ? " was" : "s were");
    const abkd_entry entry = {.level = ABK_LOG_WARNING, .event = "log_dropped", .worker = -1,
                              .text = text, .len = (size_t)len};
    if (hold(log, &entry))
        log->dropped = 0;
}

void abkd_log_write(abkd_log *log, const abkd_entry *entry)
{
    if (entry->level < log->level || entry->level > ABK_LOG_ERROR)
        return;
    if (log->dropped > 0)
        abkd_log_flush(log);
    if (log->dropped == 0 && (hold(log, entry) || (!abkd_log_flush(log) && hold(log, entry))))
        return;
    log->dropped++;
}

void abkd_log_say(abkd_log *log, int level, const char *event, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    const int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const size_t whole = len < 0 ? 0 : (size_t)len;
    abkd_log_write(log, &(abkd_entry){.level = level, .event = event, .worker = -1, .text = text,
                                      .len = whole < sizeof text ? whole : sizeof text - 1});
}

static ssize_t write_some(abkd_log *log)
{
    if (log->socket)
        return send(log->fd, log->held, log->len, MSG_DONTWAIT);
    size_t len = log->len;
    if (log->asked) {
        struct pollfd room = {.fd = log->fd, .events = POLLOUT};
        if (poll(&room, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        len = len < PIPE_BUF ? len : PIPE_BUF;
    }
    return write(log->fd, log->held, len);
}

bool abkd_log_flush(abkd_log *log)
{
    while (log->len > 0 || log->dropped > 0) {
        if (log->len == 0)
            tell_dropped(log);
        const ssize_t written = write_some(log);
        if (written >= 0) {
            log->len -= (size_t)written;
            memmove(log->held, log->held + written, log->len);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return true;
        } else if (errno != EINTR) { /* nobody reads it any more, or the disk is full */
            log->len = 0;
            log->dropped = 0;
        }
    }
    return false;
}

void abkd_log_close(abkd_log *log, int wait_ms)
{
    struct pollfd room = {.fd = log->fd, .events = POLLOUT};
    for (; abkd_log_flush(log) && wait_ms > 0; wait_ms -= 10)
        poll(&room, 1, 10);
    if (log->opened)
        close(log->fd);
    log->opened = false;
}
