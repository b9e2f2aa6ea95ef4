/* What the host is told: a queue that it empties after each step. Without memory an event is lost. */
#include "bus.h"

#include <stdio.h>

abk_event *abk_tell(abk_bus *bus, int type, const abk_slot *slot)
{
    if (bus->event_count == bus->event_cap) {
        const size_t cap = bus->event_cap == 0 ? 64 : bus->event_cap * 2;
        abk_pending_event *events = abk_realloc(bus->events, cap * sizeof *events);
        if (events == NULL)
            return NULL;
        bus->events = events;
        bus->event_cap = cap;
    }
    if (!bus->in_step) /* a host that waits for the fd is to see that there is something to take */
        abk_loop_arm(&bus->loop, bus->now);
    abk_pending_event *pending = &bus->events[bus->event_count++];
    *pending = (abk_pending_event){.data_at = SIZE_MAX, .text_at = SIZE_MAX, .keys_at = SIZE_MAX};
    pending->event.type = type;
    pending->event.worker = -1;
    if (slot != NULL) {
        pending->event.worker = slot->worker;
        pending->event.generation = slot->generation;
        pending->event.pool = slot->pool->config->id;
    }
    return &pending->event;
}

static void put(abk_bus *bus, const char *at, size_t len, size_t *where, size_t *size)
{
    if (len == 0) /* there may be no buffer to point into */
        return;
    if (abk_buf_append(&bus->event_text, at, len) < 0) {
        bus->event_text.failed = false;
        return;
    }
    *where = abk_buf_len(&bus->event_text) - len;
    *size = len;
}

static abk_pending_event *last(abk_bus *bus)
{
    return bus->event_count == 0 ? NULL : &bus->events[bus->event_count - 1];
}

void abk_tell_data(abk_bus *bus, const char *at, size_t len)
{
    abk_pending_event *pending = last(bus);
    if (pending != NULL)
        put(bus, at, len, &pending->data_at, &pending->event.len);
}

void abk_tell_text(abk_bus *bus, const char *at, size_t len)
{
    abk_pending_event *pending = last(bus);
    if (pending != NULL)
        put(bus, at, len, &pending->text_at, &pending->event.text_len);
}

void abk_tell_failure(abk_bus *bus, const abk_failure *failure, bool sent)
{
    abk_buf *out = &bus->report;
    abk_buf_clear(out);
    abk_failure_write(out, failure, sent, NULL);
    if (!out->failed)
        abk_tell_text(bus, abk_buf_at(out), abk_buf_len(out));
}

abk_event *abk_log(abk_bus *bus, int level, const abk_slot *slot, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    const int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    abk_event *event = abk_tell(bus, ABK_EV_LOG, slot);
    if (event == NULL || len < 0)
        return NULL;
    event->a = level;
    abk_tell_text(bus, text, (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
    return event;
}

void abk_tell_worker(abk_slot *slot)
{
    abk_bus *bus = slot->bus;
    abk_event *event = abk_tell(bus, ABK_EV_WORKER, slot);
    if (event != NULL) {
        event->a = (int)slot->life.state;
        event->b = slot->process != NULL ? slot->process->child.pid : 0;
        if (slot->failure != NULL)
            abk_tell_failure(bus, slot->failure, false);
    }
    abk_watchers_worker(slot);
}

int abk_next_event(abk_bus *bus, abk_event *event)
{
    if (bus == NULL || bus->event_at == bus->event_count)
        return 0;
    const abk_pending_event *pending = &bus->events[bus->event_at++];
    *event = pending->event;
    if (pending->data_at != SIZE_MAX)
        event->data = abk_buf_at(&bus->event_text) + pending->data_at;
    if (pending->text_at != SIZE_MAX)
        event->text = abk_buf_at(&bus->event_text) + pending->text_at;
    if (pending->keys_at != SIZE_MAX)
        event->keys = (const int64_t *)(const void *)(abk_buf_at(&bus->event_keys) + pending->keys_at);
    return 1;
}
