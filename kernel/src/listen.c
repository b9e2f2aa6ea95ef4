/* Listeners: sockets that clients come through. */
#include "bus.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, ACCEPTS = 64 };
#define NO_FDS_NS (ABK_S / 10) /* out of fds: that long until the next look */

static int make_socket(int family)
{
    const int fd = socket(family, SOCK_STREAM, 0);
    if (fd >= 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return fd;
}

/* --- unix ------------------------------------------------------------------------------------ */

/* Whether somebody listens there. */
static bool is_live(const struct sockaddr_un *address)
{
    const int fd = make_socket(AF_UNIX);
    if (fd < 0)
        return true; /* not known: then it is left alone */
    const int connected = connect(fd, (const struct sockaddr *)address, sizeof *address);
    const bool live = connected == 0 || errno != ECONNREFUSED;
    abk_sys_close(fd);
    return live;
}

static int clear_path(const char *path, const struct sockaddr_un *address, abk_error *error)
{
    struct stat found;
    if (lstat(path, &found) < 0) {
        if (errno == ENOENT)
            return ABK_OK;
        return abk_fail(error, ABK_ESYS, errno, "%s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(found.st_mode))
        return abk_fail(error, ABK_EINVAL, EEXIST, "%s: exists and is no socket", path);
    if (is_live(address))
        return abk_fail(error, ABK_EINVAL, EADDRINUSE, "%s: somebody listens there already", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return abk_fail(error, ABK_ESYS, errno, "%s: %s", path, strerror(errno));
    return ABK_OK;
}

static int open_unix(abk_door *door, const abk_listener *wanted, abk_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = wanted->unix_path;
    const mode_t mode = (mode_t)(wanted->unix_mode == 0 ? 0600 : wanted->unix_mode);
    struct stat made;
    if (strlen(path) >= sizeof address.sun_path || path[0] == '\0')
        return abk_fail(error, ABK_EINVAL, ENAMETOOLONG, "%s: a unix path has 1 to %zu bytes", path,
                        sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path));
    const int cleared = clear_path(path, &address, error);
    if (cleared < 0)
        return cleared;
    door->path = abk_copy(path, strlen(path));
    if (door->path == NULL)
        return abk_fail(error, ABK_ENOMEM, 0, "out of memory");
    door->watch.fd = make_socket(AF_UNIX);
    if (door->watch.fd < 0)
        return abk_fail(error, ABK_ESYS, errno, "socket: %s", strerror(errno));
    fchmod(door->watch.fd, mode); /* on Linux the file is born with it, so nobody slips in before */
    if (bind(door->watch.fd, (const struct sockaddr *)&address, sizeof address) < 0)
        return abk_fail(error, ABK_ESYS, errno, "%s: %s", path, strerror(errno));
    if (chmod(path, mode) < 0 || lstat(path, &made) < 0) {
        const int number = errno;
        unlink(path);
        return abk_fail(error, ABK_ESYS, number, "%s: %s", path, strerror(number));
    }
    door->device = (uint64_t)made.st_dev;
    door->inode = (uint64_t)made.st_ino;
    return ABK_OK;
}

/* --- TCP ------------------------------------------------------------------------------------- */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const void *)address;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static bool bind_one(abk_door *door, const struct addrinfo *at)
{
    const int yes = 1;
    const int no = 0;
    const int fd = make_socket(at->ai_family);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (at->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0) {
        const int number = errno;
        abk_sys_close(fd);
        errno = number;
        return false;
    }
    door->watch.fd = fd;
    return true;
}

static void say_address(int fd, bool peer, char *out, size_t len)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[INET6_ADDRSTRLEN];
    char port[8];
    const int got = peer ? getpeername(fd, (struct sockaddr *)&address, &size)
                         : getsockname(fd, (struct sockaddr *)&address, &size);
    if (got < 0 || getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port,
                               sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, len, "?");
    else
        snprintf(out, len, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static int open_tcp(abk_door *door, const abk_listener *wanted, abk_error *error)
{
    char port[8];
    struct addrinfo *all = NULL;
    const bool any = wanted->host == NULL || wanted->host[0] == '\0';
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    const char *shown = any ? "*" : wanted->host;
    snprintf(port, sizeof port, "%u", wanted->port);
    const int looked_up = getaddrinfo(any ? NULL : wanted->host, port, &hints, &all);
    if (looked_up != 0)
        return abk_fail(error, ABK_EINVAL, 0, "%s: %s", shown, gai_strerror(looked_up));
    int result = ABK_ESYS;
    int number = EADDRNOTAVAIL;
    for (int turn = 0; turn < 2 && door->watch.fd < 0; turn++) {
        for (const struct addrinfo *at = all; at != NULL && door->watch.fd < 0; at = at->ai_next) {
            /* For every address IPv6 comes first: it takes IPv4 as well. */
            if (any && (at->ai_family == AF_INET6) != (turn == 0))
                continue;
            if (!is_loopback(at->ai_addr) && wanted->token == NULL && !wanted->insecure) {
                result = abk_fail(error, ABK_EINVAL, 0,
                                  "%s: is open beyond this machine: give a token (--token-file), or "
                                  "allow it (--insecure-tcp)",
                                  shown);
                freeaddrinfo(all);
                return result;
            }
            if (!bind_one(door, at))
                number = errno;
        }
    }
    freeaddrinfo(all);
    if (door->watch.fd < 0)
        return abk_fail(error, ABK_ESYS, number, "%s:%u: %s", shown, wanted->port, strerror(number));
    return ABK_OK;
}

/* --- doors ----------------------------------------------------------------------------------- */

/* Its own file, and nobody else's that took its place. */
static void remove_path(const abk_door *door)
{
    struct stat found;
    if (door->path != NULL && lstat(door->path, &found) == 0 &&
        (uint64_t)found.st_ino == door->inode && (uint64_t)found.st_dev == door->device)
        unlink(door->path);
}

void abk_door_free(abk_bus *bus, abk_door *door, bool keep_path)
{
    if (door->watch.fd >= 0) {
        if (!keep_path)
            abk_loop_watch(&bus->loop, &door->watch, 0);
        abk_sys_close(door->watch.fd);
    }
    if (!keep_path)
        remove_path(door);
    abk_timers_drop(&bus->timers, &door->timer);
    bus->timer_owners--;
    abk_unlink(&door->link);
    abk_free(door->path);
    abk_free(door->token);
    abk_free(door);
}

int abk_listen(abk_bus *bus, const abk_listener *wanted, char *bound, size_t bound_len,
               abk_error *error)
{
    if (bus == NULL || wanted == NULL || wanted->size < sizeof *wanted)
        return abk_fail(error, ABK_EINVAL, 0, "listener: wrong size");
    const int usable = abk_usable(bus);
    if (usable < 0 || bus->phase != ABK_NEW_BUS)
        return abk_fail(error, usable < 0 ? usable : ABK_ESTATE, 0,
                        "listeners are added before the start");
    abk_door *door = abk_timer_room(bus) ? ABK_NEW(abk_door) : NULL;
    if (door == NULL)
        return abk_fail(error, ABK_ENOMEM, 0, "out of memory");
    door->watch = (abk_watch){.fd = -1, .kind = ABK_ON_DOOR, .owner = door};
    door->timer = (abk_timer){.kind = ABK_ON_DOOR_TIMER, .owner = door};
    door->bus = bus;
    door->admin = wanted->admin;
    door->pauses = wanted->pauses;
    int result = wanted->unix_path != NULL ? open_unix(door, wanted, error)
                                           : open_tcp(door, wanted, error);
    if (result == ABK_OK && wanted->token != NULL &&
        (door->token = abk_copy(wanted->token, strlen(wanted->token))) == NULL)
        result = abk_fail(error, ABK_ENOMEM, 0, "out of memory");
    if (result == ABK_OK && listen(door->watch.fd, BACKLOG) < 0)
        result = abk_fail(error, ABK_ESYS, errno, "listen: %s", strerror(errno));
    if (result < 0) {
        abk_door_free(bus, door, false);
        return result;
    }
    if (bound != NULL && wanted->unix_path != NULL)
        snprintf(bound, bound_len, "%s", wanted->unix_path);
    else if (bound != NULL)
        say_address(door->watch.fd, false, bound, bound_len);
    abk_list_append(&bus->doors, &door->link);
    bus->rewrite = true;
    return ABK_OK;
}

/* A peer that has closed altogether looks like one that only asks no more, until it is written to. */
static void keep_alive(int fd)
{
    const int yes = 1;
    const int idle_s = 30;
    const int again_s = 10;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
#ifdef TCP_KEEPIDLE
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
#elif defined(TCP_KEEPALIVE)
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPALIVE, &idle_s, sizeof idle_s);
#endif
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &again_s, sizeof again_s);
}

static void come_in(abk_door *door, int fd)
{
    abk_bus *bus = door->bus;
    const int yes = 1;
    abk_client *client = abk_client_add(bus, ABK_SOCKET);
    if (client == NULL) {
        abk_sys_close(fd);
        return;
    }
    char peer[96] = "unix";
    if (door->path == NULL) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        keep_alive(fd);
        say_address(fd, true, peer, sizeof peer);
    }
    client->in = (abk_watch){.fd = fd, .kind = ABK_ON_CLIENT, .owner = client};
    client->admin = door->admin;
    client->pauses = door->pauses;
    client->token = door->token;
    abk_client_admit(client, door->token == NULL);
    bus->counts.client_connects++;
    abk_client_watch(client);
    abk_event *event = abk_tell(bus, ABK_EV_CLIENT, NULL);
    if (event != NULL) {
        event->count = client->number;
        event->a = 1;
        abk_tell_text(bus, peer, strlen(peer));
    }
    abk_watchers_client(client, true, peer);
}

void abk_door_accept(abk_door *door)
{
    for (int i = 0; i < ACCEPTS; i++) {
        const int fd = abk_sys_accept(door->watch.fd);
        if (fd >= 0) {
            come_in(door, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            abk_loop_watch(&door->bus->loop, &door->watch, 0); /* else it would spin */
            abk_wake_at(door->bus, &door->timer, door->bus->now + NO_FDS_NS);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}
