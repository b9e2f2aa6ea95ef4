/* Reads a configuration from stdin and prints what was understood, so that another program can
 * compare. Usage: config_check [strict]
 *
 * "ok" and a line of JSON, or the text of the error alone; the exit code is 0 or 1. Infinite limits
 * are null. Bytes that are no text come as \x80 does in C.
 */
#include "../src/buf.h"
#include "../src/config.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_BYTES = 64 << 20 };

static const char *truth(bool value) { return value ? "true" : "false"; }

static void out_text(abk_buf *out, const char *text)
{
    if (text == NULL)
        abk_out(out, "null");
    else
        abk_out_string(out, text, strlen(text));
}

static void out_names(abk_buf *out, char *const *texts, uint32_t count)
{
    abk_out(out, "[");
    for (uint32_t i = 0; i < count; i++) {
        abk_out(out, i == 0 ? "" : ",");
        out_text(out, texts[i]);
    }
    abk_out(out, "]");
}

static void out_rlimit(abk_buf *out, const char *name, rlim_t value)
{
    if (value == RLIM_INFINITY)
        abk_out_format(out, ",\"%s\":null", name);
    else
        abk_out_format(out, ",\"%s\":%llu", name, (unsigned long long)value);
}

static void out_launch(abk_buf *out, const abk_launch *launch)
{
    abk_out(out, ",\"rlimits\":[");
    for (uint32_t i = 0; i < launch->rlimit_count; i++) {
        const abk_rlimit *one = &launch->rlimits[i];
        abk_out_format(out, "%s{\"resource\":%d", i == 0 ? "" : ",", one->resource);
        out_rlimit(out, "soft", one->limit.rlim_cur);
        out_rlimit(out, "hard", one->limit.rlim_max);
        abk_out(out, "}");
    }
    abk_out_format(out, "],\"nice\":%d,\"groups\":", launch->nice);
    abk_out(out, launch->groups == NULL ? "null" : "[");
    for (uint32_t i = 0; i < launch->group_count; i++)
        abk_out_format(out, "%s%u", i == 0 ? "" : ",", (unsigned)launch->groups[i]);
    abk_out(out, launch->groups == NULL ? "" : "]");
    abk_out_number(out, "user", launch->has_user ? (int64_t)launch->user : -1);
    abk_out_number(out, "umask", launch->has_umask ? (int64_t)launch->umask : -1);
}

static void out_ready(abk_buf *out, const abk_handshake *ready)
{
    if (ready->method == NULL) {
        abk_out(out, ",\"ready\":null");
        return;
    }
    abk_out(out, ",\"ready\":{\"request\":");
    abk_out_string(out, ready->request.at, ready->request.len);
    abk_out(out, ",\"notify\":");
    abk_out_string(out, ready->notify.at, ready->notify.len);
    abk_out_format(out, ",\"timeout_s\":%.17g}", ready->timeout_s);
}

static void out_pool(abk_buf *out, const abk_pool_config *pool)
{
    static const char *const cancels[] = {"lsp", "mcp", "acp", "none"};
    uint32_t words = 0;
    while (pool->argv[words] != NULL)
        words++;
    abk_out(out, "{\"id\":");
    out_text(out, pool->id);
    abk_out(out, ",\"argv\":");
    out_names(out, pool->argv, words);
    abk_out(out, ",\"env\":{");
    for (uint32_t i = 0; i < pool->env_count; i++) {
        abk_out(out, i == 0 ? "" : ",");
        out_text(out, pool->env[i].name);
        abk_out(out, ":");
        out_text(out, pool->env[i].value);
    }
    abk_out(out, "},\"cwd\":");
    out_text(out, pool->cwd);
    abk_out(out, ",\"session\":[");
    for (uint32_t i = 0; i < pool->session.count; i++) {
        abk_out(out, i == 0 ? "" : ",");
        abk_out_string(out, pool->session.names[i].at, pool->session.names[i].len);
    }
    abk_out_format(out, "],\"session_acp\":%s", truth(pool->session_acp));
    abk_out_number(out, "instances", pool->instances);
    abk_out_number(out, "max_in_flight", pool->max_in_flight);
    abk_out_number(out, "max_requests", (int64_t)pool->max_requests);
    abk_out_member(out, "balance", pool->balance == ABK_LEAST_BUSY ? "least_busy" : "round_robin");
    abk_out_member(out, "cancel", cancels[pool->cancel]);
    abk_out_member(out, "envelope", pool->strip ? "strip" : "keep");
    abk_out_format(out, ",\"packs\":%s", truth(pool->packs));
    abk_out_format(out, ",\"probed\":%s", truth(pool->probed));
    out_ready(out, &pool->ready);
    out_launch(out, &pool->launch);
    abk_out(out, "}");
}

static void out_limits(abk_buf *out, const abk_limits *limits)
{
#define WHOLE(key, member) abk_out_number(out, key, (int64_t)limits->member)
#define SECONDS(key, member) abk_out_format(out, ",\"%s\":%.17g", key, limits->member)
    abk_out_format(out, ",\"limits\":{\"session_idle_s\":%.17g", limits->session_idle_s);
    SECONDS("auth_timeout_s", auth_timeout_s);
    WHOLE("max_input_buffer", max_frame_bytes);
    WHOLE("max_output_queue", max_output_bytes);
    WHOLE("max_pending", max_pending);
    WHOLE("max_queued", max_queued);
    WHOLE("max_sessions", max_sessions);
    WHOLE("max_handlers", max_handlers);
    WHOLE("max_restarts", max_restarts);
    WHOLE("start_attempts", start_attempts);
    WHOLE("stderr_tail_bytes", stderr_tail_bytes);
    SECONDS("restart_window_sec", restart_window_s);
    SECONDS("start_window_s", start_window_s);
    SECONDS("restart_delay_s", restart_delay_s);
    SECONDS("restart_delay_max_s", restart_delay_max_s);
    SECONDS("stable_after_s", stable_after_s);
    SECONDS("park_retry_s", park_retry_s);
    SECONDS("cancel_grace_s", cancel_grace_s);
    SECONDS("drain_timeout_sec", drain_timeout_s);
    SECONDS("backpressure_timeout_sec", backpressure_timeout_s);
    abk_out(out, "}");
}

static bool print(const abk_config *config)
{
    abk_buf out = {0};
    abk_out(&out, "{\"pools\":[");
    for (uint32_t i = 0; i < config->pool_count; i++) {
        abk_out(&out, i == 0 ? "" : ",");
        out_pool(&out, &config->pools[i]);
    }
    abk_out(&out, "]");
    out_limits(&out, &config->limits);
    abk_out_format(&out, ",\"reserved_methods\":%s", truth(config->reserved_methods));
    abk_out(&out, ",\"warnings\":");
    out_names(&out, config->warnings, config->warning_count);
    abk_out(&out, ",\"client_only\":");
    out_names(&out, config->client_only, config->client_only_count);
    abk_out(&out, "}\n");
    const bool whole = !out.failed;
    if (whole)
        printf("ok\n%.*s", (int)abk_buf_len(&out), abk_buf_at(&out));
    abk_buf_free(&out);
    return whole;
}

int main(int argc, char **argv)
{
    const bool strict = argc > 1 && strcmp(argv[1], "strict") == 0;
    char *text = malloc(MAX_BYTES);
    if (text == NULL)
        return 2;
    const size_t len = fread(text, 1, MAX_BYTES, stdin);
    abk_error error;
    abk_config *config = abk_config_read(text, len, strict, &error);
    free(text); /* nothing that was read may point into it */
    const bool good = config != NULL && print(config);
    if (config == NULL)
        printf("%s\n", error.text);
    abk_config_free(config);
    return good ? 0 : 1;
}
