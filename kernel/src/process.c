/* One incarnation of a worker: the bytes of its pipes. What its end means is its slot's business. */
#include "bus.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STDERR_BYTES = 16 * 1024, READ_BYTES = 64 * 1024, PARTS = 16, WRITES = 16 };
enum { WIDE_FROM = 512 * 1024, WIDE_BYTES = 1024 * 1024, WIDE_PIPES = 16 };
enum { WASTE_READ_NS = 50000, WASTE_BYTE_NS = 60, WASTE_NS = 2000000 }; /* 16 MB and 20,000 reads/s */
enum { WASTE_UNHEARD = 4 }; /* what the host does not want is dropped at once: a quarter of that */
enum { WASTE_TOLD_NS = 20000 }; /* of a bad line that the host is told of, one by one: 50,000/s */
enum { WASTE_MOST_NS = 500000000 }; /* of one read: what a worker writes next has not to wait for ever */

static const char handshake_id[] = "anyio-bus/handshake";

/* --- beginning ------------------------------------------------------------------------------- */

static bool watch(abk_process *process)
{
    abk_loop *loop = &process->slot->bus->loop;
    const struct {
        abk_watch *watch;
        int fd;
        uint8_t kind;
        uint8_t interest;
    } all[] = {{&process->in, process->child.in, ABK_ON_STDIN, 0},
               {&process->out, process->child.out, ABK_ON_STDOUT, ABK_READ},
               {&process->err, process->child.err, ABK_ON_STDERR, ABK_READ}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const bool edge = all[i].kind == ABK_ON_STDOUT;
        *all[i].watch =
            (abk_watch){.fd = all[i].fd, .kind = all[i].kind, .edge = edge, .owner = process};
        if (all[i].interest != 0 && abk_loop_watch(loop, all[i].watch, all[i].interest) < 0)
            return false;
    }
    process->exit = (abk_watch){.fd = process->child.pidfd, .kind = ABK_ON_EXIT, .owner = process};
    process->polled = abk_loop_watch_exit(loop, &process->exit, process->child.pid) < 0;
    return true;
}

/* Where no fd tells of its end: ask. It stays to be reaped, so its group can still be killed. */
void abk_process_poll(abk_process *process)
{
    siginfo_t info = {0};
    const int asked = waitid(P_PID, (id_t)process->child.pid, &info, WEXITED | WNOHANG | WNOWAIT);
    if ((asked == 0 && info.si_pid == process->child.pid) || (asked < 0 && errno == ECHILD))
        process->exited = true;
}

static int spawn(abk_slot *slot, abk_child *child, abk_spawn_error *error)
{
    const abk_pool_config *config = slot->pool->config;
    const abk_env *layers[] = {config->env, slot->extra_env};
    const uint32_t counts[] = {config->env_count, slot->extra_env_count};
    const abk_order order = {.argv = config->argv,
                             .env = layers,
                             .env_counts = counts,
                             .env_layers = 2,
                             .cwd = slot->extra_cwd != NULL ? slot->extra_cwd : config->cwd,
                             .launch = &config->launch};
    return abk_spawn_child(&order, child, error);
}

/* Greet it, if its pool has a handshake; else it is up. */
static void greet(abk_process *process)
{
    abk_slot *slot = process->slot;
    const abk_handshake *ready = &slot->pool->config->ready;
    if (ready->method == NULL) {
        process->up = true;
        abk_slot_fire(slot, ABK_E_UP);
        return;
    }
    process->shaken_by = slot->bus->now + abk_ns(ready->timeout_s);
    if (abk_lane_write(process->lane, ready->request.at, ready->request.len) < 0)
        snprintf(process->shake_error, sizeof process->shake_error, "found no memory for its handshake");
}

void abk_process_free(abk_process *process)
{
    abk_child_close(&process->child);
    abk_reader_free(&process->reader);
    abk_free(process->tail);
    abk_free(process);
}

int abk_process_start(abk_slot *slot, abk_spawn_error *error)
{
    abk_bus *bus = slot->bus;
    abk_process *process = ABK_NEW(abk_process);
    abk_lane *lane = process == NULL ? NULL : slot->lane != NULL ? slot->lane : abk_lane_add(slot);
    if (process != NULL)
        process->tail = abk_alloc(bus->config->limits.stderr_tail_bytes);
    if (lane == NULL || process->tail == NULL) {
        *error = (abk_spawn_error){.number = ENOMEM, .step = "memory"};
        if (lane != NULL && slot->lane == NULL)
            abk_free(lane);
        if (process != NULL)
            abk_free(process->tail);
        abk_free(process);
        return ABK_ENOMEM;
    }
    slot->lane = lane;
    process->child = (abk_child){.pidfd = -1, .in = -1, .out = -1, .err = -1};
    const int spawned = spawn(slot, &process->child, error);
    if (spawned < 0) { /* the lane falls with the slot's burial */
        abk_process_free(process);
        return spawned;
    }
    process->slot = slot;
    process->lane = lane;
    process->born = bus->now;
    process->open_outputs = 2;
    process->exit_code = -1;
    lane->process = process;
    slot->process = process;
    abk_list_append(&bus->processes, &process->link);
    bus->counts.workers++;
    if (!watch(process)) { /* the loop is out of memory: it cannot be served */
        process->closed = "could not be watched";
        snprintf(process->hung_up, sizeof process->hung_up, "could not be watched");
    }
    greet(process);
    return ABK_OK;
}

/* --- end ------------------------------------------------------------------------------------- */

static void unwatch(abk_process *process, abk_watch *watch, int *fd)
{
    if (watch->fd < 0)
        return;
    abk_loop_watch(&process->slot->bus->loop, watch, 0);
    watch->fd = -1;
    if (fd != NULL && *fd >= 0) {
        abk_sys_close(*fd);
        *fd = -1;
    }
}

/* Before it is reaped, which closes its pidfd: the number may be somebody else's then. */
void abk_process_unwatch_exit(abk_process *process) { unwatch(process, &process->exit, NULL); }

void abk_process_close_stdin(abk_process *process)
{
    process->closing = true;
    unwatch(process, &process->in, &process->child.in);
}

void abk_process_end(abk_process *process)
{
    abk_bus *bus = process->slot->bus;
    abk_process_close_stdin(process);
    unwatch(process, &process->out, &process->child.out);
    unwatch(process, &process->err, &process->child.err);
    abk_process_unwatch_exit(process);
    abk_child_close(&process->child);
    process->lane->process = NULL;
    bus->counts.bytes_in += process->bytes_in;
    bus->counts.bytes_out += process->bytes_out;
    bus->counts.stderr_bytes += process->stderr_bytes;
    bus->counts.workers--;
    abk_unlink(&process->link);
    bus->wide_pipes -= (uint32_t)process->wide_in + process->wide_out;
    abk_list_append(&bus->dead_processes, &process->dead);
}

/* One of its pipes is closed at its end: it may be dying, or a black hole. */
static void pipe_closed(abk_process *process, const char *what)
{
    if (process->hung_at != 0 || process->closing)
        return;
    process->hung_at = process->slot->bus->now;
    process->closed = what;
    abk_slot_look(process->slot);
}

/* --- writing --------------------------------------------------------------------------------- */

void abk_process_watch(abk_process *process)
{
    abk_bus *bus = process->slot->bus;
    if (process->in.fd >= 0)
        abk_loop_watch(&bus->loop, &process->in, process->in_full ? ABK_WRITE : 0);
    if (process->out.fd >= 0) {
        const bool waits = process->rest_until != 0 || bus->choked;
        const bool rests = process->paused || (waits && !process->exited);
        abk_loop_watch(&bus->loop, &process->out, rests ? 0 : ABK_READ);
    }
}

/* A pipe holds 64 KiB, so that a frame of megabytes takes many steps: where much of one waits, ask
 * for more room, once. A user may have some 64 such pipes in all (pipe(7)), so a bus has a few. */
static void widen(abk_process *process, bool *wide, const abk_buf *buf, int fd)
{
#ifdef F_SETPIPE_SZ
    abk_bus *bus = process->slot->bus;
    if (*wide || abk_buf_len(buf) < WIDE_FROM || bus->wide_pipes == WIDE_PIPES)
        return;
    *wide = true;
    bus->wide_pipes++;
    fcntl(fd, F_SETPIPE_SZ, WIDE_BYTES);
#else
    (void)process, (void)wide, (void)buf, (void)fd;
#endif
}

static void set_full(abk_process *process, bool full)
{
    if (process->in_full == full)
        return;
    process->in_full = full;
    abk_process_watch(process);
}

/* Whether the last of so many bytes is inside of a frame. */
static bool ends_torn(const struct iovec *parts, size_t len)
{
    while (len > parts->iov_len)
        len -= (parts++)->iov_len;
    return ((const char *)parts->iov_base)[len - 1] != '\n';
}

static void wrote(abk_process *process, const struct iovec *parts, int count, size_t len)
{
    abk_lane *lane = process->lane;
    process->bytes_out += len;
    lane->torn = ends_torn(parts, len);
    if (process->slot->bus->tapped) {
        size_t left = len;
        for (int i = 0; i < count && left > 0; i++) {
            const size_t part = parts[i].iov_len < left ? parts[i].iov_len : left;
            abk_tap_to(lane, parts[i].iov_base, part);
            left -= part;
        }
    }
    abk_outbox_wrote_bytes(&lane->out, len);
}

/* Write what the pipe takes now. */
void abk_process_flush(abk_process *process)
{
    abk_lane *lane = process->lane;
    abk_bus *bus = process->slot->bus;
    for (int round = 0; round < WRITES && process->in.fd >= 0; round++) {
        struct iovec parts[PARTS];
        const int count = abk_outbox_parts(&lane->out, parts, PARTS);
        if (count == 0) {
            set_full(process, false);
            break;
        }
        size_t asked = 0;
        for (int i = 0; i < count; i++)
            asked += parts[i].iov_len;
        const ssize_t put = abk_write_quietly(bus, process->in.fd, parts, count);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno != EAGAIN) { /* it reads no more */
            unwatch(process, &process->in, NULL);
            pipe_closed(process, "closed its stdin");
            return;
        }
        if (put > 0)
            wrote(process, parts, count, (size_t)put);
        if (put < 0 || (size_t)put < asked) {
            widen(process, &process->wide_in, &lane->out.buf, process->in.fd);
            set_full(process, true);
            break;
        }
        if (round == WRITES - 1)
            set_full(process, true); /* more parts than that: the next step goes on */
    }
    if (lane->pool->queued > 0)
        abk_router_pump(lane->pool);
}

/* --- reading --------------------------------------------------------------------------------- */

static void output_ended(abk_process *process)
{
    process->open_outputs--;
    abk_slot_look(process->slot);
}

static void stdout_ended(abk_process *process)
{
    abk_slot *slot = process->slot;
    uint64_t size = 0;
    const abk_text rest = abk_reader_rest(&process->reader, &size);
    if (size > 0) {
        static const char reason[] = "unterminated last line";
        const size_t shown = rest.len < ABK_PREFIX_BYTES ? rest.len : ABK_PREFIX_BYTES;
        if (slot->bus->tapped)
            abk_tap_from(process, rest.at, rest.len < ABK_EDGE_BYTES ? rest.len : ABK_EDGE_BYTES, size,
                         NULL, reason);
        slot->bus->counts.bad_lines++;
        slot->bus->counts.messages_in++;
        abk_event *event = abk_tell(slot->bus, ABK_EV_LINE_BAD, slot);
        if (event != NULL) {
            event->count = (uint32_t)size;
            abk_tell_data(slot->bus, rest.at, shown);
            abk_tell_text(slot->bus, reason, sizeof reason - 1);
        }
        abk_watchers_bad_line(slot, rest.at, shown, reason, size);
    }
    unwatch(process, &process->out, &process->child.out);
    pipe_closed(process, "closed its stdout");
    output_ended(process);
}

/* Lines that are nobody's: notifications without a client, answers without a request, no JSON. Reads of
 * nothing but empty lines, or of a line that is too long, are waste as well. */
static uint64_t wasted(const abk_stats *counts)
{
    return counts->bad_lines + counts->late_answers + counts->stray_answers +
           counts->dropped_notifications + counts->unheard;
}

/* A worker that writes for nobody costs what the others need. So each read that brings more waste
 * than work is paid for by time: what a worker owes beyond WASTE_NS it has to rest. */
static void pay(abk_process *process, uint64_t len, uint64_t bad, bool unheard)
{
    abk_bus *bus = process->slot->bus;
    const uint64_t from = process->waste_paid > bus->now ? process->waste_paid : bus->now;
    const uint64_t told = bus->host != NULL ? bad * WASTE_TOLD_NS : 0;
    const uint64_t read = WASTE_READ_NS + len * WASTE_BYTE_NS;
    const uint64_t cost = (unheard ? read / WASTE_UNHEARD : read) + told;
    process->waste_paid = from + (cost < WASTE_MOST_NS ? cost : WASTE_MOST_NS);
    if (process->waste_paid < bus->now + WASTE_NS || process->exited || process->closing)
        return; /* one that is to end can only do so if it is read */
    process->rest_until = process->waste_paid;
    process->throttled++;
    abk_process_watch(process);
    abk_slot_look(process->slot);
}

void abk_process_read(abk_process *process)
{
    const abk_bus *bus = process->slot->bus;
    const abk_stats *counts = &bus->counts;
    const uint64_t lines = counts->messages_in, waste = wasted(counts);
    const uint64_t empty = process->empty_lines, bad = counts->bad_lines;
    const uint64_t before = counts->unheard;
    const size_t most = process->told_bad ? READ_BYTES : ABK_READ_BUDGET;
    const ssize_t got = abk_reader_fill(&process->reader, process->out.fd, READ_BYTES, most);
    if (process->reader.more)
        abk_loop_again(&process->slot->bus->loop, &process->out);
    if (got == -EAGAIN || got == -EINTR || got == -ENOMEM)
        return;
    if (got <= 0) {
        stdout_ended(process);
        return;
    }
    process->bytes_in += (uint64_t)got;
    widen(process, &process->wide_out, &process->reader.buf, process->out.fd);
    abk_take_lines(process);
    if (counts->bad_lines > bad)
        process->told_bad = bus->host != NULL;
    else if ((size_t)got >= READ_BYTES)
        process->told_bad = false;
    const bool none = process->empty_lines > empty && counts->messages_in == lines;
    const uint64_t more = wasted(counts) - waste;
    const bool unheard = more > 0 && more == counts->unheard - before;
    if (none || process->reader.skipped > 0 || 2 * more > counts->messages_in - lines)
        pay(process, (uint64_t)got, counts->bad_lines - bad, unheard);
}

static void keep_tail(abk_process *process, const char *at, size_t len)
{
    const uint32_t size = process->slot->bus->config->limits.stderr_tail_bytes;
    if (len > size) {
        at += len - size;
        len = size;
    }
    const size_t first = len < size - process->tail_at ? len : size - process->tail_at;
    memcpy(process->tail + process->tail_at, at, first);
    memcpy(process->tail, at + first, len - first);
    process->tail_at = (uint32_t)((process->tail_at + len) % size);
    process->tail_len = process->tail_len + len < size ? process->tail_len + (uint32_t)len : size;
}

size_t abk_process_tail(const abk_process *process, size_t most, char *out)
{
    const uint32_t size = process->slot->bus->config->limits.stderr_tail_bytes;
    const size_t len = process->tail_len < most ? process->tail_len : most;
    const size_t from = (process->tail_at + size - len) % size;
    const size_t first = len < size - from ? len : size - from;
    memcpy(out, process->tail + from, first);
    memcpy(out + first, process->tail, len - first);
    return len;
}

void abk_process_read_stderr(abk_process *process)
{
    char bytes[STDERR_BYTES];
    const ssize_t got = abk_sys_read(process->err.fd, bytes, sizeof bytes);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        unwatch(process, &process->err, &process->child.err);
        output_ended(process);
        return;
    }
    process->stderr_bytes += (uint64_t)got;
    keep_tail(process, bytes, (size_t)got);
    if (abk_tell(process->slot->bus, ABK_EV_STDERR, process->slot) != NULL)
        abk_tell_data(process->slot->bus, bytes, (size_t)got);
}

/* --- handshake ------------------------------------------------------------------------------- */

/* The message of an error object, as far as it is text, and its code. */
static void say_refusal(const abk_message *answer, char *out, size_t len)
{
    static const abk_path message_path = {1, {{"message", 7}}};
    static const abk_path code_path = {1, {{"code", 4}}};
    abk_value message, code;
    if (answer->error.kind == ABK_OBJECT && abk_scan_path(&answer->error, &message_path, &message) &&
        message.kind == ABK_STRING && abk_scan_path(&answer->error, &code_path, &code) &&
        code.kind == ABK_NUMBER)
        snprintf(out, len, "%.*s (code %.*s)", (int)(message.len < 200 ? message.len : 200),
                 message.at, (int)(code.len < 20 ? code.len : 20), code.at);
    else
        snprintf(out, len, "no result");
}

bool abk_process_shaken(abk_process *process, const abk_message *answer)
{
    const abk_handshake *ready = &process->slot->pool->config->ready;
    if (process->shaken_by == 0 || !abk_value_is(&answer->id, ABK_TEXT(handshake_id)) ||
        answer->id.kind != ABK_STRING)
        return false;
    process->shaken_by = 0;
    if (answer->result.kind == ABK_ABSENT) {
        char why[240];
        say_refusal(answer, why, sizeof why);
        snprintf(process->shake_error, sizeof process->shake_error, "refused '%.30s': %s",
                 ready->method, why);
        abk_wake_at(process->slot->bus, &process->slot->timer, process->slot->bus->now);
        return true;
    }
    if (ready->notify.len > 0)
        abk_lane_write(process->lane, ready->notify.at, ready->notify.len);
    process->up = true;
    abk_slot_fire(process->slot, ABK_E_UP);
    return true;
}
