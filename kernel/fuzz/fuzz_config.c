/* Any bytes as a configuration: what is taken must keep the bounds that the kernel relies on, and
 * what is refused must say why; a document that was read is read again from what is written of it.
 * The first byte of an input may be one that says more: 'S' strict, 'M' too little memory. */
#include "../src/config.h"
#include "../src/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { MIB = 1024 * 1024 };

/* --- a configuration -------------------------------------------------------------------------- */

static size_t touched; /* so that reading each byte is not left out */

static void touch(const char *text)
{
    if (text != NULL)
        touched += strlen(text);
}

static void check_frame(abk_text frame, bool request)
{
    abk_message message;
    MUST(frame.len > 2 && frame.at[frame.len - 1] == '\n');
    MUST(memchr(frame.at, '\n', frame.len - 1) == NULL);
    MUST(abk_scan(frame.at, frame.len, &message) == ABK_OK && !message.repeated);
    MUST(abk_role_of(&message) == (request ? ABK_REQUEST : ABK_NOTIFICATION));
    MUST(!request || message.params.kind == ABK_OBJECT);
    MUST(!request || abk_value_is(&message.id, ABK_TEXT("anyio-bus/handshake")));
}

static void check_path(const abk_path *path)
{
    MUST(path->count <= ABK_MAX_PATH && path->count != 1);
    MUST(path->count == 0 || abk_same(path->names[0], ABK_TEXT("params")));
    for (uint32_t i = 0; i < path->count; i++)
        MUST(path->names[i].len > 0 && memchr(path->names[i].at, '.', path->names[i].len) == NULL);
}

static void check_launch(const abk_launch *launch)
{
    MUST(launch->nice >= -40 && launch->nice <= 40 && launch->umask <= 0777);
    MUST((launch->groups == NULL) == (launch->group_count == 0));
    MUST(!launch->has_user || launch->groups != NULL);
    for (uint32_t i = 0; i < launch->rlimit_count; i++)
        MUST(launch->rlimits[i].limit.rlim_cur <= launch->rlimits[i].limit.rlim_max);
    for (uint32_t i = 0; i < launch->group_count; i++)
        touched += launch->groups[i];
}

static void check_pool(const abk_pool_config *pool)
{
    MUST(pool->id != NULL && pool->id[0] != '\0');
    MUST(pool->argv != NULL && pool->argv[0] != NULL && pool->argv[0][0] != '\0');
    for (char *const *word = pool->argv; *word != NULL; word++)
        touch(*word);
    MUST(pool->instances >= 1 && pool->instances <= 65536 && pool->max_requests <= INT64_MAX);
    MUST(pool->balance == ABK_LEAST_BUSY || pool->balance == ABK_ROUND_ROBIN);
    MUST(pool->cancel >= ABK_CANCEL_LSP && pool->cancel <= ABK_CANCEL_NONE);
    MUST(!pool->packs || pool->balance == ABK_LEAST_BUSY);
    MUST(!pool->session_acp || pool->session.count == 2);
    check_path(&pool->session);
    for (uint32_t i = 0; i < pool->env_count; i++) {
        MUST(pool->env[i].name[0] != '\0' && strchr(pool->env[i].name, '=') == NULL);
        touch(pool->env[i].value);
    }
    touch(pool->cwd);
    if (pool->ready.method != NULL) {
        check_frame(pool->ready.request, true);
        if (pool->ready.notify.len > 0)
            check_frame(pool->ready.notify, false);
        MUST(pool->ready.timeout_s > 0 && isfinite(pool->ready.timeout_s));
    } else {
        MUST(pool->ready.request.len == 0 && pool->ready.notify.len == 0);
    }
    check_launch(&pool->launch);
}

static void check_limits(const abk_limits *limits)
{
    const double positive[] = {limits->restart_window_s, limits->restart_delay_s,
                               limits->restart_delay_max_s, limits->cancel_grace_s,
                               limits->drain_timeout_s, limits->auth_timeout_s};
    const double natural[] = {limits->start_window_s, limits->stable_after_s, limits->park_retry_s,
                              limits->backpressure_timeout_s, limits->session_idle_s};
    const uint32_t counts[] = {limits->max_frame_bytes, limits->max_pending,
                               limits->max_queued,      limits->max_sessions,
                               limits->max_handlers,    limits->start_attempts,
                               limits->stderr_tail_bytes};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        MUST(positive[i] > 0 && isfinite(positive[i]));
    for (size_t i = 0; i < sizeof natural / sizeof *natural; i++)
        MUST(natural[i] >= 0 && isfinite(natural[i]));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        MUST(counts[i] > 0);
    MUST(limits->max_frame_bytes <= 1024u * MIB && limits->stderr_tail_bytes <= 64u * MIB);
    MUST(limits->max_output_bytes > 0 && limits->max_output_bytes <= INT64_MAX);
    MUST(limits->max_restarts <= 1000000);
}

static void check_config(const char *text, size_t len, bool strict)
{
    abk_error error = {0};
    abk_config *config = abk_config_read(text, len, strict, &error);
    if (config == NULL) {
        MUST(error.code == ABK_EINVAL || error.code == ABK_ENOMEM);
        MUST(error.text[0] != '\0' && memchr(error.text, '\0', sizeof error.text) != NULL);
        MUST(error.code != ABK_EINVAL || strncmp(error.text, "config: ", 8) == 0);
        return;
    }
    MUST(config->pool_count > 0 && (!strict || config->warning_count == 0));
    for (uint32_t i = 0; i < config->pool_count; i++) {
        check_pool(&config->pools[i]);
        for (uint32_t k = 0; k < i; k++)
            MUST(strcmp(config->pools[i].id, config->pools[k].id) != 0);
    }
    check_limits(&config->limits);
    for (uint32_t i = 0; i < config->warning_count; i++)
        touch(config->warnings[i]);
    for (uint32_t i = 0; i < config->client_only_count; i++)
        touch(config->client_only[i]);
    abk_config_free(config);
}

/* --- a document ------------------------------------------------------------------------------- */

static bool is_text(const abk_json *value)
{
    if (value->name_len > 0 && !abk_is_utf8(value->name, value->name_len))
        return false;
    if (value->kind == ABK_STRING)
        return abk_is_utf8(value->text, value->len);
    for (const abk_json *item = value->first; item != NULL; item = item->next) {
        if (!is_text(item))
            return false;
    }
    return true;
}

static void check_json(const char *text, size_t len)
{
    abk_arena *arena = abk_arena_new();
    abk_buf out = {0}, again = {0};
    abk_error error = {0};
    abk_json *value = arena == NULL ? NULL : abk_json_read(arena, text, len, &error);
    if (value != NULL)
        abk_json_write(&out, value);
    if (value != NULL && !out.failed && is_text(value)) {
        const abk_json *second = abk_json_read(arena, abk_buf_at(&out), abk_buf_len(&out), &error);
        MUST(second != NULL || error.code == ABK_ENOMEM);
        if (second != NULL)
            abk_json_write(&again, second);
        if (second != NULL && !again.failed)
            MUST(abk_buf_len(&again) == abk_buf_len(&out) &&
                 memcmp(abk_buf_at(&again), abk_buf_at(&out), abk_buf_len(&out)) == 0);
    }
    abk_buf_free(&out);
    abk_buf_free(&again);
    abk_arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const bool strict = size > 0 && data[0] == 'S';
    const bool scarce = size > 1 && data[0] == 'M';
    const size_t skip = strict ? 1 : scarce ? 2 : 0;
    const size_t len = size - skip;
    char *text = malloc(len == 0 ? 1 : len); /* ends where its memory ends */
    MUST(text != NULL);
    if (len > 0)
        memcpy(text, data + skip, len);
    abk_test.allocations = 0;
    abk_test.fail_alloc_at = scarce ? 1u + data[1] % 16 : 0;
    check_config(text, len, strict);
    abk_test.allocations = 0;
    check_json(text, len);
    abk_test.fail_alloc_at = 0;
    free(text);
    return 0;
}
