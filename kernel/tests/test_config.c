/* Configurations: defaults, every bound and its text, what is refused and what is only noted. */
#include "configs.h"

/* --- defaults ----------------------------------------------------------------------------------
 */

static void check_default_limits(const abk_limits *l)
{
    CHECK(l->max_frame_bytes == 64u << 20 && l->max_output_bytes == 64u << 20);
    CHECK(l->max_pending == 65536 && l->max_queued == 65536 && l->max_sessions == 65536);
    CHECK(l->max_handlers == 1024 && l->max_restarts == 5 && l->start_attempts == 3);
    CHECK(l->stderr_tail_bytes == 65536);
    SAME(l->restart_window_s, 60);
    SAME(l->start_window_s, 10);
    SAME(l->restart_delay_s, 0.1);
    SAME(l->restart_delay_max_s, 30);
    SAME(l->stable_after_s, 10);
    SAME(l->park_retry_s, 60);
    SAME(l->cancel_grace_s, 5);
    SAME(l->drain_timeout_s, 30);
    SAME(l->backpressure_timeout_s, 60);
    SAME(l->session_idle_s, 0);
    SAME(l->auth_timeout_s, 10);
}

static void test_defaults(void)
{
    abk_config *config = good(whole(""));
    const abk_pool_config *pool = &config->pools[0];
    CHECK(config->pool_count == 1 && config->reserved_methods);
    CHECK(config->warning_count == 0 && config->client_only_count == 0);
    check_default_limits(&config->limits);
    CHECK_TEXT(pool->id, "a");
    CHECK_TEXT(pool->argv[0], "x");
    CHECK(pool->argv[1] == NULL && pool->instances == 1 && pool->max_in_flight == 1024);
    CHECK(pool->env_count == 0 && pool->cwd == NULL && pool->balance == ABK_LEAST_BUSY);
    CHECK(!pool->strip && pool->session.count == 0 && !pool->session_acp);
    CHECK(pool->cancel == ABK_CANCEL_LSP && pool->ready.method == NULL);
    CHECK(!pool->packs && pool->max_requests == 0 && !pool->probed);
    CHECK(pool->launch.rlimit_count == 0 && pool->launch.nice == 0 && pool->launch.groups == NULL);
    CHECK(!pool->launch.has_user && !pool->launch.has_umask);
    abk_config_free(config);
    abk_config_free(NULL);
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static void test_shape(void)
{
    check_bad("", "config: not valid JSON: expected a value (line 1, column 1)");
    check_bad("{\n  \"pools\": [}", "config: not valid JSON: expected a value (line 2, column 13)");
    check_bad("[]", "config: expected an object, got an array");
    check_bad("null", "config: expected an object, got null");
    check_bad("{}", "config: pools: is missing");
    check_bad("{\"pools\":{}}", "config: pools: expected an array");
    check_bad("{\"pools\":[]}", "config: BusConfig.pools: must name at least one pool");
    check_bad("{\"pools\":[5]}", "config: pools[0]: expected an object, got a number");
    check_bad("{\"pools\":[{}]}", "config: pools[0].id: is missing");
    check_bad("{\"pools\":[{\"id\":1}]}", "config: pools[0].id: expected a string, got a number");
    check_bad("{\"pools\":[{\"id\":\"\"}]}", "config: Pool.id: must not be empty");
    check_bad("{\"pools\":[{\"id\":\"a\\u0000\"}]}", "config: pools[0].id: must not contain NUL");
    check_bad(whole("\"limits\":null"), "config: limits: expected an object, got null");
    check_bad(whole("\"reserved_methods\":1"),
              "config: $.reserved_methods: expected a boolean, got a number");
    check_bad("{\"pools\":[{\"id\":\"a\",\"command\":\"x\"},{\"id\":\"b\",\"command\":\"x\"},"
              "{\"id\":\"a\",\"command\":\"x\"}]}",
              "config: BusConfig.pools: the id 'a' is used twice");
    abk_config *config = good(whole("\"reserved_methods\":false"));
    CHECK(!config->reserved_methods);
    abk_config_free(config);
    CHECK(read_it("{}", false, NULL) == NULL);
}

static void test_transport(void)
{
    static const wanted refused[] = {
        {"\"transport\":\"stdio\"", ": expected an object"},
        {"\"transport\":{\"mode\":\"tcp\"}", ".mode='tcp' is not supported: say --stdio, --tcp "
                                             "HOST:PORT or --unix PATH on the command line"},
        {"\"transport\":{\"mode\":null}", ".mode='...' is not supported: say --stdio, --tcp "
                                          "HOST:PORT or --unix PATH on the command line"},
        {"\"transport\":{\"mode\":\"stdio\\u0000\"}",
         ".mode='stdio' is not supported: say --stdio, --tcp HOST:PORT or --unix PATH on the "
         "command line"},
        {"\"transport\":{\"framing\":\"length\"}",
         ".framing='length' is not supported: lines are the only framing: leave it out"},
        {"\"transport\":{\"mode\":\"stdio\",\"protocol\":\"binary\"}",
         ".protocol='binary' is not supported: JSON is the only protocol: leave it out"},
        {"\"transport\":{\"options\":{\"shm_name\":\"/x\"}}",
         ".options='...' is not supported: shm and mqueue are not spoken: use --unix PATH"}};
    CHECK_ALL_BAD(whole, "transport", refused);
    check_good(whole("\"transport\":{}"));
    check_good(
        whole("\"transport\":{\"mode\":\"stdio\",\"framing\":\"ndjson\",\"protocol\":\"json\"}"));
    check_bad(whole("\"transport\":null"), "config: unknown key $.transport");
}

static void test_unknown_keys(void)
{
    static const wanted all[] = {
        {"\"colour\":1", "$.colour"},
        {"\"pools\\u0000\":1", "$.pools"},
        {"\"limits\":{\"max_pendng\":1}", "$.limits.max_pendng"},
        {"\"limits\":{\"max_pending\\u0000\":0}", "$.limits.max_pending"},
        {"\"limits\":{\"max_frame_bytes\":1}", "$.limits.max_frame_bytes"}};
    static const wanted pools[] = {
        {"\"instance\":1", "$.pools[0].instance"},
        {"\"instances\\u0000\":0", "$.pools[0].instances"},
        {"\"ready\":{\"method\":\"m\",\"when\":1}", "$.pools[0].ready.when"},
        {"\"health\":{\"method\":\"m\",\"every\":1}", "$.pools[0].health.every"}};
    CHECK_ALL_BAD(whole, "unknown key ", all);
    CHECK_ALL_BAD(pool_with, "unknown key ", pools);
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) {
        char want[128];
        abk_config *config = read_it(pool_with(pools[i].json), false, NULL);
        snprintf(want, sizeof want, "unknown key %s is ignored", pools[i].text);
        CHECK(config != NULL && config->warning_count == 1);
        if (config != NULL)
            CHECK_TEXT(config->warnings[0], want);
        abk_config_free(config);
    }
    char many[1024] = "";
    for (int i = 0; i < 40; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%s\"k%d\":%d", i == 0 ? "" : ",",
                 i, i);
    abk_config *config = read_it(whole(many), false, NULL);
    CHECK(config != NULL && config->warning_count == 40 && config->pools[0].instances == 1);
    for (uint32_t i = 0; config != NULL && i < config->warning_count; i++) {
        char want[64];
        snprintf(want, sizeof want, "unknown key $.k%u is ignored", i);
        CHECK_TEXT(config->warnings[i], want);
    }
    abk_config_free(config);
}

/* --- limits ------------------------------------------------------------------------------------
 */

static const struct {
    const char *key;
    bool integer, natural;
    size_t offset, size;
    const char *most; /* NULL: none */
} limits[] = {
#define L(key, member, integer, natural, most)                                                     \
    {                                                                                              \
        key, integer, natural, offsetof(abk_limits, member), sizeof((abk_limits *)0)->member, most \
    }
    L("max_input_buffer", max_frame_bytes, true, false, "1073741824"),
    L("max_output_queue", max_output_bytes, true, false, "9223372036854775807"),
    L("max_pending", max_pending, true, false, "4294967295"),
    L("max_queued", max_queued, true, false, "4294967295"),
    L("max_sessions", max_sessions, true, false, "4294967295"),
    L("max_handlers", max_handlers, true, false, "4294967295"),
    L("max_restarts", max_restarts, true, true, "1000000"),
    L("start_attempts", start_attempts, true, false, "4294967295"),
    L("restart_window_sec", restart_window_s, false, false, NULL),
    L("start_window_s", start_window_s, false, true, NULL),
    L("restart_delay_s", restart_delay_s, false, false, NULL),
    L("restart_delay_max_s", restart_delay_max_s, false, false, NULL),
    L("stable_after_s", stable_after_s, false, true, NULL),
    L("park_retry_s", park_retry_s, false, true, NULL),
    L("cancel_grace_s", cancel_grace_s, false, false, NULL),
    L("drain_timeout_sec", drain_timeout_s, false, true, NULL),
    L("backpressure_timeout_sec", backpressure_timeout_s, false, true, NULL),
    L("session_idle_s", session_idle_s, false, true, NULL),
    L("auth_timeout_s", auth_timeout_s, false, false, NULL),
    L("stderr_tail_bytes", stderr_tail_bytes, true, false, "67108864"),
};

/* What a limit is when it is set to this; a negative number where it is refused. */
static double limit_as(size_t i, const char *value)
{
    char json[128];
    snprintf(json, sizeof json, "\"limits\":{\"%s\":%s}", limits[i].key, value);
    abk_config *config = read_it(whole(json), true, NULL);
    if (config == NULL)
        return -1;
    const char *at = (const char *)&config->limits + limits[i].offset;
    double number = 0;
    uint64_t big = 0;
    uint32_t small = 0;
    if (!limits[i].integer)
        memcpy(&number, at, sizeof number);
    else if (limits[i].size == sizeof big)
        memcpy(&big, at, sizeof big);
    else
        memcpy(&small, at, sizeof small);
    abk_config_free(config);
    return limits[i].integer ? (double)(big + small) : number;
}

static void limit_bad(size_t i, const char *value, const char *problem)
{
    char json[128], want[256];
    snprintf(json, sizeof json, "\"limits\":{\"%s\":%s}", limits[i].key, value);
    snprintf(want, sizeof want, "config: Limits.%s: %s", limits[i].key, problem);
    check_bad(whole(json), want);
}

static void test_limits(void)
{
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        SAME(limit_as(i, "7"), 7);
        limit_bad(i, "\"7\"", "expected a number, got a string");
        limit_bad(i, "null", "expected a number, got null");
        limit_bad(i, "-1",
                  limits[i].natural ? "must not be negative, not -1"
                                    : "must be greater than 0, not -1");
        if (!limits[i].natural)
            limit_bad(i, "0", "must be greater than 0, not 0");
        else if (strcmp(limits[i].key, "drain_timeout_sec") == 0)
            SAME(limit_as(i, "0"), 30);
        else
            SAME(limit_as(i, "0"), 0);
        if (!limits[i].integer) {
            SAME(limit_as(i, "0.25"), 0.25);
            SAME(limit_as(i, "1e300"), 1e300);
            continue;
        }
        limit_bad(i, "1.5", "expected an integer, got 1.5");
        limit_bad(i, "2e0", "expected an integer, got 2e0");
        limit_bad(i, "-99999999999999999999",
                  limits[i].natural ? "must not be negative, not -99999999999999999999"
                                    : "must be greater than 0, not -99999999999999999999");
        char want[128];
        snprintf(want, sizeof want, "must be at most %s, not 99999999999999999999", limits[i].most);
        limit_bad(i, "99999999999999999999", want);
        if (limits[i].size == sizeof(uint64_t))
            continue;
        char above[32];
        snprintf(above, sizeof above, "%llu", strtoull(limits[i].most, NULL, 10) + 1);
        SAME(limit_as(i, limits[i].most), strtod(limits[i].most, NULL));
        snprintf(want, sizeof want, "must be at most %s, not %s", limits[i].most, above);
        limit_bad(i, above, want);
    }
    abk_config *config = good(whole("\"limits\":{}"));
    check_default_limits(&config->limits);
    abk_config_free(config);
}

/* --- pools -------------------------------------------------------------------------------------
 */

static void test_pool_bounds(void)
{
    static const wanted bad[] = {
        {"\"instances\":0", "instances: must be greater than 0, not 0"},
        {"\"instances\":-3", "instances: must be greater than 0, not -3"},
        {"\"instances\":65537", "instances: must be at most 65536, not 65537"},
        {"\"instances\":1.5", "instances: expected an integer, got 1.5"},
        {"\"instances\":true", "instances: expected a number, got a boolean"},
        {"\"max_in_flight\":-1", "max_in_flight: must not be negative, not -1"},
        {"\"max_in_flight\":4294967296",
         "max_in_flight: must be at most 4294967295, not 4294967296"},
        {"\"max_requests\":-1", "max_requests: must not be negative, not -1"},
        {"\"balance\":\"random\"", "balance: must be one of least_busy|round_robin, not 'random'"},
        {"\"balance\":\"least_busy|round_robin\"",
         "balance: must be one of least_busy|round_robin, not 'least_busy|round_robin'"},
        {"\"balance\":\"\"", "balance: must be one of least_busy|round_robin, not ''"},
        {"\"balance\":\"least_busy\\u0000\"",
         "balance: must be one of least_busy|round_robin, not 'least_busy'"},
        {"\"balance\":[]", "balance: expected a string, got an array"},
        {"\"cancel\":\"LSP\"", "cancel: must be one of lsp|mcp|acp|none, not 'LSP'"},
        {"\"cancel\":null", "cancel: expected a string, got null"},
        {"\"envelope\":\"drop\"", "envelope: must be one of keep|strip, not 'drop'"},
        {"\"cwd\":5", "cwd: expected a string, got a number"},
        {"\"cwd\":\"a\\u0000\"", "cwd: must not contain NUL"},
        {"\"args\":\"x\"", "args: expected an array, got a string"},
        {"\"args\":[1]", "args: expected a string, got a number"},
        {"\"args\":[\"a\\u0000\"]", "command: must not contain NUL"},
        {"\"spares\":-1", "spares: must not be negative, not -1"},
        {"\"spares\":0.5", "spares: expected an integer, got 0.5"},
        {"\"idle_timeout_s\":-0.5", "idle_timeout_s: must not be negative, not -0.5"},
        {"\"max_lifetime_s\":\"1\"", "max_lifetime_s: expected a number, got a string"},
        {"\"max_rss_bytes\":-1", "max_rss_bytes: must not be negative, not -1"},
        {"\"guard\":1", "guard: expected a boolean, got a number"},
        {"\"serial\":null", "serial: expected a boolean, got null"},
        {"\"chunks\":\"lsp\"", "chunks: must be one of anyio-bus|acp|mcp-progress, not 'lsp'"},
        {"\"collect\":\"json\"", "collect: must be one of text, not 'json'"},
        {"\"spawn\":\"fork\"", "spawn: must be one of auto|posix|portable, not 'fork'"},
        {"\"health\":5", "health: expected an object, got a number"}};
    CHECK_ALL_BAD(pool_with, "Pool('a').", bad);
    abk_config *config = good(pool_with(
        "\"instances\":65536,\"max_in_flight\":0,\"max_requests\":4611686018427387905,"
        "\"balance\":\"round_robin\",\"cancel\":\"none\",\"envelope\":\"strip\",\"cwd\":\"/tmp\","
        "\"collect\":null,\"chunks\":\"acp\",\"spawn\":\"portable\",\"health\":null"));
    const abk_pool_config *pool = &config->pools[0];
    CHECK(pool->instances == 65536 && pool->max_in_flight == 0);
    CHECK(pool->max_requests == UINT64_C(4611686018427387905));
    CHECK(pool->balance == ABK_ROUND_ROBIN && pool->cancel == ABK_CANCEL_NONE && pool->strip);
    CHECK_TEXT(pool->cwd, "/tmp");
    abk_config_free(config);
    config = good(pool_with("\"envelope\":\"keep\",\"cwd\":null,\"cancel\":\"acp\""));
    CHECK(!config->pools[0].strip && config->pools[0].cwd == NULL);
    CHECK(config->pools[0].cancel == ABK_CANCEL_ACP);
    abk_config_free(config);
}

static void test_command(void)
{
    static const wanted bad[] = {{"", "is missing"},
                                 {"\"command\":5", "expected a string, got a number"},
                                 {"\"command\":null", "expected a string, got null"},
                                 {"\"command\":\"\"", "must not be empty"},
                                 {"\"command\":[]", "must not be empty"},
                                 {"\"command\":[\"\",\"x\"]", "must not be empty"},
                                 {"\"command\":[1]", "expected a string, got a number"},
                                 {"\"command\":\"a\\u0000b\"", "must not contain NUL"},
                                 {"\"command\":[\"a\",\"\\u0000\"]", "must not contain NUL"},
                                 {"\"command\":\"python worker.py\"",
                                  "is not split as a shell would; write a list of words"},
                                 {"\"command\":\"python\\nworker.py\",\"args\":[]",
                                  "is not split as a shell would; write a list of words"}};
    CHECK_ALL_BAD(command, "Pool('a').command: ", bad);
    check_good(command("\"command\":\"python worker.py\",\"args\":[\"x\"]"));
    check_good(command("\"command\":[\"python worker.py\"]"));
    check_good(command("\"command\":\" x \""));
    abk_config *config = good(command("\"args\":[\"\",\"c d\"],\"command\":[\"a\",\"\\udcff\"]"));
    char *const *argv = config->pools[0].argv;
    CHECK_TEXT(argv[0], "a");
    CHECK_TEXT(argv[1], "\xff");
    CHECK_TEXT(argv[2], "");
    CHECK_TEXT(argv[3], "c d");
    CHECK(argv[4] == NULL);
    abk_config_free(config);
    config = good(command("\"args\":[\"b\"],\"command\":[]"));
    CHECK_TEXT(config->pools[0].argv[0], "b");
    abk_config_free(config);
}

static void test_env(void)
{
    static const wanted bad[] = {{"\"env\":[]", "expected an object, got an array"},
                                 {"\"env\":{\"A\":1}", "expected a string or null, got a number"},
                                 {"\"env\":{\"\":\"x\"}", "'' is not a valid variable"},
                                 {"\"env\":{\"A=B\":\"x\"}", "'A=B' is not a valid variable"},
                                 {"\"env\":{\"A\\u0000\":null}", "'A' is not a valid variable"},
                                 {"\"env\":{\"A\":\"\\u0000\"}", "'A' is not a valid variable"}};
    CHECK_ALL_BAD(pool_with, "Pool('a').env: ", bad);
    abk_config *config = good(pool_with("\"env\":{\"A\":\"\",\"B\":null,\"C\":\"x=\\udc80\"}"));
    const abk_pool_config *pool = &config->pools[0];
    CHECK(pool->env_count == 3 && pool->env[1].value == NULL);
    CHECK_TEXT(pool->env[0].value, "");
    CHECK_TEXT(pool->env[1].name, "B");
    CHECK_TEXT(pool->env[2].value, "x=\x80");
    abk_config_free(config);
}

static void test_session(void)
{
    static const char *const bad[] = {"",
                                      "tops",
                                      "params",
                                      "params.",
                                      "params..a",
                                      "params.a.",
                                      ".a",
                                      "result.a",
                                      "params.a b",
                                      "params.a\\u000b",
                                      "params.a\\n",
                                      "top\\u0000",
                                      "acp\\u0000",
                                      "params.a\\u0000",
                                      "params.1.2.3.4.5.6.7.8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char json[128];
        abk_error error = {0};
        snprintf(json, sizeof json, "\"session\":\"%s\"", bad[i]);
        CHECK(read_it(pool_with(json), true, &error) == NULL);
        CHECK(strstr(error.text,
                     "config: Pool('a').session: must be 'top', 'acp', or a path such as "
                     "'params.thread.id', not '") == error.text);
    }
    check_bad(pool_with("\"session\":null"),
              "config: Pool('a').session: expected a string, got null");
    abk_config *config = good(pool_with("\"session\":\"params.thread.id\""));
    const abk_path *path = &config->pools[0].session;
    CHECK(path->count == 3 && !config->pools[0].session_acp);
    CHECK(abk_same(path->names[0], ABK_TEXT("params")) &&
          abk_same(path->names[1], ABK_TEXT("thread")) && abk_same(path->names[2], ABK_TEXT("id")));
    abk_config_free(config);
    config = good(pool_with("\"session\":\"acp\""));
    path = &config->pools[0].session;
    CHECK(path->count == 2 && abk_same(path->names[1], ABK_TEXT("sessionId")));
    CHECK(config->pools[0].session_acp);
    abk_config_free(config);
    config = good(pool_with("\"session\":\"params.1.2.3.4.5.6.7\""));
    CHECK(config->pools[0].session.count == ABK_MAX_PATH);
    abk_config_free(config);
}

static void test_handshake(void)
{
    static const wanted bad[] = {
        {"\"ready\":\"now\"", "Pool('a').ready: must be 'spawn' or an object with method, params, "
                              "then_notify, timeout_s"},
        {"\"ready\":{}", "Handshake.method: is missing"},
        {"\"ready\":{\"method\":\"\"}", "Handshake.method: must not be empty"},
        {"\"ready\":{\"method\":1}", "Handshake.method: expected a string, got a number"},
        {"\"ready\":{\"method\":\"m\",\"params\":[]}",
         "Handshake.params: expected an object, got an array"},
        {"\"ready\":{\"method\":\"m\",\"then_notify\":1}",
         "Handshake.then_notify: expected a string, got a number"},
        {"\"ready\":{\"method\":\"m\",\"timeout_s\":0}",
         "Handshake.timeout_s: must be greater than 0, not 0"},
        {"\"health\":{}", "Probe.method: is missing"},
        {"\"health\":{\"method\":\"\"}", "Probe.method: must not be empty"},
        {"\"health\":{\"method\":\"m\",\"params\":null}",
         "Probe.params: expected an object, got null"},
        {"\"health\":{\"method\":\"m\",\"every_s\":0}",
         "Probe.every_s: must be greater than 0, not 0"},
        {"\"health\":{\"method\":\"m\",\"timeout_s\":-1}",
         "Probe.timeout_s: must be greater than 0, not -1"}};
    CHECK_ALL_BAD(pool_with, "", bad);
    check_good(pool_with("\"ready\":\"spawn\""));
    abk_config *config = good(pool_with("\"ready\":{\"method\":\"i\",\"then_notify\":null}"));
    const abk_handshake *ready = &config->pools[0].ready;
    CHECK_TEXT(ready->method, "i");
    CHECK(same_text(ready->request, "{\"jsonrpc\":\"2.0\",\"id\":\"anyio-bus/handshake\","
                                    "\"method\":\"i\",\"params\":{}}\n"));
    CHECK(ready->notify.len == 0);
    SAME(ready->timeout_s, 30);
    abk_config_free(config);
    config = good(pool_with("\"ready\":{\"timeout_s\":0.5,\"then_notify\":\"n\\n\",\"params\":"
                            "{ \"a\" : [ 1.50 , \"\\u00e9\\n\" ] },\"method\":\"a\\\"b\"}"));
    ready = &config->pools[0].ready;
    CHECK(same_text(ready->request,
                    "{\"jsonrpc\":\"2.0\",\"id\":\"anyio-bus/handshake\",\"method\":"
                    "\"a\\\"b\",\"params\":{\"a\":[1.50,\"\xc3\xa9\\n\"]}}\n"));
    CHECK(same_text(ready->notify, "{\"jsonrpc\":\"2.0\",\"method\":\"n\\n\"}\n"));
    SAME(ready->timeout_s, 0.5);
    abk_config_free(config);
}

/* --- as whom and with what limits --------------------------------------------------------------
 */

static void test_launch_refusals(void)
{
    static const wanted bad[] = {
        {"\"rlimits\":[]", "rlimits: expected an object, got an array"},
        {"\"rlimits\":{\"files\":1}", "rlimits: there is no such limit: 'files'"},
        {"\"rlimits\":{\"core\\u0000\":0}", "rlimits: there is no such limit: 'core'"},
        {"\"rlimits\":{\"core\":-1}",
         "rlimits: must be a number from 0, null, or the soft and the hard limit"},
        {"\"rlimits\":{\"core\":1.0}",
         "rlimits: must be a number from 0, null, or the soft and the hard limit"},
        {"\"rlimits\":{\"core\":[0]}",
         "rlimits: must be a number from 0, null, or the soft and the hard limit"},
        {"\"rlimits\":{\"core\":[0,0,0]}",
         "rlimits: must be a number from 0, null, or the soft and the hard limit"},
        {"\"rlimits\":{\"core\":[1,0]}", "rlimits: the soft limit is above the hard one: 'core'"},
        {"\"rlimits\":{\"core\":[null,0]}",
         "rlimits: the soft limit is above the hard one: 'core'"},
        {"\"umask\":512", "umask: must be within 0 and 0o777"},
        {"\"umask\":-1", "umask: must be within 0 and 0o777"},
        {"\"umask\":\"1000\"", "umask: must be within 0 and 0o777"},
        {"\"umask\":\"8\"", "umask: is not octal: '8'"},
        {"\"umask\":\"\"", "umask: is not octal: ''"},
        {"\"umask\":\"0o\"", "umask: is not octal: '0o'"},
        {"\"umask\":\"27\\u0000\"", "umask: is not octal: '27'"},
        {"\"nice\":41", "nice: must be an integer within -40 and 40"},
        {"\"nice\":-41", "nice: must be an integer within -40 and 40"},
        {"\"nice\":1.5", "nice: must be an integer within -40 and 40"},
        {"\"nice\":null", "nice: must be an integer within -40 and 40"}};
    CHECK_ALL_BAD(pool_with, "Pool('a').", bad);
    static const wanted rooted[] = {
        {"\"user\":-1", "user: is neither a name nor an id"},
        {"\"user\":4294967295", "user: is neither a name nor an id"},
        {"\"user\":true", "user: is neither a name nor an id"},
        {"\"user\":\"\"", "user: there is no user: ''"},
        {"\"user\":\"no-such-user\"", "user: there is no user: 'no-such-user'"},
        {"\"user\":\"root\\u0000\"", "user: there is no user: 'root'"},
        {"\"user\":4000000000",
         "user: there is no user 4000000000 in the system's list; give groups= as well"},
        {"\"groups\":0", "groups: expected an array, got a number"},
        {"\"groups\":[]", "groups: must name at least one, the primary group"},
        {"\"groups\":[-1]", "groups: is neither a name nor an id"},
        {"\"groups\":[null]", "groups: is neither a name nor an id"},
        {"\"groups\":[\"no-such-group\"]", "groups: there is no group: 'no-such-group'"},
        {"\"groups\":[\"root\\u0000\"]", "groups: there is no group: 'root'"}};
    if (geteuid() == 0) {
        CHECK_ALL_BAD(pool_with, "Pool('a').", rooted);
        return;
    }
    check_bad(pool_with("\"user\":0,\"groups\":[0]"),
              "config: Pool('a').user: only root may set it");
    check_bad(pool_with("\"groups\":[0]"), "config: Pool('a').groups: only root may set it");
    check_bad(pool_with("\"nice\":-1"), "config: Pool('a').nice: only root may make it negative");
}

static mode_t mask_of(const char *value)
{
    char json[64];
    snprintf(json, sizeof json, "\"umask\":%s", value);
    abk_config *config = good(pool_with(json));
    const abk_launch *launch = &config->pools[0].launch;
    const mode_t mask = launch->has_umask ? launch->umask : 07777;
    abk_config_free(config);
    return mask;
}

static void test_launch(void)
{
    CHECK(mask_of("\"027\"") == 027 && mask_of("\"0o27\"") == 027 && mask_of("23") == 027);
    CHECK(mask_of("0") == 0 && mask_of("511") == 0777 && mask_of("null") == 07777);
    abk_config *config = good(pool_with("\"nice\":5,\"rlimits\":{\"core\":0,\"nofile\":[16,32]},"
                                        "\"user\":null,\"groups\":null"));
    const abk_launch *launch = &config->pools[0].launch;
    CHECK(launch->nice == 5 && launch->rlimit_count == 2 && !launch->has_user);
    CHECK(launch->rlimits[0].resource == (int)RLIMIT_CORE &&
          launch->rlimits[0].limit.rlim_max == 0);
    CHECK(launch->rlimits[1].resource == (int)RLIMIT_NOFILE);
    CHECK(launch->rlimits[1].limit.rlim_cur == 16 && launch->rlimits[1].limit.rlim_max == 32);
    abk_config_free(config);
    if (geteuid() != 0)
        return;
    config = good(pool_with(
        "\"rlimits\":{\"as\":[4611686018427387905,null]},\"user\":\"root\",\"nice\":-40"));
    launch = &config->pools[0].launch;
    CHECK(launch->rlimits[0].limit.rlim_cur == UINT64_C(4611686018427387905));
    CHECK(launch->rlimits[0].limit.rlim_max == RLIM_INFINITY);
    CHECK(launch->has_user && launch->user == 0 && launch->group_count > 0 &&
          launch->groups[0] == 0);
    abk_config_free(config);
    config = good(pool_with("\"user\":4000000000,\"groups\":[7,\"root\"]"));
    launch = &config->pools[0].launch;
    CHECK(launch->user == 4000000000u && launch->group_count == 2);
    CHECK(launch->groups[0] == 7 && launch->groups[1] == 0);
    abk_config_free(config);
}

/* --- what the client does ----------------------------------------------------------------------
 */

static void test_client_only(void)
{
    static const char *const keys[] = {"spares",         "max_lifetime_s", "max_rss_bytes",
                                       "idle_timeout_s", "max_requests",   "health",
                                       "guard"};
    abk_config *config = good(pool_with("\"guard\":true,\"health\":{\"method\":\"ping\",\"every_"
                                        "s\":1,\"timeout_s\":2,\"params\":{}},"
                                        "\"max_requests\":1,\"idle_timeout_s\":0.5,\"max_rss_"
                                        "bytes\":1,\"max_lifetime_s\":1,\"spares\":1"));
    CHECK(config->client_only_count == 7 && config->warning_count == 0);
    for (uint32_t i = 0; i < config->client_only_count && i < 7; i++) {
        char want[128];
        snprintf(want, sizeof want,
                 "$.pools[0].%s: is the client's to do; a daemon on its own ignores it", keys[i]);
        CHECK_TEXT(config->client_only[i], want);
    }
    CHECK(config->pools[0].packs && config->pools[0].probed && config->pools[0].max_requests == 1);
    abk_config_free(config);
    config =
        good(pool_with("\"guard\":false,\"health\":null,\"max_requests\":0,\"idle_timeout_s\":0,"
                       "\"max_rss_bytes\":0,\"max_lifetime_s\":0.0,\"spares\":0,\"serial\":true"));
    CHECK(config->client_only_count == 0 && !config->pools[0].packs && !config->pools[0].probed);
    abk_config_free(config);
    config = good(pool_with("\"idle_timeout_s\":1,\"balance\":\"round_robin\""));
    CHECK(!config->pools[0].packs && config->client_only_count == 1);
    abk_config_free(config);
}

/* --- out of memory -----------------------------------------------------------------------------
 */

static void test_no_memory(void)
{
    char long_text[6000] = "\"ready\":{\"method\":\"m\",\"then_notify\":\"n\",\"params\":{\"x\":\"";
    const size_t start = strlen(long_text);
    memset(long_text + start, 'x', 4500);
    strcpy(long_text + start + 4500,
           "\"}},\"env\":{\"A\":\"b\"},\"rlimits\":{\"core\":0},\"odd\":1,"
           "\"spares\":1,\"session\":\"acp\"");
    pool_with(long_text);
    for (uint64_t n = 1; n < 100; n++) {
        abk_error error = {0};
        abk_test.fail_alloc_at = abk_test.allocations + n;
        abk_config *config = read_it(text_of, false, &error);
        abk_test.fail_alloc_at = 0;
        if (config != NULL) {
            CHECK(n > 5);
            abk_config_free(config);
            return;
        }
        CHECK(error.code == ABK_ENOMEM);
        CHECK_TEXT(error.text, "out of memory");
    }
    CHECK(test_failures < 0); /* it is read in the end */
}

TEST_MAIN(TEST(test_defaults), TEST(test_shape), TEST(test_transport), TEST(test_unknown_keys),
          TEST(test_limits), TEST(test_pool_bounds), TEST(test_command), TEST(test_env),
          TEST(test_session), TEST(test_handshake), TEST(test_launch_refusals), TEST(test_launch),
          TEST(test_client_only), TEST(test_no_memory))
