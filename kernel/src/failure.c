/* Kernel-made errors: as values, and as JSON for the host and for a wire. */
#include "bus.h"

#include <stdio.h>

void abk_failure_init(abk_failure *failure, int code, const char *reason_name, const char *format,
                      ...)
{
    *failure = (abk_failure){
        .code = code, .reason_name = reason_name, .worker = -1, .exit_code = -1};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof failure->message, format, arguments);
    va_end(arguments);
}

abk_failure *abk_failure_keep(const abk_failure *failure)
{
    abk_failure *copy = ABK_NEW(abk_failure);
    if (copy == NULL)
        return NULL;
    *copy = *failure;
    copy->references = 1;
    if (failure->tail != NULL) {
        copy->tail = abk_copy(failure->tail, failure->tail_len);
        copy->tail_len = copy->tail == NULL ? 0 : failure->tail_len;
    }
    return copy;
}

abk_failure *abk_failure_share(abk_failure *failure)
{
    if (failure != NULL)
        failure->references++;
    return failure;
}

void abk_failure_drop(abk_failure *failure)
{
    if (failure == NULL || --failure->references > 0)
        return;
    abk_free(failure->tail);
    abk_free(failure);
}

/* The members beside code and message, as far as they are known. */
static void write_facts(abk_buf *out, const abk_failure *failure, bool sent)
{
    const char *reason = failure->reason_name != NULL ? failure->reason_name : failure->reason;
    if (reason[0] != '\0')
        abk_out_member(out, "reason", reason);
    if (failure->pool != NULL)
        abk_out_member(out, "pool", failure->pool);
    if (failure->worker >= 0)
        abk_out_number(out, "worker", failure->worker);
    if (failure->session[0] != '\0')
        abk_out_member(out, "session", failure->session);
    if (failure->pid > 0)
        abk_out_number(out, "pid", failure->pid);
    if (failure->exit_code >= 0)
        abk_out_number(out, "exit_code", failure->exit_code);
    if (failure->killed_by > 0)
        abk_out_number(out, "signal", failure->killed_by);
    if (failure->number > 0)
        abk_out_number(out, "errno", failure->number);
    if (failure->phase != NULL)
        abk_out_member(out, "phase", failure->phase);
    if (failure->permanent)
        abk_out(out, ",\"permanent\":true");
    if (failure->limit_bytes > 0)
        abk_out_number(out, "limit_bytes", (int64_t)failure->limit_bytes);
    if (failure->tail_len > 0) {
        abk_out(out, ",\"stderr_tail\":");
        abk_out_string(out, failure->tail, failure->tail_len);
    }
    abk_out_format(out, ",\"sent\":%s", sent ? "true" : "false");
}

void abk_failure_write(abk_buf *out, const abk_failure *failure, bool sent, const char *bus)
{
    abk_out(out, "{");
    abk_out_number(out, "code", failure->code);
    abk_out_member(out, "message", failure->message);
    if (bus != NULL) {
        abk_out(out, ",\"data\":{\"source\":\"anyio-bus\"");
        abk_out_member(out, "bus", bus);
    }
    write_facts(out, failure, sent);
    abk_out(out, bus != NULL ? "}}" : "}");
}

void abk_failure_respond(abk_buf *out, abk_text id, const abk_failure *failure, bool sent,
                         const char *bus)
{
    abk_out(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    if (!out->failed)
        abk_buf_append(out, id.at, id.len);
    abk_out(out, ",\"error\":");
    abk_failure_write(out, failure, sent, bus);
    abk_out(out, "}\n");
}
