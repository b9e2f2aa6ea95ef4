/* Requests on their way: where they are kept, and how they are found again by key and by id. */
#include "bus.h"

/* A key is generation * 2^24 + index, so it fits into 53 bits: workers in JavaScript can hold it. */
enum { INDEX_BITS = 24, GENERATIONS = (1 << 28) - 1, CHUNK = 64 };

/* --- entries --------------------------------------------------------------------------------- */

abk_entry *abk_entry_new(abk_bus *bus)
{
    if (bus->free_entries == NULL) {
        if (bus->entry_cap >> INDEX_BITS != 0)
            return NULL;
        abk_entry **table = abk_realloc(bus->entries, (bus->entry_cap + CHUNK) * sizeof *table);
        if (table == NULL)
            return NULL;
        bus->entries = table;
        abk_entry *chunk = abk_alloc(CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return NULL;
        for (uint32_t i = CHUNK; i-- > 0;) {
            chunk[i].index = bus->entry_cap + i;
            table[bus->entry_cap + i] = &chunk[i];
            chunk[i].place.next = bus->free_entries == NULL ? NULL : &bus->free_entries->place;
            bus->free_entries = &chunk[i];
        }
        bus->entry_cap += CHUNK;
    }
    abk_entry *entry = bus->free_entries;
    bus->free_entries = entry->place.next == NULL ? NULL : ABK_OF(entry->place.next, abk_entry, place);
    entry->place.next = entry->place.prev = NULL;
    entry->generation = entry->generation >= GENERATIONS ? 1 : entry->generation + 1;
    entry->cancelled = entry->probe = entry->learns = entry->rebind = false;
    return entry;
}

void abk_entry_free(abk_bus *bus, abk_entry *entry)
{
    if (entry->request)
        abk_id_free(&entry->id);
    if (entry->token != NULL) {
        abk_id_free(entry->token);
        abk_free(entry->token);
        entry->token = NULL;
    }
    abk_free(entry->frame);
    entry->frame = NULL;
    entry->client = NULL;
    entry->lane = NULL;
    entry->session = NULL;
    entry->request = false;
    entry->place.prev = NULL;
    entry->place.next = bus->free_entries == NULL ? NULL : &bus->free_entries->place;
    bus->free_entries = entry;
}

int64_t abk_router_key(const abk_entry *entry)
{
    return ((int64_t)entry->generation << INDEX_BITS) | entry->index;
}

abk_entry *abk_router_by_key(const abk_bus *bus, int64_t key)
{
    const int64_t index = key & ((1 << INDEX_BITS) - 1);
    if (key <= 0 || index >= bus->entry_cap)
        return NULL;
    abk_entry *entry = bus->entries[index];
    return entry->request && entry->generation == (uint64_t)key >> INDEX_BITS ? entry : NULL;
}

abk_entry *abk_router_by_id(const abk_bus *bus, const abk_value *id)
{
    int64_t key = abk_id_number(id);
    abk_id_key spelt;
    if (key < 0 && id->kind == ABK_NUMBER && abk_id_make(&spelt, id) == ABK_OK) {
        const abk_text plain = abk_id_canonical(&spelt);
        key = abk_id_number(&(abk_value){.at = plain.at, .len = plain.len, .kind = ABK_NUMBER});
        abk_id_free(&spelt);
    }
    return abk_router_by_key(bus, key);
}

bool abk_router_init(abk_bus *bus)
{
    abk_list_init(&bus->tombstones);
    return true;
}

void abk_router_free(abk_bus *bus)
{
    for (uint32_t i = 0; i < bus->entry_cap; i++) {
        abk_entry *entry = bus->entries[i];
        if (entry->request || entry->frame != NULL) {
            abk_link unused = {0};
            entry->place = unused;
            abk_entry_free(bus, entry);
        }
    }
    for (uint32_t i = 0; i < bus->entry_cap; i += CHUNK)
        abk_free(bus->entries[i]);
    abk_free(bus->entries);
}

/* --- ids ------------------------------------------------------------------------------------- */

typedef struct named {
    const abk_client *client;
    const abk_id_key *id;
} named;

static bool same_request(const void *item, const void *key)
{
    const abk_entry *entry = item;
    const named *wanted = key;
    return entry->client == wanted->client && abk_id_same(&entry->id, wanted->id);
}

/* With a secret in it: ids are the clients' to choose, and must not meet in one place. */
static uint64_t id_hash(const abk_client *client, const abk_id_key *id)
{
    const uint64_t secret = client->bus->seed + client->number * UINT64_C(0x9E3779B97F4A7C15);
    if (id->kind == ABK_NUMBER)
        return id->hash ^ secret;
    const abk_text canonical = abk_id_canonical(id);
    return abk_hash(canonical.at, canonical.len, secret);
}

static abk_entry *find(abk_bus *bus, const abk_client *client, const abk_id_key *id)
{
    const named wanted = {client, id};
    return abk_map_find(&bus->by_id, id_hash(client, id), same_request, &wanted);
}

abk_entry *abk_router_find(abk_bus *bus, abk_client *client, const abk_value *id)
{
    abk_id_key key;
    if (client == NULL || abk_id_make(&key, id) < 0)
        return NULL;
    abk_entry *entry = find(bus, client, &key);
    abk_id_free(&key);
    return entry;
}

abk_entry *abk_router_find_json(abk_bus *bus, abk_client *client, const char *id, size_t len)
{
    abk_id_key key;
    if (client == NULL || abk_id_parse(&key, id, len) < 0)
        return NULL;
    abk_entry *entry = find(bus, client, &key);
    abk_id_free(&key);
    return entry;
}

/* Make the request's entry known by its id. */
int abk_entry_name(abk_bus *bus, abk_entry *entry, const abk_way *way, const abk_value *id,
                      const abk_value *token)
{
    if (abk_id_make(&entry->id, id) < 0)
        return ABK_ENOMEM;
    entry->request = true;
    entry->client = way->client;
    if (find(bus, way->client, &entry->id) != NULL)
        return ABK_EINVAL;
    if (token != NULL) {
        entry->token = ABK_NEW(abk_id_key);
        if (entry->token == NULL || abk_id_make(entry->token, token) < 0)
            return ABK_ENOMEM;
    }
    return abk_map_add(&bus->by_id, id_hash(way->client, &entry->id), entry);
}

void abk_entry_forget_id(abk_bus *bus, abk_entry *entry)
{
    abk_map_remove(&bus->by_id, id_hash(entry->client, &entry->id), entry);
}
