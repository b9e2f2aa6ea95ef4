/* Read and check a configuration: see config.h. What each key is and may be stands in tables. */
#include "config_inner.h"

#include <stdio.h>
#include <stdlib.h>

#define MIB (UINT64_C(1024) * 1024)

/* --- errors, warnings ------------------------------------------------------------------------- */

bool abk_config_fail(abk_reading *self, const char *owner, const char *field, const char *format, ...)
{
    char problem[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem, sizeof problem, format, arguments);
    va_end(arguments);
    abk_fail(self->error, ABK_EINVAL, 0, "config: %s.%s: %s", owner, field, problem);
    return false;
}

bool abk_config_no_memory(abk_reading *self)
{
    abk_fail(self->error, ABK_ENOMEM, 0, "out of memory");
    return false;
}

static bool add_text(abk_reading *self, char ***list, uint32_t *count, const char *text)
{
    char *copy = abk_arena_copy(self->arena, text, strlen(text));
    if (copy == NULL)
        return abk_config_no_memory(self);
    if ((*count & (*count - 1)) == 0) { /* full: its room is the next power of two */
        char **longer = abk_arena_take(self->arena, (*count * 2 + 1) * sizeof *longer);
        if (longer == NULL)
            return abk_config_no_memory(self);
        if (*count > 0)
            memcpy(longer, *list, *count * sizeof *longer);
        *list = longer;
    }
    (*list)[(*count)++] = copy;
    return true;
}

bool abk_config_client_only(abk_reading *self, const char *path, const char *key)
{
    char text[256];
    snprintf(text, sizeof text, "%s.%s: is the client's to do; a daemon on its own ignores it", path, key);
    return add_text(self, &self->config->client_only, &self->config->client_only_count, text);
}

static bool unknown(abk_reading *self, const char *path, const abk_json *member)
{
    char text[256];
    if (self->strict) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: unknown key %s.%.100s", path, member->name);
        return false;
    }
    snprintf(text, sizeof text, "unknown key %s.%.100s is ignored", path, member->name);
    return add_text(self, &self->config->warnings, &self->config->warning_count, text);
}

const char *abk_kind_name(const abk_json *value)
{
    static const char *const names[] = {"nothing", "null", "a boolean", "a number", "a string",
                                        "an object", "an array"};
    return names[value->kind];
}

bool abk_config_is(abk_reading *self, const char *owner, const char *field, const abk_json *value,
                   abk_kind kind)
{
    static const char *const names[] = {"nothing", "null", "a boolean", "a number", "a string",
                                        "an object", "an array"};
    if (value->kind == kind)
        return true;
    return abk_config_fail(self, owner, field, "expected %s, got %s", names[kind], abk_kind_name(value));
}

/* --- fields ---------------------------------------------------------------------------------- */

static bool store_number(abk_reading *self, const char *owner, const abk_field *field,
                         const abk_json *value, char *at)
{
    if (!abk_config_is(self, owner, field->name, value, ABK_NUMBER))
        return false;
    if (field->type != ABK_F_SECONDS && !value->integral && value->text[strcspn(value->text, ".eE")] != '\0')
        return abk_config_fail(self, owner, field->name, "expected an integer, got %.*s",
                               (int)value->len, value->text);
    if (field->bound == ABK_B_POSITIVE && !(value->number > 0))
        return abk_config_fail(self, owner, field->name, "must be greater than 0, not %.*s",
                               (int)value->len, value->text);
    if (field->bound == ABK_B_NATURAL && !(value->number >= 0))
        return abk_config_fail(self, owner, field->name, "must not be negative, not %.*s",
                               (int)value->len, value->text);
    const uint64_t most = field->most > 0 ? field->most : field->type == ABK_F_U32 ? UINT32_MAX : INT64_MAX;
    if (field->type != ABK_F_SECONDS && (!value->integral || (uint64_t)value->integer > most))
        return abk_config_fail(self, owner, field->name, "must be at most %llu, not %.*s",
                               (unsigned long long)most, (int)value->len, value->text);
    if (field->type == ABK_F_SECONDS)
        memcpy(at, &value->number, sizeof value->number);
    else if (field->type == ABK_F_U64)
        memcpy(at, &(uint64_t){(uint64_t)value->integer}, sizeof(uint64_t));
    else
        memcpy(at, &(uint32_t){(uint32_t)value->integer}, sizeof(uint32_t));
    return true;
}

/* One of the names that stand in field->names with | between them; its number is stored. */
static bool store_choice(abk_reading *self, const char *owner, const abk_field *field,
                         const abk_json *value, char *at)
{
    if (!abk_config_is(self, owner, field->name, value, ABK_STRING))
        return false;
    int number = 0;
    for (const char *name = field->names; name != NULL; number++) {
        const size_t len = strcspn(name, "|");
        if (len == value->len && memcmp(name, value->text, len) == 0) {
            memcpy(at, &number, sizeof number);
            return true;
        }
        name = name[len] == '|' ? name + len + 1 : NULL;
    }
    return abk_config_fail(self, owner, field->name, "must be one of %s, not '%.80s'", field->names,
                           value->text);
}

bool abk_config_field(abk_reading *self, const char *owner, const abk_field *field,
                      const abk_json *value, void *target)
{
    char *at = (char *)target + field->offset;
    switch (field->type) {
    case ABK_F_U32:
    case ABK_F_U64:
    case ABK_F_SECONDS: return store_number(self, owner, field, value, at);
    case ABK_F_CHOICE: return store_choice(self, owner, field, value, at);
    case ABK_F_BOOL:
        if (!abk_config_is(self, owner, field->name, value, ABK_BOOL))
            return false;
        memcpy(at, &value->truth, sizeof(bool));
        return true;
    default: return true; /* read by hand */
    }
}

/* Read an object by its table; what is not in it is unknown. */
bool abk_config_object(abk_reading *self, const char *owner, const char *path, const abk_json *object,
                       const abk_field *fields, size_t count, void *target)
{
    for (const abk_json *member = object->first; member != NULL; member = member->next) {
        size_t i = 0;
        while (i < count && !abk_json_is_named(member, fields[i].name))
            i++;
        if (i == count) {
            if (!unknown(self, path, member))
                return false;
        } else if (!abk_config_field(self, owner, &fields[i], member, target)) {
            return false;
        }
    }
    return true;
}

/* --- limits ---------------------------------------------------------------------------------- */

#define LIMIT(key, member, type, bound, most)                                                      \
    {key, ABK_F_##type, ABK_B_##bound, offsetof(abk_limits, member), most, NULL}

static const abk_field limit_fields[] = {
    LIMIT("max_input_buffer", max_frame_bytes, U32, POSITIVE, 1024 * MIB),
    LIMIT("max_output_queue", max_output_bytes, U64, POSITIVE, 0),
    LIMIT("max_pending", max_pending, U32, POSITIVE, 0),
    LIMIT("max_queued", max_queued, U32, POSITIVE, 0),
    LIMIT("max_sessions", max_sessions, U32, POSITIVE, 0),
    LIMIT("max_handlers", max_handlers, U32, POSITIVE, 0),
    LIMIT("max_restarts", max_restarts, U32, NATURAL, 1000000),
    LIMIT("start_attempts", start_attempts, U32, POSITIVE, 0),
    LIMIT("restart_window_sec", restart_window_s, SECONDS, POSITIVE, 0),
    LIMIT("start_window_s", start_window_s, SECONDS, NATURAL, 0),
    LIMIT("restart_delay_s", restart_delay_s, SECONDS, POSITIVE, 0),
    LIMIT("restart_delay_max_s", restart_delay_max_s, SECONDS, POSITIVE, 0),
    LIMIT("stable_after_s", stable_after_s, SECONDS, NATURAL, 0),
    LIMIT("park_retry_s", park_retry_s, SECONDS, NATURAL, 0),
    LIMIT("cancel_grace_s", cancel_grace_s, SECONDS, POSITIVE, 0),
    LIMIT("drain_timeout_sec", drain_timeout_s, SECONDS, NATURAL, 0),
    LIMIT("backpressure_timeout_sec", backpressure_timeout_s, SECONDS, NATURAL, 0),
    LIMIT("session_idle_s", session_idle_s, SECONDS, NATURAL, 0),
    LIMIT("auth_timeout_s", auth_timeout_s, SECONDS, POSITIVE, 0),
    LIMIT("stderr_tail_bytes", stderr_tail_bytes, U32, POSITIVE, 64 * MIB),
};

static const abk_limits default_limits = {.max_frame_bytes = 64 * MIB,
                                          .max_output_bytes = 64 * MIB,
                                          .max_pending = 65536,
                                          .max_queued = 65536,
                                          .max_sessions = 65536,
                                          .max_handlers = 1024,
                                          .max_restarts = 5,
                                          .start_attempts = 3,
                                          .restart_window_s = 60,
                                          .start_window_s = 10,
                                          .restart_delay_s = 0.1,
                                          .restart_delay_max_s = 30,
                                          .stable_after_s = 10,
                                          .park_retry_s = 60,
                                          .cancel_grace_s = 5,
                                          .drain_timeout_s = 30,
                                          .backpressure_timeout_s = 60,
                                          .auth_timeout_s = 10,
                                          .stderr_tail_bytes = 64 * 1024};

static bool read_limits(abk_reading *self, const abk_json *limits)
{
    abk_limits *out = &self->config->limits;
    *out = default_limits;
    if (limits == NULL)
        return true;
    if (limits->kind != ABK_OBJECT) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: limits: expected an object, got %s",
                 abk_kind_name(limits));
        return false;
    }
    if (!abk_config_object(self, "Limits", "$.limits", limits, limit_fields,
                           sizeof limit_fields / sizeof *limit_fields, out))
        return false;
    if (out->drain_timeout_s == 0)
        out->drain_timeout_s = 30;
    return true;
}

/* --- transport ------------------------------------------------------------------------------- */

/* The table of the existing kernel: what is not spoken here is refused by name. */
static bool check_transport(abk_reading *self, const abk_json *transport)
{
    static const struct {
        const char *key;
        const char *value; /* the only one that is kept; NULL: none is */
        const char *instead;
    } kept[] = {{"mode", "stdio", "say --stdio, --tcp HOST:PORT or --unix PATH on the command line"},
                {"framing", "ndjson", "lines are the only framing: leave it out"},
                {"protocol", "json", "JSON is the only protocol: leave it out"}};
    if (transport == NULL)
        return true;
    if (transport->kind == ABK_NULL)
        return unknown(self, "$", transport);
    if (transport->kind != ABK_OBJECT) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: transport: expected an object");
        return false;
    }
    for (const abk_json *member = transport->first; member != NULL; member = member->next) {
        const char *instead = "shm and mqueue are not spoken: use --unix PATH";
        bool good = false;
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
            if (!abk_json_is_named(member, kept[i].key))
                continue;
            instead = kept[i].instead;
            good = abk_json_says(member, kept[i].value);
        }
        if (good)
            continue;
        abk_fail(self->error, ABK_EINVAL, 0, "config: transport.%.60s='%.60s' is not supported: %s",
                 member->name, member->kind == ABK_STRING ? member->text : "...", instead);
        return false;
    }
    return true;
}

/* --- the whole ------------------------------------------------------------------------------- */

static bool read_pools(abk_reading *self, const abk_json *pools)
{
    abk_config *config = self->config;
    if (pools == NULL || pools->kind != ABK_ARRAY) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: pools: %s",
                 pools == NULL ? "is missing" : "expected an array");
        return false;
    }
    if (pools->len == 0) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: BusConfig.pools: must name at least one pool");
        return false;
    }
    config->pools = abk_arena_take(self->arena, pools->len * sizeof *config->pools);
    if (config->pools == NULL)
        return abk_config_no_memory(self);
    for (const abk_json *pool = pools->first; pool != NULL; pool = pool->next) {
        abk_pool_config *out = &config->pools[config->pool_count];
        if (!abk_config_pool(self, pool, config->pool_count, out))
            return false;
        for (uint32_t i = 0; i < config->pool_count; i++) {
            if (strcmp(config->pools[i].id, out->id) == 0)
                return abk_config_fail(self, "BusConfig", "pools", "the id '%.100s' is used twice", out->id);
        }
        config->pool_count++;
    }
    return true;
}

static bool read_all(abk_reading *self, const abk_json *root)
{
    static const char *const known[] = {"pools", "limits", "transport", "reserved_methods"};
    if (root->kind != ABK_OBJECT) {
        abk_fail(self->error, ABK_EINVAL, 0, "config: expected an object, got %s", abk_kind_name(root));
        return false;
    }
    for (const abk_json *member = root->first; member != NULL; member = member->next) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && !abk_json_is_named(member, known[i]))
            i++;
        if (i == sizeof known / sizeof *known && !unknown(self, "$", member))
            return false;
    }
    const abk_json *reserved = abk_json_member(root, "reserved_methods");
    self->config->reserved_methods = reserved == NULL || reserved->truth;
    if (reserved != NULL && !abk_config_is(self, "$", "reserved_methods", reserved, ABK_BOOL))
        return false;
    return check_transport(self, abk_json_member(root, "transport")) &&
           read_limits(self, abk_json_member(root, "limits")) &&
           read_pools(self, abk_json_member(root, "pools"));
}

abk_config *abk_config_read(const char *json, size_t len, bool strict, abk_error *error)
{
    abk_arena *arena = abk_arena_new();
    abk_config *config = arena == NULL ? NULL : abk_arena_take(arena, sizeof *config);
    if (config == NULL) {
        abk_arena_free(arena);
        abk_fail(error, ABK_ENOMEM, 0, "out of memory");
        return NULL;
    }
    config->arena = arena;
    abk_reading self = {.arena = arena, .config = config, .error = error, .strict = strict};
    abk_error inner;
    const abk_json *root = abk_json_read(arena, json, len, &inner);
    if (root == NULL)
        abk_fail(error, inner.code, 0, inner.code == ABK_ENOMEM ? "%s" : "config: %s", inner.text);
    if (root == NULL || !read_all(&self, root)) {
        abk_arena_free(arena);
        return NULL;
    }
    return config;
}

void abk_config_free(abk_config *config)
{
    if (config != NULL)
        abk_arena_free(config->arena);
}
