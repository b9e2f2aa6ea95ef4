/* Reads a configuration from stdin and prints "ok" and what it says as a line of JSON, or "error: "
 * and why not, so that another program can compare. Usage: config_check [strict] */
#include "../src/buf.h"
#include "../src/config.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_BYTES = 1 << 20 };

static void out_text(abk_buf *out, const char *text)
{
    if (text == NULL)
        abk_out(out, "null");
    else
        abk_out_string(out, text, strlen(text));
}

static void out_pool(abk_buf *out, const abk_pool_config *pool)
{
    static const char *const cancels[] = {"lsp", "mcp", "acp", "none"};
    abk_out(out, "{\"id\":");
    out_text(out, pool->id);
    abk_out(out, ",\"argv\":[");
    for (size_t i = 0; pool->argv[i] != NULL; i++) {
        abk_out(out, i == 0 ? "" : ",");
        out_text(out, pool->argv[i]);
    }
    abk_out(out, "],\"env\":{");
    for (uint32_t i = 0; i < pool->env_count; i++) {
        abk_out(out, i == 0 ? "" : ",");
        out_text(out, pool->env[i].name);
        abk_out(out, ":");
        out_text(out, pool->env[i].value);
    }
    abk_out(out, "},\"cwd\":");
    out_text(out, pool->cwd);
    abk_out(out, ",\"session\":\"");
    for (uint32_t i = 0; i < pool->session.count; i++)
        abk_out_format(out, "%s%.*s", i == 0 ? "" : ".", (int)pool->session.names[i].len,
                       pool->session.names[i].at);
    abk_out_format(out, "\",\"acp\":%s,\"strip\":%s,\"balance\":\"%s\",\"cancel\":\"%s\"",
                   pool->session_acp ? "true" : "false", pool->strip ? "true" : "false",
                   pool->balance == ABK_LEAST_BUSY ? "least_busy" : "round_robin",
                   cancels[pool->cancel]);
    abk_out_number(out, "instances", pool->instances);
    abk_out_number(out, "max_in_flight", pool->max_in_flight);
    abk_out_number(out, "max_requests", (int64_t)pool->max_requests);
    abk_out_number(out, "nice", pool->launch.nice);
    abk_out_number(out, "umask", pool->launch.has_umask ? (int64_t)pool->launch.umask : -1);
    abk_out(out, ",\"handshake\":");
    out_text(out, pool->ready.method);
    abk_out_format(out, ",\"ready_timeout\":\"%.17g\"}", pool->ready.timeout_s);
}

static void out_limits(abk_buf *out, const abk_limits *l)
{
    const struct {
        const char *name;
        double value;
    } all[] = {{"max_frame_bytes", l->max_frame_bytes},
               {"max_output_bytes", (double)l->max_output_bytes},
               {"max_pending", l->max_pending},
               {"max_queued", l->max_queued},
               {"max_sessions", l->max_sessions},
               {"max_handlers", l->max_handlers},
               {"max_restarts", l->max_restarts},
               {"restart_window_s", l->restart_window_s},
               {"start_attempts", l->start_attempts},
               {"start_window_s", l->start_window_s},
               {"restart_delay_s", l->restart_delay_s},
               {"restart_delay_max_s", l->restart_delay_max_s},
               {"stable_after_s", l->stable_after_s},
               {"park_retry_s", l->park_retry_s},
               {"cancel_grace_s", l->cancel_grace_s},
               {"drain_timeout_s", l->drain_timeout_s},
               {"backpressure_timeout_s", l->backpressure_timeout_s},
               {"stderr_tail_bytes", l->stderr_tail_bytes}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        abk_out_format(out, "%s\"%s\":%.17g", i == 0 ? "" : ",", all[i].name, all[i].value);
}

static void print(const abk_config *config)
{
    abk_buf out = {0};
    abk_out(&out, "{\"pools\":[");
    for (uint32_t i = 0; i < config->pool_count; i++) {
        abk_out(&out, i == 0 ? "" : ",");
        out_pool(&out, &config->pools[i]);
    }
    abk_out(&out, "],\"limits\":{");
    out_limits(&out, &config->limits);
    abk_out(&out, "},\"warnings\":[");
    for (uint32_t i = 0; i < config->warning_count; i++) {
        abk_out(&out, i == 0 ? "" : ",");
        out_text(&out, config->warnings[i]);
    }
    abk_out(&out, "]}\n");
    fputs("ok\n", stdout);
    fwrite(abk_buf_at(&out), 1, abk_buf_len(&out), stdout);
    abk_buf_free(&out);
}

int main(int argc, char **argv)
{
    abk_error error = {0};
    char *text = malloc(MOST_BYTES);
    if (text == NULL)
        return 1;
    const size_t len = fread(text, 1, MOST_BYTES, stdin);
    abk_config *config = abk_config_read(text, len, argc > 1 && strcmp(argv[1], "strict") == 0, &error);
    free(text);
    if (config == NULL)
        printf("error: %s\n", error.text);
    else
        print(config);
    abk_config_free(config);
    return 0;
}
