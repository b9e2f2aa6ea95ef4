/* One step: wait, read, route, look at what is due, write. */
#include "bus.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { FLUSHES = 8, TIMERS = 4096 };
#define HOUSE_NS (5 * ABK_S) /* between two looks at what memory can be given back */

bool abk_timer_room(abk_bus *bus)
{
    if (abk_timers_reserve(&bus->timers, bus->timer_owners + 1) < 0)
        return false;
    bus->timer_owners++;
    return true;
}

void abk_wake_at(abk_bus *bus, abk_timer *timer, uint64_t due)
{
    /* Room for every timer was made when its owner was. */
    if (abk_timers_set(&bus->timers, timer, due) == ABK_OK && due != ABK_NEVER)
        abk_loop_arm(&bus->loop, due);
}

/* write without SIGPIPE where the process would die of it. */
ssize_t abk_write_quietly(abk_bus *bus, int fd, const struct iovec *parts, int count)
{
    if (!bus->guards_sigpipe)
        return count == 1 ? abk_sys_write(fd, parts[0].iov_base, parts[0].iov_len)
                          : abk_sys_writev(fd, parts, count);
    sigset_t pipes;
    sigset_t before;
    sigset_t waiting;
    sigemptyset(&pipes);
    sigaddset(&pipes, SIGPIPE);
    sigpending(&waiting);
    pthread_sigmask(SIG_BLOCK, &pipes, &before);
    const ssize_t put = abk_sys_writev(fd, parts, count);
    const int number = errno;
    if (put < 0 && number == EPIPE && sigismember(&waiting, SIGPIPE) == 0) {
        sigpending(&waiting);
        int taken;
        if (sigismember(&waiting, SIGPIPE) == 1)
            sigwait(&pipes, &taken);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = number;
    return put;
}

/* --- what is due ----------------------------------------------------------------------------- */

/* Give back memory that was not needed for a while, end sessions that nobody used. */
static void keep_house(abk_bus *bus)
{
    ABK_EACH(link, &bus->processes)
    {
        abk_process *process = ABK_OF(link, abk_process, link);
        abk_reader_settle(&process->reader, (size_t)64 * 1024);
        abk_buf_settle(&process->lane->out.buf, (size_t)16 * 1024);
    }
    ABK_EACH(link, &bus->clients)
    {
        abk_client *client = ABK_OF(link, abk_client, link);
        abk_reader_settle(&client->reader, 0);
        abk_buf_settle(&client->buf, 0);
    }
    abk_buf_settle(&bus->event_text, (size_t)4096);
    abk_buf_settle(&bus->event_keys, (size_t)4096);
    abk_buf_settle(&bus->scratch, (size_t)4096);
    abk_buf_settle(&bus->report, (size_t)4096);
    const uint64_t idle = abk_ns(bus->config->limits.session_idle_s);
    for (abk_link *link; idle > 0 && (link = abk_list_first(&bus->idle_sessions)) != NULL;) {
        abk_session *session = ABK_OF(link, abk_session, idle);
        if (session->used + idle > bus->now)
            break;
        const bool busy = !abk_list_empty(&session->waiting) ||
                          (session->lane != NULL && session->lane->in_flight > 0);
        if (busy)
            abk_session_use(bus, session);
        else
            abk_session_end(bus, session);
    }
}

static uint64_t traffic(const abk_bus *bus)
{
    return bus->counts.messages_in + bus->counts.messages_out + bus->counts.client_connects + 1;
}

static void house_timer(abk_bus *bus)
{
    /* Once more after the last traffic: only then is it known what is not needed. */
    const bool more = traffic(bus) != bus->house_seen ||
                      (bus->config->limits.session_idle_s > 0 && bus->sessions.count > 0);
    bus->house_seen = traffic(bus);
    bus->house_due = true;
    if (more)
        abk_wake_at(bus, &bus->house_timer, bus->now + HOUSE_NS);
    bus->house_last = !more;
}

static void on_timer(abk_bus *bus, abk_timer *timer)
{
    switch (timer->kind) {
    case ABK_ON_SLOT: abk_slot_look(timer->owner); break;
    case ABK_ON_TOMBSTONES: abk_router_expire(bus); break;
    case ABK_ON_HOUSE: house_timer(bus); break;
    case ABK_ON_STALL: abk_client_stalled(timer->owner); break;
    case ABK_ON_WISHES: abk_wishes_look(bus); break;
    case ABK_ON_DOOR_TIMER:
        abk_loop_watch(&bus->loop, &((abk_door *)timer->owner)->watch, ABK_READ);
        break;
    default: break; /* the stop is looked at in each step */
    }
}

/* --- stopping -------------------------------------------------------------------------------- */

void abk_fail_all(abk_bus *bus)
{
    abk_failure failure;
    abk_failure_init(&failure, ABK_CODE_SHUTTING_DOWN, "shutting down", "the bus is shutting down");
    ABK_EACH(link, &bus->clients)
    {
        abk_client *client = ABK_OF(link, abk_client, link);
        for (abk_link *first; (first = abk_list_first(&client->entries)) != NULL;) {
            abk_entry *entry = ABK_OF(first, abk_entry, owner);
            failure.pool = entry->pool->config->id;
            abk_router_fail(bus, entry, &failure);
        }
    }
    failure.pool = NULL;
    abk_wishes_fail(bus, &failure);
}

static void begin_ladder(abk_bus *bus)
{
    bus->phase = ABK_ENDING;
    bus->stopping = true;
    bus->stop_from = bus->now;
    abk_fail_all(bus);
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
            abk_slot_retire(slot);
            abk_slot_look(slot);
        }
    }
}

static bool all_over(const abk_bus *bus)
{
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            if (!ABK_OF(link, abk_slot, of_pool)->over)
                return false;
        }
    }
    if (bus->now >= bus->stop_from + bus->stop_grace)
        return true; /* who has not read the last errors by now does not get them */
    ABK_EACH(link, &bus->clients)
    {
        if (abk_buf_len(&ABK_OF(link, abk_client, link)->buf) > 0)
            return false;
    }
    return true;
}

void abk_look_at_stop(abk_bus *bus)
{
    if (bus->phase == ABK_DRAINING_ALL && (bus->live == 0 || bus->now >= bus->drain_until))
        begin_ladder(bus);
    if (bus->phase == ABK_ENDING && all_over(bus))
        bus->phase = ABK_OVER;
}

/* --- a step ---------------------------------------------------------------------------------- */

static void on_ready(abk_bus *bus, const abk_ready *ready)
{
    abk_watch *watch = ready->watch;
    if (watch->fd < 0)
        return; /* closed earlier in this batch */
    switch (watch->kind) {
    case ABK_ON_STDIN: abk_process_flush(watch->owner); break;
    case ABK_ON_STDOUT: abk_process_read(watch->owner); break;
    case ABK_ON_STDERR: abk_process_read_stderr(watch->owner); break;
    case ABK_ON_EXIT:
        abk_loop_watch(&bus->loop, watch, 0);
        ((abk_process *)watch->owner)->exited = true;
        abk_slot_look(((abk_process *)watch->owner)->slot);
        break;
    case ABK_ON_CLIENT:
    case ABK_ON_CLIENT_OUT: {
        abk_client *client = watch->owner;
        if ((ready->what & ABK_WRITE) != 0 && client->writable_wanted)
            abk_client_flush(client);
        if ((ready->what & ABK_READ) != 0 && !client->gone && (watch->interest & ABK_READ) != 0)
            abk_client_read(client);
        else if (ready->what == (ABK_READ | ABK_WRITE) && !client->gone)
            abk_client_check(client);
        break;
    }
    case ABK_ON_DOOR: abk_door_accept(watch->owner); break;
    default: {
        abk_event *event = abk_tell(bus, ABK_EV_WAKE, NULL);
        if (event != NULL)
            event->a = watch->fd;
        break;
    }
    }
}

/* Write what was queued in this step; what that makes room for is written as well. */
void abk_flush_all(abk_bus *bus)
{
    for (int round = 0; round < FLUSHES; round++) {
        if (abk_list_empty(&bus->dirty_lanes) && abk_list_empty(&bus->dirty_clients))
            return;
        for (abk_link *link; (link = abk_list_take(&bus->dirty_lanes)) != NULL;) {
            abk_lane *lane = ABK_OF(link, abk_lane, dirty);
            if (lane->process != NULL && !lane->process->in_full)
                abk_process_flush(lane->process);
        }
        for (abk_link *link; (link = abk_list_take(&bus->dirty_clients)) != NULL;) {
            abk_client *client = ABK_OF(link, abk_client, dirty);
            if (client->lost != NULL)
                abk_client_gone(client, client->lost);
            else if (!client->writable_wanted && !client->gone)
                abk_client_flush(client);
            else if (!client->gone) { /* it takes nothing, and more is queued for it */
                abk_client_watch(client);
                abk_choke(bus);
            }
        }
    }
    if (!abk_list_empty(&bus->dirty_lanes) || !abk_list_empty(&bus->dirty_clients))
        abk_loop_arm(&bus->loop, bus->now); /* the next step goes on */
}

/* Free what has ended in the last step, whose lines its events may have shown. */
void abk_bury(abk_bus *bus)
{
    for (abk_link *link; (link = abk_list_take(&bus->dead_processes)) != NULL;)
        abk_process_free(ABK_OF(link, abk_process, dead));
    for (abk_link *link; (link = abk_list_take(&bus->dead_lanes)) != NULL;)
        abk_free(ABK_OF(link, abk_lane, dirty));
    for (abk_link *link; (link = abk_list_take(&bus->dead_slots)) != NULL;)
        abk_slot_free(ABK_OF(link, abk_slot, dead));
    for (abk_link *link; (link = abk_list_take(&bus->dead_clients)) != NULL;)
        abk_client_free(ABK_OF(link, abk_client, dead));
}

void abk_run_step(abk_bus *bus, int wait_ms)
{
    abk_ready ready[ABK_BATCH];
    bus->in_step = true;
    bus->event_count = bus->event_at = 0;
    abk_buf_clear(&bus->event_text);
    abk_buf_clear(&bus->event_keys);
    abk_bury(bus); /* no event points into a buffer now */
    if (bus->house_due) {
        bus->house_due = false;
        bus->now = abk_now();
        keep_house(bus);
        if (bus->house_last && bus->host == NULL) /* a host's memory is the host's affair */
            abk_trim();
    }
    abk_flush_all(bus);
    const bool waits = bus->event_count == 0 && bus->phase != ABK_OVER;
    const int count = abk_loop_wait(&bus->loop, ready, ABK_BATCH, waits ? wait_ms : 0);
    bus->now = abk_now();
    for (int i = 0; i < count; i++)
        on_ready(bus, &ready[i]);
    abk_timer *due;
    for (int i = 0; i < TIMERS && (due = abk_timers_pop(&bus->timers, bus->now)) != NULL; i++)
        on_timer(bus, due);
    if (bus->wish_count > 0)
        abk_wishes_look(bus);
    abk_flush_all(bus);
    if (bus->phase >= ABK_DRAINING_ALL)
        abk_look_at_stop(bus);
    if (bus->house_timer.at == 0 && traffic(bus) != bus->house_seen)
        abk_wake_at(bus, &bus->house_timer, bus->now + HOUSE_NS);
    const uint64_t next = abk_timers_next(&bus->timers);
    if (next != ABK_NEVER)
        abk_loop_arm(&bus->loop, next);
    bus->in_step = false;
}
