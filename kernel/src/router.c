/* Which lane gets a request, and what waits where. */
#include "bus.h"

#include <stdio.h>

enum { MOST_PROBES = 2 }; /* in flight on a worker: one, and one that was given up */

/* --- refusals -------------------------------------------------------------------------------- */

void abk_refuse(abk_bus *bus, const abk_way *way, int code, const char *reason, const char *format,
                ...)
{
    va_list arguments;
    abk_failure *failure = &bus->refusal;
    abk_failure_init(failure, code, reason, "%s", "");
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof failure->message, format, arguments);
    va_end(arguments);
    if (way == NULL)
        return;
    failure->pool = way->pool == NULL ? NULL : way->pool->config->id;
    failure->worker = way->worker;
    const size_t most = sizeof failure->session - 1;
    const size_t len = way->session.len < most ? way->session.len : most;
    if (len > 0)
        memcpy(failure->session, way->session.at, len);
}

void abk_refuse_with(abk_bus *bus, abk_failure *stored)
{
    abk_failure_share(stored); /* first: it may be the same */
    abk_failure_drop(bus->refusal_of);
    bus->refusal_of = stored;
    bus->refusal = *stored;
}

/* --- lanes ----------------------------------------------------------------------------------- */

static bool lane_takes(const abk_lane *lane, const abk_entry *entry)
{
    const uint64_t most = lane->pool->bus->config->limits.max_output_bytes;
    if (!entry->request) /* has a reserve, and waits for no request; but not before the handshake */
        return (lane->admitted || entry->session == NULL) &&
               abk_outbox_size(&lane->out) <= most + ABK_RESERVE_BYTES;
    const uint32_t limit = lane->pool->config->max_in_flight;
    return lane->mode != ABK_CLOSED && (limit == 0 || lane->in_flight < limit) &&
           abk_outbox_size(&lane->out) <= most;
}

/* The open lane for a frame that any may have; NULL where none takes it now. */
static abk_lane *choose(abk_pool *pool, const abk_entry *entry)
{
    const uint32_t count = pool->open_count;
    if (count == 1)
        return lane_takes(pool->open[0], entry) ? pool->open[0] : NULL;
    if (pool->config->packs && entry->session == NULL)
        pool->cursor = 0; /* not in turn: what is too much is to become idle */
    abk_lane *best = NULL;
    uint32_t best_at = 0;
    for (uint32_t step = 0; step < count; step++) {
        const uint32_t at = (pool->cursor + step) % count;
        abk_lane *lane = pool->open[at];
        if (!lane_takes(lane, entry) || (best != NULL && lane->in_flight >= best->in_flight))
            continue;
        best = lane;
        best_at = at;
        if (pool->config->balance == ABK_ROUND_ROBIN)
            break;
    }
    if (best != NULL)
        pool->cursor = (best_at + 1) % count;
    return best;
}

abk_lane *abk_router_choose(abk_pool *pool)
{
    const abk_entry any = {.request = true, .pool = pool};
    return choose(pool, &any);
}

abk_lane *abk_lane_add(abk_slot *slot)
{
    abk_lane *lane = ABK_NEW(abk_lane);
    if (lane == NULL)
        return NULL;
    lane->pool = slot->pool;
    lane->slot = slot;
    abk_list_init(&lane->entries);
    abk_list_init(&lane->waiting);
    abk_list_init(&lane->sessions);
    abk_list_init(&lane->asks);
    return lane;
}

void abk_lane_set_mode(abk_lane *lane, abk_mode mode)
{
    abk_pool *pool = lane->pool;
    if ((lane->mode == ABK_OPEN) != (mode == ABK_OPEN)) {
        if (mode == ABK_OPEN) {
            pool->open[pool->open_count++] = lane; /* there is room for every slot */
        } else {
            uint32_t at = 0;
            while (pool->open[at] != lane)
                at++;
            pool->open_count--;
            memmove(pool->open + at, pool->open + at + 1,
                    (pool->open_count - at) * sizeof *pool->open);
        }
    }
    lane->mode = mode;
    lane->admitted = lane->admitted || mode != ABK_CLOSED;
}

void abk_lane_mark(abk_lane *lane)
{
    if (!abk_linked(&lane->dirty))
        abk_list_append(&lane->pool->bus->dirty_lanes, &lane->dirty);
}

int abk_lane_write(abk_lane *lane, const char *at, size_t len)
{
    if (abk_buf_append(&lane->out.buf, at, len) < 0) {
        lane->out.buf.failed = false;
        return ABK_ENOMEM;
    }
    abk_lane_mark(lane);
    return ABK_OK;
}

abk_entry *abk_lane_sole(const abk_lane *lane)
{
    if (lane->in_flight - lane->probes != 1 || lane->probes > MOST_PROBES)
        return NULL;
    ABK_EACH(link, &lane->entries)
    {
        abk_entry *entry = ABK_OF(link, abk_entry, place);
        if (!entry->probe)
            return entry;
    }
    return NULL;
}

/* After its in-flight has changed: a draining one may be done, somebody may wait for quiet. */
void abk_lane_settled(abk_lane *lane)
{
    abk_slot *slot = lane->slot;
    if (lane->in_flight > 0)
        return;
    if (slot->quiet_wanted && slot->life.state != ABK_S_STARTING) { /* else like one start more */
        slot->quiet_wanted = false;
        abk_tell_worker(slot);
    }
    if (slot->life.state == ABK_S_DRAINING)
        abk_wake_at(slot->bus, &slot->timer, slot->bus->now);
}

/* --- waiting --------------------------------------------------------------------------------- */

/* Let an entry wait for a lane, or in its client's share of the pool. */
void abk_entry_wait(abk_entry *entry, abk_lane *lane)
{
    abk_pool *pool = entry->pool;
    pool->queued++;
    pool->queued_bytes += entry->len;
    entry->stage = ABK_QUEUED;
    entry->lane = lane;
    if (lane != NULL) {
        abk_list_append(&lane->waiting, &entry->place);
        lane->waiting_count++;
        if (entry->session != NULL)
            abk_list_append(&entry->session->bound, &entry->unbound);
        return;
    }
    abk_share *share = &entry->client->shares[pool->index];
    if (abk_list_empty(&share->entries))
        abk_list_append(&pool->turns, &share->turn);
    abk_list_append(&share->entries, &entry->place);
    pool->queued_here++;
    if (entry->session != NULL)
        abk_list_append(&entry->session->waiting, &entry->unbound);
}

/* End the wait of an entry. */
void abk_entry_unwait(abk_entry *entry)
{
    abk_pool *pool = entry->pool;
    pool->queued--;
    pool->queued_bytes -= entry->len;
    abk_unlink(&entry->place);
    abk_unlink(&entry->unbound);
    if (entry->lane != NULL) {
        entry->lane->waiting_count--;
        return;
    }
    abk_share *share = &entry->client->shares[pool->index];
    if (abk_list_empty(&share->entries))
        abk_unlink(&share->turn);
    pool->queued_here--;
}

void abk_router_rebind(abk_entry *entry, abk_lane *lane)
{
    abk_entry_unwait(entry);
    abk_entry_wait(entry, lane);
}

/* Give an entry to a lane that takes it; its bytes are in the out-queue already. */
static void hand_over(abk_entry *entry, abk_lane *lane)
{
    abk_session *session = entry->session;
    entry->session = NULL; /* whom it is for is settled from here on */
    if (session != NULL && session->lane == NULL)
        abk_session_bind(session, lane);
    abk_lane_mark(lane);
    if (!entry->request)
        return;
    entry->lane = lane;
    entry->stage = ABK_TAKEN;
    abk_list_append(&lane->entries, &entry->place);
    lane->in_flight++;
    lane->probes += entry->probe;
    lane->served++;
    if (lane->served == lane->pool->config->max_requests)
        abk_tell_worker(lane->slot);
}

/* Move a waiting entry into the out-queue of a lane; false: no memory, it waits on. */
static bool send_queued(abk_bus *bus, abk_entry *entry, abk_lane *lane)
{
    const uint64_t start = abk_outbox_end(&lane->out);
    if (abk_lane_write(lane, entry->frame, entry->len) < 0)
        return false;
    abk_entry_unwait(entry);
    abk_free(entry->frame);
    entry->frame = NULL;
    entry->start = start;
    hand_over(entry, lane);
    if (!entry->request)
        abk_entry_free(bus, entry);
    return true;
}

static void feed(abk_bus *bus, abk_lane *lane)
{
    for (abk_link *link; (link = abk_list_first(&lane->waiting)) != NULL;) {
        abk_entry *entry = ABK_OF(link, abk_entry, place);
        if (!lane_takes(lane, entry) || !send_queued(bus, entry, lane))
            return;
    }
}

/* Hand out what waits, as far as there is room; clients in turn. */
void abk_router_pump(abk_pool *pool)
{
    abk_bus *bus = pool->bus;
    if (pool->queued == 0)
        return;
    ABK_EACH(link, &pool->slots)
    {
        abk_lane *lane = ABK_OF(link, abk_slot, of_pool)->lane;
        if (lane != NULL)
            feed(bus, lane);
    }
    for (abk_link *turn; (turn = abk_list_first(&pool->turns)) != NULL;) {
        abk_share *share = ABK_OF(turn, abk_share, turn);
        abk_entry *entry = ABK_OF(abk_list_first(&share->entries), abk_entry, place);
        abk_lane *lane = choose(pool, entry);
        if (lane == NULL || !send_queued(bus, entry, lane))
            return;
        if (abk_linked(turn)) {
            abk_unlink(turn);
            abk_list_append(&pool->turns, turn);
        }
        feed(bus, lane); /* what waited for the same session is bound to it now */
    }
}

/* --- taking ---------------------------------------------------------------------------------- */

/* The only lane that a frame may go to; NULL with *session set or not: any of the pool. */
static int bound_lane(abk_bus *bus, const abk_way *way, abk_lane **lane, abk_session **session)
{
    *lane = NULL;
    *session = NULL;
    if (way->worker >= 0) {
        abk_slot *slot = abk_slot_find(bus, way->worker);
        if (slot != NULL && slot->pool == way->pool)
            *lane = slot->lane;
        if (*lane == NULL) {
            abk_refuse(bus, way, ABK_CODE_NO_WORKER, "worker_gone",
                       "worker %d of pool '%s' is not there", way->worker, way->pool->config->id);
            return ABK_EREFUSED;
        }
    } else if (way->session.len > 0) {
        *session = abk_session_begin(bus, way);
        if (*session == NULL)
            return ABK_EREFUSED;
        *lane = (*session)->lane;
    } else if (way->learns && !abk_session_room(bus)) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "max_sessions",
                   "there are max_sessions=%u sessions; end some of them",
                   bus->config->limits.max_sessions);
        return ABK_EREFUSED;
    }
    return ABK_OK;
}

static int check_queue(abk_bus *bus, const abk_way *way)
{
    const abk_limits *limits = &bus->config->limits;
    const abk_pool *pool = way->pool;
    if (pool->queued >= limits->max_queued) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "max_queued",
                   "pool '%s' has max_queued=%u requests waiting", pool->config->id,
                   limits->max_queued);
        return ABK_EREFUSED;
    }
    if (pool->queued_bytes > limits->max_output_bytes) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "max_output_bytes",
                   "pool '%s' has more than max_output_bytes=%llu waiting", pool->config->id,
                   (unsigned long long)limits->max_output_bytes);
        return ABK_EREFUSED;
    }
    return ABK_OK;
}

/* Start a slot that rests, if a frame has found every running worker of its pool busy. */
static void rouse(const abk_way *way, const abk_lane *lane)
{
    abk_link *vacant = abk_list_first(&way->pool->vacant);
    if (vacant == NULL || way->worker >= 0)
        return;
    if (lane == NULL || (lane->in_flight > 1 && way->session.len == 0))
        abk_slot_spawn(ABK_OF(vacant, abk_slot, vacant));
}

static int check_way(abk_bus *bus, const abk_way *way, bool request, const abk_frame *frame)
{
    const uint32_t most = bus->config->limits.max_frame_bytes;
    if (request && bus->phase >= ABK_DRAINING_ALL) {
        abk_refuse(bus, way, ABK_CODE_SHUTTING_DOWN, "shutting down", "the bus is shutting down");
    } else if (request && way->client->kind != ABK_HOST &&
               way->client->live >= bus->config->limits.max_pending) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "max_pending",
                   "max_pending=%u requests of this client have no answer yet",
                   bus->config->limits.max_pending);
    } else if (way->pool->unavailable != NULL) {
        abk_refuse_with(bus, way->pool->unavailable);
    } else if (frame->line.len > most) {
        abk_refuse(bus, way, ABK_CODE_FRAME_TOO_LARGE, "max_frame_bytes",
                   "a frame of %u bytes is over max_frame_bytes=%u", frame->line.len, most);
        bus->refusal.limit_bytes = most;
    } else {
        return ABK_OK;
    }
    return ABK_EREFUSED;
}

/* Put the bytes of a frame where they belong: the lane's out-queue, or a copy that waits. */
static bool place_frame(abk_entry *entry, abk_lane *lane, const abk_frame *frame)
{
    const size_t most = abk_frame_most(frame);
    const int64_t key = abk_router_key(entry);
    if (lane == NULL) {
        entry->frame = abk_realloc(NULL, most);
        if (entry->frame != NULL)
            entry->len = (uint32_t)abk_frame_put(frame, key, entry->frame);
        return entry->frame != NULL;
    }
    abk_buf *buf = &lane->out.buf;
    if (abk_buf_reserve(buf, most) < 0)
        return false;
    entry->start = abk_outbox_end(&lane->out);
    entry->len = (uint32_t)abk_frame_put(frame, key, buf->data + buf->tail);
    abk_buf_filled(buf, entry->len);
    return true;
}

static int64_t refused(abk_bus *bus, abk_entry *entry, abk_session *session)
{
    bus->counts.routing_errors++;
    if (entry != NULL)
        abk_entry_free(bus, entry);
    if (session != NULL)
        abk_session_unused(bus, session);
    return ABK_EREFUSED;
}

int64_t abk_router_take(abk_bus *bus, const abk_way *way, const abk_value *id,
                        const abk_frame *frame, const abk_value *token)
{
    abk_lane *bound;
    abk_session *session;
    if (check_way(bus, way, id != NULL, frame) < 0)
        return refused(bus, NULL, NULL);
    abk_entry *entry = abk_entry_new(bus);
    int known = entry == NULL ? ABK_ENOMEM : ABK_OK;
    if (entry != NULL) {
        entry->pool = way->pool;
        entry->client = way->client;
        entry->rebind = way->rebind;
        entry->learns = way->learns;
        entry->probe = way->probe;
        entry->number = way->number;
        if (id != NULL)
            known = abk_entry_name(bus, entry, way, id, token);
    }
    if (known < 0) {
        if (known == ABK_EINVAL)
            abk_refuse(bus, way, ABK_CODE_INVALID_REQUEST, "duplicate_id", "the id %.*s is in use",
                       (int)id->len, id->at);
        else
            abk_refuse(bus, way, ABK_CODE_OVERLOADED, "memory", "out of memory");
        return refused(bus, entry, NULL);
    }
    if (bound_lane(bus, way, &bound, &session) < 0) { /* the last check but for room: it has effects */
        if (id != NULL)
            abk_entry_forget_id(bus, entry);
        return refused(bus, entry, NULL);
    }
    entry->session = session;
    const bool ahead = bound == NULL ? way->pool->queued_here > 0 : bound->waiting_count > 0;
    abk_lane *lane = NULL;
    if (!ahead || id == NULL) { /* no request overtakes one that waits */
        if (bound == NULL)
            lane = choose(way->pool, entry);
        else if (lane_takes(bound, entry))
            lane = bound;
    }
    bool placed = lane != NULL || check_queue(bus, way) == ABK_OK;
    if (placed && !place_frame(entry, lane, frame)) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "memory", "out of memory");
        placed = false;
    }
    if (!placed) {
        if (id != NULL)
            abk_entry_forget_id(bus, entry);
        return refused(bus, entry, session);
    }
    bus->counts.messages_out++;
    const int64_t key = id == NULL ? 0 : abk_router_key(entry);
    if (id != NULL) {
        abk_list_append(&way->client->entries, &entry->owner);
        way->client->live++;
        bus->live++;
    }
    if (lane != NULL)
        hand_over(entry, lane);
    else
        abk_entry_wait(entry, bound);
    if (lane != NULL && id == NULL)
        abk_entry_free(bus, entry);
    if (!abk_list_empty(&way->pool->vacant))
        rouse(way, lane);
    return key;
}
