/* What the floor programs share: a growing buffer, whole reads and writes, a spawn, a JSON walk.
 *
 * Every function that can fail for want of memory or because of a broken descriptor ends the
 * program with one line on stderr: these are measuring instruments, a half-result is no result.
 */
#ifndef FLOOR_COMMON_H
#define FLOOR_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FLOOR_READ_BYTES = 65536 }; /* the capacity of a Linux pipe as it is made */

/* Invariant: len <= cap, and data is NULL only while cap is 0. */
typedef struct {
    char *data;
    size_t len;
    size_t cap;
} floor_buffer;

/* A range of somebody else's bytes; at is NULL where the thing is absent. */
typedef struct {
    const char *at;
    size_t len;
} floor_span;

typedef struct {
    const char *at;
    const char *end;
} floor_walk;

typedef struct {
    pid_t pid;
    int to;   /* its stdin, our end */
    int from; /* its stdout, our end */
} floor_child;

_Noreturn void floor_die(const char *what); /* prints what and errno, exits 1 */

void floor_reserve(floor_buffer *buffer, size_t extra); /* room for extra more bytes; doubles */
void floor_append(floor_buffer *buffer, const char *bytes, size_t len);
void floor_append_text(floor_buffer *buffer, const char *text);
void floor_append_decimal(floor_buffer *buffer, uint64_t value);
void floor_drop(floor_buffer *buffer, size_t len); /* forget the first len bytes */

/* Read once, at least 64 KiB offered. Returns the bytes read, 0 at the end of the file. */
size_t floor_read(int fd, floor_buffer *buffer);
void floor_write_all(int fd, const char *bytes, size_t len);
void floor_set_nonblocking(int fd);
void floor_wait(int fd, short events);

/* The command gets pipes for stdin and stdout and shares our stderr. */
floor_child floor_spawn(char *const argv[]);
int floor_reap(pid_t pid); /* waits; the exit code, or 128 + the signal */

/* Walk the members of a JSON object: open, then next until it returns 0 (end) or -1 (malformed).
 * Keys come without their quotes and with their escapes, values as they are spelled. */
bool floor_open(floor_walk *walk, floor_span object);
int floor_next(floor_walk *walk, floor_span *key, floor_span *value);
bool floor_is(floor_span span, const char *text);
bool floor_decimal(floor_span span, uint64_t *value);

#endif
