/* How requests end: answered, withdrawn, failed, or too late; and the end of a lane. */
#include "bus.h"

#include <stdio.h>

/* --- the end of requests --------------------------------------------------------------------- */

bool abk_entry_sent(const abk_entry *entry)
{
    return entry->stage != ABK_QUEUED && entry->lane != NULL &&
           abk_outbox_wrote(&entry->lane->out, entry->start);
}

/* It is answered, failed or given up: nobody waits for it any more. */
static void not_live(abk_bus *bus, abk_entry *entry)
{
    abk_unlink(&entry->owner);
    entry->client->live--;
    bus->live--;
    if (entry->client->input_ended)
        abk_client_look(entry->client);
}

static void leave_lane(abk_entry *entry)
{
    abk_lane *lane = entry->lane;
    abk_unlink(&entry->place);
    lane->in_flight--;
    lane->probes -= entry->probe;
}

void abk_router_finish(abk_bus *bus, abk_entry *entry)
{
    abk_session *session = NULL;
    if (entry->stage == ABK_QUEUED) {
        session = entry->lane == NULL ? entry->session : NULL;
        abk_entry_unwait(entry);
    } else {
        leave_lane(entry);
    }
    abk_unlink(&entry->unbound);
    if (entry->request && entry->client != NULL) {
        abk_entry_forget_id(bus, entry);
        if (entry->stage != ABK_TOMBSTONE)
            not_live(bus, entry);
    }
    abk_entry_free(bus, entry);
    if (session != NULL)
        abk_session_unused(bus, session);
}

static uint64_t tomb_due(const abk_bus *bus)
{
    return bus->now + abk_ns(bus->config->limits.cancel_grace_s);
}

/* Tell the worker that a request is cancelled, by the id that it knows. */
static void tell_cancel(abk_bus *bus, abk_entry *entry, abk_text reason)
{
    char digits[24];
    abk_text id = abk_id_raw(&entry->id);
    if (bus->rewrite) {
        const int len = snprintf(digits, sizeof digits, "%lld", (long long)abk_router_key(entry));
        id = (abk_text){digits, (uint32_t)len};
    }
    abk_buf *out = &bus->scratch;
    abk_buf_clear(out);
    abk_cancel_frame(out, entry->pool->config->cancel, id, reason);
    if (!out->failed && abk_buf_len(out) > 0)
        abk_lane_write(entry->lane, abk_buf_at(out), abk_buf_len(out));
}

static void age(abk_bus *bus, abk_entry *entry)
{
    entry->due = tomb_due(bus);
    abk_unlink(&entry->unbound);
    abk_list_append(&bus->tombstones, &entry->unbound);
    if (bus->tomb_timer.at == 0)
        abk_wake_at(bus, &bus->tomb_timer, entry->due);
}

/* Cancel what a client on a wire still wants an answer to: its worker's, or ours after the grace. */
void abk_router_cancel(abk_bus *bus, abk_entry *entry)
{
    if (entry->cancelled)
        return;
    entry->cancelled = true;
    bus->counts.cancelled++;
    tell_cancel(bus, entry, (abk_text){0});
    age(bus, entry);
}

int abk_router_withdraw(abk_bus *bus, abk_entry *entry, abk_text reason)
{
    abk_lane *lane = entry->lane;
    if (entry->stage == ABK_TAKEN && (abk_entry_sent(entry) ||
                                      abk_outbox_withdraw(&lane->out, entry->start, entry->len) < 0)) {
        if (!entry->cancelled) {
            bus->counts.cancelled++;
            tell_cancel(bus, entry, reason);
        }
        not_live(bus, entry);
        if (bus->rewrite) { /* else its late answer is known by the client's id */
            abk_entry_forget_id(bus, entry);
            entry->client = NULL;
        }
        entry->stage = ABK_TOMBSTONE;
        age(bus, entry);
        return ABK_CANCELLED;
    }
    const bool taken = entry->stage == ABK_TAKEN;
    abk_pool *pool = entry->pool;
    abk_router_finish(bus, entry);
    if (taken) {
        abk_router_pump(pool);
        abk_lane_settled(lane);
    }
    return ABK_REMOVED;
}

void abk_router_tell(abk_bus *bus, const abk_entry *entry, const abk_failure *failure, bool sent)
{
    abk_client *client = entry->client;
    if (client == bus->host) {
        abk_event *event = abk_tell(bus, ABK_EV_FAILED, NULL);
        if (event != NULL) {
            event->key = abk_router_key(entry);
            event->a = failure->code;
            event->b = sent;
            event->pool = entry->pool->config->id;
            const abk_text id = abk_id_raw(&entry->id);
            abk_tell_data(bus, id.at, id.len);
            abk_tell_failure(bus, failure, sent);
        }
    } else if (client != NULL) {
        abk_client_fail(client, abk_id_raw(&entry->id), failure, sent);
    }
}

void abk_router_fail(abk_bus *bus, abk_entry *entry, const abk_failure *failure)
{
    abk_router_tell(bus, entry, failure, abk_entry_sent(entry));
    abk_router_finish(bus, entry);
}

void abk_router_fail_queue(abk_pool *pool, const abk_failure *failure)
{
    abk_bus *bus = pool->bus;
    for (abk_link *turn; (turn = abk_list_first(&pool->turns)) != NULL;) {
        abk_share *share = ABK_OF(turn, abk_share, turn);
        abk_entry *entry = ABK_OF(abk_list_first(&share->entries), abk_entry, place);
        if (entry->request)
            abk_router_fail(bus, entry, failure);
        else
            abk_router_finish(bus, entry);
    }
    ABK_EACH(link, &pool->slots)
    {
        abk_lane *lane = ABK_OF(link, abk_slot, of_pool)->lane;
        while (lane != NULL && !abk_list_empty(&lane->waiting)) {
            abk_entry *entry = ABK_OF(abk_list_first(&lane->waiting), abk_entry, place);
            if (entry->request)
                abk_router_fail(bus, entry, failure);
            else
                abk_router_finish(bus, entry);
        }
    }
}

/* The grace of tombstones, and of cancelled requests that nobody answers, is over. */
void abk_router_expire(abk_bus *bus)
{
    for (abk_link *link; (link = abk_list_first(&bus->tombstones)) != NULL;) {
        abk_entry *entry = ABK_OF(link, abk_entry, unbound);
        if (entry->due > bus->now) {
            abk_wake_at(bus, &bus->tomb_timer, entry->due);
            return;
        }
        abk_unlink(link);
        abk_lane *lane = entry->lane;
        if (entry->stage == ABK_TOMBSTONE) {
            abk_router_finish(bus, entry);
        } else {
            abk_failure failure;
            abk_failure_init(&failure, ABK_CODE_CANCELLED, "cancelled",
                             "cancelled, and its worker did not answer within %g s",
                             bus->config->limits.cancel_grace_s);
            failure.pool = entry->pool->config->id;
            failure.worker = lane->slot->worker;
            abk_router_fail(bus, entry, &failure);
        }
        abk_router_pump(lane->pool);
        abk_lane_settled(lane);
    }
}

/* Take a dead worker's lane apart: fail what it takes along, lose its sessions. lease: the session
 * that had it alone and is lost for good; NULL: none. */
void abk_lane_drop(abk_lane *lane, const abk_failure *failure, abk_session *lease)
{
    abk_bus *bus = lane->pool->bus;
    abk_lane_set_mode(lane, ABK_CLOSED);
    abk_asks_lane_gone(lane);
    for (abk_link *link; (link = abk_list_first(&lane->sessions)) != NULL;) {
        abk_session *session = ABK_OF(link, abk_session, of_lane);
        abk_session_lose(session, failure, session == lease);
    }
    for (abk_link *link; (link = abk_list_first(&lane->entries)) != NULL;) {
        abk_entry *entry = ABK_OF(link, abk_entry, place);
        abk_unlink(&entry->unbound);
        if (entry->stage == ABK_TOMBSTONE)
            abk_router_finish(bus, entry);
        else
            abk_router_fail(bus, entry, failure);
    }
    for (abk_link *link; (link = abk_list_first(&lane->waiting)) != NULL;) {
        abk_entry *entry = ABK_OF(link, abk_entry, place);
        /* No byte was written. What is no request may be of a client that is gone already. */
        const bool may = entry->rebind && (entry->request || entry->client == bus->host);
        if (may && (lease == NULL || entry->session != lease)) {
            abk_entry_unwait(entry);
            if (entry->session != NULL && entry->session->is_lost)
                abk_session_unlose(entry->session);
            abk_entry_wait(entry, NULL);
        } else if (entry->request) {
            abk_router_fail(bus, entry, failure);
        } else {
            abk_router_finish(bus, entry);
        }
    }
    abk_unlink(&lane->dirty);
    abk_outbox_free(&lane->out);
    abk_buf_free(&lane->tapped);
    if (lane->slot->lane == lane)
        lane->slot->lane = NULL;
    abk_list_append(&bus->dead_lanes, &lane->dirty);
}
