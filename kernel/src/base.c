/* Memory, clock, system calls and errors: see base.h. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/random.h>
#endif
#ifdef __APPLE__
#include <xlocale.h>
#endif

#ifdef ABK_TEST
abk_test_hooks abk_test;

static bool no_memory(void)
{
    const uint64_t call = ++abk_test.allocations;
    return abk_test.fail_alloc_at != 0 && call >= abk_test.fail_alloc_at &&
           (abk_test.fail_allocs == 0 || call - abk_test.fail_alloc_at < abk_test.fail_allocs);
}

/* How many bytes a call may move; -1 with errno set where it is to fail. */
static int allowed(const char *name, int fd)
{
    const int said = abk_test.before == NULL ? INT_MAX : abk_test.before(name, fd);
    if (said >= 0)
        return said;
    errno = -said;
    return -1;
}
#define ALLOWED(name, fd) allowed(name, fd)
#define LATER abk_test.later
#else
#define no_memory() false
#define ALLOWED(name, fd) INT_MAX
#define LATER 0
#endif

void *abk_alloc(size_t size) { return no_memory() ? NULL : calloc(1, size); }
void *abk_realloc(void *old, size_t size) { return no_memory() ? NULL : realloc(old, size); }
void abk_free(void *old) { free(old); }

char *abk_copy(const char *at, size_t len)
{
    char *copy = abk_alloc(len + 1);
    if (copy != NULL && len > 0)
        memcpy(copy, at, len);
    return copy;
}

static uint64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * ABK_S + (uint64_t)time.tv_nsec;
}

uint64_t abk_now(void) { return read_clock(CLOCK_MONOTONIC) + LATER; }
uint64_t abk_wall(void) { return read_clock(CLOCK_REALTIME); }

uint64_t abk_ns(double seconds)
{
    if (!(seconds > 0))
        return 0;
    return seconds > 1e9 ? ABK_NEVER / 4 : (uint64_t)(seconds * 1e9);
}

int abk_fail(abk_error *error, int code, int number, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        error->code = code;
        error->number = number;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return code;
}

ssize_t abk_sys_read(int fd, void *at, size_t len)
{
    const int most = ALLOWED("read", fd);
    if (most < 0)
        return -1;
    return read(fd, at, len < (size_t)most ? len : (size_t)most);
}

ssize_t abk_sys_write(int fd, const void *at, size_t len)
{
    const int most = ALLOWED("write", fd);
    if (most < 0)
        return -1;
    return write(fd, at, len < (size_t)most ? len : (size_t)most);
}

ssize_t abk_sys_writev(int fd, const struct iovec *parts, int count)
{
    const int most = ALLOWED("writev", fd);
    if (most < 0)
        return -1;
    if (most < INT_MAX) {
        const size_t len = parts[0].iov_len;
        return write(fd, parts[0].iov_base, len < (size_t)most ? len : (size_t)most);
    }
    return writev(fd, parts, count);
}

int abk_sys_close(int fd) { return close(fd); }
pid_t abk_sys_getpid(void) { return getpid(); }

static int set_flags(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -1 : 0;
}

int abk_sys_pipe2(int fds[2], int flags)
{
    if (ALLOWED("pipe2", -1) < 0)
        return -1;
#ifdef __linux__
    return pipe2(fds, flags);
#else
    if (pipe(fds) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        if ((flags & O_NONBLOCK) != 0)
            fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
#endif
}

int abk_sys_accept(int fd)
{
    if (ALLOWED("accept", fd) < 0)
        return -1;
#ifdef __linux__
    (void)set_flags;
    return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    const int taken = accept(fd, NULL, NULL);
    if (taken >= 0)
        set_flags(taken);
    return taken;
#endif
}

pid_t abk_sys_clone(int (*child)(void *), void *stack_top, void *argument)
{
    if (ALLOWED("clone", -1) < 0)
        return -1;
#if defined(__linux__) && !defined(ABK_FORK)
    return clone(child, stack_top, CLONE_VM | CLONE_VFORK | SIGCHLD, argument);
#else
    (void)stack_top;
    const pid_t pid = fork();
    if (pid == 0)
        _exit(child(argument));
    return pid;
#endif
}

uint64_t abk_random(void)
{
    uint64_t bits = 0;
#ifdef __linux__
    if (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits)
        bits = 0;
#else
    arc4random_buf(&bits, sizeof bits);
#endif
    return bits;
}

/* --- forks ----------------------------------------------------------------------------------- */

void abk_witness_init(abk_witness *witness)
{
    *witness = (abk_witness){.owner = abk_sys_getpid()};
#ifdef MADV_WIPEONFORK
    const size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    if (madvise(page, size, MADV_WIPEONFORK) < 0) {
        munmap(page, size);
        return;
    }
    witness->page = page;
    *witness->page = 1;
#endif
}

bool abk_witness_same(const abk_witness *witness)
{
    return witness->page != NULL ? *witness->page != 0 : witness->owner == abk_sys_getpid();
}

void abk_witness_free(abk_witness *witness)
{
#ifdef MADV_WIPEONFORK
    if (witness->page != NULL)
        munmap((void *)(uintptr_t)witness->page, (size_t)sysconf(_SC_PAGESIZE));
#endif
    witness->page = NULL;
}

void abk_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

double abk_number(const char *text)
{
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0)
        return strtod(text, NULL); /* for want of memory; where "C" is built in there is no such want */
    const double number = strtod_l(text, NULL, plain);
    freelocale(plain);
    return number;
}
