/* The log of the daemon: lines of text or JSON on stderr, which never make it wait.
 *
 *   2026-11-29T10:00:00.123Z INFO  worker=3 pool=echo worker_ready: pid 4711
 *   {"time":"...","level":"info","event":"worker_ready","pool":"echo","worker":3,"text":"pid 4711"}
 *
 * Lines go to a buffer of 64 KiB, and from there to stderr as far as it takes them. One that does
 * not fit is dropped and counted, and a line says how many were once there is room again.
 *
 * O_NONBLOCK is never set on stderr itself: it belongs to an open file that others may share, a
 * terminal or the pipe of a whole shell script. A pipe or terminal is opened anew instead, a socket
 * is sent to with MSG_DONTWAIT, and where neither works it is asked before each small write.
 */
#ifndef ABKD_LOG_H
#define ABKD_LOG_H

#include <abk.h>

enum { ABKD_LOG_BYTES = 64 * 1024, ABKD_LINE_BYTES = 8 * 1024 };

typedef struct abkd_log {
    int fd;
    bool opened; /* fd is ours to close */
    bool asked;  /* poll before each write, of at most PIPE_BUF bytes */
    bool socket;
    bool json;
    bool colour;
    int level;        /* less than this is not written */
    uint64_t dropped; /* lines, since the last that said so */
    size_t len;
    char held[ABKD_LOG_BYTES];
} abkd_log;

typedef struct abkd_entry {
    int level;         /* ABK_LOG_... */
    const char *event; /* its stable name */
    const char *pool;  /* NULL: none */
    int32_t worker;    /* -1: none */
    const char *text;
    size_t len;
} abkd_entry;

void abkd_log_open(abkd_log *log, int fd, int level, bool json);

/* Text may have anything in it: control characters are shown as \n, \x1b and so on; a line of more
 * than ABKD_LINE_BYTES is cut and ends with "...". */
void abkd_log_write(abkd_log *log, const abkd_entry *entry);
void abkd_log_say(abkd_log *log, int level, const char *event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Write what is held; true if something is left, because stderr is full. */
bool abkd_log_flush(abkd_log *log);

/* Flush for at most wait_ms, and close what was opened. */
void abkd_log_close(abkd_log *log, int wait_ms);

#endif
