/* The public calls about frames, workers and sessions, and the reports: see abk.h. */
#include "bus.h"

static abk_pool *pool_of(abk_bus *bus, const char *id)
{
    return id == NULL ? NULL : abk_pool_find(bus, (abk_text){id, (uint32_t)strlen(id)});
}

/* --- frames ---------------------------------------------------------------------------------- */

static int64_t refuse(abk_bus *bus, const abk_way *way, int code, const char *reason, const char *text)
{
    abk_refuse(bus, way, code, reason, "%s", text);
    bus->counts.routing_errors++;
    return ABK_EREFUSED;
}

/* Refuse a frame that is too long before it is scanned; what comes before that in the order of rules
 * comes first here too. */
static int64_t refuse_long(abk_bus *bus, const abk_route *route, abk_pool *pool, size_t len)
{
    const uint32_t most = bus->config->limits.max_frame_bytes;
    const abk_way way = {.client = bus->host,
                         .pool = pool,
                         .worker = route->worker,
                         .session = {route->session, (uint32_t)route->session_len}};
    if (pool != NULL && pool->unavailable != NULL) {
        abk_refuse_with(bus, pool->unavailable);
    } else {
        abk_refuse(bus, &way, ABK_CODE_FRAME_TOO_LARGE, "max_frame_bytes",
                   "a frame of %zu bytes is over max_frame_bytes=%u", len, most);
        bus->refusal.limit_bytes = most;
    }
    bus->counts.routing_errors++;
    return ABK_EREFUSED;
}

static int64_t submit_line(abk_bus *bus, const abk_route *route, const char *line, size_t len)
{
    const abk_way way = {.client = bus->host, .worker = -1};
    if (len > bus->config->limits.max_frame_bytes) {
        abk_pool *pool = NULL;
        if (route->pool != NULL)
            pool = abk_pool_find(bus, (abk_text){route->pool, (uint32_t)strlen(route->pool)});
        if (route->pool == NULL || pool != NULL)
            return refuse_long(bus, route, pool, len);
    }
    abk_message message;
    if (len == 0 || line[len - 1] != '\n' || abk_scan(line, len, &message) != ABK_OK)
        return refuse(bus, &way, ABK_CODE_INVALID_REQUEST, "invalid_frame",
                      "a frame is one line of JSON with its newline");
    return abk_host_submit(bus, route, &message, (abk_text){line, (uint32_t)len});
}

static int can_submit(abk_bus *bus, const abk_route *route)
{
    const int result = abk_enter(bus);
    if (result < 0)
        return result;
    return route == NULL || route->size < sizeof *route || bus->host == NULL ? ABK_EINVAL : ABK_OK;
}

int64_t abk_submit(abk_bus *bus, const abk_route *route, const char *line, size_t len)
{
    const int result = can_submit(bus, route);
    return result < 0 ? result : submit_line(bus, route, line, len);
}

/* Whether the queue of the pool would take so many lines, should no worker take any. */
static bool has_room(abk_bus *bus, const abk_route *route, uint32_t count, uint64_t len)
{
    const abk_limits *limits = &bus->config->limits;
    const abk_pool *pool = bus->pool_count == 1 && route->pool == NULL ? &bus->pools[0]
                                                                      : pool_of(bus, route->pool);
    if (pool != NULL && pool->config->session.count > 1)
        return false; /* the session that a line names may be refused */
    return pool != NULL && pool->unavailable == NULL && bus->phase == ABK_RUNNING &&
           (uint64_t)pool->queued + count <= limits->max_queued &&
           pool->queued_bytes + len <= limits->max_output_bytes && len <= limits->max_frame_bytes;
}

/* The length of the longest of these lines, and their number: 0 if one does not begin as params do. */
static uint32_t longest_line(const char *lines, size_t len, uint64_t *count)
{
    size_t longest = 0;
    *count = 0;
    for (const char *at = lines, *end = lines + len; at < end; (*count)++) {
        if (*at != '{' && *at != '[' && *at != '\n') {
            *count = 0;
            break;
        }
        const char *behind = (const char *)memchr(at, '\n', (size_t)(end - at)) + 1;
        if ((size_t)(behind - at) > longest)
            longest = (size_t)(behind - at);
        at = behind;
    }
    return (uint32_t)longest;
}

static const char row_start[] = "{\"jsonrpc\":\"2.0\",\"id\":", row_method[] = ",\"method\":",
                  row_params[] = ",\"params\":";
enum { ROW_BYTES = sizeof row_start + 20 + sizeof row_method + sizeof row_params }; /* besides the rest */

static char *put(char *to, const char *text, size_t len)
{
    memcpy(to, text, len);
    return to + len;
}

/* Make one frame in the memory of all, and take it. params end with their newline. */
static bool take_of_row(abk_bus *bus, const abk_route *route, const abk_row *row, int64_t id,
                        const abk_value *method, abk_text params, char *frame)
{
    abk_message message = {.method = *method};
    char *to = put(frame, row_start, sizeof row_start - 1);
    message.id = (abk_value){.at = to, .kind = ABK_NUMBER};
    message.id.len = (uint32_t)abk_put_number(to, (uint64_t)id);
    to = put(to + message.id.len, row_method, sizeof row_method - 1);
    message.method.at = to + 1;
    to = put(to, row->method, row->method_len);
    if (params.len > 1) {
        to = put(to, row_params, sizeof row_params - 1);
        message.params.at = to;
        to = put(to, params.at, params.len - 1);
    }
    to = put(to, "}\n", 2);
    if (params.len > 1 && (!abk_scan_last(frame, (size_t)(to - frame), &message.params) ||
                           message.params.kind < ABK_OBJECT))
        return false;
    return abk_host_submit(bus, route, &message, (abk_text){frame, (uint32_t)(to - frame)}) > 0;
}

int64_t abk_submit_row(abk_bus *bus, const abk_route *route, const abk_row *row)
{
    const int result = can_submit(bus, route);
    if (result < 0)
        return result;
    if (row == NULL || row->size < sizeof *row || row->first < 1 || row->method_len > UINT32_MAX ||
        row->first > INT64_MAX - row->count || (route->flags & ABK_ROUTE_ORPHAN) != 0)
        return ABK_EINVAL;
    const abk_value method = abk_scan_id((abk_text){row->method, (uint32_t)row->method_len});
    const uint64_t each = row->method_len + ROW_BYTES;
    uint64_t found = 0;
    if (method.kind != ABK_STRING || row->params_len == 0 || row->params[row->params_len - 1] != '\n' ||
        !has_room(bus, route, row->count, row->params_len + row->count * each))
        return 0;
    const uint32_t longest = longest_line(row->params, row->params_len, &found);
    char *frame = found == row->count ? abk_realloc(NULL, longest + each) : NULL;
    if (frame == NULL)
        return 0;
    int64_t taken = 0;
    const char *at = row->params;
    for (; taken < row->count; taken++) {
        const char *behind = (const char *)memchr(at, '\n', longest) + 1;
        const abk_text params = {at, (uint32_t)(behind - at)};
        if (!take_of_row(bus, route, row, row->first + taken, &method, params, frame))
            break;
        at = behind;
    }
    abk_free(frame);
    return taken;
}

const char *abk_refusal(abk_bus *bus, size_t *len)
{
    if (abk_usable(bus) < 0)
        return NULL;
    abk_buf_clear(&bus->refusal_text);
    abk_failure_write(&bus->refusal_text, &bus->refusal, false, NULL);
    *len = abk_buf_len(&bus->refusal_text);
    return bus->refusal_text.failed ? NULL : abk_buf_at(&bus->refusal_text);
}

int abk_flush(abk_bus *bus)
{
    const int result = abk_enter(bus);
    if (result < 0)
        return result;
    abk_flush_all(bus);
    return (int)(bus->event_count - bus->event_at);
}

static abk_entry *live(const abk_bus *bus, int64_t key)
{
    abk_entry *entry = abk_router_by_key(bus, key);
    return entry != NULL && entry->stage != ABK_TOMBSTONE && entry->client == bus->host ? entry : NULL;
}

int abk_withdraw(abk_bus *bus, int64_t key, const char *reason, size_t reason_len)
{
    const int result = abk_enter(bus);
    if (result < 0)
        return result;
    abk_entry *entry = live(bus, key);
    if (entry == NULL)
        return ABK_ENOENT;
    bus->counts.withdrawn++;
    return abk_router_withdraw(bus, entry, (abk_text){reason, (uint32_t)reason_len});
}

int64_t abk_find(abk_bus *bus, const char *id, size_t len)
{
    const int result = abk_enter(bus);
    if (result < 0)
        return result;
    const abk_entry *entry = abk_router_find_json(bus, bus->host, id, len);
    return entry == NULL || entry->stage == ABK_TOMBSTONE ? ABK_ENOENT : abk_router_key(entry);
}

const char *abk_id(abk_bus *bus, int64_t key, size_t *len)
{
    const abk_entry *entry = abk_enter(bus) < 0 ? NULL : live(bus, key);
    if (entry == NULL)
        return NULL;
    const abk_text raw = abk_id_raw(&entry->id);
    *len = raw.len;
    return raw.at;
}

/* --- primitives ------------------------------------------------------------------------------ */

static abk_slot *slot_of(abk_bus *bus, int32_t worker, int *result)
{
    *result = abk_enter(bus);
    abk_slot *slot = *result < 0 ? NULL : abk_slot_find(bus, worker);
    if (slot != NULL && slot->life.state == ABK_S_STOPPED)
        slot = NULL; /* it goes with the next step, and nothing may be tied to it */
    if (slot == NULL && *result == ABK_OK)
        *result = ABK_ENOENT;
    return slot;
}

int abk_pause(abk_bus *bus, int32_t worker)
{
    int result;
    const abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL && slot->process != NULL && slot->life.state != ABK_S_STOPPING) {
        slot->process->paused = true;
        abk_process_watch(slot->process);
    }
    return result;
}

int abk_resume(abk_bus *bus, int32_t worker)
{
    int result;
    const abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL && slot->process != NULL) {
        slot->process->paused = false;
        abk_process_watch(slot->process);
    }
    return result;
}

/* Copy the environment of a lease into the slot. */
static bool take_extra(abk_slot *slot, const abk_extra *extra)
{
    uint32_t count = 0;
    while (extra->env != NULL && extra->env[count] != NULL)
        count++;
    if (count > 0 && (slot->extra_env = abk_alloc(count * sizeof *slot->extra_env)) == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        char *name = abk_copy(extra->env[i], strlen(extra->env[i]));
        if (name == NULL)
            return false;
        char *value = strchr(name, '=');
        if (value != NULL)
            *value++ = '\0';
        slot->extra_env[i] = (abk_env){name, value};
        slot->extra_env_count = i + 1;
    }
    if (extra->cwd != NULL && (slot->extra_cwd = abk_copy(extra->cwd, strlen(extra->cwd))) == NULL)
        return false;
    return true;
}

int32_t abk_spawn(abk_bus *bus, const char *pool_id, const abk_extra *extra)
{
    const int result = abk_enter(bus);
    abk_pool *pool = result < 0 ? NULL : pool_of(bus, pool_id);
    if (pool == NULL)
        return result < 0 ? result : ABK_ENOENT;
    const bool own = extra != NULL && extra->session != NULL;
    if (bus->stopping)
        return ABK_ESTATE; /* nobody would end it */
    if (own && extra->session_len == 0)
        return ABK_EINVAL; /* an empty name is none */
    abk_slot *slot = abk_slot_add(pool, own);
    if (slot == NULL)
        return ABK_ENOMEM;
    bool whole = extra == NULL || take_extra(slot, extra);
    if (whole && own)
        whole = abk_slot_lend(slot, bus->host,
                              (abk_text){extra->session, (uint32_t)extra->session_len},
                              extra->rebind) == ABK_OK;
    const int32_t worker = slot->worker;
    if (!whole) {
        abk_slot_retire(slot);
        return ABK_ENOMEM;
    }
    abk_slot_fire(slot, ABK_E_SPAWN);
    return worker;
}

int abk_resize(abk_bus *bus, const char *pool_id, uint32_t instances, double drain_s)
{
    const int result = abk_enter(bus);
    abk_pool *pool = result < 0 ? NULL : pool_of(bus, pool_id);
    if (pool == NULL)
        return result < 0 ? result : ABK_ENOENT;
    if (bus->stopping)
        return ABK_ESTATE;
    abk_pool_resize(pool, instances, drain_s);
    return ABK_OK;
}

int abk_drain(abk_bus *bus, int32_t worker, double drain_s, bool retire)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL)
        abk_slot_drain(slot, drain_s, retire);
    return result;
}

int abk_kill(abk_bus *bus, int32_t worker, const char *fault)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL)
        abk_slot_kill(slot, fault);
    return result;
}

int abk_rest(abk_bus *bus, int32_t worker)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    return slot == NULL ? result : abk_slot_rest(slot);
}

int abk_hold(abk_bus *bus, int32_t worker)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL)
        abk_slot_hold(slot, true);
    return result;
}

int abk_release(abk_bus *bus, int32_t worker)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    if (slot != NULL)
        abk_slot_release(slot);
    return result;
}

int abk_lease(abk_bus *bus, int32_t worker, const char *session, size_t session_len, bool rebind)
{
    int result;
    abk_slot *slot = slot_of(bus, worker, &result);
    if (slot == NULL)
        return result;
    if (session_len == 0)
        return ABK_EINVAL;
    if (slot->lease != NULL) {
        abk_refuse(bus, NULL, ABK_CODE_NO_WORKER, "leased", "worker %d is leased already", worker);
        return ABK_EREFUSED;
    }
    return abk_slot_lend(slot, bus->host, (abk_text){session, (uint32_t)session_len}, rebind);
}

int abk_end_session(abk_bus *bus, const char *name, size_t len)
{
    const int result = abk_enter(bus);
    abk_session *session =
        result < 0 ? NULL : abk_session_find(bus, (abk_text){name, (uint32_t)len});
    if (session == NULL)
        return result < 0 ? result : ABK_ENOENT;
    abk_session_end(bus, session);
    return ABK_OK;
}

int abk_check_pool(abk_bus *bus, const char *pool_id)
{
    const int result = abk_enter(bus);
    const abk_pool *pool = result < 0 ? NULL : pool_of(bus, pool_id);
    if (pool == NULL)
        return result < 0 ? result : ABK_ENOENT;
    if (pool->unavailable == NULL)
        return ABK_OK;
    abk_refuse_with(bus, pool->unavailable);
    return ABK_EREFUSED;
}

int abk_hear(abk_bus *bus, const char *pool_id, bool on)
{
    const int result = abk_usable(bus);
    abk_pool *pool = result < 0 ? NULL : pool_of(bus, pool_id);
    if (pool == NULL)
        return result < 0 ? result : ABK_ENOENT;
    pool->unheard = !on;
    return ABK_OK;
}

int abk_tap(abk_bus *bus, bool on)
{
    const int result = abk_usable(bus);
    if (result < 0)
        return result;
    bus->host_taps = on;
    abk_tap_on(bus);
    return ABK_OK;
}

/* --- reports --------------------------------------------------------------------------------- */

int abk_statistics(const abk_bus *bus, abk_stats *stats)
{
    const int result = abk_usable(bus);
    if (result == ABK_OK)
        abk_report_stats(bus, stats);
    return result;
}

static const char *report(abk_bus *bus, size_t *len)
{
    *len = abk_buf_len(&bus->report);
    return bus->report.failed ? NULL : abk_buf_at(&bus->report);
}

const char *abk_status(abk_bus *bus, size_t *len)
{
    if (abk_usable(bus) < 0)
        return NULL;
    abk_buf_clear(&bus->report);
    abk_report_status(bus, &bus->report, bus->config->limits.stderr_tail_bytes);
    return report(bus, len);
}

const char *abk_find_session(abk_bus *bus, const char *name, size_t name_len, size_t *len)
{
    const abk_session *session =
        abk_usable(bus) < 0 ? NULL : abk_session_find(bus, (abk_text){name, (uint32_t)name_len});
    if (session == NULL || (session->lane == NULL && !session->is_lost))
        return NULL;
    abk_buf_clear(&bus->report);
    abk_report_session(session, &bus->report);
    return report(bus, len);
}
