/* Clients that wait for a worker of their own: bus/session with exclusive. Each is looked at in the
 * end of a step, so that there is no order of events to get wrong. */
#include "bus.h"

enum { MOST_WISHES = 1024 }; /* which the clients that are there share; each may have one */

/* Granted once it has a lane; answered once nothing of others is in flight there. */
struct abk_wish {
    abk_link link;
    abk_client *client;
    abk_pool *pool;
    uint64_t until;
    bool rebind, granted;
    uint32_t id_len, name_len;
    char text[]; /* id, name */
};
typedef struct abk_wish abk_wish;

static abk_text id_of(const abk_wish *wish) { return (abk_text){wish->text, wish->id_len}; }
static abk_text name_of(const abk_wish *wish)
{
    return (abk_text){wish->text + wish->id_len, wish->name_len};
}

static void end(abk_wish *wish)
{
    abk_client *client = wish->client;
    client->bus->wish_count--;
    client->wish_count--;
    client->live--;
    abk_unlink(&wish->link);
    abk_free(wish);
    if (client->input_ended)
        abk_client_look(client);
}

static void fail_with(abk_wish *wish, const abk_failure *failure)
{
    if (wish->granted) {
        abk_session *session = abk_session_find(wish->client->bus, name_of(wish));
        if (session != NULL && session->owner == wish->client)
            abk_session_end(wish->client->bus, session);
    }
    abk_client_fail(wish->client, id_of(wish), failure, false);
    end(wish);
}

static void fail(abk_wish *wish, int code, const char *reason, const char *text)
{
    abk_failure failure;
    abk_failure_init(&failure, code, reason, "%s", text);
    failure.pool = wish->pool->config->id;
    fail_with(wish, &failure);
}

void abk_wish_make(abk_client *client, abk_pool *pool, abk_text id, abk_text name, bool rebind,
                   double wait_s)
{
    abk_bus *bus = client->bus;
    const uint32_t share = MOST_WISHES / bus->client_count;
    if (client->wish_count >= share && client->wish_count > 0) {
        abk_refuse(bus, NULL, ABK_CODE_OVERLOADED, "max_waiting",
                   "%u calls of this client wait for a lease already, its share of %d",
                   client->wish_count, MOST_WISHES);
        abk_client_fail(client, id, &bus->refusal, false);
        return;
    }
    abk_wish *wish = abk_alloc(sizeof *wish + id.len + name.len);
    if (wish == NULL) {
        abk_refuse(bus, NULL, ABK_CODE_OVERLOADED, "memory", "out of memory");
        abk_client_fail(client, id, &bus->refusal, false);
        return;
    }
    wish->client = client;
    wish->pool = pool;
    wish->rebind = rebind;
    wish->until = bus->now + abk_ns(wait_s);
    wish->id_len = id.len;
    wish->name_len = name.len;
    memcpy(wish->text, id.at, id.len);
    memcpy(wish->text + id.len, name.at, name.len);
    abk_list_append(&bus->wishes, &wish->link);
    bus->wish_count++;
    client->wish_count++;
    client->live++;
    abk_wake_at(bus, &bus->wish_timer, bus->now);
}

/* The ready worker that is not held and has no session, with the fewest requests in flight. */
static abk_slot *pick(const abk_pool *pool)
{
    abk_slot *best = NULL;
    ABK_EACH(link, &pool->slots)
    {
        abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
        if (slot->life.state != ABK_S_READY || slot->held || slot->own || slot->lane == NULL ||
            slot->lane->session_count > 0)
            continue;
        if (best == NULL || slot->lane->in_flight < best->lane->in_flight)
            best = slot;
    }
    return best;
}

static void look(abk_bus *bus, abk_wish *wish)
{
    const abk_session *session = abk_session_find(bus, name_of(wish));
    if (!wish->granted) {
        abk_slot *slot = session == NULL ? pick(wish->pool) : NULL;
        if (session != NULL) {
            fail(wish, ABK_CODE_INVALID_REQUEST, "session_in_use", "that session is known already");
        } else if (wish->pool->unavailable != NULL) {
            fail_with(wish, wish->pool->unavailable);
        } else if (slot != NULL) {
            if (abk_slot_lend(slot, wish->client, name_of(wish), wish->rebind) < 0) {
                fail(wish, ABK_CODE_OVERLOADED, "memory", "out of memory");
                return;
            }
            wish->granted = true;
        } else if (bus->now >= wish->until) {
            fail(wish, ABK_CODE_OVERLOADED, "no_free_worker", "no worker was free within wait_s");
        }
        if (slot == NULL)
            return;
        session = abk_session_find(bus, name_of(wish));
    }
    if (session == NULL || session->lane == NULL) {
        fail(wish, ABK_CODE_SESSION_LOST, "session_lost", "its worker is gone");
    } else if (session->lane->in_flight == 0) {
        abk_answer_session(wish->client, id_of(wish), name_of(wish), session->lane);
        end(wish);
    } else if (bus->now >= wish->until) {
        fail(wish, ABK_CODE_OVERLOADED, "no_free_worker",
             "its worker was not done with the requests of others within wait_s");
    }
}

void abk_wishes_look(abk_bus *bus)
{
    uint64_t next = ABK_NEVER;
    ABK_EACH(link, &bus->wishes)
    {
        look(bus, ABK_OF(link, abk_wish, link));
    }
    ABK_EACH(link, &bus->wishes)
    {
        const abk_wish *wish = ABK_OF(link, abk_wish, link);
        if (wish->until < next)
            next = wish->until;
    }
    abk_wake_at(bus, &bus->wish_timer, next);
}

/* Its client is gone: nobody is to be told. NULL: all, at the very end. */
void abk_wishes_drop(abk_bus *bus, const abk_client *client)
{
    ABK_EACH(link, &bus->wishes)
    {
        abk_wish *wish = ABK_OF(link, abk_wish, link);
        if (client == NULL || wish->client == client)
            end(wish);
    }
}

void abk_wishes_fail(abk_bus *bus, const abk_failure *failure)
{
    for (abk_link *link; (link = abk_list_first(&bus->wishes)) != NULL;)
        fail_with(ABK_OF(link, abk_wish, link), failure);
}

bool abk_wish_cancel(abk_client *client, const abk_value *id)
{
    const abk_text raw = abk_value_raw(id);
    ABK_EACH(link, &client->bus->wishes)
    {
        abk_wish *wish = ABK_OF(link, abk_wish, link);
        if (wish->client != client || !abk_same(id_of(wish), raw))
            continue;
        fail(wish, ABK_CODE_CANCELLED, "cancelled", "cancelled before a worker was free");
        return true;
    }
    return false;
}
