/* libanyio_bus: supervise worker processes and route JSON-RPC lines between clients and them.
 *
 * This header is the manual. The behaviour behind it is fixed by docs/design/kernel.md, the wire by
 * docs/design/wire.md.
 *
 * A bus is made from a configuration (JSON), started, and then pulled: the host polls abk_fd(),
 * calls abk_step() when it is readable, and takes what happened with abk_next_event() until there
 * is nothing left. There are no callbacks, no threads, no signals and no global state; any number
 * of buses can live in a process, each in one thread at a time.
 *
 *     abk_error error;
 *     abk_options options = {.size = sizeof options, .host = true};
 *     abk_bus *bus = abk_create(json, strlen(json), &options, &error);
 *     if (bus == NULL || abk_start(bus, &error) < 0) { puts(error.text); return 1; }
 *     abk_route route = {.size = sizeof route, .worker = -1};
 *     abk_submit(bus, &route, line, strlen(line));           // line ends with '\n'
 *     while (abk_step(bus, -1) >= 0) {                        // -1: wait until something happens
 *         for (abk_event event; abk_next_event(bus, &event);) ...
 *     }
 *     abk_stop(bus, 0.0, 5.0);                                // then step until abk_stopped(bus)
 *     abk_destroy(bus);
 *
 * Results: >= 0 is success or a count, a negative one is one of ABK_E....
 *
 * Memory: what an event, abk_refusal() or a report points to belongs to the bus and is valid until
 * the next abk_step(), abk_destroy(), or, for a report, the next report. What is passed in is copied.
 *
 * SIGPIPE: where the process leaves it at its default when abk_start() is called, each write blocks
 * it for the calling thread, which costs two system calls; programs that ignore it pay nothing.
 *
 * After fork() a bus belongs to the parent. In the child every call but abk_abandon() returns
 * ABK_EFORK, or does nothing.
 */
#ifndef ABK_H
#define ABK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ABK_API __attribute__((visibility("default")))
#else
#define ABK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ABK_VERSION "0.1.0"

typedef struct abk_bus abk_bus;

/* --- results --------------------------------------------------------------------------------- */

enum {
    ABK_OK = 0,
    ABK_EINVAL = -1,   /* an argument or the configuration is wrong; see abk_error.text */
    ABK_ENOMEM = -2,   /* out of memory; the call changed nothing */
    ABK_ESTATE = -3,   /* not now: not started, already started, or stopped */
    ABK_EFORK = -4,    /* this process is a fork of the bus's own */
    ABK_EREFUSED = -5, /* the kernel takes no such frame; see abk_refusal() */
    ABK_ENOENT = -6,   /* no such worker, session or request */
    ABK_ESYS = -7,     /* a system call failed; see abk_error.number */
    ABK_EPROTO = -8,   /* inner: the bytes are not what they must be */
    ABK_AGAIN = -9     /* inner: more bytes are needed */
};

/* Why a call failed: a sentence, and the errno where a system call was the reason (else 0). */
typedef struct abk_error {
    int code;
    int number;
    char text[512];
} abk_error;

/* The version of the library, "0.1.0" for example. */
ABK_API const char *abk_version(void);

/* --- the codes of failures, as they stand in error objects ----------------------------------- */

enum {
    ABK_CODE_PARSE_ERROR = -32700,
    ABK_CODE_INVALID_REQUEST = -32600,
    ABK_CODE_METHOD_NOT_FOUND = -32601,
    ABK_CODE_INVALID_PARAMS = -32602,
    ABK_CODE_WORKER_LOST = -32050,
    ABK_CODE_NO_WORKER = -32051,
    ABK_CODE_UNKNOWN_POOL = -32052,
    ABK_CODE_OVERLOADED = -32053,
    ABK_CODE_FRAME_TOO_LARGE = -32054,
    ABK_CODE_SHUTTING_DOWN = -32055,
    ABK_CODE_SESSION_LOST = -32056,
    ABK_CODE_CANCELLED = -32800
};

/* --- life ------------------------------------------------------------------------------------ */

typedef struct abk_options {
    size_t size;  /* sizeof(abk_options) */
    bool host;    /* the process itself is a client: abk_submit() and ABK_EV_LINES work */
    bool strict;  /* unknown keys of the configuration are errors, not warnings */
    bool rewrite; /* rewrite ids even without a listener; with one they always are */
} abk_options;

/* Make a bus from a configuration, the JSON of docs/howto/configure.md. Nothing is started.
 * NULL on error: *error says which field is wrong. Warnings come as ABK_EV_LOG of the first step. */
ABK_API abk_bus *abk_create(const char *json, size_t len, const abk_options *options,
                            abk_error *error);

typedef struct abk_listener {
    size_t size;       /* sizeof(abk_listener) */
    const char *unix_path; /* NULL: TCP */
    unsigned unix_mode;    /* of the socket file; 0 means 0600 */
    const char *host;  /* name or address; NULL or "" means every address */
    uint16_t port;     /* 0: the system chooses */
    bool admin;        /* its clients may use the admin methods */
    bool pauses;       /* so may they pause workers: the bus ends with whoever has them */
    bool insecure;     /* allow TCP beyond loopback without a token */
    const char *token; /* clients must send bus/auth first; NULL: none is asked for */
} abk_listener;

/* Add a listener, before abk_start(). Text like "127.0.0.1:41234" or the path goes to bound (cut to
 * bound_len). A unix path is taken over only from a socket that nobody listens on. */
ABK_API int abk_listen(abk_bus *bus, const abk_listener *listener, char *bound, size_t bound_len,
                       abk_error *error);

/* Make the two ends of a conversation a client with admin rights, before abk_start(): --stdio. The
 * fds stay the caller's; their O_NONBLOCK flag is restored in the end. When in ends and nothing is
 * pending any more, ABK_EV_CLIENT says so. */
ABK_API int abk_serve(abk_bus *bus, int in, int out, abk_error *error);

/* Spawn the workers and accept clients. A worker that cannot be started is no error: its slot is
 * parked, as ABK_EV_WORKER says. */
ABK_API int abk_start(abk_bus *bus, abk_error *error);

/* The fd to poll for reading; -1 on error. It is readable too where a call other than abk_step() has
 * brought about events, until the next step. */
ABK_API int abk_fd(const abk_bus *bus);

/* Do what can be done now: read, route, write, and what timers ask for. At most wait_ms milliseconds
 * pass until something happens: 0 never waits, -1 waits for ever. A step has a budget per fd, so
 * that no worker or client starves another; poll says at once if there is more.
 * Returns the number of events that wait for abk_next_event(); those of the last step are dropped. */
ABK_API int abk_step(abk_bus *bus, int wait_ms);

/* abk_step() again and again, without sleeping, until there is an event or so many microseconds are
 * over: to sleep and to be woken may take longer than a quick worker does. It ends as well once
 * other_fd is readable, which is what the host's own loop sleeps on, an epoll fd for example, or -1. It
 * takes one step at least, and one only while the bus is stopping. Returns what abk_step() does. */
ABK_API int abk_busy_poll(abk_bus *bus, uint32_t most_us, int other_fd);

/* Let abk_step() return early whenever fd is readable, a signalfd for example, and say so each time
 * with ABK_EV_WAKE. The fd stays the caller's: it reads it, and closes it after abk_destroy(). */
ABK_API int abk_watch_fd(abk_bus *bus, int fd);

/* End in two parts. New requests are refused (-32055) from now on. For drain_s seconds what is in
 * flight may finish, then it fails (-32055) and all workers are ended by the ladder: stdin closed at
 * once, SIGTERM to the group at 0.4, SIGKILL at 0.8 of grace_s, reaped by 1.0. A second call can
 * only make it end sooner. The host goes on stepping until abk_stopped(). */
ABK_API int abk_stop(abk_bus *bus, double drain_s, double grace_s);

/* What the configuration says for drain_s: limits.drain_timeout_sec, 30 by default. */
ABK_API double abk_drain_timeout(const abk_bus *bus);

/* Whether nothing is left: no worker, no request. */
ABK_API bool abk_stopped(const abk_bus *bus);

/* Without stepping: kill what is left, reap it for at most reap_s seconds, close every fd but
 * abk_fd(). What was in flight or waited fails (-32055); abk_next_event() has that of the host, and
 * which clients it has left. */
ABK_API void abk_kill_now(abk_bus *bus, double reap_s);

/* abk_kill_now() for half a second, then free everything. NULL is fine. */
ABK_API void abk_destroy(abk_bus *bus);

/* In a forked child: close the bus's fds with close() alone and free everything. */
ABK_API void abk_abandon(abk_bus *bus);

/* --- frames of the host ---------------------------------------------------------------------- */

enum { ABK_ROUTE_REBIND = 1, ABK_ROUTE_PROBE = 2, ABK_ROUTE_ORPHAN = 4 };

typedef struct abk_route {
    size_t size;         /* sizeof(abk_route) */
    const char *pool;    /* NULL: the only pool, or the session's */
    const char *session; /* NULL: what the frame itself says; else as many bytes as session_len */
    size_t session_len;
    int32_t worker; /* that worker and no other; -1: any */
    /* REBIND: where the session was lost, begin it anew. PROBE: it only asks whether the worker
     * lives. ORPHAN: a request that is nobody's: its answer is a stray one. */
    unsigned flags;
} abk_route;

/* Take one whole line with its newline. Returns the key of a request, 0 for what is none, or
 * ABK_EREFUSED: nothing was taken, abk_refusal() says why. It is written by abk_flush() or the next
 * abk_step(). Where ids are rewritten so are those that a notification names (a cancel, bus/credit,
 * params._meta.requestId); one that names no request of the host goes nowhere, an answer that fits no
 * request of a worker is refused, and one that is refused for another reason is over: the worker gets
 * an error. A cancel of what was not sent yet ends it with ABK_EV_FAILED, and so does one that no
 * answer follows within cancel_grace_s. */
ABK_API int64_t abk_submit(abk_bus *bus, const abk_route *route, const char *line, size_t len);

/* Requests of one method whose ids are numbers in a row. */
typedef struct abk_row {
    size_t size;
    const char *method; /* as JSON, with its quotes */
    size_t method_len;
    const char *params; /* of each an object or an array, or nothing for none, and a newline */
    size_t params_len;
    int64_t first; /* the id of the first, at least 1 */
    uint32_t count;
} abk_row;

/* Make the frames of a row and take them, all with the same route. Returns how many there were, or 0 and
 * takes none where the queue of the pool has not room for all; then each is to be submitted for its own
 * fate. One that is refused nevertheless (params that are none, an id that is in use) ends it: the number
 * of those before it is returned. */
ABK_API int64_t abk_submit_row(abk_bus *bus, const abk_route *route, const abk_row *row);

/* The failure behind the last ABK_EREFUSED, as JSON: {"code":..., "message":..., ...}. */
ABK_API const char *abk_refusal(abk_bus *bus, size_t *len);

/* Write what was submitted, as far as the pipes take it now. Returns the number of events that wait
 * for abk_next_event(). */
ABK_API int abk_flush(abk_bus *bus);

enum { ABK_REMOVED = 1, ABK_CANCELLED = 2 };

/* Give up a request. ABK_REMOVED: no byte was written, it never runs. ABK_CANCELLED: its worker is
 * told in the way of its pool. ABK_ENOENT: it is over already. Neither answer nor failure follows. */
ABK_API int abk_withdraw(abk_bus *bus, int64_t key, const char *reason, size_t reason_len);

/* The key of a live request of the host by its id, written as JSON; ABK_ENOENT if there is none. */
ABK_API int64_t abk_find(abk_bus *bus, const char *id, size_t len);

/* The id of a live request as it stands in its frame; NULL if there is none. */
ABK_API const char *abk_id(abk_bus *bus, int64_t key, size_t *len);

/* --- events ---------------------------------------------------------------------------------- */

enum {
    /* A contiguous run of whole lines of one worker: answers to live requests, notifications and
     * requests. count lines; a: ABK_ONLY_..., of which ABK_ONLY_CHUNKS leaves of each line what
     * stands between ABK_CHUNK_START and ABK_CHUNK_END; key: the only request that was in flight
     * there when its notifications came, probes aside, else 0. */
    ABK_EV_LINES = 1,
    /* A line that cost only itself. data: its first 200 bytes; text: what is wrong; count: its
     * length. */
    ABK_EV_LINE_BAD,
    /* A request of the host without an answer. key; data: its id; text: the failure as JSON;
     * a: its code; b: 1 if bytes of it were sent. */
    ABK_EV_FAILED,
    /* A slot changed. a: its ABK_WORKER_... state; b: its pid, 0 without a process; text: the
     * failure as JSON where there is one. */
    ABK_EV_WORKER,
    ABK_EV_STDERR, /* data: bytes that a worker wrote to its stderr */
    /* A client came (a = 1) or left (a = 0); that of abk_serve() ended its input (a = 3), and then
     * has nothing pending any more (a = 2). count: its number; b: 1 for that of abk_serve(). text: its peer, or why it left. */
    ABK_EV_CLIENT,
    ABK_EV_LOG,  /* a: ABK_LOG_...; b: ABK_LOG_STRAY for an answer to nothing; text: one line */
    ABK_EV_FRAME, /* a tapped frame; text: the params of bus/frame as JSON (docs/design/kernel.md) */
    ABK_EV_WAKE,  /* an fd of abk_watch_fd() is readable. a: the fd */
    /* A run of answers of one worker that are nothing but an id and a result, to requests of the host with
     * plain numbers for ids. keys: count ids; data: a JSON array of the results, but a single one as it is. */
    ABK_EV_RESULTS
};

enum {
    ABK_ONLY_ANSWERS = 1,
    ABK_ONLY_CALLS = 2, /* requests and notifications */
    ABK_ONLY_CHUNKS = 4 | ABK_ONLY_CALLS
};

/* How anyio_bus.worker writes a chunk, around its params, which are an object. */
#define ABK_CHUNK_START "{\"jsonrpc\":\"2.0\",\"method\":\"chunk\",\"params\":"
#define ABK_CHUNK_END "}"
enum { ABK_LOG_DEBUG, ABK_LOG_INFO, ABK_LOG_WARNING, ABK_LOG_ERROR };
enum { ABK_LOG_STRAY = 1 };

typedef struct abk_event {
    int type;
    int32_t worker;      /* -1: none */
    uint32_t generation; /* which process of its slot */
    uint32_t count;
    const char *pool; /* NULL: none */
    int64_t key;
    const int64_t *keys;
    const char *data;
    size_t len;
    const char *text;
    size_t text_len;
    int a;
    int b;
} abk_event;

/* Take the next event of the last step: 1, or 0 where there is none left. */
ABK_API int abk_next_event(abk_bus *bus, abk_event *event);

/* --- primitives; worker is the number of a slot ----------------------------------------------- */

enum { ABK_WORKER_VACANT, ABK_WORKER_STARTING, ABK_WORKER_READY, ABK_WORKER_DRAINING,
       ABK_WORKER_STOPPING, ABK_WORKER_BACKOFF, ABK_WORKER_PARKED, ABK_WORKER_STOPPED };

/* "ready", for example. */
ABK_API const char *abk_worker_state(int state);

ABK_API int abk_pause(abk_bus *bus, int32_t worker);  /* leave its stdout unread */
ABK_API int abk_resume(abk_bus *bus, int32_t worker); /* until this */

typedef struct abk_extra {
    size_t size;         /* sizeof(abk_extra) */
    const char *session; /* lease the new worker to it; NULL: an ordinary one more */
    size_t session_len;
    bool rebind;            /* the lease goes on with its successors */
    const char *const *env; /* "NAME=value" sets, "NAME" removes; ends with NULL; NULL: none */
    const char *cwd;        /* NULL: that of the pool */
} abk_extra;

/* Add a slot to a pool and start it; returns its number. extra may be NULL. */
ABK_API int32_t abk_spawn(abk_bus *bus, const char *pool, const abk_extra *extra);
/* Spawn slots, or drain and retire those with the highest numbers. */
ABK_API int abk_resize(abk_bus *bus, const char *pool, uint32_t instances, double drain_s);
/* Finish what it has, end it, and start its successor unless retire. One that rests starts now. */
ABK_API int abk_drain(abk_bus *bus, int32_t worker, double drain_s, bool retire);
/* SIGKILL now; a successor follows. With a fault, of a ready worker only, it counts as a death. */
ABK_API int abk_kill(abk_bus *bus, int32_t worker, const char *fault);
/* End it if it is idle, until there is work: 1 if it was, else 0. */
ABK_API int abk_rest(abk_bus *bus, int32_t worker);
ABK_API int abk_hold(abk_bus *bus, int32_t worker);    /* no work but what names it */
ABK_API int abk_release(abk_bus *bus, int32_t worker); /* end a hold or a lease */
ABK_API int abk_lease(abk_bus *bus, int32_t worker, const char *session, size_t session_len,
                      bool rebind);
ABK_API int abk_end_session(abk_bus *bus, const char *session, size_t session_len);
/* ABK_EREFUSED with the stored reason if every slot of the pool is parked. */
ABK_API int abk_check_pool(abk_bus *bus, const char *pool);
/* Whether the host wants the notifications of a pool, as it does unless told; those that it does not are
 * counted (unheard) and, as all that is nobody's, slow their worker down. Cancellations always come, and
 * so does all while it taps, and what is read together with a request, after it. */
ABK_API int abk_hear(abk_bus *bus, const char *pool, bool on);
/* Show every line of every pipe as ABK_EV_FRAME, or no more. */
ABK_API int abk_tap(abk_bus *bus, bool on);

/* --- reports --------------------------------------------------------------------------------- */

typedef struct abk_stats { /* docs/design/kernel.md says what each counts */
    uint64_t messages_in, messages_out, bytes_in, bytes_out, stderr_bytes, bad_lines, late_answers,
        stray_answers, withdrawn, cancelled, worker_restarts, routing_errors, dropped_notifications,
        client_connects, client_disconnects;
    uint64_t workers, live_requests, queued_requests, sessions, clients;
    uint64_t unheard;
} abk_stats;

ABK_API int abk_statistics(const abk_bus *bus, abk_stats *stats);

/* The result of bus/status: {"version", "backend", "state", "pools": [...], "statistics"}. NULL when
 * out of memory. */
ABK_API const char *abk_status(abk_bus *bus, size_t *len);

/* One session: {"pool", "worker", "in_flight", "failure"}; NULL where it is not known. */
ABK_API const char *abk_find_session(abk_bus *bus, const char *session, size_t session_len,
                                     size_t *len);

#ifdef __cplusplus
}
#endif
#endif
