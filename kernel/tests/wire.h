/* The other end of a client on a wire: says lines, and keeps all that it hears. */
#ifndef ABK_WIRE_H
#define ABK_WIRE_H

#include "rig.h"

#include <sys/un.h>

typedef struct wire {
    int to, from; /* -1: closed */
    char *text;   /* all that was heard, with a NUL behind it */
    size_t len, cap;
    size_t seen; /* where HEAR() goes on */
    bool ended;
} wire;

/* Serve a pair of pipes; the bus's own two ends are kept for wire_close(). */
typedef struct served {
    wire wire;
    int in, out;
} served;

static inline void served_open(rig *self, served *other, const char *config, bool host)
{
    const abk_options options = {.size = sizeof options, .host = host, .strict = false};
    int in[2], out[2];
    rig_make(self, config, &options);
    CHECK(self->bus != NULL && pipe(in) == 0 && pipe(out) == 0);
    *other = (served){.wire = {.to = in[1], .from = out[0]}, .in = in[0], .out = out[1]};
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    CHECK(abk_serve(self->bus, in[0], out[1], NULL) == ABK_OK);
    CHECK(abk_start(self->bus, NULL) == ABK_OK);
}

static inline bool wire_hear(wire *self)
{
    if (self->cap - self->len < 65536) {
        self->cap = self->cap == 0 ? 131072 : self->cap * 2;
        self->text = realloc(self->text, self->cap);
        if (self->text == NULL)
            abort();
        self->text[self->len] = '\0';
    }
    const ssize_t got = self->from < 0 ? -1 : read(self->from, self->text + self->len, 65535);
    self->ended = self->ended || got == 0 || (got < 0 && errno == ECONNRESET);
    if (got <= 0)
        return false;
    self->len += (size_t)got;
    self->text[self->len] = '\0';
    return true;
}

static inline void wire_say(rig *self, wire *other, const char *at, size_t len)
{
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (len > 0 && abk_now() < late) {
        const ssize_t put = write(other->to, at, len);
        if (put < 0 && errno != EAGAIN)
            break;
        if (put < 0) {
            rig_step(self, 5);
            wire_hear(other);
            continue;
        }
        at += put;
        len -= (size_t)put;
    }
    CHECK(len == 0);
}

#define SAY(self, other, text_) wire_say((self), (other), (text_), strlen(text_))

static inline bool wire_heard(const wire *self, const char *part)
{
    return self->text != NULL && strstr(self->text, part) != NULL;
}

/* The same, without looking again at what was looked at. */
static inline bool wire_hears(wire *self, const char *part, bool anew)
{
    const size_t back = strlen(part);
    if (anew)
        self->seen = 0;
    if (self->len - self->seen < back)
        return false;
    const bool found = memmem(self->text + self->seen, self->len - self->seen, part, back) != NULL;
    self->seen = self->len > back ? self->len - back : 0;
    return found;
}

/* Step, and listen, until something was heard. */
#define HEAR(self, other, part_)                                                                   \
    do {                                                                                           \
        const uint64_t by_ = abk_now() + RIG_PATIENCE;                                             \
        bool heard_ = wire_hears((other), (part_), true);                                          \
        while (!heard_ && abk_now() < by_) {                                                       \
            if (!wire_hear(other))                                                                 \
                rig_step((self), 20);                                                              \
            heard_ = wire_hears((other), (part_), false);                                          \
        }                                                                                          \
        if (!heard_)                                                                               \
            fprintf(stderr, "heard: %.2000s\n", (other)->text == NULL ? "" : (other)->text);       \
        CHECK(heard_);                                                                             \
    } while (0)

static inline void wire_forget(wire *self)
{
    self->len = self->seen = 0;
    if (self->text != NULL)
        self->text[0] = '\0';
}

static inline size_t wire_count(const wire *self, const char *part)
{
    size_t count = 0;
    const char *end = self->text + self->len;
    for (const char *at = self->text; at < end; at++, count++) {
        at = memmem(at, (size_t)(end - at), part, strlen(part));
        if (at == NULL)
            break;
    }
    return count;
}

static inline void wire_free(wire *self)
{
    if (self->to >= 0)
        close(self->to);
    if (self->from >= 0 && self->from != self->to)
        close(self->from);
    free(self->text);
}

static inline void served_close(rig *self, served *other)
{
    if (!abk_stopped(self->bus))
        CHECK(abk_stop(self->bus, 0.0, 2.0) == ABK_OK);
    const uint64_t late = abk_now() + RIG_PATIENCE;
    while (!abk_stopped(self->bus) && abk_now() < late) {
        rig_step(self, 20);
        wire_hear(&other->wire);
    }
    CHECK(abk_stopped(self->bus));
    rig_check_ends(self);
    abk_destroy(self->bus);
    CHECK((fcntl(other->in, F_GETFL) & O_NONBLOCK) == 0);
    close(other->in);
    close(other->out);
    wire_free(&other->wire);
    CHECK(rig_count_fds() == self->fds && !rig_has_children());
    rig_free(self);
}

/* A client of a unix socket. */
static inline void wire_connect(wire *self, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    *self = (wire){.to = fd, .from = fd};
}

#endif
