/* What every module stands on: memory, the clock, system calls that tests can make fail, text. */
#ifndef ABK_BASE_H
#define ABK_BASE_H

#include "../include/abk.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

/* The value of a JSON number, whatever the locale is. text ends with a NUL. */
double abk_number(const char *text);

/* A range of bytes that somebody else owns. at may be NULL where len is 0. */
typedef struct abk_text {
    const char *at;
    uint32_t len;
} abk_text;

#define ABK_TEXT(literal) ((abk_text){(literal), (uint32_t)(sizeof(literal) - 1)})

static inline bool abk_same(abk_text a, abk_text b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

/* Memory. In tests (ABK_TEST) these count, and fail when asked to. size 0 is never passed. */
void *abk_alloc(size_t size);               /* zeroed; NULL when out of memory */
void *abk_realloc(void *old, size_t size);  /* new bytes are not zeroed; old may be NULL */
void abk_free(void *old);                   /* NULL is fine */
char *abk_copy(const char *at, size_t len); /* with a NUL behind it */

#define ABK_NEW(type) ((type *)abk_alloc(sizeof(type)))

/* Nanoseconds of CLOCK_MONOTONIC, and of the wall clock. */
uint64_t abk_now(void);
uint64_t abk_wall(void);
#define ABK_S UINT64_C(1000000000)
#define ABK_NEVER UINT64_MAX
/* Seconds as nanoseconds; what is too long is ABK_NEVER / 4, a negative one 0. */
uint64_t abk_ns(double seconds);

/* Fill *error (NULL is fine) and return code. number: the errno behind it, or 0. */
int abk_fail(abk_error *error, int code, int number, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* System calls that tests make fail: each returns what the real one does, and sets errno. */
ssize_t abk_sys_read(int fd, void *at, size_t len);
ssize_t abk_sys_write(int fd, const void *at, size_t len);
ssize_t abk_sys_writev(int fd, const struct iovec *parts, int count);
int abk_sys_pipe2(int fds[2], int flags);
int abk_sys_accept(int fd); /* O_CLOEXEC and O_NONBLOCK at birth */
int abk_sys_close(int fd);
pid_t abk_sys_clone(int (*child)(void *), void *stack_top, void *argument); /* as vfork does */
pid_t abk_sys_getpid(void);

/* Tells a process from its forks without a system call: a page that is zero in a child (Linux 4.14);
 * where there is none, getpid() does. */
typedef struct abk_witness {
    volatile uint32_t *page;
    pid_t owner;
} abk_witness;
void abk_witness_init(abk_witness *witness);
bool abk_witness_same(const abk_witness *witness);
void abk_witness_free(abk_witness *witness);

/* Give memory that was freed back to the system, where the C library keeps it. */
void abk_trim(void);

/* 64 bits that nobody can guess; 0 where the system has none to give. */
uint64_t abk_random(void);

#ifdef ABK_TEST
struct abk_order;
struct abk_child;
struct abk_spawn_error;

/* The one piece of global state, in test builds alone. */
typedef struct abk_test_hooks {
    uint64_t allocations;   /* calls of abk_alloc and abk_realloc so far */
    uint64_t fail_alloc_at; /* the call with this number fails, and those after it; 0: none */
    uint64_t fail_allocs;   /* so many of them; 0: all */
    /* Asked before each system call; < 0: set errno to its negative and return -1. n >= 0 limits the
     * bytes of a read or write to n; INT_MAX: do it. name is "read" for abk_sys_read, and so on. */
    int (*before)(const char *name, int fd);
    uint64_t later; /* nanoseconds that abk_now() is ahead of the clock */
    /* Instead of abk_spawn_child(); NULL: real processes. */
    int (*spawn)(const struct abk_order *order, struct abk_child *child,
                 struct abk_spawn_error *error);
} abk_test_hooks;
extern abk_test_hooks abk_test;
#endif

#endif
