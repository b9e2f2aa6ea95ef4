/* A whole bus: bytes of the input are operations of its host, its clients and its workers, whose
 * ends of all pipes are held here. What must hold is said where it is checked: MUST(). */
#include "parties.h"

/* --- what the bus tells ----------------------------------------------------------------------- */

static void host_answer(const abk_value *value)
{
    const abk_text id = abk_value_raw(value);
    bool known = false;
    abk_id_key got;
    MUST(abk_id_make(&got, value) == ABK_OK);
    for (uint32_t i = 0; i < request_count && !known; i++) {
        request *at = &requests[i];
        abk_id_key want;
        if (at->ends > 0 || at->withdrawn || abk_id_parse(&want, at->id, strlen(at->id)) < 0)
            continue;
        known = abk_id_same(&got, &want);
        at->ends += known;
        abk_id_free(&want);
    }
    abk_id_free(&got);
    if (!known)
        fprintf(stderr, "answer to nothing: %.*s\n", (int)id.len, id.at);
    MUST(known);
}

static void host_line(const char *line, size_t len)
{
    abk_message m;
    MUST(abk_scan(line, len, &m) == ABK_OK && abk_role_of(&m) != ABK_NOTHING);
    if (abk_role_of(&m) != ABK_RESPONSE)
        return;
    host_answer(&m.id);
}

static void host_results(const abk_event *event)
{
    static char line[1 << 17];
    abk_message m;
    MUST(event->len + 32 < sizeof line && event->count > 0);
    const int len = snprintf(line, sizeof line, "{\"params\":%.*s}\n", (int)event->len, event->data);
    MUST(abk_scan(line, (size_t)len, &m) == ABK_OK && m.params.kind != ABK_ABSENT);
    MUST(event->count == 1 || m.params.kind == ABK_ARRAY);
    for (uint32_t i = 0; i < event->count; i++) {
        char digits[32];
        const int size = snprintf(digits, sizeof digits, "%lld", (long long)event->keys[i]);
        const abk_value id = abk_scan_id((abk_text){digits, (uint32_t)size});
        host_answer(&id);
    }
}

static void host_event(const abk_event *event)
{
    if (event->type == ABK_EV_LINES) {
        uint32_t count = 0;
        for (const char *at = event->data, *end = at + event->len; at < end; count++) {
            const char *newline = memchr(at, '\n', (size_t)(end - at));
            MUST(newline != NULL);
            if (event->a == ABK_ONLY_CHUNKS)
                MUST(*at == '{' && newline[-1] == '}');
            else
                host_line(at, (size_t)(newline - at) + 1);
            at = newline + 1;
        }
        MUST(count == event->count && count > 0);
    } else if (event->type == ABK_EV_RESULTS) {
        host_results(event);
    } else if (event->type == ABK_EV_FAILED) {
        for (uint32_t i = 0; i < request_count; i++) {
            if (requests[i].key != event->key || requests[i].ends > 0)
                continue;
            MUST(!requests[i].withdrawn);
            requests[i].ends++;
        }
    } else if (event->type == ABK_EV_FRAME && event->text_len > 0) {
        abk_message m;
        MUST(event->text[0] == '{' && event->text[event->text_len - 1] == '}');
        if (abk_is_utf8(event->text, event->text_len))
            MUST(abk_scan(event->text, event->text_len, &m) == ABK_OK);
    }
    uint32_t sum = 0; /* all of it can be read */
    for (size_t i = 0; i < event->len; i++)
        sum += (uint8_t)event->data[i];
    for (size_t i = 0; i < event->text_len; i++)
        sum += (uint8_t)event->text[i];
    static volatile uint32_t kept;
    kept = sum;
    (void)kept;
}

static void step(bool busy)
{
    (void)(busy ? abk_busy_poll(bus, 1, -1) : abk_step(bus, 0));
    for (abk_event event; abk_next_event(bus, &event) == 1;)
        host_event(&event);
}

enum { FIRST_OF_ROWS = 1000000 }; /* no other id is as high */

/* --- the host -------------------------------------------------------------------------------- */

static const char *const names[] = {"s", "t", "", "a-session-with-a-longer-name"};

static abk_route route_of_input(void)
{
    static const char *const pools[] = {NULL, "a", "b", "none"};
    const uint8_t flags = byte();
    const uint8_t session = byte();
    abk_route route = {.size = sizeof route, .worker = -1, .flags = flags & 7u};
    route.pool = pools[(flags >> 3) & 3];
    if ((flags & 0x20) != 0)
        route.worker = (int32_t)(session % 6);
    else if ((flags & 0x40) != 0) {
        route.session = names[session % 4];
        route.session_len = strlen(route.session);
    }
    return route;
}

static void took(int64_t key)
{
    size_t raw_len = 0;
    if (key <= 0)
        return;
    const char *id = abk_id(bus, key, &raw_len);
    request *next = &requests[request_count++];
    next->key = key;
    MUST(id != NULL && raw_len > 0);
    if (raw_len >= ID_BYTES) { /* too long for this list: it is not watched */
        request_count--;
        forgives = true;
        abk_withdraw(bus, key, NULL, 0);
        return;
    }
    snprintf(next->id, ID_BYTES, "%.*s", (int)raw_len, id);
}

static void submit(bool whole)
{
    static char line[16384];
    char id[ID_BYTES];
    const abk_route route = route_of_input();
    if (request_count >= REQUESTS - 8)
        return;
    requests[request_count] = (request){0};
    size_t len;
    if (whole) {
        const bool orphan = (route.flags & ABK_ROUTE_ORPHAN) != 0;
        len = make_line(line, sizeof line, orphan ? -1 : (int64_t)request_count, id);
    } else {
        const abk_text text = raw();
        memcpy(line, text.at, text.len);
        line[text.len] = '\n';
        len = text.len + 1;
    }
    const int64_t key = abk_submit(bus, &route, line, len);
    if (key == ABK_EREFUSED)
        MUST(abk_refusal(bus, &len) != NULL || forgives);
    took(key);
}

static void submit_row(void)
{
    static char params[16384];
    const abk_route route = route_of_input();
    const uint32_t count = below(6), first = request_count;
    size_t len = 0;
    if (request_count >= REQUESTS - 8)
        return;
    for (uint32_t i = 0; i < count; i++) {
        len += (size_t)snprintf(params + len, sizeof params - len, "{\"serial\":%u}\n", first + i);
        requests[first + i] = (request){0};
    }
    if (below(8) == 0 && len > 0) {
        const char other = (char)byte();
        char *at = &params[below((uint32_t)len)];
        if (*at < '0' || *at > '9') /* no line says that it is another */
            *at = other;
    }
    const abk_row row = {.size = sizeof row,
                         .method = "\"echo\"",
                         .method_len = 6,
                         .params = params,
                         .params_len = len,
                         .first = FIRST_OF_ROWS + first,
                         .count = count};
    const int64_t taken = abk_submit_row(bus, &route, &row);
    MUST(taken <= (int64_t)count);
    for (int64_t i = 0; i < taken; i++) {
        char id[32];
        const int size = snprintf(id, sizeof id, "%lld", (long long)(row.first + i));
        const int64_t key = abk_find(bus, id, (size_t)size);
        MUST(key > 0);
        took(key);
    }
}

static void withdraw(void)
{
    if (request_count == 0)
        return;
    request *at = &requests[below(request_count)];
    const int outcome = abk_withdraw(bus, at->key, "why\xff", 4);
    if (outcome < 0)
        return;
    MUST(outcome == ABK_REMOVED || outcome == ABK_CANCELLED);
    MUST(at->ends == 0 && !at->withdrawn);
    at->withdrawn = true;
    at->removed = outcome == ABK_REMOVED;
    MUST(!at->removed || at->times == 0);
}

static void primitive(void)
{
    static const char *const env[] = {"A=1", "B", NULL};
    const uint8_t what = byte();
    const int32_t worker_ = (int32_t)below(8) - 1;
    const char *name = names[below(4)];
    const abk_extra extra = {.size = sizeof extra,
                             .session = name[0] == '\0' ? NULL : name,
                             .session_len = strlen(name),
                             .rebind = (what & 0x20) != 0,
                             .env = env,
                             .cwd = "/"};
    size_t len;
    abk_stats stats;
    switch (what % 17) {
    case 0: abk_pause(bus, worker_); break;
    case 1: abk_resume(bus, worker_); break;
    case 2: abk_spawn(bus, "a", &extra); break;
    case 3: abk_resize(bus, "a", below(4), 0.0); break;
    case 4: abk_drain(bus, worker_, (what & 0x20) != 0 ? 1.0 : 0.0, (what & 0x40) != 0); break;
    case 5: abk_kill(bus, worker_, (what & 0x20) != 0 ? "is bad" : NULL); break;
    case 6: abk_rest(bus, worker_); break;
    case 7: abk_hold(bus, worker_); break;
    case 8: abk_release(bus, worker_); break;
    case 9: abk_lease(bus, worker_, name, strlen(name), (what & 0x20) != 0); break;
    case 10: abk_end_session(bus, name, strlen(name)); break;
    case 11:
        abk_check_pool(bus, "a");
        abk_hear(bus, (what & 0x40) != 0 ? "b" : "a", (what & 0x20) != 0);
        break;
    case 12: abk_tap(bus, (what & 0x20) != 0); break;
    case 13: MUST(abk_status(bus, &len) != NULL || forgives); break;
    case 14: abk_find_session(bus, name, strlen(name), &len); break;
    case 15: abk_flush(bus); break;
    default:
        MUST(abk_statistics(bus, &stats) == ABK_OK);
        MUST(stats.live_requests >= stats.queued_requests || stats.queued_requests < 100000);
        break;
    }
}

/* --- a run ----------------------------------------------------------------------------------- */

static const char *config_of_input(void)
{
    static char text[2048];
    static const char *const cancels[] = {"lsp", "mcp", "acp", "none"};
    static const char *const sessions[] = {"top", "acp", "params.deep.id"};
    static const char *const limits[] = {"",
                                         ",\"max_output_queue\":2000",
                                         ",\"max_queued\":2",
                                         ",\"max_sessions\":2",
                                         ",\"max_input_buffer\":300",
                                         ",\"max_handlers\":1",
                                         ",\"session_idle_s\":1",
                                         ",\"max_restarts\":0,\"park_retry_s\":0"};
    const uint8_t a = byte();
    const uint8_t b = byte();
    snprintf(text, sizeof text,
             "{\"pools\":[{\"id\":\"a\",\"command\":\"x\",\"instances\":%d,\"cancel\":\"%s\","
             "\"session\":\"%s\",\"envelope\":\"%s\",\"max_in_flight\":%d%s%s}%s],"
             "\"limits\":{\"restart_delay_s\":0.01,\"cancel_grace_s\":0.5%s}}",
             1 + (a & 1), cancels[(a >> 1) & 3], sessions[(a >> 3) % 3],
             (a & 32) != 0 ? "strip" : "keep", (a & 64) != 0 ? 1 : 1024,
             (a & 128) != 0 ? ",\"ready\":{\"method\":\"i\",\"then_notify\":\"d\",\"timeout_s\":1}"
                            : "",
             (b & 1) != 0 ? ",\"idle_timeout_s\":1,\"balance\":\"least_busy\""
                          : ",\"balance\":\"round_robin\"",
             (b & 2) != 0 ? ",{\"id\":\"b\",\"command\":\"x\"}" : "", limits[(b >> 2) & 7]);
    return text;
}

static int in_end = -1, out_end = -1; /* the bus's own of a served client */

static void begin(void)
{
    const char *config = config_of_input();
    const uint8_t how = byte();
    const abk_options options = {.size = sizeof options,
                                 .host = (how & 1) != 0 || (how & 6) == 0,
                                 .rewrite = (how & 8) != 0};
    abk_error error = {0};
    bus = abk_create(config, strlen(config), &options, &error);
    if (bus == NULL)
        fprintf(stderr, "%s\n", error.text);
    MUST(bus != NULL);
    if ((how & 2) != 0) {
        int to[2], from[2];
        MUST(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
        fcntl(from[0], F_SETPIPE_SZ, 4096);
        clients[0].to = to[1];
        clients[0].from = from[0];
        fcntl(to[1], F_SETFL, O_NONBLOCK);
        fcntl(from[0], F_SETFL, O_NONBLOCK);
        in_end = to[0];
        out_end = from[1];
        MUST(abk_serve(bus, in_end, out_end, &error) == ABK_OK);
    }
    path[0] = '\0';
    if ((how & 4) != 0) {
        snprintf(path, sizeof path, "/tmp/abk-fuzz-%d", (int)getpid());
        const abk_listener listener = {.size = sizeof listener,
                                       .unix_path = path,
                                       .admin = true,
                                       .token = (how & 16) != 0 ? "secret" : NULL};
        MUST(abk_listen(bus, &listener, NULL, 0, &error) == ABK_OK);
    }
    MUST(abk_start(bus, &error) == ABK_OK);
}

static void act(void)
{
    switch (byte() % 20) {
    case 0:
    case 1:
    case 2: submit(true); break;
    case 3: submit(false); break;
    case 4: submit_row(); break;
    case 5: withdraw(); break;
    case 6:
    case 7:
    case 8:
    case 9: worker_act(); break;
    case 10:
    case 11:
    case 12: client_act(); break;
    case 13: step(false); break;
    case 14: step(true); break;
    case 15: primitive(); break;
    case 16: abk_test.later += (uint64_t)byte() * ABK_S / 16; break;
    case 17: abk_flush(bus); break;
    case 18:
        if (below(32) == 1)
            abk_stop(bus, below(2), below(2));
        break;
    default:
        if (below(8) == 1) {
            abk_test.fail_alloc_at = abk_test.allocations + 1 + below(64);
            abk_test.fail_allocs = 1 + below(3);
            forgives = true;
        }
        break;
    }
}

/* Stop it: with workers that are gone and time that passes it ends, and so does each request. */
static void finish(void)
{
    abk_test.fail_alloc_at = 0;
    abk_stop(bus, 0.0, 1.0);
    for (int i = 0; i < 400 && !abk_stopped(bus); i++) {
        step(false);
        for (int k = 0; k < CLIENTS; k++)
            client_hear(&clients[k]);
        for (int k = 0; k < WORKERS && i > 3; k++) {
            if (workers[k].lives)
                worker_die(&workers[k]);
        }
        abk_test.later += ABK_S / 8;
    }
    step(false);
    size_t len;
    const char *status = abk_status(bus, &len);
    if (!abk_stopped(bus) && status != NULL)
        fprintf(stderr, "not stopped: %.*s\n", (int)len, status);
    MUST(abk_stopped(bus));
    abk_stats stats;
    MUST(abk_statistics(bus, &stats) == ABK_OK && stats.live_requests == 0 && stats.workers == 0);
    for (uint32_t i = 0; i < request_count; i++) {
        const int count = requests[i].ends + requests[i].withdrawn;
        if (count > 1 || (count == 0 && !forgives))
            fprintf(stderr, "request %u (%s): %d ends\n", i, requests[i].id, count);
        MUST(count == 1 || (count == 0 && forgives));
    }
    abk_destroy(bus);
}

static int open_fds(void)
{
    int count = 0;
    DIR *all = opendir("/proc/self/fd");
    MUST(all != NULL);
    while (readdir(all) != NULL)
        count++;
    closedir(all);
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool begun;
    if (!begun) {
        begun = true;
        signal(SIGPIPE, SIG_IGN);
        for (int i = 0; i < WORKERS; i++)
            workers[i].in = workers[i].out = workers[i].err = workers[i].exit = -1;
        for (int i = 0; i < CLIENTS; i++)
            clients[i].to = clients[i].from = -1;
    }
    const int fds = open_fds();
    input = data;
    input_end = data + size;
    request_count = worker_count = 0;
    forgives = false;
    abk_test = (abk_test_hooks){.spawn = spawn};
    begin();
    for (int i = 0; i < 2000 && input < input_end; i++)
        act();
    finish();
    for (int i = 0; i < WORKERS; i++)
        worker_die(&workers[i]);
    for (int i = 0; i < CLIENTS; i++) {
        close_one(&clients[i].to);
        close_one(&clients[i].from);
        clients[i].heard.len = 0;
        clients[i].asked = clients[i].answered = 0;
    }
    close_one(&in_end);
    close_one(&out_end);
    MUST(open_fds() == fds);
    return 0;
}
