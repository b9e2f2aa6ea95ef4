/* What workers write: whose answer a line is, and which client gets the rest. */
#include "bus.h"

#include <stdio.h>

static const abk_path request_id_path = {2, {{"_meta", 5}, {"requestId", 9}}};
static const abk_path progress_path = {1, {{"progressToken", 13}}};
static const abk_path session_path = {1, {{"sessionId", 9}}};

/* Lines for the host that stand beside each other, told as one event. */
typedef struct run {
    abk_process *process;
    const char *from; /* NULL: copied into event_text, where the run begins at offset */
    size_t offset, len;
    uint32_t count;
    int only;         /* ABK_ONLY_...: what is true of all of them */
    bool results;     /* the run is an array of results; their ids are in event_keys, at offset */
    bool noted;       /* there is a request or notification among them */
    bool asked;       /* a request came in this read: the host may begin to listen when it takes that */
    int64_t sole;     /* the only request in flight when the first of these came */
    abk_text sole_id; /* in the entry: the run is told before that ends */
} run;

/* Leave of each line of a chunk its params. */
static size_t keep_params(char *lines, size_t len)
{
    const size_t before = sizeof ABK_CHUNK_START - 1, behind = sizeof ABK_CHUNK_END - 1;
    char *to = lines;
    for (const char *at = lines, *end = lines + len; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const size_t size = (size_t)(newline - at) - before - behind;
        memmove(to, at + before, size);
        to += size;
        *to++ = '\n';
        at = newline + 1;
    }
    return (size_t)(to - lines);
}

/* What a worker wrote, to be written over. */
static char *mine(const run *self, const char *at)
{
    const abk_buf *buf = &self->process->reader.buf;
    return buf->data + (at - buf->data);
}

static void flush(run *self)
{
    if (self->count == 0)
        return;
    if (self->results && self->count == 1) {
        self->from++;
        self->len -= 2;
    } else if (self->results)
        mine(self, self->from)[self->len - 1] = ']';
    else if (self->only == ABK_ONLY_CHUNKS)
        self->len = keep_params(mine(self, self->from), self->len);
    abk_bus *bus = self->process->slot->bus;
    abk_event *event =
        abk_tell(bus, self->results ? ABK_EV_RESULTS : ABK_EV_LINES, self->process->slot);
    if (event != NULL) {
        abk_pending_event *pending = &bus->events[bus->event_count - 1];
        event->count = self->count;
        event->a = self->only;
        event->key = self->sole;
        event->data = self->from;
        event->len = self->len;
        if (self->results)
            pending->keys_at = self->offset;
        else if (self->from == NULL)
            pending->data_at = self->offset;
        if (self->sole != 0)
            abk_tell_text(bus, self->sole_id.at, self->sole_id.len);
    }
    self->count = 0;
    self->noted = self->results = false;
    self->sole = 0;
}

static void note_sole(run *self)
{
    const abk_entry *sole = abk_lane_sole(self->process->lane);
    self->noted = true;
    self->sole = 0;
    if (sole == NULL || sole->client != self->process->slot->bus->host)
        return;
    self->sole = abk_router_key(sole);
    self->sole_id = abk_id_raw(&sole->id);
}

/* Hand a line to the host: as it stands, or, where something in it is replaced, as a copy. */
static void to_host(run *self, const abk_frame *frame, int only)
{
    abk_bus *bus = self->process->slot->bus;
    const bool answer = (only & ABK_ONLY_ANSWERS) != 0;
    if (self->results)
        flush(self);
    if (frame->count == 0) {
        if (self->count > 0 && (self->from == NULL || self->from + self->len != frame->line.at))
            flush(self);
        if (self->count == 0) {
            self->from = frame->line.at;
            self->len = 0;
        }
        self->len += frame->line.len;
    } else {
        only &= ~(ABK_ONLY_CHUNKS & ~ABK_ONLY_CALLS); /* they are taken apart in place */
        abk_buf *text = &bus->event_text;
        const bool beside = self->from == NULL && self->offset + self->len == abk_buf_len(text);
        if (self->count > 0 && !beside) /* other events have text there as well */
            flush(self);
        if (abk_buf_reserve(text, abk_frame_most(frame)) < 0) {
            flush(self); /* sole_id ends with this answer */
            return;
        }
        if (self->count == 0) {
            self->from = NULL;
            self->len = 0;
            self->offset = abk_buf_len(text);
        }
        const size_t put = abk_frame_put(frame, 0, text->data + text->tail);
        abk_buf_filled(text, put);
        self->len += put;
    }
    if (!answer && !self->noted)
        note_sole(self);
    self->only = self->count == 0 ? only : self->only & only;
    self->count++;
    if (answer && self->noted)
        flush(self); /* what comes after this answer may be another request's */
}

/* Hand a result to the host, together with those before: in place, since a line is longer than its result
 * and two bytes. */
static void to_results(run *self, int64_t number, const abk_value *result, abk_text line)
{
    abk_buf *keys = &self->process->slot->bus->event_keys;
    const size_t offset = abk_buf_len(keys);
    if (!self->results)
        flush(self);
    if (abk_buf_append(keys, (const char *)&number, sizeof number) < 0) {
        keys->failed = false;
        return;
    }
    if (self->count == 0) {
        self->results = true;
        self->only = 0;
        self->offset = offset;
        self->from = line.at;
        *mine(self, line.at) = '[';
        self->len = 1;
    }
    char *to = mine(self, self->from) + self->len;
    const abk_text raw = abk_value_raw(result);
    memmove(to, raw.at, raw.len);
    to[raw.len] = ',';
    self->len += raw.len + 1;
    self->count++;
}

/* --- bad lines ------------------------------------------------------------------------------- */

static void bad(run *self, const char *at, size_t len, uint64_t size, const char *reason)
{
    abk_slot *slot = self->process->slot;
    flush(self);
    slot->bus->counts.bad_lines++;
    if (len > 0 && at[len - 1] == '\n')
        len--;
    const size_t shown = len < ABK_PREFIX_BYTES ? len : ABK_PREFIX_BYTES;
    abk_event *event = abk_tell(slot->bus, ABK_EV_LINE_BAD, slot);
    if (event != NULL) {
        event->count = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX;
        abk_tell_data(slot->bus, at, shown);
        abk_tell_text(slot->bus, reason, strlen(reason));
    }
    abk_watchers_bad_line(slot, at, shown, reason, size);
}

/* The request of this lane that has this id as the worker knows it. */
static abk_entry *entry_of(abk_lane *lane, const abk_value *id)
{
    abk_bus *bus = lane->pool->bus;
    abk_entry *entry;
    if (bus->rewrite)
        entry = abk_router_by_id(bus, id);
    else
        entry = abk_router_find(bus, bus->host != NULL ? bus->host : bus->served, id);
    return entry != NULL && entry->stage != ABK_QUEUED && entry->lane == lane ? entry : NULL;
}

/* A line over the limit costs the request that it answers, as far as that can be known. */
static void oversize(run *self, const abk_line *line)
{
    abk_lane *lane = self->process->lane;
    abk_bus *bus = lane->pool->bus;
    const uint32_t most = bus->config->limits.max_frame_bytes;
    char reason[96];
    snprintf(reason, sizeof reason, "line of %llu bytes is over max_frame_bytes=%u",
             (unsigned long long)line->size, most);
    abk_failure failure;
    abk_failure_init(&failure, ABK_CODE_FRAME_TOO_LARGE, NULL,
                     "worker %d of pool '%s' answered with a line of %llu bytes, over max_frame_bytes=%u",
                     lane->slot->worker, lane->pool->config->id, (unsigned long long)line->size, most);
    bad(self, line->at, line->len, line->size, reason);
    bool none = false;
    const abk_value id =
        abk_salvage_id((abk_text){line->at, (uint32_t)line->len}, line->suffix, &none);
    abk_entry *entry = NULL;
    if (!none && id.kind != ABK_ABSENT)
        entry = entry_of(lane, &id);
    else if (!none && lane->in_flight == 1)
        entry = ABK_OF(abk_list_first(&lane->entries), abk_entry, place);
    if (entry == NULL)
        return;
    if (entry->stage == ABK_TOMBSTONE) {
        bus->counts.late_answers++;
        abk_router_finish(bus, entry);
        return;
    }
    failure.pool = lane->pool->config->id;
    failure.worker = lane->slot->worker;
    failure.limit_bytes = most;
    abk_router_fail(bus, entry, &failure);
}

/* --- answers --------------------------------------------------------------------------------- */

static void patch_value(abk_frame *frame, const abk_value *value, abk_text with)
{
    abk_frame_patch(frame, abk_value_raw(value), with, false);
}

static void learn(abk_lane *lane, const abk_entry *entry, const abk_value *result)
{
    const abk_path *path = &lane->pool->config->session;
    const abk_path last = {1, {path->names[path->count - 1]}};
    abk_value name;
    if (!abk_scan_path(result, path->count > 0 ? &last : &session_path, &name) ||
        name.kind != ABK_STRING || name.len == 0)
        return;
    abk_bus *bus = lane->pool->bus;
    abk_buf *out = &bus->scratch;
    abk_buf_clear(out);
    if (abk_buf_reserve(out, name.len) < 0)
        return;
    const abk_text decoded = {out->data, (uint32_t)abk_decode(&name, out->data)};
    abk_session_learn(bus, entry->client, lane, decoded);
}

static bool is_result(const abk_message *answer)
{
    return answer->error.kind == ABK_ABSENT && answer->session.kind == ABK_ABSENT;
}

/* Tell of the first answer of a process that no request waits for. */
static void note_stray(abk_process *process, const abk_value *id)
{
    const abk_slot *slot = process->slot;
    if (process->strayed)
        return;
    process->strayed = true;
    const abk_text raw = abk_value_raw(id);
    abk_event *event =
        abk_log(slot->bus, ABK_LOG_WARNING, slot,
                "worker %s/%d answered id %.*s, which no request waits for",
                slot->pool->config->id, slot->worker, (int)(raw.len < 100 ? raw.len : 100), raw.at);
    if (event != NULL)
        event->b = ABK_LOG_STRAY;
}

static void take_answer(run *self, const abk_message *message, abk_text line)
{
    abk_lane *lane = self->process->lane;
    abk_bus *bus = lane->pool->bus;
    abk_entry *entry = entry_of(lane, &message->id);
    if (entry == NULL || entry->stage == ABK_TOMBSTONE) {
        flush(self);
        if (entry == NULL) {
            bus->counts.stray_answers++;
            note_stray(self->process, &message->id);
        } else {
            bus->counts.late_answers++;
            abk_router_finish(bus, entry);
        }
        return;
    }
    if (entry->learns && message->result.kind == ABK_OBJECT)
        learn(lane, entry, &message->result);
    abk_frame frame = {.line = line};
    if (bus->rewrite)
        patch_value(&frame, &message->id, abk_id_raw(&entry->id));
    if (entry->client != bus->host)
        abk_client_send(entry->client, &frame);
    else if (entry->number != 0 && is_result(message))
        to_results(self, entry->number, &message->result, line);
    else
        to_host(self, &frame, ABK_ONLY_ANSWERS);
    abk_router_finish(bus, entry);
}

/* --- notifications and requests, on a wire ---------------------------------------------------- */

/* Where a notification or request of a worker goes, and what of it is replaced. */
typedef struct aim {
    abk_client *client;
    abk_entry *entry; /* the request that it belongs to, where that is known */
    abk_frame frame;
} aim;

/* Whose session a line names; NULL with *named where that is nobody's any more. */
static abk_client *owner_of(abk_lane *lane, const abk_message *message, bool *named)
{
    const abk_path *path = &lane->pool->config->session;
    abk_value name = message->session;
    if (name.kind != ABK_STRING && path->count > 1 && message->params.kind == ABK_OBJECT) {
        abk_path below = {.count = path->count - 1};
        memcpy(below.names, path->names + 1, below.count * sizeof *below.names);
        if (!abk_scan_path(&message->params, &below, &name))
            return NULL;
    }
    *named = name.kind == ABK_STRING && name.len > 0;
    if (!*named)
        return NULL;
    abk_buf *out = &lane->pool->bus->scratch;
    abk_buf_clear(out);
    if (abk_buf_reserve(out, name.len) < 0)
        return NULL;
    const abk_text decoded = {out->data, (uint32_t)abk_decode(&name, out->data)};
    const abk_session *session = abk_session_find(lane->pool->bus, decoded);
    return session == NULL ? NULL : session->owner;
}

/* Whether params name a request, by a member that holds its id or token as the worker knows it. The
 * entry is NULL where nobody waits for that one any more. */
static bool names(abk_lane *lane, const abk_message *message, const abk_path *path,
                  abk_value *found, abk_entry **entry)
{
    if (message->params.kind != ABK_OBJECT || !abk_scan_path(&message->params, path, found))
        return false;
    *entry = entry_of(lane, found);
    if (*entry != NULL && (*entry)->stage != ABK_TAKEN)
        *entry = NULL;
    return true;
}

/* None where something was withdrawn and may still be at work: it may be of another client. */
static abk_client *only_client_at_work(const abk_lane *lane)
{
    abk_client *only = NULL;
    ABK_EACH(link, &lane->entries)
    {
        const abk_entry *entry = ABK_OF(link, abk_entry, place);
        abk_client *client = entry->client;
        if (entry->stage == ABK_TOMBSTONE)
            return NULL;
        if (client != NULL && only != NULL && client != only)
            return NULL;
        only = client != NULL ? client : only;
    }
    return only;
}

static void find_client(abk_lane *lane, const abk_message *message, aim *to)
{
    abk_bus *bus = lane->pool->bus;
    abk_value found;
    abk_value cancelled;
    bool guess = true; /* where it names no request */
    bool session = false;
    if (bus->rewrite && names(lane, message, &request_id_path, &found, &to->entry)) {
        guess = false;
        if (to->entry != NULL)
            patch_value(&to->frame, &found, abk_id_raw(&to->entry->id));
    } else if (bus->rewrite && names(lane, message, &progress_path, &found, &to->entry)) {
        guess = false;
        if (to->entry != NULL && to->entry->token != NULL)
            patch_value(&to->frame, &found, abk_id_raw(to->entry->token));
    } else if (message->id.kind == ABK_ABSENT && abk_cancel_profile(message, &cancelled)) {
        const abk_ask *ask = abk_ask_of_worker(lane, &cancelled);
        if (ask != NULL) {
            patch_value(&to->frame, &cancelled, abk_id_raw(&ask->seen));
            to->client = ask->client;
        }
    }
    if (to->entry != NULL)
        to->client = to->entry->client;
    if (to->client == NULL)
        to->client = owner_of(lane, message, &session);
    if (to->client == NULL && guess)
        to->client = abk_client_sole(bus);
    if (to->client == NULL && guess && !session)
        to->client = only_client_at_work(lane);
}

/* What an MCP server says to everybody. */
static bool is_broadcast(const abk_lane *lane, const abk_message *message)
{
    static const char *const all[] = {"notifications/tools/list_changed",
                                      "notifications/prompts/list_changed",
                                      "notifications/resources/list_changed"};
    if (lane->pool->config->cancel != ABK_CANCEL_MCP || message->id.kind != ABK_ABSENT)
        return false;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (abk_value_is(&message->method, (abk_text){all[i], (uint32_t)strlen(all[i])}))
            return true;
    }
    return false;
}

/* A client on a wire that is full loses a stream, by an error, or one notification, by a count. */
static void overflow(abk_lane *lane, const aim *to)
{
    abk_bus *bus = lane->pool->bus;
    abk_entry *entry = to->entry != NULL ? to->entry : abk_lane_sole(lane);
    if (entry == NULL || entry->stage != ABK_TAKEN || entry->client != to->client) {
        bus->counts.dropped_notifications++;
        return;
    }
    abk_failure failure;
    abk_failure_init(&failure, ABK_CODE_OVERLOADED, "slow_client",
                     "more than max_output_bytes=%llu wait to be read",
                     (unsigned long long)bus->config->limits.max_output_bytes);
    failure.pool = lane->pool->config->id;
    failure.worker = lane->slot->worker;
    abk_client_fail(to->client, abk_id_raw(&entry->id), &failure, true);
    abk_router_withdraw(bus, entry, ABK_TEXT("slow client"));
}

/* Note a request of a worker, so that its answer finds the way back; false: it was refused. */
static bool ask(abk_lane *lane, const abk_message *message, aim *to)
{
    const abk_value *id = &message->id;
    const abk_text raw = abk_value_raw(id);
    if (to->client == NULL) {
        abk_ask_refuse(lane, raw, ABK_CODE_METHOD_NOT_FOUND, "no client to ask");
        return false;
    }
    const abk_ask *made = abk_ask_add(lane, to->client, id);
    if (made == NULL) {
        abk_ask_refuse(lane, raw, ABK_CODE_OVERLOADED, "too many requests wait for their answers");
        return false;
    }
    if (!abk_same(abk_id_raw(&made->seen), raw))
        abk_frame_patch(&to->frame, raw, abk_id_raw(&made->seen), false);
    return true;
}

static void send_call(abk_client *client, const abk_lane *lane, const abk_frame *frame)
{
    abk_watchers_source(client, lane);
    abk_client_send(client, frame);
}

/* Whether a line is a chunk of anyio_bus.worker, and nothing besides. */
static bool is_chunk(const abk_message *message, abk_text line)
{
    static const char behind[] = ABK_CHUNK_END "\n";
    const size_t before = sizeof ABK_CHUNK_START - 1, size = sizeof behind - 1;
    return message->chunk && message->params.at == line.at + before &&
           before + message->params.len + size == line.len &&
           memcmp(line.at + line.len - size, behind, size) == 0;
}

/* Hand a request or a notification to the host, if it wants such: which requests of a worker it serves,
 * and so what can be cancelled, it knows itself. Who taps the lines wants them. */
static void call_host(run *self, const abk_message *message, const abk_frame *frame)
{
    const abk_pool *pool = self->process->lane->pool;
    self->asked = self->asked || message->id.kind != ABK_ABSENT;
    if (pool->unheard && !pool->bus->host_taps && !self->asked && !abk_cancels(message))
        pool->bus->counts.unheard++;
    else
        to_host(self, frame, is_chunk(message, frame->line) ? ABK_ONLY_CHUNKS : ABK_ONLY_CALLS);
}

static void take_call(run *self, const abk_message *message, abk_text line)
{
    abk_lane *lane = self->process->lane;
    abk_bus *bus = lane->pool->bus;
    aim to = {.frame = {.line = line}};
    if (bus->host != NULL && !bus->rewrite) { /* alone: it keeps the ids of workers itself */
        call_host(self, message, &to.frame);
        return;
    }
    find_client(lane, message, &to);
    if (message->id.kind != ABK_ABSENT && !ask(lane, message, &to))
        return;
    if (to.client == NULL && is_broadcast(lane, message)) {
        ABK_EACH(link, &bus->clients)
        {
            abk_client *client = ABK_OF(link, abk_client, link);
            if (client == bus->host)
                call_host(self, message, &to.frame);
            else if (!client->needs_auth && !abk_client_full(client))
                send_call(client, lane, &to.frame);
        }
    } else if (to.client == NULL) {
        bus->counts.dropped_notifications++;
    } else if (to.client == bus->host) {
        call_host(self, message, &to.frame);
    } else if (message->id.kind == ABK_ABSENT && abk_client_loses(to.client)) {
        overflow(lane, &to);
    } else {
        send_call(to.client, lane, &to.frame);
    }
}

/* --- lines ----------------------------------------------------------------------------------- */

static const char *malformed(const abk_message *message, char *out, size_t len)
{
    snprintf(out, len, "malformed: %s", message->reason);
    return out;
}

static void take(run *self, const abk_line *line)
{
    abk_process *process = self->process;
    abk_bus *bus = process->slot->bus;
    abk_message message;
    if (line->oversize) {
        if (bus->tapped)
            abk_tap_from(process, line->at, line->len, line->size, NULL, "over max_frame_bytes");
        bus->counts.messages_in++;
        oversize(self, line);
        return;
    }
    const int scanned = abk_scan(line->at, line->len, &message);
    const bool good = scanned == ABK_OK && abk_scan_worker_ok(&message);
    char text[160];
    const char *reason = good                    ? NULL
                         : scanned == ABK_AGAIN  ? "empty line"
                         : scanned == ABK_EPROTO ? malformed(&message, text, sizeof text)
                                                 : "neither request, notification nor response";
    if (bus->tapped) {
        flush(self);
        abk_tap_from(process, line->at, line->len, line->size, good ? &message : NULL, reason);
    }
    if (scanned == ABK_AGAIN) {
        process->empty_lines++;
        flush(self);
        return;
    }
    bus->counts.messages_in++;
    if (!good) {
        bad(self, line->at, line->len, line->size, reason);
        return;
    }
    const abk_text whole = {line->at, (uint32_t)line->len};
    if (process->shaken_by != 0) {
        flush(self); /* it is told before the answer makes the worker ready */
        if (abk_process_shaken(process, &message))
            return;
    }
    process->spoke = true;
    if (abk_role_of(&message) == ABK_RESPONSE)
        take_answer(self, &message, whole);
    else
        take_call(self, &message, whole);
}

void abk_take_lines(abk_process *process)
{
    abk_lane *lane = process->lane;
    const uint32_t most = lane->pool->bus->config->limits.max_frame_bytes;
    run all = {.process = process};
    for (abk_line line; abk_reader_next(&process->reader, most, &line);)
        take(&all, &line);
    flush(&all);
    if (lane->pool->queued > 0)
        abk_router_pump(lane->pool);
    abk_lane_settled(lane);
}
