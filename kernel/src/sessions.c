/* Which worker holds which session, and which sessions were lost with one. */
#include "bus.h"

static bool same_name(const void *item, const void *key)
{
    const abk_session *session = item;
    const abk_text *name = key;
    return session->name_len == name->len && memcmp(session->name, name->at, name->len) == 0;
}

abk_session *abk_session_find(abk_bus *bus, abk_text name)
{
    const uint64_t hash = abk_hash(name.at, name.len, bus->seed);
    return abk_map_find(&bus->sessions, hash, same_name, &name);
}

static void forget(abk_bus *bus, abk_session *session)
{
    abk_watchers_session(session, true);
    if (session->lane == NULL && !session->is_lost)
        bus->unbound_sessions--;
    if (session->lane != NULL)
        session->lane->session_count--;
    abk_unlink(&session->of_lane);
    abk_unlink(&session->of_client);
    abk_unlink(&session->lost);
    abk_unlink(&session->idle);
    abk_map_remove(&bus->sessions, session->hash, session);
    abk_failure_drop(session->failure);
    abk_free(session);
}

/* Whether one session more can be known; the oldest lost one without a lease gives way. */
bool abk_session_room(abk_bus *bus)
{
    if (bus->sessions.count < bus->config->limits.max_sessions)
        return true;
    ABK_EACH(link, &bus->lost_sessions)
    {
        abk_session *session = ABK_OF(link, abk_session, lost);
        if (!session->leased) {
            forget(bus, session);
            return true;
        }
    }
    return false;
}

static abk_session *add(abk_bus *bus, abk_pool *pool, abk_client *owner, abk_text name)
{
    abk_session *session = abk_alloc(sizeof *session + name.len + 1);
    if (session == NULL)
        return NULL;
    memcpy(session->name, name.at, name.len);
    session->name_len = name.len;
    session->hash = abk_hash(name.at, name.len, bus->seed);
    if (abk_map_add(&bus->sessions, session->hash, session) < 0) {
        abk_free(session);
        return NULL;
    }
    session->pool = pool;
    session->owner = owner;
    abk_list_init(&session->waiting);
    abk_list_init(&session->bound);
    abk_list_append(&bus->idle_sessions, &session->idle);
    if (owner != NULL)
        abk_list_append(&owner->sessions, &session->of_client);
    session->used = bus->now;
    bus->unbound_sessions++;
    return session;
}

void abk_session_use(abk_bus *bus, abk_session *session)
{
    session->used = bus->now;
    if (bus->config->limits.session_idle_s > 0) { /* else nobody looks at that order */
        abk_unlink(&session->idle);
        abk_list_append(&bus->idle_sessions, &session->idle);
    }
}

void abk_session_unlose(abk_session *session)
{
    abk_unlink(&session->lost);
    abk_failure_drop(session->failure);
    session->failure = NULL;
    session->is_lost = false;
    session->pool->bus->unbound_sessions++;
}

/* Turn a lost session into one that begins anew; false: it may not. */
static bool revive(abk_bus *bus, abk_session *session, const abk_way *way)
{
    const abk_failure *why = session->failure;
    const bool forever = session->leased;
    if (forever || !way->rebind) {
        abk_refuse(bus, way, ABK_CODE_SESSION_LOST, "session_lost",
                   "the worker that held session '%.*s' is gone%s%s", (int)session->name_len,
                   session->name, why != NULL ? ": " : "", why != NULL ? why->message : "");
        if (!forever)
            forget(bus, session);
        return false;
    }
    abk_session_unlose(session);
    session->pool = way->pool;
    return true;
}

abk_session *abk_session_begin(abk_bus *bus, const abk_way *way)
{
    abk_session *session = abk_session_find(bus, way->session);
    if (session != NULL && session->is_lost && !revive(bus, session, way))
        return NULL;
    if (session != NULL) {
        if (session->pool != way->pool) {
            abk_refuse(bus, way, ABK_CODE_INVALID_REQUEST, "session_elsewhere",
                       "session '%.*s' is in pool '%s'", (int)session->name_len, session->name,
                       session->pool->config->id);
            return NULL;
        }
        abk_session_use(bus, session);
        return session;
    }
    if (!abk_session_room(bus)) {
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "max_sessions",
                   "there are max_sessions=%u sessions; end some of them",
                   bus->config->limits.max_sessions);
        return NULL;
    }
    session = add(bus, way->pool, way->client, way->session);
    if (session == NULL)
        abk_refuse(bus, way, ABK_CODE_OVERLOADED, "memory", "out of memory");
    return session;
}

/* It leaves its lane; what waits for it there keeps that. */
static void leave_waiting(abk_session *session)
{
    for (abk_link *link; (link = abk_list_take(&session->bound)) != NULL;)
        ABK_OF(link, abk_entry, unbound)->session = NULL;
}

void abk_session_bind(abk_session *session, abk_lane *lane)
{
    abk_bus *bus = lane->pool->bus;
    abk_slot *before = session->lane == NULL ? NULL : session->lane->slot;
    if (session->lane == lane)
        return;
    if (session->lane != NULL) {
        session->lane->session_count--;
        leave_waiting(session);
    } else if (!session->is_lost) {
        bus->unbound_sessions--;
    }
    abk_unlink(&session->of_lane);
    abk_unlink(&session->lost);
    abk_failure_drop(session->failure);
    session->failure = NULL;
    session->is_lost = session->leased = false;
    session->lane = lane;
    session->pool = lane->pool;
    abk_list_append(&lane->sessions, &session->of_lane);
    lane->session_count++;
    abk_watchers_session(session, false);
    /* What waits for it goes along, from the queue of the pool to that of the lane; but into no other
     * pool, where nobody would look after it. */
    for (abk_link *link; (link = abk_list_take(&session->waiting)) != NULL;) {
        abk_entry *entry = ABK_OF(link, abk_entry, unbound);
        if (entry->pool == lane->pool)
            abk_router_rebind(entry, lane);
        else
            entry->session = NULL;
    }
    if (before != NULL && before != lane->slot && before->lease == session)
        abk_slot_release(before); /* it has gone elsewhere */
}

void abk_session_lose(abk_session *session, const abk_failure *failure, bool leased)
{
    abk_bus *bus = session->pool->bus;
    session->lane->session_count--;
    abk_unlink(&session->of_lane);
    session->lane = NULL;
    session->is_lost = true;
    session->leased = leased;
    session->failure = failure == NULL ? NULL : abk_failure_keep(failure);
    abk_list_append(&bus->lost_sessions, &session->lost);
    abk_watchers_session(session, false);
}

void abk_session_unused(abk_bus *bus, abk_session *session)
{
    if (session->lane == NULL && !session->is_lost && !session->kept &&
        abk_list_empty(&session->waiting))
        forget(bus, session);
}

/* What waits for one that has not begun begins it nevertheless: it is the session of whoever waits,
 * and ends with that client. */
static void pass_on(abk_session *session)
{
    abk_link *first = abk_list_first(&session->waiting);
    session->owner = ABK_OF(first, abk_entry, unbound)->client;
    session->kept = false;
    abk_unlink(&session->of_client);
    abk_list_append(&session->owner->sessions, &session->of_client);
}

void abk_session_end(abk_bus *bus, abk_session *session)
{
    abk_slot *slot = session->lane == NULL ? NULL : session->lane->slot;
    if (!abk_list_empty(&session->waiting)) {
        pass_on(session);
        return;
    }
    if (slot != NULL)
        leave_waiting(session);
    const bool leased = slot != NULL && slot->lease == session;
    if (leased)
        slot->lease = NULL;
    forget(bus, session);
    if (leased)
        abk_slot_release(slot);
}

abk_session *abk_session_learn(abk_bus *bus, abk_client *owner, abk_lane *lane, abk_text name)
{
    abk_session *session = abk_session_find(bus, name);
    if (session == NULL)
        session = add(bus, lane->pool, owner, name);
    if (session == NULL)
        return NULL;
    if (session->owner != owner && owner != NULL) { /* an id that two workers make is the later one's */
        abk_unlink(&session->of_client);
        abk_list_append(&owner->sessions, &session->of_client);
        session->owner = owner;
    }
    abk_session_bind(session, lane);
    return session;
}

void abk_sessions_free(abk_bus *bus)
{
    for (abk_link *link; (link = abk_list_take(&bus->idle_sessions)) != NULL;) {
        abk_session *session = ABK_OF(link, abk_session, idle);
        abk_failure_drop(session->failure);
        abk_free(session);
    }
}
