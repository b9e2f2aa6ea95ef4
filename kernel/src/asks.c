/* Requests of workers that clients on a wire have to answer: which client, and by which id. */
#include "bus.h"

#include <stdio.h>

typedef struct wanted {
    const abk_client *client;
    const abk_id_key *seen;
} wanted;

static bool same_ask(const void *item, const void *key)
{
    const abk_ask *ask = item;
    const wanted *want = key;
    return ask->client == want->client && abk_id_same(&ask->seen, want->seen);
}

static uint64_t ask_hash(const abk_client *client, const abk_id_key *seen)
{
    const uint64_t secret = client->bus->seed - client->number * UINT64_C(0xD6E8FEB86659FD93);
    const abk_text canonical = abk_id_canonical(seen);
    return seen->kind == ABK_NUMBER ? seen->hash ^ secret
                                    : abk_hash(canonical.at, canonical.len, secret);
}

static abk_ask *find(abk_bus *bus, const abk_client *client, const abk_id_key *seen)
{
    const wanted want = {client, seen};
    return abk_map_find(&bus->asks, ask_hash(client, seen), same_ask, &want);
}

static void destroy(abk_ask *ask)
{
    abk_id_free(&ask->seen);
    abk_id_free(&ask->id);
    abk_free(ask);
}

/* The id that the client is to see: the worker's own where ids pass as they are and no other worker
 * has asked this client by the same one; else a number of the kernel's. */
static int choose_seen(abk_bus *bus, abk_ask *ask, const abk_value *id)
{
    if (!bus->rewrite) {
        if (abk_id_make(&ask->seen, id) < 0)
            return ABK_ENOMEM;
        if (find(bus, ask->client, &ask->seen) == NULL)
            return ABK_OK;
        abk_id_free(&ask->seen);
    }
    for (;;) { /* a worker's own id that passes as it is may be such a number, too */
        char digits[24];
        const int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)++bus->next_ask);
        const int made = abk_id_parse(&ask->seen, digits, (size_t)len);
        if (made < 0 || find(bus, ask->client, &ask->seen) == NULL)
            return made;
        abk_id_free(&ask->seen);
    }
}

abk_ask *abk_ask_add(abk_lane *lane, abk_client *client, const abk_value *id)
{
    abk_bus *bus = client->bus;
    if (lane->ask_count >= bus->config->limits.max_handlers)
        return NULL;
    abk_ask *ask = ABK_NEW(abk_ask);
    if (ask == NULL)
        return NULL;
    ask->lane = lane;
    ask->client = client;
    if (abk_id_make(&ask->id, id) < 0 || choose_seen(bus, ask, id) < 0 ||
        abk_map_add(&bus->asks, ask_hash(client, &ask->seen), ask) < 0) {
        destroy(ask);
        return NULL;
    }
    abk_list_append(&lane->asks, &ask->of_lane);
    abk_list_append(&client->asks, &ask->of_client);
    lane->ask_count++;
    client->ask_count++;
    return ask;
}

abk_ask *abk_ask_find(abk_client *client, const abk_value *seen)
{
    abk_id_key key;
    if (abk_id_make(&key, seen) < 0)
        return NULL;
    abk_ask *ask = find(client->bus, client, &key);
    abk_id_free(&key);
    return ask;
}

abk_ask *abk_ask_of_worker(abk_lane *lane, const abk_value *id)
{
    abk_id_key key;
    if (abk_id_make(&key, id) < 0)
        return NULL;
    abk_ask *found = NULL;
    ABK_EACH(link, &lane->asks)
    {
        abk_ask *ask = ABK_OF(link, abk_ask, of_lane);
        if (found == NULL && abk_id_same(&ask->id, &key))
            found = ask;
    }
    abk_id_free(&key);
    return found;
}

void abk_ask_end(abk_bus *bus, abk_ask *ask)
{
    abk_map_remove(&bus->asks, ask_hash(ask->client, &ask->seen), ask);
    abk_unlink(&ask->of_lane);
    abk_unlink(&ask->of_client);
    ask->lane->ask_count--;
    ask->client->ask_count--;
    destroy(ask);
}

/* The worker is dead: whoever works on its requests hears that they are cancelled. */
void abk_asks_lane_gone(abk_lane *lane)
{
    abk_bus *bus = lane->pool->bus;
    for (abk_link *link; (link = abk_list_first(&lane->asks)) != NULL;) {
        abk_ask *ask = ABK_OF(link, abk_ask, of_lane);
        abk_watchers_source(ask->client, lane);
        abk_buf *out = &bus->scratch;
        abk_buf_clear(out);
        abk_cancel_frame(out, lane->pool->config->cancel, abk_id_raw(&ask->seen),
                         ABK_TEXT("its worker is gone"));
        if (!out->failed && abk_buf_len(out) > 0)
            abk_client_put(ask->client, out);
        abk_ask_end(bus, ask);
    }
}

void abk_ask_refuse(abk_lane *lane, abk_text id, int code, const char *message)
{
    abk_buf *out = &lane->pool->bus->scratch;
    abk_buf_clear(out);
    abk_out(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    abk_buf_append(out, id.at, id.len);
    abk_out(out, ",\"error\":{");
    abk_out_number(out, "code", code);
    abk_out_member(out, "message", message);
    abk_out(out, "}}\n");
    if (!out->failed)
        abk_lane_write(lane, abk_buf_at(out), abk_buf_len(out));
}

/* The client is gone: its workers get an answer nevertheless. */
void abk_asks_client_gone(abk_client *client)
{
    for (abk_link *link; (link = abk_list_first(&client->asks)) != NULL;) {
        abk_ask *ask = ABK_OF(link, abk_ask, of_client);
        abk_ask_refuse(ask->lane, abk_id_raw(&ask->id), ABK_CODE_CANCELLED, "the client is gone");
        abk_ask_end(client->bus, ask);
    }
}

void abk_asks_free(abk_bus *bus)
{
    size_t cursor = 0;
    for (abk_ask *ask; (ask = abk_map_each(&bus->asks, &cursor)) != NULL;)
        destroy(ask);
}
