/* Clients: the bytes of their connections, and their ends. The host is a client without any. */
#include "bus.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

enum { CLIENT_READ_BYTES = 16 * 1024, CLIENT_READ_MOST = 256 * 1024, WRITES = 16 };
enum { MOST_STRANGERS = 64 }; /* that have not shown their token yet */

abk_client *abk_client_add(abk_bus *bus, abk_client_kind kind)
{
    const size_t size = sizeof(abk_client) + bus->pool_count * sizeof(abk_share);
    abk_client *client = abk_timer_room(bus) ? abk_alloc(size) : NULL;
    if (client == NULL)
        return NULL;
    client->bus = bus;
    client->kind = (uint8_t)kind;
    client->number = bus->next_client++;
    client->in.fd = client->out.fd = -1;
    client->in_flags = client->out_flags = -1;
    client->timer = (abk_timer){.kind = ABK_ON_STALL, .owner = client};
    abk_list_init(&client->entries);
    abk_list_init(&client->asks);
    abk_list_init(&client->sessions);
    for (uint32_t i = 0; i < bus->pool_count; i++)
        abk_list_init(&client->shares[i].entries);
    abk_list_append(&bus->clients, &client->link);
    bus->client_count++;
    if (kind != ABK_HOST)
        bus->counts.clients++;
    return client;
}

/* The only one that may ask for anything; one that has yet to show its token may not. */
abk_client *abk_client_sole(const abk_bus *bus)
{
    if (bus->client_count != 1)
        return NULL;
    ABK_EACH(link, &bus->clients)
    {
        abk_client *client = ABK_OF(link, abk_client, link);
        if (!client->needs_auth)
            return client;
    }
    return NULL;
}

static void leave_strangers(abk_client *client)
{
    abk_unlink(&client->stranger);
    client->bus->stranger_count--;
}

void abk_client_admit(abk_client *client, bool admitted)
{
    abk_bus *bus = client->bus;
    if (client->needs_auth == !admitted)
        return;
    client->needs_auth = !admitted;
    bus->client_count += admitted ? 1U : -1U;
    if (admitted) {
        leave_strangers(client);
        abk_timers_drop(&bus->timers, &client->timer);
        return;
    }
    abk_wake_at(bus, &client->timer, bus->now + abk_ns(bus->config->limits.auth_timeout_s));
    abk_list_append(&bus->strangers, &client->stranger);
    if (++bus->stranger_count > MOST_STRANGERS) /* who has the token shows it at once */
        abk_client_gone(ABK_OF(abk_list_first(&bus->strangers), abk_client, stranger),
                        "too many without a token");
}

/* --- being watched --------------------------------------------------------------------------- */

static int out_fd(const abk_client *client)
{
    return client->kind == ABK_SOCKET ? client->in.fd : client->out.fd;
}

bool abk_client_full(const abk_client *client)
{
    return abk_buf_len(&client->buf) > client->bus->config->limits.max_output_bytes;
}

/* Whether what a worker says of itself is lost on it. Its workers wait for one that is alone on stdio. */
bool abk_client_loses(const abk_client *client)
{
    const abk_bus *bus = client->bus;
    return abk_client_full(client) && !(client == bus->served && bus->client_count == 1);
}

void abk_client_watch(abk_client *client)
{
    abk_loop *loop = &client->bus->loop;
    /* What it does not read it does not ask for either: its answers are bounded by that. */
    const bool reads = !client->input_ended && !abk_client_full(client);
    const uint8_t in = reads ? ABK_READ : client->input_ended ? ABK_ENDS : 0;
    const uint8_t out = client->writable_wanted ? ABK_WRITE : 0;
    if (client->kind == ABK_SOCKET) {
        if (client->in.fd >= 0)
            abk_loop_watch(loop, &client->in, in | out);
        return;
    }
    if (client->in.fd >= 0)
        abk_loop_watch(loop, &client->in, in & ABK_READ);
    if (client->out.fd >= 0)
        abk_loop_watch(loop, &client->out, out);
}

/* With a sole client on a wire its workers wait for it; nobody else is hurt by that. */
void abk_choke(abk_bus *bus)
{
    const abk_client *client = bus->served;
    const bool alone = client != NULL && !client->gone && bus->client_count == 1;
    const size_t len = alone ? abk_buf_len(&client->buf) : 0;
    const bool choked = len > (bus->choked ? ABK_CHOKE_BYTES / 2 : ABK_CHOKE_BYTES);
    if (choked == bus->choked)
        return;
    bus->choked = choked;
    ABK_EACH(link, &bus->processes) abk_process_watch(ABK_OF(link, abk_process, link));
}

/* --- the end --------------------------------------------------------------------------------- */

void abk_client_close(abk_client *client)
{
    abk_loop *loop = &client->bus->loop;
    abk_watch *const both[] = {&client->in, &client->out};
    const int flags[] = {client->in_flags, client->out_flags};
    for (size_t i = 0; i < 2; i++) {
        if (both[i]->fd < 0)
            continue;
        abk_loop_watch(loop, both[i], 0);
        if (client->kind == ABK_SOCKET)
            abk_sys_close(both[i]->fd);
        else if (flags[i] >= 0)
            fcntl(both[i]->fd, F_SETFL, flags[i]);
        both[i]->fd = -1;
    }
}

/* Count it, and tell the host. */
void abk_client_leaves(abk_client *client, const char *why)
{
    abk_bus *bus = client->bus;
    bus->counts.clients--;
    bus->counts.client_disconnects++;
    abk_event *event = abk_tell(bus, ABK_EV_CLIENT, NULL);
    if (event != NULL) {
        event->count = client->number;
        event->b = client->kind == ABK_SERVED;
        abk_tell_text(bus, why, strlen(why));
    }
}

void abk_client_gone(abk_client *client, const char *why)
{
    abk_bus *bus = client->bus;
    if (client->gone)
        return;
    client->gone = true;
    abk_client_close(client);
    abk_timers_drop(&bus->timers, &client->timer);
    abk_unlink(&client->dirty);
    for (abk_link *link; (link = abk_list_first(&client->entries)) != NULL;)
        abk_router_withdraw(bus, ABK_OF(link, abk_entry, owner), ABK_TEXT("the client is gone"));
    for (uint32_t i = 0; i < bus->pool_count; i++) { /* what is no request waits there, too */
        abk_share *share = &client->shares[i];
        for (abk_link *link; (link = abk_list_first(&share->entries)) != NULL;)
            abk_router_finish(bus, ABK_OF(link, abk_entry, place));
    }
    abk_asks_client_gone(client);
    abk_wishes_drop(bus, client);
    for (abk_link *link; (link = abk_list_first(&client->sessions)) != NULL;)
        abk_session_end(bus, ABK_OF(link, abk_session, of_client));
    if (client->taps) {
        bus->tap_clients--;
        abk_tap_on(bus);
    }
    abk_unlink(&client->link);
    abk_unlink(&client->watching);
    bus->client_count -= !client->needs_auth;
    if (client->needs_auth)
        leave_strangers(client);
    abk_client_leaves(client, why);
    abk_watchers_client(client, false, why);
    if (client->kind == ABK_SERVED) { /* late answers may still be looked up by it */
        abk_buf_free(&client->buf);
        abk_choke(bus);
        return;
    }
    abk_list_append(&bus->dead_clients, &client->dead);
}

void abk_client_free(abk_client *client)
{
    abk_client_close(client);
    abk_timers_drop(&client->bus->timers, &client->timer);
    client->bus->timer_owners--;
    abk_reader_free(&client->reader);
    abk_buf_free(&client->buf);
    abk_free(client);
}

/* Its input has ended: once nothing of it is pending, and all is written, it goes. */
void abk_client_look(abk_client *client)
{
    if (!client->input_ended || client->gone || client->live > 0 || abk_buf_len(&client->buf) > 0)
        return;
    abk_wake_at(client->bus, &client->timer, client->bus->now);
}

static void tell_end(abk_client *client, int what)
{
    abk_event *event = abk_tell(client->bus, ABK_EV_CLIENT, NULL);
    if (event == NULL)
        return;
    event->count = client->number;
    event->a = what;
    event->b = 1;
}

static void end_quietly(abk_client *client)
{
    if (client->live > 0 || abk_buf_len(&client->buf) > 0)
        return;
    if (client->kind == ABK_SOCKET) {
        abk_client_gone(client, "closed");
        return;
    }
    if (client->told_end)
        return;
    client->told_end = true;
    tell_end(client, 2);
    abk_client_gone(client, "its input has ended");
}

/* Its timer: it has taken nothing for too long, is to be looked at, or has not shown its token. */
void abk_client_stalled(abk_client *client)
{
    if (client->writable_wanted && client->kind == ABK_SOCKET)
        abk_client_gone(client, "slow_client");
    else if (client->input_ended)
        end_quietly(client);
    else if (client->needs_auth)
        abk_turn_away(client, NULL);
}

/* --- writing --------------------------------------------------------------------------------- */

void abk_client_mark(abk_client *client)
{
    if (!abk_linked(&client->dirty) && !client->gone)
        abk_list_append(&client->bus->dirty_clients, &client->dirty);
}

/* Answers have a reserve; a client that uses that up as well is given up: not here, since whoever
 * writes to it is at work on what would go with it. */
static bool room(abk_client *client, size_t more)
{
    const abk_limits *limits = &client->bus->config->limits;
    if (client->gone || client->lost != NULL || client->kind == ABK_HOST)
        return false;
    const bool over = abk_buf_len(&client->buf) > 2 * limits->max_output_bytes;
    if ((over && client->bus->client_count > 1) || abk_buf_reserve(&client->buf, more) < 0) {
        client->lost = over ? "slow_client" : "out of memory";
        abk_client_mark(client);
        return false;
    }
    return true;
}

bool abk_client_send(abk_client *client, const abk_frame *frame)
{
    if (!room(client, abk_frame_most(frame) + 1))
        return false;
    char *to = client->buf.data + client->buf.tail;
    size_t put;
    if (frame->count == 0) {
        put = frame->line.len;
        memcpy(to, frame->line.at, put);
    } else {
        put = abk_frame_put(frame, 0, to);
    }
    abk_buf_filled(&client->buf, put);
    abk_client_mark(client);
    return true;
}

void abk_client_put(abk_client *client, const abk_buf *line)
{
    const abk_frame frame = {.line = {abk_buf_at(line), (uint32_t)abk_buf_len(line)}};
    if (!line->failed)
        abk_client_send(client, &frame);
}

void abk_client_fail(abk_client *client, abk_text id, const abk_failure *failure, bool sent)
{
    abk_buf *out = &client->bus->report;
    abk_buf_clear(out);
    abk_failure_respond(out, id, failure, sent, client->bus->name);
    abk_client_put(client, out);
}

static void want_writable(abk_client *client, bool wanted, bool progress)
{
    abk_bus *bus = client->bus;
    const double patience = bus->config->limits.backpressure_timeout_s;
    if (wanted && patience > 0 && (progress || !client->writable_wanted) && client->kind == ABK_SOCKET)
        abk_wake_at(bus, &client->timer, bus->now + abk_ns(patience));
    else if (!wanted && client->writable_wanted)
        abk_timers_drop(&bus->timers, &client->timer);
    client->writable_wanted = wanted;
    abk_client_watch(client);
}

/* Write what it takes now. */
void abk_client_flush(abk_client *client)
{
    abk_buf *buf = &client->buf;
    bool progress = false;
    const bool was_full = abk_client_full(client);
    for (int round = 0; round < WRITES && abk_buf_len(buf) > 0 && !client->gone; round++) {
        const struct iovec all = {buf->data + buf->head, abk_buf_len(buf)};
        const ssize_t put = abk_write_quietly(client->bus, out_fd(client), &all, 1);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno != EAGAIN) {
            abk_client_gone(client, "closed");
            return;
        }
        if (put <= 0)
            break;
        abk_buf_drop(buf, (size_t)put);
        progress = true;
    }
    const bool left = abk_buf_len(buf) > 0;
    if (left || client->writable_wanted || was_full != abk_client_full(client))
        want_writable(client, left, progress);
    if (client->kind == ABK_SERVED)
        abk_choke(client->bus);
    abk_client_look(client);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Whether the other side is gone, not merely done with asking. */
static bool hung_up(int fd)
{
    struct pollfd look = {.fd = fd};
    return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0;
}

/* The system tells of an end while nothing is to be read. */
void abk_client_check(abk_client *client)
{
    if (client->kind == ABK_SOCKET && hung_up(client->in.fd))
        abk_client_gone(client, "closed");
}

static void input_ended(abk_client *client)
{
    client->input_ended = true; /* an unterminated last line is discarded: it may be half of one */
    if (client->kind == ABK_SOCKET && hung_up(client->in.fd)) {
        abk_client_gone(client, "closed");
        return;
    }
    if (client->kind == ABK_SERVED)
        tell_end(client, 3);
    abk_client_watch(client);
    abk_client_look(client);
}

void abk_client_read(abk_client *client)
{
    abk_bus *bus = client->bus;
    const uint32_t most = bus->config->limits.max_frame_bytes;
    const ssize_t got =
        abk_reader_fill(&client->reader, client->in.fd, CLIENT_READ_BYTES, CLIENT_READ_MOST);
    if (client->reader.more)
        abk_loop_again(&bus->loop, &client->in);
    if (got == -EAGAIN || got == -EINTR)
        return;
    if (got < 0) {
        abk_client_gone(client, got == -ENOMEM ? "out of memory" : "closed");
        return;
    }
    if (got == 0) {
        input_ended(client);
        return;
    }
    abk_line line;
    while (!client->gone && client->lost == NULL && abk_reader_next(&client->reader, most, &line)) {
        if (line.oversize)
            abk_take_bad_line(client, &line);
        else
            abk_take_line(client, line.at, line.len);
    }
    if (!client->gone && abk_client_full(client))
        abk_client_watch(client);
}
