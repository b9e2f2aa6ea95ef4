/* The end of a worker: what to say of it, what falls with it, and what follows. */
#include "bus.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

static bool alive(abk_state state) { return state != ABK_S_PARKED && state != ABK_S_STOPPED; }

/* --- a pool's hope of a worker ---------------------------------------------------------------- */

static abk_failure *describe_pool(const abk_pool *pool, const abk_failure *why)
{
    if (why->phase != NULL)
        return abk_failure_keep(why);
    abk_failure failure;
    abk_failure_init(&failure, ABK_CODE_NO_WORKER, NULL, "pool '%s' is unavailable: %s: %.400s",
                     pool->config->id, why->reason_name != NULL ? why->reason_name : why->reason,
                     why->message);
    snprintf(failure.reason, sizeof failure.reason, "%s",
             why->reason_name != NULL ? why->reason_name : why->reason);
    failure.pool = pool->config->id;
    failure.tail = why->tail;
    failure.tail_len = why->tail_len;
    return abk_failure_keep(&failure);
}

/* A slot is parked or gone: if none of its pool is left, fail what waits there. One that is parked
 * says why, rather than one that was told to go. */
void abk_slot_hope(abk_pool *pool, const abk_failure *failure)
{
    const abk_failure *parked = NULL;
    ABK_EACH(link, &pool->slots)
    {
        const abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
        if (slot->own)
            continue;
        if (alive(slot->life.state))
            return;
        if (parked == NULL && slot->life.state == ABK_S_PARKED)
            parked = slot->failure;
    }
    abk_failure gone;
    abk_failure_init(&gone, ABK_CODE_NO_WORKER, "retired", "no worker is left");
    const abk_failure *why = parked != NULL ? parked : failure != NULL ? failure : &gone;
    abk_failure *kept = describe_pool(pool, why);
    abk_failure_drop(pool->unavailable);
    pool->unavailable = kept; /* NULL, for want of memory: what comes now waits */
    abk_router_fail_queue(pool, kept != NULL ? kept : why);
}

/* --- death ----------------------------------------------------------------------------------- */

static abk_death judge(const abk_slot *slot, const abk_process *process, const abk_spawn_error *error)
{
    if (process == NULL || error != NULL)
        return (abk_death){.permanent = error != NULL && error->permanent,
                           .asked = process == NULL && error == NULL};
    const double uptime = (double)(slot->bus->now - process->born) / 1e9;
    bool started = process->spoke || process->has_read ||
                   uptime >= slot->bus->config->limits.start_window_s;
    const int by = process->killed_by;
    if (process->hung_up[0] == '\0' && (by == SIGHUP || by == SIGINT || by == SIGKILL || by == SIGTERM))
        started = true; /* sent by others: no program's own crash */
    if (slot->pool->config->ready.method != NULL)
        started = process->up;
    return (abk_death){.uptime_s = uptime, .started = started, .asked = slot->asked};
}

/* sigabbrev_np() is glibc's alone. */
static const char *signal_name(int number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGHUP, "SIGHUP"},   {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"}, {SIGILL, "SIGILL"},
                 {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},
                 {SIGKILL, "SIGKILL"}, {SIGUSR1, "SIGUSR1"}, {SIGSEGV, "SIGSEGV"}, {SIGUSR2, "SIGUSR2"},
                 {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"}, {SIGTERM, "SIGTERM"}, {SIGXCPU, "SIGXCPU"},
                 {SIGXFSZ, "SIGXFSZ"}, {SIGSYS, "SIGSYS"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].number == number)
            return names[i].name;
    }
    return NULL;
}

static void say_how(const abk_slot *slot, const abk_process *process, char *how, size_t len)
{
    if (slot->fault[0] != '\0')
        snprintf(how, len, "%s and was killed", slot->fault);
    else if (process->hung_up[0] != '\0')
        snprintf(how, len, "%s%s", process->hung_up,
                 process->shake_error[0] != '\0' ? "; it was ended" : " and was ended");
    else if (process->killed_by > 0) {
        const char *name = signal_name(process->killed_by);
        if (name != NULL)
            snprintf(how, len, "was killed by %s", name);
        else
            snprintf(how, len, "was killed by signal %d", process->killed_by);
    } else if (process->exit_code >= 0)
        snprintf(how, len, "exited with code %d", process->exit_code);
    else
        snprintf(how, len, "is gone");
}

/* Whether it may well be a worker written in Python, which has left without a word. */
static bool left_unsaid(const abk_slot *slot, const abk_process *process)
{
    const char *program = slot->pool->config->argv[0];
    const char *slash = strrchr(program, '/');
    const char *name = slash != NULL ? slash + 1 : program;
    const size_t len = strlen(name);
    return process->hung_up[0] == '\0' && slot->fault[0] == '\0' && process->exit_code == 0 &&
           (strstr(name, "python") != NULL || (len >= 3 && strcmp(name + len - 3, ".py") == 0));
}

/* The last line of what stands in a tail of stderr, at most 200 bytes of it. */
static abk_text last_line(const char *tail, size_t len)
{
    while (len > 0 && (tail[len - 1] == '\n' || tail[len - 1] == '\r' || tail[len - 1] == ' '))
        len--;
    size_t from = len;
    while (from > 0 && tail[from - 1] != '\n')
        from--;
    if (len - from > 200)
        from = len - 200;
    return (abk_text){tail + from, (uint32_t)(len - from)};
}

static void describe_start(const abk_slot *slot, const abk_spawn_error *error, abk_failure *failure)
{
    const char *argv0 = slot->pool->config->argv[0];
    const bool exec = strcmp(error->step, "exec") == 0;
    const bool in_cwd = strcmp(error->step, "cwd") == 0;
    const char *cwd = slot->extra_cwd != NULL ? slot->extra_cwd : slot->pool->config->cwd;
    abk_failure_init(failure, ABK_CODE_NO_WORKER, NULL,
                     "worker %d of pool '%s' could not be started: '%.200s': %s%s%.200s%s%s",
                     slot->worker, slot->pool->config->id, argv0, exec ? "" : error->step,
                     in_cwd ? " '" : "", in_cwd && cwd != NULL ? cwd : "",
                     exec ? "" : in_cwd ? "': " : ": ", strerror(error->number));
    snprintf(failure->reason, sizeof failure->reason, "%.255s", failure->message);
    failure->phase = "spawn";
    failure->number = error->number;
    failure->permanent = error->permanent;
}

/* Say what happened, for the errors of everything that waited for it. tail: room for the end of its
 * stderr, which the failure points into. */
static void describe(const abk_slot *slot, const abk_process *process, const abk_spawn_error *error,
                     abk_failure *failure, char *tail)
{
    if (error != NULL) {
        describe_start(slot, error, failure);
    } else if (process == NULL) {
        abk_failure_init(failure, ABK_CODE_NO_WORKER, "retired", "the worker was told to go");
    } else {
        const bool plain = slot->pool->config->ready.method == NULL;
        const char *phase = judge(slot, process, NULL).started || slot->asked ? NULL : "start";
        if (process->shake_error[0] != '\0')
            phase = "handshake";
        char how[600];
        say_how(slot, process, how, sizeof how);
        const size_t len = abk_process_tail(process, ABK_ERROR_TAIL_BYTES, tail);
        const abk_text last = last_line(tail, len);
        const bool start = phase != NULL && phase[0] == 's';
        abk_failure_init(failure, phase == NULL ? ABK_CODE_WORKER_LOST : ABK_CODE_NO_WORKER, NULL,
                         "worker %d of pool '%s' (pid %d) %s%s%s%s%.*s", slot->worker,
                         slot->pool->config->id, (int)process->child.pid, how,
                         !start ? "" : plain ? " before its first line" : " before its handshake was answered",
                         start && left_unsaid(slot, process) ? "; does it call worker.run()?" : "",
                         last.len > 0 ? "; last on stderr: " : "", (int)last.len, last.at);
        snprintf(failure->reason, sizeof failure->reason, "%.255s", how);
        failure->phase = phase;
        failure->pid = process->child.pid;
        failure->exit_code = process->exit_code;
        failure->killed_by = process->killed_by;
        failure->tail = tail;
        failure->tail_len = len;
    }
    failure->pool = slot->pool->config->id;
    failure->worker = slot->worker;
}

static void park(abk_slot *slot, const abk_verdict *verdict, const abk_failure *failure)
{
    abk_bus *bus = slot->bus;
    const abk_failure *why = slot->failure != NULL ? slot->failure : failure; /* no memory for it */
    if (slot->failure != NULL) {
        slot->failure->reason_name = NULL;
        snprintf(slot->failure->reason, sizeof slot->failure->reason, "%s", verdict->reason);
    }
    slot->wake_at = verdict->wait_ns == ABK_NEVER ? ABK_NEVER : bus->now + verdict->wait_ns;
    abk_life_fire(&slot->life, ABK_E_GIVE_UP);
    const bool said = slot->failure != NULL && slot->failure->permanent; /* that it cannot be started */
    abk_log(bus, ABK_LOG_ERROR, slot, "worker %s/%d is parked: %s%s%s", slot->pool->config->id,
            slot->worker, said ? "" : verdict->reason, said ? "" : ": ",
            slot->failure == NULL ? "" : slot->failure->message);
    abk_slot_end_lease(slot, why);
    abk_slot_hope(slot->pool, why);
}

/* Whether it can do without a process for now; the next request that needs it starts it. */
static bool may_rest(abk_slot *slot)
{
    if (!slot->rests || slot->pool->queued_here > 0)
        return false;
    abk_list_append(&slot->pool->vacant, &slot->vacant);
    return true;
}

/* Decide what comes after a death. */
static void go_on(abk_slot *slot, const abk_death *death, const abk_failure *failure)
{
    abk_bus *bus = slot->bus;
    const double random = (double)(abk_random() >> 11) / 9007199254740992.0;
    const abk_verdict verdict =
        abk_backoff_on_death(&slot->backoff, &bus->config->limits, death, bus->now, random);
    abk_failure_drop(slot->failure);
    slot->failure = abk_failure_keep(failure);
    if (verdict.park) {
        park(slot, &verdict, failure);
    } else if (may_rest(slot)) {
        abk_failure_drop(slot->failure);
        slot->failure = NULL;
        slot->wake_at = ABK_NEVER;
        abk_life_fire(&slot->life, ABK_E_REST);
    } else {
        slot->wake_at = bus->now + verdict.wait_ns;
        if (!slot->asked)
            abk_log(bus, ABK_LOG_WARNING, slot, "%s; starts again in %.2f s", failure->message,
                    (double)verdict.wait_ns / 1e9);
    }
}

/* The process is gone, or was never there: fail what it had in flight; decide what comes next. */
void abk_slot_bury(abk_slot *slot, const abk_spawn_error *error)
{
    abk_process *process = slot->process;
    char tail[ABK_ERROR_TAIL_BYTES];
    abk_failure failure;
    if (slot->drain_retires)
        abk_life_fire(&slot->life, ABK_E_RETIRE);
    const abk_action action = abk_life_fire(&slot->life, ABK_E_EXITED);
    describe(slot, process, error, &failure, tail);
    const abk_death death = judge(slot, process, error);
    slot->process = NULL;
    if (process != NULL) {
        abk_lane *lane = process->lane;
        abk_process_end(process);
        abk_lane_drop(lane, &failure, slot->lease_rebinds ? NULL : slot->lease);
    } else if (slot->lane != NULL && slot->lease == NULL) { /* else what waits for the lease waits on */
        abk_lane_drop(slot->lane, &failure, NULL);
    }
    abk_slot_follow_lease(slot, process, &failure);
    abk_router_pump(slot->pool);
    if (action == ABK_DO_FINISH || slot->life.state == ABK_S_STOPPED) {
        abk_slot_end_lease(slot, &failure);
        abk_slot_hope(slot->pool, &failure);
    } else {
        go_on(slot, &death, &failure);
    }
    if (slot->life.state != ABK_S_STOPPED)
        abk_tell_worker(slot);
}
