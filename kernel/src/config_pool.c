/* One pool of a configuration: see config.h. */
#include "config_inner.h"

#include <ctype.h>
#include <stdio.h>
#include <unistd.h>

#define POOL(key, member, type, bound, most)                                                       \
    {key, ABK_F_##type, ABK_B_##bound, offsetof(abk_pool_config, member), most, NULL}
#define CHOICE(key, member, names)                                                                 \
    {key, ABK_F_CHOICE, ABK_B_ANY, offsetof(abk_pool_config, member), 0, names}
#define OTHER(key) {key, ABK_F_OTHER, ABK_B_ANY, 0, 0, NULL}

/* abk_pool_config.strip is read as a choice of its own below. */
static const abk_field pool_fields[] = {
    POOL("instances", instances, U32, POSITIVE, 65536),
    POOL("max_in_flight", max_in_flight, U32, NATURAL, 0),
    POOL("max_requests", max_requests, U64, NATURAL, 0),
    CHOICE("balance", balance, "least_busy|round_robin"),
    CHOICE("cancel", cancel, "lsp|mcp|acp|none"),
    OTHER("id"), OTHER("command"), OTHER("args"), OTHER("env"), OTHER("cwd"), OTHER("envelope"),
    OTHER("session"), OTHER("chunks"), OTHER("collect"), OTHER("serial"), OTHER("ready"),
    OTHER("guard"), OTHER("spares"), OTHER("idle_timeout_s"), OTHER("max_lifetime_s"),
    OTHER("max_rss_bytes"), OTHER("health"), OTHER("user"), OTHER("groups"), OTHER("umask"),
    OTHER("nice"), OTHER("rlimits"), OTHER("spawn"),
};

typedef struct pool_reading {
    abk_reading *self;
    const abk_json *json;
    abk_pool_config *out;
    char owner[160]; /* Pool('a') */
    char path[40];   /* $.pools[0] */
} pool_reading;

static const abk_json *get(const pool_reading *pool, const char *key)
{
    return abk_json_member(pool->json, key);
}

static bool is(const pool_reading *pool, const char *key, const abk_json *value, abk_kind kind)
{
    return abk_config_is(pool->self, pool->owner, key, value, kind);
}

static bool no_nul(const pool_reading *pool, const char *key, const abk_json *value)
{
    if (memchr(value->text, '\0', value->len) == NULL)
        return true;
    return abk_config_fail(pool->self, pool->owner, key, "must not contain NUL");
}

/* --- the command ----------------------------------------------------------------------------- */

static bool add_words(pool_reading *pool, const char *key, const abk_json *list, uint32_t *count)
{
    for (const abk_json *word = list->first; word != NULL; word = word->next) {
        if (!is(pool, key, word, ABK_STRING) || !no_nul(pool, "command", word))
            return false;
        pool->out->argv[(*count)++] = (char *)(uintptr_t)word->text;
    }
    return true;
}

/* Whether there is something behind blanks. */
static bool has_words(const char *text)
{
    text += strspn(text, " \t\r\n");
    text += strcspn(text, " \t\r\n");
    return text[strspn(text, " \t\r\n")] != '\0';
}

static bool read_command(pool_reading *pool)
{
    const abk_json *command = get(pool, "command");
    const abk_json *args = get(pool, "args");
    if (command == NULL)
        return abk_config_fail(pool->self, pool->owner, "command", "is missing");
    if (command->kind != ABK_ARRAY && !is(pool, "command", command, ABK_STRING))
        return false;
    if (args != NULL && !is(pool, "args", args, ABK_ARRAY))
        return false;
    const size_t words = 2 + (command->kind == ABK_ARRAY ? command->len : 0) + (args == NULL ? 0 : args->len);
    pool->out->argv = abk_arena_take(pool->self->arena, words * sizeof *pool->out->argv);
    if (pool->out->argv == NULL)
        return abk_config_no_memory(pool->self);
    uint32_t count = 0;
    if (command->kind == ABK_STRING) {
        if (!no_nul(pool, "command", command))
            return false;
        pool->out->argv[count++] = (char *)(uintptr_t)command->text;
    } else if (!add_words(pool, "command", command, &count)) {
        return false;
    }
    if (args != NULL && !add_words(pool, "args", args, &count))
        return false;
    if (count == 0 || pool->out->argv[0][0] == '\0')
        return abk_config_fail(pool->self, pool->owner, "command", "must not be empty");
    if (count == 1 && command->kind == ABK_STRING && has_words(pool->out->argv[0]) &&
        access(pool->out->argv[0], F_OK) != 0)
        return abk_config_fail(pool->self, pool->owner, "command",
                               "is not split as a shell would; write a list of words");
    return true;
}

/* --- env, cwd, session ----------------------------------------------------------------------- */

static bool read_env(pool_reading *pool)
{
    const abk_json *env = get(pool, "env");
    abk_pool_config *out = pool->out;
    if (env == NULL)
        return true;
    if (!is(pool, "env", env, ABK_OBJECT))
        return false;
    out->env = abk_arena_take(pool->self->arena, (env->len + 1) * sizeof *out->env);
    if (out->env == NULL)
        return abk_config_no_memory(pool->self);
    for (const abk_json *item = env->first; item != NULL; item = item->next) {
        const bool text = item->kind == ABK_STRING;
        if (!text && item->kind != ABK_NULL)
            return abk_config_fail(pool->self, pool->owner, "env", "expected a string or null, got %s",
                                   abk_kind_name(item));
        const bool good = item->name_len > 0 && strchr(item->name, '=') == NULL &&
                          strlen(item->name) == item->name_len &&
                          (!text || strlen(item->text) == item->len);
        if (!good)
            return abk_config_fail(pool->self, pool->owner, "env", "'%.80s' is not a valid variable",
                                   item->name);
        out->env[out->env_count++] = (abk_env){item->name, text ? item->text : NULL};
    }
    return true;
}

static bool read_cwd(pool_reading *pool)
{
    const abk_json *cwd = get(pool, "cwd");
    if (cwd == NULL || cwd->kind == ABK_NULL)
        return true;
    pool->out->cwd = cwd->text;
    return is(pool, "cwd", cwd, ABK_STRING) && no_nul(pool, "cwd", cwd);
}

static bool bad_session(const pool_reading *pool, const abk_json *session)
{
    return abk_config_fail(pool->self, pool->owner, "session",
                           "must be 'top', 'acp', or a path such as 'params.thread.id', not '%.80s'",
                           session->text);
}

static bool read_session(pool_reading *pool)
{
    const abk_json *session = get(pool, "session");
    abk_path *path = &pool->out->session;
    if (session == NULL)
        return true;
    if (!is(pool, "session", session, ABK_STRING))
        return false;
    if (abk_json_says(session, "top"))
        return true;
    const char *text = session->text;
    pool->out->session_acp = strcmp(text, "acp") == 0;
    if (pool->out->session_acp)
        text = "params.sessionId";
    if (strlen(session->text) != session->len || strncmp(text, "params.", 7) != 0)
        return bad_session(pool, session);
    for (const char *at = text; at != NULL;) {
        const size_t len = strcspn(at, ".");
        if (len == 0 || path->count == ABK_MAX_PATH || strcspn(at, " \t\r\n\v\f") < len)
            return bad_session(pool, session);
        path->names[path->count++] = (abk_text){at, (uint32_t)len};
        at = at[len] == '.' ? at + len + 1 : NULL;
    }
    return true;
}

static bool read_envelope(pool_reading *pool)
{
    const abk_json *envelope = get(pool, "envelope");
    int number = 0;
    const abk_field field = {"envelope", ABK_F_CHOICE, ABK_B_ANY, 0, 0, "keep|strip"};
    if (envelope != NULL && !abk_config_field(pool->self, pool->owner, &field, envelope, &number))
        return false;
    pool->out->strip = number == 1;
    return true;
}

/* --- the handshake --------------------------------------------------------------------------- */

static bool keep_frame(pool_reading *pool, abk_buf *frame, abk_text *out)
{
    const size_t len = abk_buf_len(frame);
    char *copy = frame->failed ? NULL : abk_arena_copy(pool->self->arena, abk_buf_at(frame), len);
    abk_buf_free(frame);
    if (copy == NULL)
        return abk_config_no_memory(pool->self);
    *out = (abk_text){copy, (uint32_t)len};
    return true;
}

static bool make_frames(pool_reading *pool, const abk_json *method, const abk_json *params,
                        const abk_json *notify)
{
    abk_handshake *out = &pool->out->ready;
    abk_buf frame = {0};
    abk_out(&frame, "{\"jsonrpc\":\"2.0\",\"id\":\"anyio-bus/handshake\",\"method\":");
    abk_out_string(&frame, method->text, method->len);
    abk_out(&frame, ",\"params\":");
    if (params != NULL)
        abk_json_write(&frame, params);
    else
        abk_out(&frame, "{}");
    abk_out(&frame, "}\n");
    out->method = method->text;
    if (!keep_frame(pool, &frame, &out->request))
        return false;
    if (notify == NULL || notify->kind == ABK_NULL)
        return true;
    abk_out(&frame, "{\"jsonrpc\":\"2.0\",\"method\":");
    abk_out_string(&frame, notify->text, notify->len);
    abk_out(&frame, "}\n");
    return keep_frame(pool, &frame, &out->notify);
}

static bool read_ready(pool_reading *pool)
{
    static const abk_field fields[] = {
        {"timeout_s", ABK_F_SECONDS, ABK_B_POSITIVE, offsetof(abk_handshake, timeout_s), 0, NULL},
        OTHER("method"), OTHER("params"), OTHER("then_notify")};
    const abk_json *ready = get(pool, "ready");
    char path[64];
    if (ready == NULL || abk_json_says(ready, "spawn"))
        return true;
    if (ready->kind != ABK_OBJECT)
        return abk_config_fail(pool->self, pool->owner, "ready",
                               "must be 'spawn' or an object with method, params, then_notify, timeout_s");
    pool->out->ready.timeout_s = 30;
    snprintf(path, sizeof path, "%s.ready", pool->path);
    if (!abk_config_object(pool->self, "Handshake", path, ready, fields, sizeof fields / sizeof *fields,
                           &pool->out->ready))
        return false;
    const abk_json *method = abk_json_member(ready, "method");
    const abk_json *params = abk_json_member(ready, "params");
    const abk_json *notify = abk_json_member(ready, "then_notify");
    if (method == NULL)
        return abk_config_fail(pool->self, "Handshake", "method", "is missing");
    if (!abk_config_is(pool->self, "Handshake", "method", method, ABK_STRING))
        return false;
    if (method->len == 0)
        return abk_config_fail(pool->self, "Handshake", "method", "must not be empty");
    if (params != NULL && !abk_config_is(pool->self, "Handshake", "params", params, ABK_OBJECT))
        return false;
    if (notify != NULL && notify->kind != ABK_NULL &&
        !abk_config_is(pool->self, "Handshake", "then_notify", notify, ABK_STRING))
        return false;
    return make_frames(pool, method, params, notify);
}

/* --- what the client does --------------------------------------------------------------------- */

typedef struct client_keys { /* checked, and left to the client */
    double idle_timeout_s, max_lifetime_s, every_s, timeout_s;
    uint64_t spares, max_rss_bytes;
    int choice;
    bool guard, serial;
} client_keys;

#define CLIENT(key, type, bound)                                                                   \
    {#key, ABK_F_##type, ABK_B_##bound, offsetof(client_keys, key), 0, NULL}
#define CLIENT_CHOICE(key, names)                                                                  \
    {key, ABK_F_CHOICE, ABK_B_ANY, offsetof(client_keys, choice), 0, names}

static bool read_probe(pool_reading *pool, const abk_json *health, client_keys *keys)
{
    static const abk_field fields[] = {CLIENT(every_s, SECONDS, POSITIVE),
                                       CLIENT(timeout_s, SECONDS, POSITIVE), OTHER("method"),
                                       OTHER("params")};
    char path[64];
    if (!is(pool, "health", health, ABK_OBJECT))
        return false;
    snprintf(path, sizeof path, "%s.health", pool->path);
    if (!abk_config_object(pool->self, "Probe", path, health, fields, sizeof fields / sizeof *fields,
                           keys))
        return false;
    const abk_json *method = abk_json_member(health, "method");
    const abk_json *params = abk_json_member(health, "params");
    if (method == NULL)
        return abk_config_fail(pool->self, "Probe", "method", "is missing");
    if (!abk_config_is(pool->self, "Probe", "method", method, ABK_STRING))
        return false;
    if (method->len == 0)
        return abk_config_fail(pool->self, "Probe", "method", "must not be empty");
    return params == NULL || abk_config_is(pool->self, "Probe", "params", params, ABK_OBJECT);
}

static bool read_client_keys(pool_reading *pool)
{
    static const abk_field fields[] = {
        CLIENT(spares, U64, NATURAL),
        CLIENT(max_lifetime_s, SECONDS, NATURAL),
        CLIENT(max_rss_bytes, U64, NATURAL),
        CLIENT(idle_timeout_s, SECONDS, NATURAL),
        CLIENT(guard, BOOL, ANY),
        CLIENT(serial, BOOL, ANY),
        CLIENT_CHOICE("chunks", "anyio-bus|acp|mcp-progress"),
        CLIENT_CHOICE("collect", "text"),
        CLIENT_CHOICE("spawn", "auto|posix|portable"),
    };
    client_keys keys = {0};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const abk_json *value = get(pool, fields[i].name);
        const bool none = value == NULL ||
                          (value->kind == ABK_NULL && strcmp(fields[i].name, "collect") == 0);
        if (!none && !abk_config_field(pool->self, pool->owner, &fields[i], value, &keys))
            return false;
    }
    const abk_json *health = get(pool, "health");
    health = health == NULL || health->kind == ABK_NULL ? NULL : health;
    if (health != NULL && !read_probe(pool, health, &keys))
        return false;
    pool->out->packs = keys.idle_timeout_s > 0 && pool->out->balance == ABK_LEAST_BUSY;
    pool->out->probed = health != NULL;
    const struct {
        const char *key;
        bool asked;
    } all[] = {{"spares", keys.spares > 0},
               {"max_lifetime_s", keys.max_lifetime_s > 0},
               {"max_rss_bytes", keys.max_rss_bytes > 0},
               {"idle_timeout_s", keys.idle_timeout_s > 0},
               {"max_requests", pool->out->max_requests > 0},
               {"health", health != NULL},
               {"guard", keys.guard}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].asked && !abk_config_client_only(pool->self, pool->path, all[i].key))
            return false;
    }
    return true;
}

bool abk_config_pool(abk_reading *self, const abk_json *json, uint32_t index, abk_pool_config *out)
{
    pool_reading pool = {.self = self, .json = json, .out = out};
    snprintf(pool.path, sizeof pool.path, "$.pools[%u]", index);
    snprintf(pool.owner, sizeof pool.owner, "pools[%u]", index);
    *out = (abk_pool_config){.max_in_flight = 1024};
    if (json->kind != ABK_OBJECT) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: %s: expected an object, got %s", pool.owner,
                 abk_kind_name(json));
        return false;
    }
    const abk_json *id = get(&pool, "id");
    if (id == NULL)
        return abk_config_fail(self, pool.owner, "id", "is missing");
    if (!is(&pool, "id", id, ABK_STRING) || !no_nul(&pool, "id", id))
        return false;
    if (id->len == 0)
        return abk_config_fail(self, "Pool", "id", "must not be empty");
    out->id = id->text;
    snprintf(pool.owner, sizeof pool.owner, "Pool('%.120s')", out->id);
    out->instances = 1;
    return abk_config_object(self, pool.owner, pool.path, json, pool_fields,
                             sizeof pool_fields / sizeof *pool_fields, out) &&
           read_command(&pool) && read_env(&pool) && read_cwd(&pool) && read_session(&pool) &&
           read_envelope(&pool) && read_ready(&pool) && read_client_keys(&pool) &&
           abk_config_launch(self, pool.owner, json, &out->launch);
}
