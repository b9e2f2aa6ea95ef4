/* The life of each worker: look at how it stands, fire what follows from that by the table of
 * lifecycle.c, and do what the table says. abk_slot_look() may be called at any time, and sets the
 * timer for when it has to be called again. */
#include "bus.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#define HANG_UP_NS (ABK_S / 4)      /* between the end of a pipe and the exit of a dying process */
#define HANG_UP_GRACE_NS (ABK_S / 2) /* a worker that closed a pipe has no answer to give */
#define DRAIN_GRACE_NS (5 * ABK_S)
#define POLL_NS (ABK_S / 50) /* between two looks where no fd tells of an exit */
#define REAP_NS (ABK_S / 2)        /* that SIGKILL may take */
#define LAST_OUTPUT_NS (ABK_S / 4) /* for outputs that outlive the group: whoever holds them escaped */

static bool resting(const abk_slot *slot)
{
    const abk_state state = slot->life.state;
    return state == ABK_S_BACKOFF || state == ABK_S_PARKED || state == ABK_S_VACANT;
}

/* --- slots ----------------------------------------------------------------------------------- */

static bool same_slot(const void *item, const void *key)
{
    return ((const abk_slot *)item)->worker == *(const int32_t *)key;
}

static uint64_t slot_hash(int32_t worker) { return (uint64_t)worker * UINT64_C(0x9E3779B97F4A7C15); }

abk_slot *abk_slot_find(const abk_bus *bus, int32_t worker)
{
    return abk_map_find(&bus->slots, slot_hash(worker), same_slot, &worker);
}

static bool room_to_open(abk_pool *pool)
{
    if (pool->slot_count < pool->open_cap)
        return true;
    const uint32_t cap = pool->open_cap < 4 ? 4 : pool->open_cap * 2;
    abk_lane **open = abk_realloc(pool->open, cap * sizeof *open);
    if (open == NULL)
        return false;
    pool->open = open;
    pool->open_cap = cap;
    return true;
}

abk_slot *abk_slot_add(abk_pool *pool, bool own)
{
    abk_bus *bus = pool->bus;
    abk_slot *slot = room_to_open(pool) && abk_timer_room(bus) ? ABK_NEW(abk_slot) : NULL;
    if (slot == NULL)
        return NULL;
    slot->bus = bus;
    slot->pool = pool;
    slot->own = own;
    slot->worker = bus->next_worker;
    slot->wake_at = ABK_NEVER;
    slot->ladder_grace = ABK_NEVER;
    slot->timer = (abk_timer){.kind = ABK_ON_SLOT, .owner = slot};
    if (abk_map_add(&bus->slots, slot_hash(slot->worker), slot) < 0) {
        bus->timer_owners--;
        abk_free(slot);
        return NULL;
    }
    bus->next_worker++;
    abk_list_append(&pool->slots, &slot->of_pool);
    pool->slot_count++;
    return slot;
}

void abk_slot_free(abk_slot *slot)
{
    abk_timers_drop(&slot->bus->timers, &slot->timer);
    slot->bus->timer_owners--;
    abk_failure_drop(slot->failure);
    abk_backoff_free(&slot->backoff);
    for (uint32_t i = 0; i < slot->extra_env_count; i++)
        abk_free((void *)(uintptr_t)slot->extra_env[i].name);
    abk_free(slot->extra_env);
    abk_free(slot->extra_cwd);
    abk_free(slot);
}

/* It is stopped, and nothing of it is left. */
static void end_slot(abk_slot *slot)
{
    abk_bus *bus = slot->bus;
    slot->over = true;
    if (!bus->stopping) {
        abk_unlink(&slot->of_pool);
        slot->pool->slot_count--;
        abk_map_remove(&bus->slots, slot_hash(slot->worker), slot);
        abk_list_append(&bus->dead_slots, &slot->dead);
    }
    abk_tell_worker(slot);
}

/* --- the table's actions ---------------------------------------------------------------------- */

static void begin(abk_slot *slot)
{
    if (!slot->own) {
        abk_failure_drop(slot->pool->unavailable);
        slot->pool->unavailable = NULL;
    }
    abk_unlink(&slot->vacant);
    slot->asked = slot->rests = false;
    slot->fault[0] = '\0';
    slot->ladder_grace = ABK_NEVER;
    slot->rung = 0;
    slot->last_output = 0;
}

static void close_lane(abk_slot *slot, bool climb)
{
    if (slot->lane != NULL)
        abk_lane_set_mode(slot->lane, ABK_CLOSED);
    if (!climb)
        return;
    slot->rung = 0;
    if (slot->ladder_grace == ABK_NEVER) {
        slot->ladder_from = slot->bus->now;
        slot->ladder_grace = slot->bus->stopping ? ABK_NEVER - 1 : DRAIN_GRACE_NS;
    }
}

void abk_slot_admit(abk_slot *slot)
{
    if (slot->lane == NULL)
        return;
    abk_lane_set_mode(slot->lane, slot->held || slot->own ? ABK_HELD : ABK_OPEN);
    abk_router_pump(slot->pool);
}

void abk_slot_fire(abk_slot *slot, abk_life_event event)
{
    const abk_action action = abk_life_fire(&slot->life, event);
    switch (action) {
    case ABK_DO_START: begin(slot); break;
    case ABK_DO_ADMIT:
        abk_failure_drop(slot->failure);
        slot->failure = NULL;
        abk_slot_admit(slot);
        break;
    case ABK_DO_FORGET: {
        abk_failure retired;
        abk_failure_init(&retired, ABK_CODE_NO_WORKER, "retired", "the worker was told to go");
        abk_slot_end_lease(slot, slot->failure != NULL ? slot->failure : &retired);
        abk_unlink(&slot->vacant);
        abk_slot_hope(slot->pool, slot->failure);
        break;
    }
    case ABK_DO_CLOSE: close_lane(slot, false); break;
    case ABK_DO_CLIMB: close_lane(slot, true); break;
    default: break;
    }
    if (action != ABK_DO_IGNORE && slot->life.state != ABK_S_STOPPED)
        abk_tell_worker(slot);
    abk_wake_at(slot->bus, &slot->timer, slot->bus->now);
}

/* --- looking --------------------------------------------------------------------------------- */

static uint64_t rung_at(const abk_slot *slot, uint64_t tenths)
{
    const abk_bus *bus = slot->bus;
    uint64_t at = ABK_NEVER;
    if (slot->ladder_grace < ABK_NEVER / 4)
        at = slot->ladder_from + slot->ladder_grace / 10 * tenths;
    if (bus->stopping) {
        const uint64_t all = bus->stop_from + bus->stop_grace / 10 * tenths;
        at = all < at ? all : at;
    }
    return at;
}

/* Climb the stop ladder as far as it is time; returns when to look again. */
static uint64_t climb(abk_slot *slot)
{
    abk_process *process = slot->process;
    const uint64_t now = slot->bus->now;
    if (slot->rung == 0) {
        process->paused = false; /* whoever paused it, it can only end if it is read */
        process->rest_until = 0;
        if (now >= rung_at(slot, 8)) /* a kill: neither the end of its input nor SIGTERM comes before it */
            abk_child_signal(&process->child, SIGKILL);
        else
            abk_process_flush(process);
        abk_process_close_stdin(process);
        abk_process_watch(process);
        slot->rung = 1;
    }
    if (slot->rung == 1 && now >= rung_at(slot, 4)) {
        abk_child_signal(&process->child, SIGTERM);
        slot->rung = 2;
    }
    if (slot->rung == 2 && now >= rung_at(slot, 8)) {
        abk_child_signal(&process->child, SIGKILL);
        slot->killed_at = now;
        slot->rung = 3;
    }
    if (slot->rung < 3)
        return rung_at(slot, slot->rung == 1 ? 4 : 8);
    const uint64_t last = rung_at(slot, 10);
    const uint64_t reap = slot->killed_at + REAP_NS;
    const uint64_t until = last != ABK_NEVER && last > reap ? last : reap;
    if (now >= until)
        process->exited = true; /* it cannot be killed now; the system reaps it one day */
    return until;
}

/* Its process is gone: its group goes with it, its last output is read, it is buried. */
static uint64_t finish(abk_slot *slot)
{
    abk_process *process = slot->process;
    const uint64_t now = slot->bus->now;
    if (slot->last_output == 0) {
        const int64_t unread = abk_child_unread(&process->child);
        process->has_read = unread >= 0 && (uint64_t)unread < process->bytes_out;
        process->paused = false;
        abk_process_watch(process);
        abk_child_signal(&process->child, SIGKILL); /* its group may live on */
        abk_process_unwatch_exit(process);
        abk_child_reap(&process->child, &process->exit_code, &process->killed_by);
        abk_process_close_stdin(process);
        slot->last_output = now + LAST_OUTPUT_NS;
    }
    if (process->open_outputs > 0 && now < slot->last_output)
        return slot->last_output;
    abk_slot_bury(slot, NULL);
    return 0;
}

static void hang_up(abk_slot *slot)
{
    if (slot->life.state == ABK_S_STOPPING)
        return;
    slot->ladder_from = slot->bus->now;
    slot->ladder_grace = HANG_UP_GRACE_NS;
    abk_slot_fire(slot, ABK_E_HUNG_UP);
}

/* Look at one whose process runs and is not being stopped; returns when to look again. */
static uint64_t look_running(abk_slot *slot)
{
    abk_process *process = slot->process;
    const uint64_t now = slot->bus->now;
    uint64_t next = ABK_NEVER;
    if (process->rest_until != 0 && now >= process->rest_until) {
        process->rest_until = 0;
        abk_process_watch(process);
    }
    if (process->rest_until != 0)
        next = process->rest_until;
    if (process->shaken_by != 0) {
        next = process->shaken_by < next ? process->shaken_by : next;
        if (now >= process->shaken_by) {
            process->shaken_by = 0;
            snprintf(process->shake_error, sizeof process->shake_error,
                     "did not answer '%.100s' within %g s", slot->pool->config->ready.method,
                     slot->pool->config->ready.timeout_s);
        }
    }
    if (process->shake_error[0] != '\0')
        snprintf(process->hung_up, sizeof process->hung_up, "%s", process->shake_error);
    if (process->hung_at != 0 && process->hung_up[0] == '\0') {
        const uint64_t late = process->hung_at + HANG_UP_NS;
        if (now >= late)
            snprintf(process->hung_up, sizeof process->hung_up, "%s", process->closed);
        next = late < next ? late : next;
    }
    if (process->hung_up[0] != '\0') {
        hang_up(slot);
        return 0;
    }
    if (slot->life.state == ABK_S_DRAINING) {
        if (slot->lane->in_flight == 0 || now >= slot->drain_until) {
            abk_slot_fire(slot, slot->drain_retires ? ABK_E_RETIRE : ABK_E_DRAINED);
            return 0;
        }
        next = slot->drain_until < next ? slot->drain_until : next;
    }
    return next;
}

static uint64_t start(abk_slot *slot)
{
    abk_spawn_error error = {0};
    slot->generation++;
    slot->bus->counts.worker_restarts += slot->generation > 1;
    if (abk_process_start(slot, &error) < 0) {
        abk_slot_bury(slot, &error);
        return 0;
    }
    return 0;
}

/* One step of looking: 0 means look again at once. */
static uint64_t look_once(abk_slot *slot)
{
    switch (slot->life.state) {
    case ABK_S_STOPPED: return ABK_NEVER;
    case ABK_S_VACANT: return ABK_NEVER;
    case ABK_S_BACKOFF:
    case ABK_S_PARKED:
        if (slot->wake_at > slot->bus->now)
            return slot->wake_at;
        if (slot->life.state == ABK_S_PARKED)
            abk_backoff_reset(&slot->backoff);
        abk_slot_fire(slot, ABK_E_SPAWN);
        return 0;
    case ABK_S_STARTING:
        if (slot->process == NULL)
            return start(slot);
        break;
    default: break;
    }
    if (slot->process == NULL) { /* ended before it was started */
        abk_slot_bury(slot, NULL);
        return 0;
    }
    if (slot->process->polled && !slot->process->exited)
        abk_process_poll(slot->process);
    if (slot->process->exited)
        return finish(slot);
    uint64_t next = slot->life.state == ABK_S_STOPPING ? climb(slot) : look_running(slot);
    if (slot->process != NULL && slot->process->polled && next > slot->bus->now + POLL_NS)
        next = slot->bus->now + POLL_NS;
    return slot->process != NULL && slot->process->exited ? 0 : next;
}

void abk_slot_look(abk_slot *slot)
{
    if (slot->in_look || slot->over || slot->bus->phase == ABK_OVER)
        return; /* OVER: nothing begins after abk_kill_now() */
    slot->in_look = true;
    uint64_t next = 0;
    while (next == 0 && slot->life.state != ABK_S_STOPPED)
        next = look_once(slot);
    slot->in_look = false;
    if (slot->life.state == ABK_S_STOPPED)
        end_slot(slot);
    else
        abk_wake_at(slot->bus, &slot->timer, next);
}

/* --- commands -------------------------------------------------------------------------------- */

void abk_slot_spawn(abk_slot *slot)
{
    abk_backoff_reset(&slot->backoff);
    abk_slot_fire(slot, ABK_E_SPAWN);
}

void abk_slot_drain(abk_slot *slot, double drain_s, bool retire)
{
    const abk_state state = slot->life.state;
    if (!retire && resting(slot)) {
        abk_slot_spawn(slot);
        return;
    }
    slot->rests = false;
    const uint64_t until = slot->bus->now + abk_ns(drain_s);
    if (state != ABK_S_DRAINING || until < slot->drain_until)
        slot->drain_until = until;
    slot->drain_retires = slot->drain_retires || retire;
    slot->asked = true;
    const bool at_work = state == ABK_S_READY || state == ABK_S_DRAINING;
    abk_slot_fire(slot, retire && !at_work ? ABK_E_RETIRE : ABK_E_DRAIN);
}

bool abk_slot_rest(abk_slot *slot)
{
    const abk_lane *lane = slot->lane;
    if (slot->process == NULL || lane == NULL || slot->life.state != ABK_S_READY)
        return false;
    if (lane->in_flight > 0 || lane->waiting_count > 0 || lane->session_count > 0 ||
        abk_outbox_size(&lane->out) > 0)
        return false;
    slot->rests = slot->asked = true;
    slot->drain_until = slot->bus->now;
    abk_slot_fire(slot, ABK_E_DRAIN);
    return true;
}

void abk_slot_kill(abk_slot *slot, const char *fault)
{
    const bool faulty = fault != NULL && fault[0] != '\0';
    if (faulty && slot->life.state != ABK_S_READY)
        return;
    slot->ladder_from = slot->bus->now;
    slot->ladder_grace = 0;
    snprintf(slot->fault, sizeof slot->fault, "%s", faulty ? fault : "");
    slot->asked = !faulty;
    abk_slot_fire(slot, ABK_E_KILL);
}

void abk_slot_retire(abk_slot *slot) { abk_slot_fire(slot, ABK_E_RETIRE); }

void abk_pool_resize(abk_pool *pool, uint32_t instances, double drain_s)
{
    uint32_t count = 0;
    if (pool->bus->stopping)
        return; /* what is added now nobody would end */
    ABK_EACH(link, &pool->slots)
    {
        abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
        if (slot->own || slot->life.retired || slot->drain_retires)
            continue;
        if (++count > instances)
            abk_slot_drain(slot, drain_s, true);
    }
    for (; count < instances; count++) {
        abk_slot *slot = abk_slot_add(pool, false);
        if (slot == NULL)
            return;
        abk_slot_fire(slot, ABK_E_SPAWN);
    }
}
