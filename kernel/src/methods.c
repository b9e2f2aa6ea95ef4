/* bus/...: the methods that the kernel answers itself (docs/design/kernel.md). */
#include "bus.h"

#include <stdio.h>

/* --- params and results ----------------------------------------------------------------------- */

static bool member(const abk_message *message, const char *name, abk_value *found)
{
    const abk_path path = {1, {{name, (uint32_t)strlen(name)}}};
    if (message->params.kind == ABK_OBJECT && abk_scan_path(&message->params, &path, found))
        return true;
    *found = (abk_value){0};
    return false;
}

static bool is_true(const abk_value *value) { return value->kind == ABK_BOOL && value->at[0] == 't'; }

static double seconds(const abk_value *value, double otherwise)
{
    char text[32];
    if (value->kind != ABK_NUMBER || value->len >= sizeof text)
        return otherwise;
    memcpy(text, value->at, value->len);
    text[value->len] = '\0';
    return abk_number(text);
}

static abk_buf *begin_result(abk_client *client, abk_text id)
{
    abk_buf *out = &client->bus->report;
    abk_buf_clear(out);
    abk_out(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    abk_buf_append(out, id.at, id.len);
    abk_out(out, ",\"result\":");
    return out;
}

static void end_result(abk_client *client, abk_buf *out)
{
    abk_out(out, "}\n");
    abk_client_put(client, out);
}

static void answer_empty(abk_client *client, const abk_message *message)
{
    if (message->id.kind == ABK_ABSENT)
        return;
    abk_buf *out = begin_result(client, abk_value_raw(&message->id));
    abk_out(out, "{}");
    end_result(client, out);
}

static void fail(abk_client *client, abk_text id, int code, const char *reason, const char *text)
{
    abk_failure failure;
    abk_failure_init(&failure, code, reason, "%s", text);
    if (id.len > 0)
        abk_client_fail(client, id, &failure, false);
}

static void invalid(abk_client *client, const abk_message *message, const char *text)
{
    if (message->id.kind != ABK_ABSENT)
        fail(client, abk_value_raw(&message->id), ABK_CODE_INVALID_PARAMS, NULL, text);
}

/* The pool that params name; the only one where they name none. NULL, and answered, if there is none. */
static abk_pool *pool_of(abk_client *client, const abk_message *message)
{
    abk_bus *bus = client->bus;
    abk_value name;
    if (!member(message, "pool", &name) && bus->pool_count == 1)
        return &bus->pools[0];
    abk_pool *pool = NULL;
    for (uint32_t i = 0; i < bus->pool_count && pool == NULL; i++) {
        const char *id = bus->pools[i].config->id;
        if (abk_value_is(&name, (abk_text){id, (uint32_t)strlen(id)}))
            pool = &bus->pools[i];
    }
    if (pool == NULL && message->id.kind != ABK_ABSENT)
        fail(client, abk_value_raw(&message->id), ABK_CODE_UNKNOWN_POOL, "unknown_pool",
             "params.pool: there is no such pool");
    return pool;
}

/* --- status, watch, tap ----------------------------------------------------------------------- */

static void on_status(abk_client *client, const abk_message *message)
{
    if (message->id.kind == ABK_ABSENT)
        return;
    abk_buf *out = begin_result(client, abk_value_raw(&message->id));
    abk_report_status(client->bus, out, ABK_ERROR_TAIL_BYTES);
    end_result(client, out);
}

static void on_watch(abk_client *client, const abk_message *message)
{
    static const struct {
        const char *name;
        uint32_t bit;
    } all[] = {{"\"worker_changed\"", ABK_WATCH_WORKER},
               {"\"line_bad\"", ABK_WATCH_LINE_BAD},
               {"\"client\"", ABK_WATCH_CLIENT},
               {"\"session\"", ABK_WATCH_SESSION},
               {"\"source\"", ABK_WATCH_SOURCE}};
    abk_value events;
    if (!member(message, "events", &events) || events.kind != ABK_ARRAY) {
        invalid(client, message, "params.events: expected a list of names");
        return;
    }
    uint32_t watched = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (memmem(events.at, events.len, all[i].name, strlen(all[i].name)) != NULL)
            watched |= all[i].bit;
    }
    client->watched = watched;
    abk_unlink(&client->watching);
    if (watched != 0)
        abk_list_append(&client->bus->watchers, &client->watching);
    client->source_worker = -1;
    answer_empty(client, message);
}

static void on_tap(abk_client *client, const abk_message *message)
{
    abk_value value;
    if (member(message, "off", &value) && is_true(&value)) {
        client->bus->tap_clients -= client->taps;
        client->taps = false;
        abk_tap_on(client->bus);
        answer_empty(client, message);
        return;
    }
    abk_pool *pool = NULL; /* until all is known to be right the tap that there is stays as it is */
    if (member(message, "pool", &value) && (pool = pool_of(client, message)) == NULL)
        return;
    const bool one = member(message, "worker", &value);
    const int64_t worker = one ? abk_id_number(&value) : -1;
    if (one && (worker < 0 || worker > INT32_MAX)) {
        invalid(client, message, "params.worker: expected the number of a worker");
        return;
    }
    client->tap_worker = (int32_t)worker;
    client->tap_pool = pool;
    if (!client->taps)
        client->bus->tap_clients++;
    client->taps = true;
    abk_tap_on(client->bus);
    answer_empty(client, message);
}

/* --- sessions -------------------------------------------------------------------------------- */

static void make_name(char *name, size_t len)
{
    snprintf(name, len, "%016llx%016llx", (unsigned long long)abk_random(),
             (unsigned long long)abk_random());
}

void abk_answer_session(abk_client *client, abk_text id, abk_text name, const abk_lane *lane)
{
    abk_buf *out = begin_result(client, id);
    abk_out(out, "{\"id\":");
    abk_out_string(out, name.at, name.len);
    if (lane != NULL)
        abk_out_number(out, "worker", lane->slot->worker);
    else
        abk_out(out, ",\"worker\":null");
    abk_out(out, "}");
    end_result(client, out);
}

static void on_session(abk_client *client, const abk_message *message)
{
    abk_bus *bus = client->bus;
    abk_pool *pool = pool_of(client, message);
    if (pool == NULL || message->id.kind == ABK_ABSENT)
        return;
    char name[512];
    abk_value value;
    make_name(name, sizeof name);
    uint32_t len = (uint32_t)strlen(name);
    if (member(message, "id", &value)) {
        if (value.kind != ABK_STRING || value.len == 0 || value.len > sizeof name) {
            invalid(client, message, "params.id: expected text of 1 to 512 bytes");
            return;
        }
        len = (uint32_t)abk_decode(&value, name);
    }
    member(message, "exclusive", &value);
    const bool exclusive = is_true(&value);
    member(message, "rebind", &value);
    const bool rebind = is_true(&value);
    member(message, "wait_s", &value);
    if (exclusive) {
        abk_wish_make(client, pool, abk_value_raw(&message->id), (abk_text){name, len}, rebind,
                      seconds(&value, 60.0));
        return;
    }
    const abk_way way = {
        .client = client, .pool = pool, .session = {name, len}, .worker = -1, .rebind = rebind};
    abk_session *session = abk_session_begin(bus, &way);
    if (session == NULL) {
        abk_client_fail(client, abk_value_raw(&message->id), &bus->refusal, false);
        return;
    }
    abk_lane *lane = session->lane == NULL ? abk_router_choose(pool) : NULL;
    if (lane != NULL)
        abk_session_bind(session, lane);
    session->kept = true;
    abk_answer_session(client, abk_value_raw(&message->id), way.session, session->lane);
}

static void on_session_end(abk_client *client, const abk_message *message)
{
    abk_bus *bus = client->bus;
    char name[512];
    abk_value id;
    abk_session *session = NULL;
    if (member(message, "id", &id) && id.kind == ABK_STRING && id.len <= sizeof name)
        session = abk_session_find(bus, (abk_text){name, (uint32_t)abk_decode(&id, name)});
    if (session == NULL) {
        invalid(client, message, "params.id: there is no such session");
    } else if (session->owner != client && session->owner != NULL) {
        invalid(client, message, "params.id: that session belongs to another client");
    } else {
        abk_session_end(bus, session);
        answer_empty(client, message);
    }
}

/* --- admin ----------------------------------------------------------------------------------- */

/* How long what is in flight may take; else the configuration says so. */
static double drain_s_of(const abk_client *client, const abk_message *message)
{
    abk_value value;
    member(message, "drain_s", &value);
    return seconds(&value, client->bus->config->limits.drain_timeout_s);
}

static void on_stop(abk_client *client, const abk_message *message)
{
    enum { GRACE_S = 5 }; /* as after a signal */
    abk_value grace;
    member(message, "grace_s", &grace);
    answer_empty(client, message);
    abk_client_flush(client);
    abk_stop(client->bus, drain_s_of(client, message), seconds(&grace, GRACE_S));
}

static void on_restart(abk_client *client, const abk_message *message)
{
    const double drain_s = drain_s_of(client, message);
    abk_pool *pool = pool_of(client, message);
    abk_value worker;
    if (pool == NULL)
        return;
    const bool one = member(message, "worker", &worker);
    bool found = !one;
    ABK_EACH(link, &pool->slots)
    {
        abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
        if (one && slot->worker != abk_id_number(&worker))
            continue;
        found = true;
        abk_slot_drain(slot, drain_s, false);
    }
    if (found)
        answer_empty(client, message);
    else
        invalid(client, message, "params.worker: there is no such worker in that pool");
}

static void on_resize(abk_client *client, const abk_message *message)
{
    abk_pool *pool = pool_of(client, message);
    abk_value value;
    if (pool == NULL)
        return;
    const int64_t instances = member(message, "instances", &value) ? abk_id_number(&value) : -1;
    if (instances < 1 || instances > 65536) {
        invalid(client, message, "params.instances: must be within 1 and 65536");
        return;
    }
    abk_pool_resize(pool, (uint32_t)instances, drain_s_of(client, message));
    answer_empty(client, message);
}

/* What the host of a kernel does with one worker. A pause is for a client with which the kernel ends,
 * as one on stdio: others would leave a worker unread for ever. */
static void on_worker(abk_client *client, const abk_message *message)
{
    static const struct {
        const char *name;
        int (*run)(abk_bus *bus, int32_t worker);
    } all[] = {{"hold", abk_hold},
               {"release", abk_release},
               {"pause", abk_pause},
               {"resume", abk_resume},
               {"rest", abk_rest}};
    abk_value action;
    abk_value value;
    const int64_t worker = member(message, "worker", &value) ? abk_id_number(&value) : -1;
    member(message, "do", &action);
    int result = ABK_EINVAL;
    const bool pauses = abk_value_is(&action, ABK_TEXT("pause"));
    if (worker < 0 || worker > INT32_MAX || (pauses && !client->pauses)) {
        result = ABK_ENOENT;
    } else if (abk_value_is(&action, ABK_TEXT("kill"))) {
        char fault[256] = "";
        if (member(message, "fault", &value) && value.kind == ABK_STRING && value.len < sizeof fault)
            fault[abk_decode(&value, fault)] = '\0';
        result = abk_kill(client->bus, (int32_t)worker, fault);
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (result == ABK_EINVAL && abk_value_is(&action, (abk_text){all[i].name, (uint32_t)strlen(all[i].name)}))
            result = all[i].run(client->bus, (int32_t)worker);
    }
    if (result == ABK_EREFUSED && message->id.kind != ABK_ABSENT)
        abk_client_fail(client, abk_value_raw(&message->id), &client->bus->refusal, false);
    else if (result < 0)
        invalid(client, message,
                result == ABK_EINVAL ? "params.do: hold, release, pause, resume, rest or kill"
                                     : "params.worker: there is no such worker");
    else
        answer_empty(client, message);
}

/* Whom the next line is for that is neither a method of ours nor a response. */
static void on_next(abk_client *client, const abk_message *message)
{
    abk_value value;
    const bool named = member(message, "worker", &value);
    const int64_t worker = named ? abk_id_number(&value) : -1;
    if (named && (worker < 0 || worker > INT32_MAX || !client->admin)) {
        invalid(client, message, "params.worker: expected the number of a worker");
        return;
    }
    client->next = (abk_next){.named = named, .worker = (int32_t)worker};
    member(message, "rebind", &value);
    client->next.rebind = is_true(&value);
    member(message, "probe", &value);
    client->next.probe = is_true(&value);
    answer_empty(client, message);
}

/* --- the token ------------------------------------------------------------------------------- */

/* In constant time for texts of one length. */
static bool same_secret(const char *want, const char *got, size_t len)
{
    const size_t length = strlen(want);
    unsigned char different = length != len;
    for (size_t i = 0; i < len; i++)
        different |= (unsigned char)(got[i] ^ want[length == 0 ? 0 : i % length]);
    return different == 0;
}

static void on_auth(abk_client *client, const abk_message *message)
{
    char token[4096];
    abk_value value;
    if (client->token != NULL) {
        const bool there = member(message, "token", &value) && value.kind == ABK_STRING &&
                           value.len <= sizeof token;
        const size_t len = there ? abk_decode(&value, token) : 0;
        if (!there || !same_secret(client->token, token, len)) {
            if (message->id.kind != ABK_ABSENT)
                fail(client, abk_value_raw(&message->id), ABK_CODE_INVALID_REQUEST, "unauthorized",
                     "the token is wrong");
            abk_client_flush(client);
            abk_client_gone(client, "unauthorized");
            return;
        }
        abk_client_admit(client, true);
    }
    answer_empty(client, message);
}

void abk_turn_away(abk_client *client, const abk_message *message)
{
    const bool known = message != NULL && message->id.kind != ABK_ABSENT;
    fail(client, known ? abk_value_raw(&message->id) : ABK_TEXT("null"), ABK_CODE_INVALID_REQUEST,
         "unauthorized", "the first message must be bus/auth with the token");
    abk_client_flush(client);
    abk_client_gone(client, "unauthorized");
}

/* --- the table ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(abk_client *client, const abk_message *message);
    bool admin;
} methods[] = {{"bus/status", on_status, false},       {"bus/watch", on_watch, false},
               {"bus/session", on_session, false},     {"bus/session_end", on_session_end, false},
               {"bus/auth", on_auth, false},           {"bus/restart", on_restart, true},
               {"bus/resize", on_resize, true},        {"bus/tap", on_tap, true},
               {"bus/stop", on_stop, true},            {"bus/worker", on_worker, true},
               {"bus/next", on_next, false}};

/* However its bytes are spelt: some encoders write a slash as "\/". */
static bool is_reserved(const abk_value *method)
{
    enum { MOST = 4 * 6 }; /* of four characters, each as \u0000 */
    char decoded[MOST];
    abk_value begin = *method;
    begin.len = begin.len < MOST ? begin.len : MOST;
    return abk_decode(&begin, decoded) >= 4 && memcmp(decoded, "bus/", 4) == 0;
}

int abk_take_method(abk_client *client, const abk_message *message)
{
    const abk_value *method = &message->method;
    const bool auth = abk_value_is(method, ABK_TEXT("bus/auth"));
    const bool ours = auth && client->token != NULL;
    if (!ours && (!client->bus->config->reserved_methods || !is_reserved(method)))
        return 0;
    if (abk_value_is(method, ABK_TEXT("bus/credit")))
        return 0; /* goes to the worker of the request that it names */
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        const abk_text name = {methods[i].name, (uint32_t)strlen(methods[i].name)};
        if (!abk_value_is(method, name) || (methods[i].admin && !client->admin))
            continue;
        methods[i].run(client, message);
        return 1;
    }
    if (message->id.kind != ABK_ABSENT)
        fail(client, abk_value_raw(&message->id), ABK_CODE_METHOD_NOT_FOUND, NULL, "method not found");
    return 1;
}

/* --- bus/event ------------------------------------------------------------------------------- */

static abk_buf *begin_event(abk_bus *bus, const char *name)
{
    abk_buf *out = &bus->report;
    abk_buf_clear(out);
    abk_out(out, "{\"jsonrpc\":\"2.0\",\"method\":\"bus/event\",\"params\":{");
    abk_out_member(out, "event", name);
    abk_out_member(out, "bus", bus->name); /* no worker's line says that */
    return out;
}

static void end_event(abk_bus *bus, abk_buf *out, uint32_t bit)
{
    abk_out(out, "}}\n");
    ABK_EACH(link, &bus->watchers)
    {
        abk_client *client = ABK_OF(link, abk_client, watching);
        if ((client->watched & bit) == 0)
            continue;
        if (abk_client_full(client))
            bus->counts.dropped_notifications++;
        else
            abk_client_put(client, out);
    }
}

static bool watched(const abk_bus *bus, uint32_t bit)
{
    ABK_EACH(link, &bus->watchers)
    {
        if ((ABK_OF(link, abk_client, watching)->watched & bit) != 0)
            return true;
    }
    return false;
}

void abk_watchers_worker(abk_slot *slot)
{
    abk_bus *bus = slot->bus;
    if (!watched(bus, ABK_WATCH_WORKER))
        return;
    abk_buf *out = begin_event(bus, "worker_changed");
    abk_out_member(out, "pool", slot->pool->config->id);
    abk_out_number(out, "worker", slot->worker);
    abk_out_number(out, "generation", slot->generation);
    abk_out_member(out, "state", abk_state_name(slot->life.state));
    if (slot->process != NULL)
        abk_out_number(out, "pid", slot->process->child.pid);
    if (slot->failure != NULL) {
        abk_out(out, ",\"failure\":");
        abk_failure_write(out, slot->failure, false, NULL);
    }
    end_event(bus, out, ABK_WATCH_WORKER);
}

void abk_watchers_client(abk_client *client, bool came, const char *why)
{
    abk_bus *bus = client->bus;
    if (!watched(bus, ABK_WATCH_CLIENT))
        return;
    abk_buf *out = begin_event(bus, "client");
    abk_out_number(out, "client", client->number);
    abk_out_member(out, "state", came ? "connected" : "gone");
    abk_out_member(out, came ? "peer" : "reason", why);
    end_event(bus, out, ABK_WATCH_CLIENT);
}

static void end_event_for(abk_client *client, abk_buf *out)
{
    abk_out(out, "}}\n");
    abk_client_put(client, out);
}

/* What became of a session, for its owner: an answer that follows is from that worker. */
void abk_watchers_session(const abk_session *session, bool over)
{
    abk_client *owner = session->owner;
    if (owner == NULL || (owner->watched & ABK_WATCH_SESSION) == 0 || owner->gone)
        return;
    abk_buf *out = begin_event(owner->bus, "session");
    abk_out(out, ",\"id\":");
    abk_out_string(out, session->name, session->name_len);
    abk_out_member(out, "pool", session->pool->config->id);
    abk_out_member(out, "state", over ? "over" : session->lane != NULL ? "bound" : "lost");
    if (session->lane != NULL)
        abk_out_number(out, "worker", session->lane->slot->worker);
    if (session->failure != NULL) {
        abk_out(out, ",\"failure\":");
        abk_failure_write(out, session->failure, false, NULL);
    }
    end_event_for(owner, out);
}

/* Told before a notification or request that comes from elsewhere than the last one. */
void abk_watchers_source(abk_client *client, const abk_lane *lane)
{
    if ((client->watched & ABK_WATCH_SOURCE) == 0)
        return;
    const abk_entry *sole = abk_lane_sole(lane);
    if (sole != NULL && sole->client != client)
        sole = NULL;
    const int64_t key = sole == NULL ? 0 : abk_router_key(sole);
    if (client->source_worker == lane->slot->worker && client->source_sole == key)
        return;
    client->source_worker = lane->slot->worker;
    client->source_sole = key;
    abk_buf *out = begin_event(client->bus, "source");
    abk_out_member(out, "pool", lane->pool->config->id);
    abk_out_number(out, "worker", lane->slot->worker);
    if (sole != NULL) {
        const abk_text id = abk_id_raw(&sole->id);
        abk_out(out, ",\"sole\":");
        abk_buf_append(out, id.at, id.len);
    }
    end_event_for(client, out);
}

void abk_watchers_bad_line(abk_slot *slot, const char *at, size_t len, const char *reason,
                           uint64_t size)
{
    abk_bus *bus = slot->bus;
    if (!watched(bus, ABK_WATCH_LINE_BAD))
        return;
    abk_buf *out = begin_event(bus, "line_bad");
    abk_out_member(out, "pool", slot->pool->config->id);
    abk_out_number(out, "worker", slot->worker);
    abk_out(out, ",\"prefix\":");
    abk_out_string(out, at, len);
    abk_out_member(out, "reason", reason);
    abk_out_number(out, "size", (int64_t)size);
    end_event(bus, out, ABK_WATCH_LINE_BAD);
}
