/* What a client on a wire, or the host, asks for: its lines on their way to workers. */
#include "bus.h"

#include <stdio.h>

static const abk_path token_path = {2, {{"_meta", 5}, {"progressToken", 13}}};
static const abk_path related_path = {2, {{"_meta", 5}, {"requestId", 9}}};

/* --- cancelling ------------------------------------------------------------------------------ */

static const struct {
    const char *method;
    const char *param;
} cancels[] = {[ABK_CANCEL_LSP] = {"$/cancelRequest", "id"},
               [ABK_CANCEL_MCP] = {"notifications/cancelled", "requestId"},
               [ABK_CANCEL_ACP] = {"$/cancel_request", "requestId"}};

static abk_text text_of(const char *text) { return (abk_text){text, (uint32_t)strlen(text)}; }

/* Whether a notification is one that cancels, of any profile, whatever it names. */
bool abk_cancels(const abk_message *message)
{
    for (size_t i = 0; i < sizeof cancels / sizeof *cancels; i++) {
        if (abk_value_is(&message->method, text_of(cancels[i].method)))
            return true;
    }
    return false;
}

/* Whether a notification cancels a request, in the way of any profile; and which. */
int abk_cancel_profile(const abk_message *message, abk_value *id)
{
    if (message->params.kind != ABK_OBJECT || message->id.kind != ABK_ABSENT)
        return 0;
    for (size_t i = 0; i < sizeof cancels / sizeof *cancels; i++) {
        if (!abk_value_is(&message->method, text_of(cancels[i].method)))
            continue;
        const abk_path path = {1, {text_of(cancels[i].param)}};
        return abk_scan_path(&message->params, &path, id) &&
               (id->kind == ABK_NUMBER || id->kind == ABK_STRING);
    }
    return 0;
}

/* The frame that tells a worker, or a client, that a request is cancelled; none for "none". */
void abk_cancel_frame(abk_buf *out, abk_cancel profile, abk_text id, abk_text reason)
{
    if (profile == ABK_CANCEL_NONE)
        return;
    abk_out(out, "{\"jsonrpc\":\"2.0\"");
    abk_out_member(out, "method", cancels[profile].method);
    abk_out_format(out, ",\"params\":{\"%s\":", cancels[profile].param);
    abk_buf_append(out, id.at, id.len);
    if (profile == ABK_CANCEL_MCP && reason.len > 0) {
        abk_out(out, ",\"reason\":");
        abk_out_string(out, reason.at, reason.len);
    }
    abk_out(out, "}}\n");
}

/* A client cancels one of its requests: true if the message is a cancel. Under MCP no answer follows; else
 * there is one: its worker's, or ours. */
static bool cancel(abk_client *client, const abk_message *message)
{
    abk_bus *bus = client->bus;
    abk_value id;
    abk_entry *entry;
    if (!abk_cancel_profile(message, &id))
        return false;
    entry = abk_router_find(bus, client, &id);
    if (entry == NULL || entry->stage == ABK_TOMBSTONE) { /* over, or another's: no worker's affair */
        abk_wish_cancel(client, &id);
        return true;
    }
    /* The host knows its requests by key: each has an end. */
    const bool silent = entry->pool->config->cancel == ABK_CANCEL_MCP && client->kind != ABK_HOST;
    bus->counts.withdrawn++;
    if (silent) {
        abk_router_withdraw(bus, entry, ABK_TEXT("cancelled by the client"));
    } else if (abk_entry_sent(entry)) {
        abk_router_cancel(bus, entry);
    } else {
        abk_failure failure;
        abk_failure_init(&failure, ABK_CODE_CANCELLED, "cancelled", "cancelled before it was sent");
        failure.pool = entry->pool->config->id;
        abk_router_tell(bus, entry, &failure, false);
        abk_router_withdraw(bus, entry, (abk_text){0});
    }
    return true;
}

/* --- refusing -------------------------------------------------------------------------------- */

/* Answer a line that is not even a message; id: as far as it is known. */
static void refuse_line(abk_client *client, abk_text id, int code, const char *text)
{
    abk_failure failure;
    abk_failure_init(&failure, code, NULL, "%s", text);
    client->bus->counts.routing_errors++;
    abk_client_fail(client, id, &failure, false);
}

/* A client's answer cannot be passed on: its worker, which waits for one, gets this. */
static void refuse_answer(abk_ask *ask, const abk_failure *failure)
{
    abk_bus *bus = ask->client->bus;
    abk_ask_refuse(ask->lane, abk_id_raw(&ask->id), failure->code, failure->message);
    abk_ask_end(bus, ask);
}

void abk_take_bad_line(abk_client *client, const abk_line *line)
{
    client->next = (abk_next){0};
    const abk_value id =
        abk_salvage_id((abk_text){line->at, (uint32_t)line->len}, line->suffix, NULL);
    if (client->needs_auth) {
        abk_turn_away(client, NULL);
        return;
    }
    /* The id of an answer is a worker's: to the client it would be one of its own requests. */
    const bool answers = abk_salvage_answers((abk_text){line->at, (uint32_t)line->len});
    abk_ask *ask = answers && id.kind != ABK_ABSENT ? abk_ask_find(client, &id) : NULL;
    abk_failure failure;
    const uint32_t most = client->bus->config->limits.max_frame_bytes;
    abk_failure_init(&failure, ABK_CODE_FRAME_TOO_LARGE, "max_frame_bytes",
                     "a frame of %llu bytes is over max_frame_bytes=%u",
                     (unsigned long long)line->size, most);
    failure.limit_bytes = most;
    client->bus->counts.routing_errors++;
    if (ask != NULL) {
        refuse_answer(ask, &failure);
        return;
    }
    const bool known = id.kind != ABK_ABSENT && !answers;
    abk_client_fail(client, known ? abk_value_raw(&id) : ABK_TEXT("null"), &failure, false);
}

/* --- routing --------------------------------------------------------------------------------- */

static bool decode(abk_bus *bus, const abk_value *value, abk_text *out)
{
    *out = (abk_text){0};
    if (value->kind != ABK_STRING || value->len == 0)
        return true;
    if (!value->escaped) { /* as nearly always: no copy */
        *out = (abk_text){value->at, value->len};
        return true;
    }
    abk_buf_clear(&bus->scratch);
    if (abk_buf_reserve(&bus->scratch, value->len) < 0)
        return false;
    *out = (abk_text){bus->scratch.data, (uint32_t)abk_decode(value, bus->scratch.data)};
    return true;
}

abk_pool *abk_pool_find(abk_bus *bus, abk_text id)
{
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        if (abk_same(text_of(bus->pools[i].config->id), id))
            return &bus->pools[i];
    }
    return NULL;
}

/* The pool that a line names; else the only one, else that of its session. */
static abk_pool *choose_pool(abk_bus *bus, const abk_message *message)
{
    abk_text name;
    if (message->pool.kind == ABK_STRING && message->pool.len > 0)
        return decode(bus, &message->pool, &name) ? abk_pool_find(bus, name) : NULL;
    if (bus->pool_count == 1)
        return &bus->pools[0];
    if (!decode(bus, &message->session, &name) || name.len == 0)
        return NULL;
    const abk_session *session = abk_session_find(bus, name);
    return session == NULL ? NULL : session->pool;
}

/* Fill in what a frame itself says of its session: at the top, where a wire says the route; else at the
 * path of its pool. */
static bool read_session(abk_bus *bus, const abk_message *message, abk_way *way)
{
    const abk_pool_config *config = way->pool->config;
    abk_value name = {0}; /* a host has said it in the route */
    if (way->client->kind != ABK_HOST)
        name = message->session;
    const bool on_top = name.kind == ABK_STRING && name.len > 0;
    if (config->session.count > 1 && !on_top) {
        abk_path below = {.count = config->session.count - 1};
        memcpy(below.names, config->session.names + 1, below.count * sizeof *below.names);
        abk_value deeper;
        const bool found = message->params.kind == ABK_OBJECT &&
                           abk_scan_path(&message->params, &below, &deeper) &&
                           deeper.kind == ABK_STRING && deeper.len > 0;
        if (found)
            name = deeper;
        if (config->session_acp)
            way->rebind |= found && abk_value_is(&message->method, ABK_TEXT("session/load"));
    }
    way->learns = config->session_acp && abk_value_is(&message->method, ABK_TEXT("session/new"));
    return decode(bus, &name, &way->session);
}

/* Replace what workers are to know by another name: ids, tokens; leave out what they must not see. */
static void patch(abk_bus *bus, const abk_way *way, const abk_message *message, abk_frame *frame,
                  abk_value *token)
{
    token->kind = ABK_ABSENT;
    const bool enveloped = message->session.kind != ABK_ABSENT || message->pool.kind != ABK_ABSENT;
    if (enveloped && way->pool->config->strip) {
        abk_text cuts[2];
        const uint32_t count = abk_cut_both(frame->line.at, frame->line.len, &message->session,
                                            &message->pool, cuts);
        for (uint32_t i = 0; i < count; i++)
            abk_frame_patch(frame, cuts[i], (abk_text){0}, false);
    }
    if (!bus->rewrite || message->method.kind != ABK_STRING)
        return;
    if (message->id.kind != ABK_ABSENT)
        abk_frame_patch(frame, abk_value_raw(&message->id), (abk_text){0}, true);
    if (message->params.kind != ABK_OBJECT)
        return;
    if (message->id.kind != ABK_ABSENT && abk_scan_path(&message->params, &token_path, token) &&
        (token->kind == ABK_NUMBER || token->kind == ABK_STRING))
        abk_frame_patch(frame, abk_value_raw(token), (abk_text){0}, true);
    else
        token->kind = ABK_ABSENT;
}

/* A notification that names one of the client's requests goes to the worker that has it: credit, or
 * what says of itself that it is about that request. False: of none of its own, so it goes nowhere. */
static bool aim_notification(abk_client *client, const abk_message *message, abk_way *way,
                             abk_frame *frame, char *digits)
{
    static const abk_path id_path = {1, {{"id", 2}}};
    abk_value id;
    const bool credit = abk_value_is(&message->method, ABK_TEXT("bus/credit"));
    if (message->params.kind != ABK_OBJECT ||
        !abk_scan_path(&message->params, credit ? &id_path : &related_path, &id) ||
        (id.kind != ABK_NUMBER && id.kind != ABK_STRING))
        return true;
    const abk_entry *entry = abk_router_find(client->bus, client, &id);
    if (entry == NULL || entry->stage != ABK_TAKEN)
        return !credit && !client->bus->rewrite; /* to a worker that id may be another's request */
    way->worker = entry->lane->slot->worker;
    way->pool = entry->pool;
    if (client->bus->rewrite) {
        const int64_t key = abk_router_key(entry);
        const int len = snprintf(digits, 24, "%lld", (long long)key);
        abk_frame_patch(frame, abk_value_raw(&id), (abk_text){digits, (uint32_t)len}, false);
    }
    return true;
}

/* The answer to a worker's request finds the worker by the id that the client was shown. 0, or
 * ABK_EREFUSED: the worker was told so, or is not known. */
static int64_t take_response(abk_client *client, const abk_message *message, abk_text line)
{
    abk_bus *bus = client->bus;
    abk_ask *ask = abk_ask_find(client, &message->id);
    if (ask == NULL) {
        bus->counts.stray_answers++;
        bus->counts.routing_errors++;
        const abk_text id = abk_value_raw(&message->id);
        abk_refuse(bus, NULL, ABK_CODE_INVALID_REQUEST, "unknown_id",
                   "no request of a worker waits for an answer with the id %.*s", (int)id.len, id.at);
        if (message->id.kind != ABK_NULL) /* which is how the other side would say this */
            abk_client_fail(client, ABK_TEXT("null"), &bus->refusal, false);
        return ABK_EREFUSED;
    }
    abk_way way = {.client = client, .pool = ask->lane->pool, .worker = ask->lane->slot->worker};
    abk_frame frame = {.line = line};
    abk_value token;
    patch(bus, &way, message, &frame, &token);
    if (!abk_id_same(&ask->id, &ask->seen))
        abk_frame_patch(&frame, abk_value_raw(&message->id), abk_id_raw(&ask->id), false);
    const int64_t taken = abk_router_take(bus, &way, NULL, &frame, NULL);
    if (taken < 0)
        refuse_answer(ask, &bus->refusal);
    else
        abk_ask_end(bus, ask);
    return taken;
}

/* What bus/next has said of this line. */
static void aim_next(const abk_bus *bus, const abk_next *next, abk_way *way)
{
    way->rebind = next->rebind;
    if (!next->named)
        return;
    const abk_slot *slot = abk_slot_find(bus, next->worker);
    way->worker = next->worker;
    way->probe = next->probe;
    way->pool = slot == NULL ? NULL : slot->pool;
}

static void take_call(abk_client *client, const abk_message *message, abk_text line,
                      const abk_next *next)
{
    abk_bus *bus = client->bus;
    const bool request = message->id.kind != ABK_ABSENT;
    abk_way way = {.client = client, .pool = choose_pool(bus, message), .worker = -1};
    abk_frame frame = {.line = line};
    abk_value token = {0};
    char digits[24];
    if (!request && !aim_notification(client, message, &way, &frame, digits))
        return;
    int64_t key = ABK_EREFUSED;
    aim_next(bus, next, &way);
    if (way.worker >= 0 && way.pool == NULL) {
        abk_refuse(bus, NULL, ABK_CODE_NO_WORKER, "worker_gone", "there is no worker %d", way.worker);
    } else if (way.pool == NULL) {
        bus->counts.routing_errors++;
        const bool named = message->pool.kind == ABK_STRING && message->pool.len > 0;
        abk_refuse(bus, NULL, ABK_CODE_UNKNOWN_POOL, "unknown_pool",
                   named ? "there is no pool '%.*s'" : "name a pool: there are several%.*s",
                   named ? (int)message->pool.len : 0, named ? message->pool.at : "");
    } else if (!read_session(bus, message, &way)) {
        abk_refuse(bus, &way, ABK_CODE_OVERLOADED, "memory", "out of memory");
    } else {
        if (way.worker >= 0)
            way.session = (abk_text){0};
        patch(bus, &way, message, &frame, &token);
        key = abk_router_take(bus, &way, request ? &message->id : NULL, &frame,
                              token.kind == ABK_ABSENT ? NULL : &token);
    }
    if (key < 0 && request)
        abk_client_fail(client, abk_value_raw(&message->id), &bus->refusal, false);
}

/* --- the host -------------------------------------------------------------------------------- */

/* A line of the host: its route says what a wire would say in the line. */
int64_t abk_host_submit(abk_bus *bus, const abk_route *route, const abk_message *message,
                        abk_text line)
{
    abk_client *host = bus->host;
    const abk_role role = abk_role_of(message);
    abk_way way = {.client = host,
                   .worker = route->worker,
                   .session = {route->session, (uint32_t)route->session_len},
                   .rebind = (route->flags & ABK_ROUTE_REBIND) != 0,
                   .probe = (route->flags & ABK_ROUTE_PROBE) != 0};
    abk_frame frame = {.line = line};
    abk_value token = {0};
    char digits[24];
    if (bus->rewrite && role == ABK_RESPONSE)
        return take_response(host, message, line);
    if (bus->rewrite && role == ABK_NOTIFICATION && cancel(host, message))
        return 0;
    way.pool = route->pool != NULL ? abk_pool_find(bus, text_of(route->pool)) : choose_pool(bus, message);
    if (bus->rewrite && role == ABK_NOTIFICATION &&
        !aim_notification(host, message, &way, &frame, digits))
        return 0;
    if (way.pool == NULL) {
        const bool named = route->pool != NULL;
        abk_refuse(bus, NULL, ABK_CODE_UNKNOWN_POOL, "unknown_pool", named ? "there is no pool '%s'" : "name a pool: there are several%s",
                   named ? route->pool : "");
        bus->counts.routing_errors++;
        return ABK_EREFUSED;
    }
    if (route->session == NULL && way.worker < 0 && way.pool->config->session.count > 1 &&
        !read_session(bus, message, &way))
        return ABK_ENOMEM;
    const bool request = role == ABK_REQUEST && (route->flags & ABK_ROUTE_ORPHAN) == 0;
    const int64_t number = request ? abk_id_number(&message->id) : 0;
    way.number = number > 0 ? number : 0;
    patch(bus, &way, message, &frame, &token);
    return abk_router_take(bus, &way, request ? &message->id : NULL, &frame,
                           token.kind == ABK_ABSENT ? NULL : &token);
}

/* --- lines ----------------------------------------------------------------------------------- */

static void take(abk_client *client, const abk_message *message, abk_text line)
{
    const abk_role role = abk_role_of(message);
    const abk_next next = client->next;
    client->next = (abk_next){0};
    if (role == ABK_NOTHING) {
        const bool known = message->id.kind != ABK_ABSENT;
        refuse_line(client, known ? abk_value_raw(&message->id) : ABK_TEXT("null"),
                    ABK_CODE_INVALID_REQUEST, "Invalid request: neither method nor result");
    } else if (role == ABK_RESPONSE) {
        take_response(client, message, line);
    } else if (!abk_take_method(client, message) && !cancel(client, message)) {
        take_call(client, message, line, &next);
    }
}

void abk_take_line(abk_client *client, const char *line, size_t len)
{
    abk_message message;
    const int scanned = abk_scan(line, len, &message);
    if (scanned == ABK_AGAIN)
        return;
    if (client->needs_auth &&
        (scanned < 0 || !abk_value_is(&message.method, ABK_TEXT("bus/auth")))) {
        abk_turn_away(client, scanned < 0 ? NULL : &message);
        return;
    }
    if (scanned < 0) {
        char text[256];
        client->next = (abk_next){0};
        const bool odd = message.odd_member;
        snprintf(text, sizeof text, "%s: %s", odd ? "Invalid request" : "Parse error", message.reason);
        refuse_line(client, ABK_TEXT("null"), odd ? ABK_CODE_INVALID_REQUEST : ABK_CODE_PARSE_ERROR,
                    text);
        return;
    }
    if (!message.repeated) {
        take(client, &message, (abk_text){line, (uint32_t)len});
        return;
    }
    /* Which of two ids a worker would read is not known: the last one stays. */
    char *once = abk_realloc(NULL, len);
    if (once == NULL) {
        refuse_line(client, ABK_TEXT("null"), ABK_CODE_OVERLOADED, "out of memory");
        return;
    }
    const size_t left = abk_unrepeat(line, len, once);
    if (abk_scan(once, left, &message) == ABK_OK)
        take(client, &message, (abk_text){once, (uint32_t)left});
    abk_free(once);
}
