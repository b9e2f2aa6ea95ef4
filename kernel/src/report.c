/* Status and counters as JSON: what bus/status answers, and what the host reads. */
#include "bus.h"

#include <stdio.h>

static void write_reason(const abk_slot *slot, abk_buf *out)
{
    char text[sizeof slot->failure->reason + sizeof slot->failure->message + 4] = "";
    const abk_failure *failure = slot->failure;
    if (failure != NULL && slot->life.state == ABK_S_PARKED && !failure->permanent)
        snprintf(text, sizeof text, "%s: %s", failure->reason, failure->message);
    else if (failure != NULL)
        snprintf(text, sizeof text, "%s", failure->message);
    abk_out_member(out, "reason", text);
}

static void write_tail(const abk_slot *slot, abk_buf *out, size_t most)
{
    abk_out(out, ",\"stderr_tail\":");
    const abk_process *process = slot->process;
    if (process == NULL) {
        const abk_failure *failure = slot->failure;
        const bool there = failure != NULL && failure->tail != NULL;
        abk_out_string(out, there ? failure->tail : "", there ? failure->tail_len : 0);
        return;
    }
    char *tail = abk_realloc(NULL, process->tail_len + 1);
    const size_t len = tail == NULL ? 0 : abk_process_tail(process, most, tail);
    abk_out_string(out, tail, len);
    abk_free(tail);
}

void abk_report_worker(const abk_slot *slot, abk_buf *out, size_t tail_bytes)
{
    const abk_process *process = slot->process;
    const abk_lane *lane = process == NULL ? NULL : process->lane;
    abk_out(out, "{");
    abk_out_member(out, "pool", slot->pool->config->id);
    abk_out_number(out, "worker", slot->worker);
    abk_out_number(out, "generation", slot->generation);
    if (process != NULL)
        abk_out_number(out, "pid", process->child.pid);
    else
        abk_out(out, ",\"pid\":null");
    abk_out_member(out, "state", abk_state_name(slot->life.state));
    const uint32_t here = lane != NULL && lane->mode == ABK_OPEN ? slot->pool->queued_here : 0;
    abk_out_number(out, "in_flight", lane == NULL ? 0 : lane->in_flight - lane->probes);
    abk_out_number(out, "queued", lane == NULL ? 0 : lane->waiting_count + here);
    abk_out_number(out, "queued_bytes", lane == NULL ? 0 : (int64_t)abk_outbox_size(&lane->out));
    abk_out_number(out, "restarts", slot->generation > 1 ? slot->generation - 1 : 0);
    abk_out_seconds(out, "uptime_s", process == NULL ? 0 : abk_now() - process->born);
    write_reason(slot, out);
    write_tail(slot, out, tail_bytes);
    abk_out_number(out, "sessions", lane == NULL ? 0 : lane->session_count);
    abk_out_format(out, ",\"held\":%s", slot->held ? "true" : "false");
    abk_out(out, ",\"lease\":");
    if (slot->lease != NULL)
        abk_out_string(out, slot->lease->name, slot->lease->name_len);
    else
        abk_out(out, "null");
    abk_out_format(out, ",\"own\":%s", slot->own ? "true" : "false");
    abk_out_number(out, "served", lane == NULL ? 0 : (int64_t)lane->served);
    const bool unread = process != NULL && (process->paused || process->rest_until != 0);
    abk_out_format(out, ",\"paused\":%s", unread ? "true" : "false"); /* its silence says nothing */
    abk_out_number(out, "throttled", process != NULL ? (int64_t)process->throttled : 0);
    abk_out_number(out, "bytes_in", process == NULL ? 0 : (int64_t)process->bytes_in);
    abk_out_number(out, "stderr_bytes", process == NULL ? 0 : (int64_t)process->stderr_bytes);
    abk_out(out, "}");
}

static void write_pool(const abk_pool *pool, abk_buf *out, size_t tail_bytes)
{
    uint32_t instances = 0;
    ABK_EACH(link, &pool->slots)
    {
        const abk_slot *slot = ABK_OF(link, abk_slot, of_pool);
        instances += !slot->own && !slot->life.retired && !slot->drain_retires;
    }
    abk_out(out, "{");
    abk_out_member(out, "id", pool->config->id);
    abk_out_number(out, "instances", instances);
    abk_out_number(out, "queued", pool->queued);
    if (pool->unavailable != NULL) {
        abk_out(out, ",\"unavailable\":");
        abk_failure_write(out, pool->unavailable, false, NULL);
    }
    abk_out(out, ",\"workers\":[");
    bool first = true;
    ABK_EACH(link, &pool->slots)
    {
        abk_out(out, first ? "" : ",");
        first = false;
        abk_report_worker(ABK_OF(link, abk_slot, of_pool), out, tail_bytes);
    }
    abk_out(out, "]}");
}

void abk_report_stats(const abk_bus *bus, abk_stats *stats)
{
    *stats = bus->counts;
    ABK_EACH(link, &bus->processes)
    {
        const abk_process *process = ABK_OF(link, abk_process, link);
        stats->bytes_in += process->bytes_in;
        stats->bytes_out += process->bytes_out;
        stats->stderr_bytes += process->stderr_bytes;
    }
    stats->live_requests = bus->live;
    stats->queued_requests = 0;
    for (uint32_t i = 0; i < bus->pool_count; i++)
        stats->queued_requests += bus->pools[i].queued;
    stats->sessions = bus->sessions.count - bus->unbound_sessions;
}

static void write_stats(const abk_bus *bus, abk_buf *out)
{
    abk_stats stats;
    abk_report_stats(bus, &stats);
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {{"messages_in", stats.messages_in},
               {"messages_out", stats.messages_out},
               {"bytes_in", stats.bytes_in},
               {"bytes_out", stats.bytes_out},
               {"stderr_bytes", stats.stderr_bytes},
               {"bad_lines", stats.bad_lines},
               {"late_answers", stats.late_answers},
               {"stray_answers", stats.stray_answers},
               {"withdrawn", stats.withdrawn},
               {"cancelled", stats.cancelled},
               {"worker_restarts", stats.worker_restarts},
               {"routing_errors", stats.routing_errors},
               {"dropped_notifications", stats.dropped_notifications},
               {"client_connects", stats.client_connects},
               {"client_disconnects", stats.client_disconnects},
               {"workers", stats.workers},
               {"live_requests", stats.live_requests},
               {"queued_requests", stats.queued_requests},
               {"sessions", stats.sessions},
               {"clients", stats.clients}};
    abk_out(out, "{");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        abk_out_number(out, all[i].name, (int64_t)all[i].value);
    abk_out(out, "}");
}

void abk_report_status(const abk_bus *bus, abk_buf *out, size_t tail_bytes)
{
    static const char *const phases[] = {"new", "running", "draining", "stopping", "stopped"};
    abk_out(out, "{");
    abk_out_member(out, "version", ABK_VERSION);
    abk_out_member(out, "backend", "native");
    abk_out_member(out, "bus", bus->name);
    abk_out_member(out, "state", phases[bus->phase]);
    abk_out(out, ",\"pools\":[");
    for (uint32_t i = 0; i < bus->pool_count; i++) {
        abk_out(out, i == 0 ? "" : ",");
        write_pool(&bus->pools[i], out, tail_bytes);
    }
    abk_out(out, "],\"statistics\":");
    write_stats(bus, out);
    abk_out(out, "}");
}

void abk_report_session(const abk_session *session, abk_buf *out)
{
    abk_out(out, "{");
    abk_out_member(out, "pool", session->pool->config->id);
    if (session->lane != NULL) {
        abk_out_number(out, "worker", session->lane->slot->worker);
        abk_out_number(out, "in_flight", session->lane->in_flight);
    }
    if (session->failure != NULL) {
        abk_out(out, ",\"failure\":");
        abk_failure_write(out, session->failure, false, NULL);
    }
    abk_out(out, "}");
}
