/* The public calls: see abk.h. */
#include "bus.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

const char *abk_version(void) { return ABK_VERSION; }

const char *abk_worker_state(int state)
{
    return state >= 0 && state < ABK_STATES ? abk_state_name((abk_state)state) : "unknown";
}

/* Whether a call may go on: it is a bus, and this is its process. */
int abk_usable(const abk_bus *bus)
{
    if (bus == NULL)
        return ABK_EINVAL;
    return abk_witness_same(&bus->witness) ? ABK_OK : ABK_EFORK;
}

/* For calls outside of a step: the time, and whether it runs. */
int abk_enter(abk_bus *bus)
{
    const int result = abk_usable(bus);
    if (result < 0)
        return result;
    if (bus->phase == ABK_NEW_BUS || bus->phase == ABK_OVER)
        return ABK_ESTATE;
    bus->now = abk_now();
    return ABK_OK;
}

/* --- life ------------------------------------------------------------------------------------ */

static void free_bus(abk_bus *bus)
{
    if (bus->served != NULL && bus->served->gone) /* the one that is kept after its end */
        abk_client_free(bus->served);
    for (abk_link *link; (link = abk_list_first(&bus->clients)) != NULL;) {
        abk_client *client = ABK_OF(link, abk_client, link);
        abk_unlink(link);
        abk_client_free(client);
    }
    for (abk_link *link; (link = abk_list_take(&bus->dead_clients)) != NULL;)
        abk_client_free(ABK_OF(link, abk_client, dead));
    abk_router_free(bus);
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        abk_free(bus->pools[i].open);
        abk_failure_drop(bus->pools[i].unavailable);
    }
    abk_free(bus->pools);
    abk_map_free(&bus->slots);
    abk_map_free(&bus->by_id);
    abk_map_free(&bus->asks);
    abk_map_free(&bus->sessions);
    abk_timers_free(&bus->timers);
    abk_free(bus->events);
    abk_buf_free(&bus->event_text);
    abk_buf_free(&bus->event_keys);
    abk_buf_free(&bus->scratch);
    abk_buf_free(&bus->report);
    abk_buf_free(&bus->refusal_text);
    abk_failure_drop(bus->refusal_of);
    abk_config_free(bus->config);
    abk_witness_free(&bus->witness);
    abk_free(bus);
}

static bool make_pools(abk_bus *bus)
{
    bus->pool_count = bus->config->pool_count;
    bus->pools = abk_alloc(bus->pool_count * sizeof *bus->pools);
    if (bus->pools == NULL) {
        bus->pool_count = 0;
        return false;
    }
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        abk_pool *pool = &bus->pools[i];
        pool->bus = bus;
        pool->config = &bus->config->pools[i];
        pool->index = i;
        abk_list_init(&pool->slots);
        abk_list_init(&pool->vacant);
        abk_list_init(&pool->turns);
        for (uint32_t k = 0; k < pool->config->instances; k++) {
            if (abk_slot_add(pool, false) == NULL)
                return false;
        }
    }
    return true;
}

static void init_lists(abk_bus *bus)
{
    abk_link *const heads[] = {&bus->clients,        &bus->dirty_clients, &bus->dead_clients,
                               &bus->doors,          &bus->processes,     &bus->dead_processes,
                               &bus->dead_slots,     &bus->dirty_lanes,   &bus->dead_lanes,
                               &bus->lost_sessions,  &bus->idle_sessions, &bus->wishes,
                               &bus->watchers,       &bus->strangers};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        abk_list_init(heads[i]);
    bus->tomb_timer.kind = ABK_ON_TOMBSTONES;
    bus->house_timer.kind = ABK_ON_HOUSE;
    bus->stop_timer.kind = ABK_ON_STOP;
    bus->wish_timer.kind = ABK_ON_WISHES;
    bus->house_seen = 1;
    abk_router_init(bus);
}

abk_bus *abk_create(const char *json, size_t len, const abk_options *options, abk_error *error)
{
    if (options == NULL || options->size < sizeof *options) {
        abk_fail(error, ABK_EINVAL, 0, "options: wrong size");
        return NULL;
    }
    abk_config *config = abk_config_read(json, len, options->strict, error);
    abk_bus *bus = config == NULL ? NULL : ABK_NEW(abk_bus);
    if (bus == NULL) {
        if (config != NULL) {
            abk_config_free(config);
            abk_fail(error, ABK_ENOMEM, 0, "out of memory");
        }
        return NULL;
    }
    bus->config = config;
    abk_witness_init(&bus->witness);
    bus->seed = abk_random();
    bus->rewrite = options->rewrite;
    bus->now = abk_now();
    snprintf(bus->name, sizeof bus->name, "%016llx", (unsigned long long)abk_random());
    init_lists(bus);
    bus->timer_owners = 4; /* tombstones, house, stop, wishes */
    if (abk_loop_open(&bus->loop) < 0) {
        abk_fail(error, ABK_ESYS, errno, "event loop: %s", strerror(errno));
        free_bus(bus);
        return NULL;
    }
    if (!make_pools(bus) ||
        (options->host && (bus->host = abk_client_add(bus, ABK_HOST)) == NULL)) {
        abk_destroy(bus);
        abk_fail(error, ABK_ENOMEM, 0, "out of memory");
        return NULL;
    }
    for (uint32_t i = 0; i < config->warning_count; i++)
        abk_log(bus, ABK_LOG_WARNING, NULL, "config: %s", config->warnings[i]);
    for (uint32_t i = 0; !options->host && i < config->client_only_count; i++)
        abk_log(bus, ABK_LOG_WARNING, NULL, "config: %s", config->client_only[i]);
    return bus;
}

int abk_serve(abk_bus *bus, int in, int out, abk_error *error)
{
    const int result = abk_usable(bus);
    if (result < 0 || bus->phase != ABK_NEW_BUS || bus->served != NULL)
        return abk_fail(error, result < 0 ? result : ABK_ESTATE, 0, "once, before the start");
    const int in_flags = fcntl(in, F_GETFL);
    const int out_flags = fcntl(out, F_GETFL);
    if (in_flags < 0 || out_flags < 0)
        return abk_fail(error, ABK_ESYS, errno, "stdio: %s", strerror(errno));
    abk_client *client = abk_client_add(bus, ABK_SERVED);
    if (client == NULL)
        return abk_fail(error, ABK_ENOMEM, 0, "out of memory");
    client->admin = client->pauses = true;
    struct stat about;
    const bool pipe = fstat(in, &about) == 0 && S_ISFIFO(about.st_mode); /* a terminal reads by line */
    client->in = (abk_watch){.fd = in, .kind = ABK_ON_CLIENT, .edge = pipe, .owner = client};
    client->out = (abk_watch){.fd = out, .kind = ABK_ON_CLIENT_OUT, .owner = client};
    client->in_flags = in_flags;
    client->out_flags = out_flags;
    fcntl(in, F_SETFL, in_flags | O_NONBLOCK);
    fcntl(out, F_SETFL, out_flags | O_NONBLOCK);
    bus->served = client;
    bus->counts.client_connects++;
    return ABK_OK;
}

static bool pipes_kill(void)
{
    struct sigaction now;
    return sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL;
}

int abk_start(abk_bus *bus, abk_error *error)
{
    const int result = abk_usable(bus);
    if (result < 0 || bus->phase != ABK_NEW_BUS)
        return abk_fail(error, result < 0 ? result : ABK_ESTATE, 0, "it was started already");
    bus->phase = ABK_RUNNING;
    bus->now = abk_now();
    bus->guards_sigpipe = pipes_kill();
    if (bus->served != NULL && bus->host != NULL)
        bus->rewrite = true; /* two clients: their ids may be the same */
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
            abk_slot_fire(slot, ABK_E_SPAWN);
            abk_slot_look(slot);
        }
    }
    ABK_EACH(link, &bus->doors)
    {
        if (abk_loop_watch(&bus->loop, &ABK_OF(link, abk_door, link)->watch, ABK_READ) < 0)
            return abk_fail(error, ABK_ESYS, errno, "listener: %s", strerror(errno));
    }
    if (bus->served != NULL)
        abk_client_watch(bus->served);
    return ABK_OK;
}

int abk_fd(const abk_bus *bus) { return abk_usable(bus) < 0 ? -1 : bus->loop.fd; }

int abk_step(abk_bus *bus, int wait_ms)
{
    const int result = abk_usable(bus);
    if (result < 0)
        return result;
    if (bus->phase == ABK_NEW_BUS)
        return ABK_ESTATE;
    if (bus->event_at == bus->event_count) /* else the host has not taken all: nothing is lost */
        abk_run_step(bus, wait_ms);
    return (int)(bus->event_count - bus->event_at);
}

int abk_busy_poll(abk_bus *bus, uint32_t most_us, int other_fd)
{
    const uint64_t until = abk_now() + (uint64_t)most_us * (ABK_S / 1000000);
    struct pollfd other = {.fd = other_fd, .events = POLLIN};
    bool busy;
    int result;
    do {
        busy = other_fd >= 0 && poll(&other, 1, 0) != 0;
        result = abk_step(bus, 0);
    } while (result == 0 && !busy && bus->phase == ABK_RUNNING && bus->now < until);
    if (result >= 0 && bus->phase != ABK_RUNNING)
        abk_loop_arm(&bus->loop, bus->now); /* who waits for the fd is to see the end */
    return result;
}

int abk_watch_fd(abk_bus *bus, int fd)
{
    const int result = abk_usable(bus);
    if (result < 0)
        return result;
    if (bus->wake_count == sizeof bus->wakes / sizeof *bus->wakes)
        return ABK_EINVAL;
    abk_watch *watch = &bus->wakes[bus->wake_count++];
    *watch = (abk_watch){.fd = fd, .kind = ABK_ON_WAKE, .owner = bus};
    return abk_loop_watch(&bus->loop, watch, ABK_READ);
}

int abk_stop(abk_bus *bus, double drain_s, double grace_s)
{
    const int result = abk_usable(bus);
    if (result < 0)
        return result;
    bus->now = abk_now();
    const uint64_t drained = bus->now + abk_ns(drain_s);
    const uint64_t grace = abk_ns(grace_s);
    if (bus->phase == ABK_NEW_BUS) {
        bus->phase = ABK_OVER;
    } else if (bus->phase == ABK_RUNNING) {
        bus->phase = ABK_DRAINING_ALL;
        bus->drain_until = drained;
        bus->stop_grace = grace;
    } else if (bus->phase == ABK_DRAINING_ALL) {
        bus->drain_until = drained < bus->drain_until ? drained : bus->drain_until;
        bus->stop_grace = grace < bus->stop_grace ? grace : bus->stop_grace;
    } else if (drained + grace < bus->stop_from + bus->stop_grace) {
        bus->stop_from = drained;
        bus->stop_grace = grace;
    }
    abk_look_at_stop(bus);
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
            abk_wake_at(bus, &slot->timer, bus->now); /* its rungs may be nearer now */
        }
    }
    abk_wake_at(bus, &bus->stop_timer, bus->drain_until);
    return ABK_OK;
}

double abk_drain_timeout(const abk_bus *bus)
{
    return bus == NULL ? 0.0 : bus->config->limits.drain_timeout_s;
}

bool abk_stopped(const abk_bus *bus) { return bus == NULL || bus->phase == ABK_OVER; }

/* Wait until all that was killed is gone, at most until limit. */
static void reap_all(abk_bus *bus, uint64_t limit)
{
    for (bool left = true; left;) {
        left = false;
        ABK_EACH(link, &bus->processes)
        {
            abk_process *process = ABK_OF(link, abk_process, link);
            abk_process_unwatch_exit(process);
            if (!process->exited &&
                abk_child_reap(&process->child, &process->exit_code, &process->killed_by) > 0)
                process->exited = true;
            left = left || !process->exited;
        }
        if (!left || abk_now() >= limit)
            return;
        const struct timespec moment = {.tv_nsec = 1000000};
        nanosleep(&moment, NULL);
    }
}

static void free_slots(abk_bus *bus)
{
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
            if (slot->lane != NULL) {
                abk_outbox_free(&slot->lane->out);
                abk_buf_free(&slot->lane->tapped);
                abk_free(slot->lane);
            }
            abk_unlink(link);
            abk_slot_free(slot);
        }
    }
}

void abk_kill_now(abk_bus *bus, double reap_s)
{
    if (abk_usable(bus) < 0)
        return;
    ABK_EACH(link, &bus->processes)
    {
        abk_process *process = ABK_OF(link, abk_process, link);
        if (!process->exited || process->child.pidfd >= 0)
            abk_child_signal(&process->child, SIGKILL);
    }
    reap_all(bus, abk_now() + abk_ns(reap_s));
    bus->now = abk_now();
    bus->phase = ABK_OVER;
    abk_fail_all(bus);
    ABK_EACH(link, &bus->processes)
    {
        abk_process *process = ABK_OF(link, abk_process, link);
        process->slot->process = NULL;
        abk_process_end(process);
    }
    for (abk_link *link; (link = abk_list_first(&bus->doors)) != NULL;)
        abk_door_free(bus, ABK_OF(link, abk_door, link), false);
    ABK_EACH(link, &bus->clients)
    {
        abk_client *client = ABK_OF(link, abk_client, link);
        if (client->kind == ABK_HOST)
            continue;
        if (client->in.fd >= 0) {
            abk_client_flush(client); /* as far as it takes its last errors now */
            if (!client->gone)
                abk_client_leaves(client, "the bus has ended");
        }
        abk_client_close(client);
    }
}

static void free_rest(abk_bus *bus)
{
    abk_wishes_drop(bus, NULL);
    abk_asks_free(bus);
    abk_bury(bus);
    free_slots(bus);
    abk_sessions_free(bus);
    free_bus(bus);
}

void abk_destroy(abk_bus *bus)
{
    if (bus == NULL)
        return;
    if (!abk_witness_same(&bus->witness)) {
        abk_abandon(bus);
        return;
    }
    abk_kill_now(bus, 0.5);
    abk_loop_close(&bus->loop);
    free_rest(bus);
}

void abk_abandon(abk_bus *bus)
{
    if (bus == NULL)
        return;
    abk_loop_close(&bus->loop); /* first, so that nothing that follows can change the parent's */
    bus->loop.fd = -1;
    ABK_EACH(link, &bus->processes)
    {
        abk_process *process = ABK_OF(link, abk_process, link);
        process->slot->process = NULL;
        abk_unlink(link);
        abk_process_free(process);
    }
    for (abk_link *link; (link = abk_list_first(&bus->doors)) != NULL;)
        abk_door_free(bus, ABK_OF(link, abk_door, link), true);
    if (bus->served != NULL) /* O_NONBLOCK is the parent's as well */
        bus->served->in_flags = bus->served->out_flags = -1;
    free_rest(bus);
}
