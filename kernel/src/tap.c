/* The wire tap: every line of every pipe, as params of bus/frame. Costs nothing while it is off but
 * one test for each line. */
#include "bus.h"

#include <stdio.h>

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void write_base64(abk_buf *out, const char *at, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)at;
    for (size_t i = 0; i < len; i += 3) {
        const size_t left = len - i;
        const uint32_t three = (uint32_t)bytes[i] << 16 |
                               (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                               (left > 2 ? (uint32_t)bytes[i + 2] : 0);
        const char four[4] = {base64[three >> 18], base64[three >> 12 & 63],
                              left > 1 ? base64[three >> 6 & 63] : '=',
                              left > 2 ? base64[three & 63] : '='};
        if (!out->failed)
            abk_buf_append(out, four, sizeof four);
    }
}

static const abk_entry *named_request(abk_lane *lane, const abk_message *message, bool from_worker)
{
    static const abk_path related = {2, {{"_meta", 5}, {"requestId", 9}}};
    static const abk_path credit = {1, {{"id", 2}}};
    abk_bus *bus = lane->pool->bus;
    abk_value id = message->id;
    const bool call = message->method.kind == ABK_STRING;
    const bool own = from_worker ? !call : call && message->id.kind != ABK_ABSENT;
    if (!own) {
        const bool found =
            call && message->params.kind == ABK_OBJECT &&
            (abk_cancel_profile(message, &id) ||
             (abk_value_is(&message->method, ABK_TEXT("bus/credit"))
                  ? abk_scan_path(&message->params, &credit, &id)
                  : abk_scan_path(&message->params, &related, &id)));
        if (!found)
            return from_worker && call ? abk_lane_sole(lane) : NULL;
    }
    if (bus->rewrite)
        return abk_router_by_id(bus, &id);
    return abk_router_find(bus, bus->host != NULL ? bus->host : bus->served, &id);
}

/* The request that a frame belongs to, as its client knows it; NULL where it is of none. What a
 * worker names is a request that it has: the id of another worker's means nothing here. */
static const abk_entry *request_of(abk_lane *lane, const abk_message *message, bool from_worker)
{
    const abk_entry *entry = named_request(lane, message, from_worker);
    const bool mine = entry == NULL || !from_worker || (entry->lane == lane && entry->stage != ABK_QUEUED);
    return mine ? entry : NULL;
}

static void write_message(abk_buf *out, abk_lane *lane, const abk_message *message, bool from_worker)
{
    static const char *const kinds[] = {"bad", "request", "notification", "response"};
    const abk_role role = message == NULL ? ABK_NOTHING : abk_role_of(message);
    abk_out_member(out, "kind", kinds[role]);
    if (role == ABK_NOTHING)
        return;
    if (message->id.kind != ABK_ABSENT) {
        const abk_text id = abk_value_raw(&message->id);
        abk_out(out, ",\"id\":");
        abk_buf_append(out, id.at, id.len);
    }
    if (message->method.kind == ABK_STRING) {
        abk_out(out, ",\"method\":\"");
        abk_buf_append(out, message->method.at, message->method.len);
        abk_out(out, "\"");
    }
    const abk_entry *entry = request_of(lane, message, from_worker);
    if (entry != NULL) {
        const abk_text id = abk_id_raw(&entry->id);
        abk_out(out, ",\"request\":");
        abk_buf_append(out, id.at, id.len);
    }
}

static void write_line(abk_buf *out, const char *line, size_t len, bool message)
{
    const size_t end = len > 0 && line[len - 1] == '\n' ? len - 1 : len;
    if (message && end > 1 && line[0] == '{' && line[end - 1] == '}' && abk_is_utf8(line, end)) {
        abk_out(out, ",\"message\":");
        if (!out->failed)
            abk_buf_append(out, line, end);
        return;
    }
    abk_out(out, ",\"line\":\"");
    write_base64(out, line, len);
    abk_out(out, "\"");
}

/* Show one line to all who look. */
static void show(abk_lane *lane, bool from_worker, const char *line, size_t len, uint64_t size,
                 const abk_message *message, const char *reason)
{
    static const char head[] = "{\"jsonrpc\":\"2.0\",\"method\":\"bus/frame\",\"params\":";
    abk_bus *bus = lane->pool->bus;
    const abk_slot *slot = lane->slot;
    abk_buf *out = &bus->report;
    abk_buf_clear(out);
    abk_out(out, head);
    abk_out(out, "{");
    abk_out_seconds(out, "time", abk_wall());
    abk_out_seconds(out, "at", bus->now);
    abk_out_member(out, "direction", from_worker ? "from_worker" : "to_worker");
    abk_out_member(out, "pool", lane->pool->config->id);
    abk_out_number(out, "worker", slot->worker);
    abk_out_number(out, "generation", slot->generation);
    write_message(out, lane, message, from_worker);
    abk_out_number(out, "size", (int64_t)size);
    if (reason != NULL)
        abk_out_member(out, "reason", reason);
    write_line(out, line, len, message != NULL);
    abk_out_member(out, "bus", bus->name);
    abk_out(out, "}");
    if (out->failed)
        return;
    if (bus->host_taps && abk_tell(bus, ABK_EV_FRAME, slot) != NULL)
        abk_tell_text(bus, abk_buf_at(out) + sizeof head - 1, abk_buf_len(out) - (sizeof head - 1));
    abk_out(out, "}\n");
    ABK_EACH(link, &bus->clients)
    {
        abk_client *client = ABK_OF(link, abk_client, link);
        if (!client->taps || (client->tap_pool != NULL && client->tap_pool != lane->pool) ||
            (client->tap_worker >= 0 && client->tap_worker != slot->worker))
            continue;
        if (abk_client_full(client))
            bus->counts.dropped_notifications++;
        else
            abk_client_put(client, out);
    }
}

void abk_tap_from(abk_process *process, const char *line, size_t len, uint64_t size,
                  const abk_message *message, const char *reason)
{
    show(process->lane, true, line, len, size, message, reason);
}

/* Bytes were written: show each frame of which the last one is among them. */
void abk_tap_to(abk_lane *lane, const char *at, size_t len)
{
    abk_buf *open = &lane->tapped;
    if (lane->tap_skips) {
        const char *end = memchr(at, '\n', len);
        if (end == NULL)
            return;
        lane->tap_skips = false;
        len -= (size_t)(end + 1 - at);
        at = end + 1;
    }
    size_t searched = abk_buf_len(open); /* a long frame comes in many pieces */
    if (abk_buf_append(open, at, len) < 0) {
        abk_buf_clear(open);
        lane->tap_skips = len > 0 && at[len - 1] != '\n';
        return;
    }
    for (;;) {
        const char *line = abk_buf_at(open);
        const size_t left = abk_buf_len(open) - searched;
        const char *end = left > 0 ? memchr(line + searched, '\n', left) : NULL;
        if (end == NULL)
            return;
        const size_t size = (size_t)(end - line) + 1;
        abk_message message;
        const bool good = abk_scan(line, size, &message) == ABK_OK;
        show(lane, false, line, size, size, good ? &message : NULL, NULL);
        abk_buf_drop(open, size);
        searched = 0;
    }
}

void abk_tap_on(abk_bus *bus)
{
    const bool was = bus->tapped;
    bus->tapped = bus->host_taps || bus->tap_clients > 0;
    if (bus->tapped == was)
        return;
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        ABK_EACH(link, &bus->pools[i].slots)
        {
            abk_lane *lane = ABK_OF(link, abk_slot, of_pool)->lane;
            if (lane == NULL)
                continue;
            abk_buf_free(&lane->tapped);
            lane->tap_skips = lane->torn;
        }
    }
}
