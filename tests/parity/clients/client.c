/* A client with nothing but POSIX: what comes on stdin is said to the daemon, and what the daemon says
 * is written to stdout, whole lines as they are.
 *
 *     client unix PATH | tcp PORT
 *
 * At the end of stdin it asks for nothing more, and ends with the daemon's word. Exit code 1: the
 * daemon is not there, or what it said last was no whole line; 2: wrong use. */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINE_MOST = 1 << 20 };

typedef struct {
    char bytes[LINE_MOST];
    size_t len;
} line_buffer;

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

static int connect_tcp(const char *port)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)atoi(port)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

static bool write_all(int fd, const char *at, size_t len)
{
    while (len > 0) {
        const ssize_t wrote = write(fd, at, len);
        if (wrote < 0)
            return false;
        at += wrote;
        len -= (size_t)wrote;
    }
    return true;
}

/* Read what is there and pass its whole lines on; 0 at the end, -1 if it cannot be passed on. */
static int pass(int from, int to, line_buffer *lines)
{
    if (lines->len == sizeof lines->bytes)
        return -1;
    const ssize_t got = read(from, lines->bytes + lines->len, sizeof lines->bytes - lines->len);
    if (got <= 0)
        return got < 0 || lines->len > 0 ? -1 : 0;
    lines->len += (size_t)got;
    size_t whole = lines->len;
    while (whole > 0 && lines->bytes[whole - 1] != '\n')
        whole--;
    if (!write_all(to, lines->bytes, whole))
        return -1;
    memmove(lines->bytes, lines->bytes + whole, lines->len - whole);
    lines->len -= whole;
    return 1;
}

static int talk(int daemon)
{
    static line_buffer said, heard;
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = daemon, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            return 1;
        if (fds[1].revents != 0) {
            const int more = pass(daemon, STDOUT_FILENO, &heard);
            if (more <= 0)
                return more == 0 ? 0 : 1;
        }
        if (fds[0].revents != 0) {
            const int more = pass(STDIN_FILENO, daemon, &said);
            if (more < 0)
                return 1;
            if (more == 0) {
                shutdown(daemon, SHUT_WR);
                fds[0].fd = -1; /* poll() leaves it out from here on */
            }
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[1], "unix") != 0 && strcmp(argv[1], "tcp") != 0)) {
        fprintf(stderr, "usage: client unix PATH | tcp PORT\n");
        return 2;
    }
    const int daemon = strcmp(argv[1], "unix") == 0 ? connect_unix(argv[2]) : connect_tcp(argv[2]);
    if (daemon < 0) {
        perror(argv[2]);
        return 1;
    }
    return talk(daemon);
}
