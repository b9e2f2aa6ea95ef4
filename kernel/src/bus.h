/* The whole state of a bus, and which module does what with it.
 *
 *   clients.c   bytes of clients, in and out      requests.c   what a client's line asks for
 *   process.c   bytes of workers, in and out      answers.c    what a worker's line is, and for whom
 *   router.c    which worker gets a request       ends.c       how requests end
 *   entries.c   requests by key and by id         sessions.c   which worker holds which session
 *   slot.c      the life of each worker           death.c      its end, and what follows
 *   lease.c     holds, leases                     frame.c      lines with bytes replaced
 *   methods.c   bus/...                           report.c     status and counters as JSON
 *   asks.c      requests of workers               wishes.c     clients that wait for a lease
 *   failure.c   kernel-made errors                event.c      what the host is told
 *   listen.c    listeners                         tap.c        frames, shown to whoever looks
 *   bus.c       one step of all this              api.c        the life of a bus; calls.c the rest
 *
 * Whatever ends in a step stays allocated until the next (bus->dead_...), since the
 * loop's batch may still name it, and events may show its bytes.
 */
#ifndef ABK_BUS_H
#define ABK_BUS_H

#include "backoff.h"
#include "buf.h"
#include "config.h"
#include "lifecycle.h"
#include "list.h"
#include "loop.h"
#include "map.h"
#include "outbox.h"
#include "reader.h"
#include "scan.h"
#include "spawn.h"
#include "timers.h"

enum {
    ABK_RESERVE_BYTES = 1024 * 1024,  /* of an out-queue, for what is no request */
    ABK_PREFIX_BYTES = 200,           /* of a bad line that are shown */
    ABK_ERROR_TAIL_BYTES = 4096,      /* of stderr in a failure */
    ABK_READ_BUDGET = 1024 * 1024,    /* of one fd in one step */
    ABK_CHOKE_BYTES = 4 * 1024 * 1024 /* queued for a sole client: then workers wait for it */
};

/* --- failures -------------------------------------------------------------------------------- */

/* Why a request has no answer. Texts are cut, never refused. */
typedef struct abk_failure {
    uint32_t references;
    int code;
    const char *reason_name; /* a static name such as "max_queued"; else reason */
    const char *phase;       /* "spawn", "start", "handshake": static; NULL: none */
    const char *pool;        /* an id in the configuration; NULL: not known */
    int32_t worker;          /* -1: not known */
    pid_t pid;               /* 0: not known */
    int exit_code;           /* -1: not known */
    int killed_by;           /* 0: not by a signal */
    int number;              /* errno; 0: none */
    bool permanent;
    uint64_t limit_bytes; /* 0: none */
    char reason[256];
    char message[768];
    char session[128]; /* empty: none */
    char *tail;        /* of stderr; NULL: none */
    size_t tail_len;
} abk_failure;

void abk_failure_init(abk_failure *failure, int code, const char *reason_name, const char *format,
                      ...) __attribute__((format(printf, 4, 5)));
abk_failure *abk_failure_keep(const abk_failure *failure); /* a copy with one reference, or NULL */
abk_failure *abk_failure_share(abk_failure *failure);      /* one reference more; NULL stays NULL */
void abk_failure_drop(abk_failure *failure);
/* As the members of kernel.md's list, in an object. bus: adds "source" and "bus", for a wire. */
void abk_failure_write(abk_buf *out, const abk_failure *failure, bool sent, const char *bus);
/* A whole error response with its newline; id is raw JSON. */
void abk_failure_respond(abk_buf *out, abk_text id, const abk_failure *failure, bool sent,
                         const char *bus);

/* --- requests -------------------------------------------------------------------------------- */

typedef enum {
    ABK_QUEUED, /* in the queue of its pool or lane; no worker took it */
    ABK_TAKEN,  /* in a worker's out-queue, or written; see abk_entry_sent() */
    ABK_TOMBSTONE /* cancelled after that; keeps its place until the late answer or its grace is over */
} abk_stage;

/* A frame on its way. One that is no request exists only while it waits. */
typedef struct abk_entry {
    abk_link place;   /* in flight or waiting in its lane, or waiting in a client's share of a pool */
    abk_link owner;   /* among its client's requests; a tombstone: among the bus's, by age */
    abk_link unbound; /* of a session that no lane has yet, or whose lane it waits for */
    struct abk_client *client; /* who gets the answer; NULL: nobody any more */
    struct abk_pool *pool;
    struct abk_lane *lane; /* bound to it; NULL: any of its pool */
    struct abk_session *session;
    char *frame;    /* while QUEUED */
    uint64_t start; /* in the lane's stream, once TAKEN */
    uint32_t len;
    uint32_t index; /* in bus->entries; with generation, its key */
    uint32_t generation;
    uint8_t stage;
    bool request; /* it has an id and waits for an answer */
    bool rebind;
    bool learns;    /* its result names a session */
    bool probe;     /* nobody's work in flight */
    bool cancelled; /* the client asked for its end, and gets an answer nevertheless */
    uint64_t due;   /* of a tombstone, or of a cancelled one */
    abk_id_key id;  /* as the client spelt it */
    int64_t number; /* the same, where it is a plain number of the host's above 0; else 0 */
    abk_id_key *token; /* its progressToken, where that was rewritten; NULL: it was not */
} abk_entry;

/* A line with some of its bytes replaced on the way through. */
typedef struct abk_patch {
    abk_text what; /* in the line; patches stand in its order */
    abk_text with; /* at NULL, len 0: nothing */
    bool key;      /* the entry's key instead */
} abk_patch;

enum { ABK_MAX_PATCHES = 8 };
typedef struct abk_frame {
    abk_text line; /* whole, with its newline */
    uint32_t count;
    abk_patch patches[ABK_MAX_PATCHES];
} abk_frame;

void abk_frame_patch(abk_frame *frame, abk_text what, abk_text with, bool key);
size_t abk_frame_most(const abk_frame *frame);             /* bytes that it takes at most */
size_t abk_frame_put(const abk_frame *frame, int64_t key, char *out); /* bytes that it took */
size_t abk_put_number(char *out, uint64_t number);                    /* at most 20 digits */

/* A request of a worker that a client has to answer; kept where clients are on a wire. */
typedef struct abk_ask {
    abk_link of_lane;
    abk_link of_client;
    struct abk_lane *lane;
    struct abk_client *client;
    abk_id_key seen; /* the id that the client sees */
    abk_id_key id;   /* the worker's own */
} abk_ask;

/* --- workers --------------------------------------------------------------------------------- */

typedef enum { ABK_CLOSED, ABK_OPEN, ABK_HELD } abk_mode;

/* What the router keeps of one incarnation of a worker. */
typedef struct abk_lane {
    struct abk_pool *pool;
    struct abk_slot *slot;
    struct abk_process *process; /* NULL: none yet, or no more */
    abk_mode mode;
    bool admitted;      /* was open or held once: its handshake is over */
    abk_link dirty;     /* in bus->dirty_lanes: something to write */
    abk_link entries;   /* in flight, tombstones included */
    abk_link waiting;   /* bound to come here, once it can */
    abk_link sessions;  /* tied to it */
    abk_link asks;      /* its own requests */
    uint32_t in_flight; /* entries */
    uint32_t probes;    /* of these */
    uint32_t waiting_count, session_count, ask_count;
    uint64_t served;
    abk_outbox out;
    bool torn;      /* what was written last ends inside of a frame */
    bool tap_skips; /* the tap came in the middle of a frame: the rest of that is not shown */
    abk_buf tapped; /* the frame that is being written, while a tap is on */
} abk_lane;

/* What waits in a pool for one client; pools serve these in turn. */
typedef struct abk_share {
    abk_link turn; /* in pool->turns while it has entries */
    abk_link entries;
} abk_share;

typedef struct abk_pool {
    struct abk_bus *bus;
    const abk_pool_config *config;
    uint32_t index;
    struct abk_lane **open; /* those with ABK_OPEN, in the order of their opening */
    uint32_t open_count, open_cap;
    uint32_t cursor;
    abk_link slots;  /* by number */
    abk_link vacant; /* slots that rest until a request needs them */
    abk_link turns;  /* shares with something that waits */
    uint32_t slot_count;
    uint32_t queued; /* waits here and in lanes */
    uint32_t queued_here;
    uint64_t queued_bytes;
    bool unheard;             /* the host does not want its notifications */
    abk_failure *unavailable; /* every slot is parked, and why */
} abk_pool;

typedef struct abk_session {
    abk_link of_lane;
    abk_link of_client; /* of its owner */
    abk_link lost;      /* among the lost ones, oldest first */
    abk_link idle;      /* all, by last use */
    abk_link waiting;   /* heads entries that wait for it to be bound (abk_entry.unbound) */
    abk_link bound;     /* and those that wait for its lane, likewise */
    struct abk_pool *pool;
    struct abk_lane *lane; /* NULL: not yet bound, or lost */
    struct abk_client *owner;
    abk_failure *failure; /* why it is lost */
    bool is_lost;
    bool leased; /* lost with its lease: never tied anew */
    bool kept;   /* its owner was told that it has it: it stays, though nothing waits for it */
    uint64_t used;
    uint64_t hash;
    uint32_t name_len;
    char name[];
} abk_session;

typedef struct abk_process { /* one incarnation */
    struct abk_slot *slot;
    abk_lane *lane;
    abk_link link; /* in bus->processes */
    abk_link dead;
    abk_child child;
    abk_watch in, out, err, exit;
    abk_reader reader;
    char *tail; /* ring of the last bytes of stderr */
    uint32_t tail_at, tail_len;
    uint64_t born, bytes_in, bytes_out, stderr_bytes;
    uint64_t empty_lines;
    uint64_t waste_paid; /* when what it has wasted is paid for: see abk_process_read() */
    uint64_t rest_until; /* until when it is not read, for its waste; 0: it is */
    uint64_t throttled;  /* how often that was */
    uint64_t hung_at; /* since when a pipe is closed; 0: none is */
    uint64_t shaken_by; /* when its handshake is late; 0: none is under way */
    int open_outputs;
    int exit_code, killed_by;
    bool spoke, has_read, up, exited, closing, paused, in_full;
    bool strayed; /* it answered what it was not asked, and that was told */
    bool wide_in, wide_out; /* its pipes were asked to hold more */
    bool told_bad; /* the host was told of bad lines: it is read less at once until much is good */
    bool polled; /* no fd tells of its end */
    const char *closed; /* "closed its stdout": static */
    char hung_up[288];  /* why it is to be ended; empty: it is not */
    char shake_error[288];
    abk_spawn_error start_error;
} abk_process;

typedef struct abk_slot {
    abk_link of_pool;
    abk_link vacant;
    abk_link dead;
    abk_pool *pool;
    struct abk_bus *bus;
    int32_t worker;
    uint32_t generation;
    abk_lifecycle life;
    abk_backoff backoff;
    abk_timer timer;
    abk_process *process;
    abk_lane *lane;
    abk_failure *failure; /* why it is backing off or parked */
    uint64_t wake_at;     /* of backoff and parked */
    uint64_t ladder_from, ladder_grace; /* its own ladder; grace ABK_NEVER: none */
    uint64_t drain_until;
    uint64_t killed_at;    /* SIGKILL of the ladder */
    uint64_t last_output;  /* until when what outlives the group may still be read; 0: not yet */
    uint8_t rung;          /* of the ladder that was climbed */
    bool asked, held, own, rests, drain_retires, quiet_wanted, over, in_look;
    abk_session *lease;
    bool lease_rebinds;
    char fault[256];
    abk_env *extra_env; /* of its lease, besides the pool's */
    uint32_t extra_env_count;
    char *extra_cwd;
} abk_slot;

/* --- clients --------------------------------------------------------------------------------- */

typedef enum { ABK_HOST, ABK_SERVED, ABK_SOCKET } abk_client_kind;

typedef struct abk_next { /* how the next line of a client goes */
    bool named, probe, rebind;
    int32_t worker; /* where named */
} abk_next;

typedef struct abk_client {
    struct abk_bus *bus;
    abk_link link; /* in bus->clients */
    abk_link dirty;
    abk_link dead;
    uint32_t number;
    uint8_t kind;
    bool admin, pauses, needs_auth, input_ended, told_end, gone, writable_wanted, watches, taps;
    int32_t tap_worker;
    abk_pool *tap_pool;
    const char *token;
    const char *lost; /* why it is to be given up when this step writes; NULL: it is not */
    abk_watch in, out; /* of a socket: in alone */
    int in_flags, out_flags; /* of abk_serve(), to be restored; -1: not changed */
    abk_reader reader;
    abk_buf buf; /* to be written */
    abk_timer timer; /* it takes nothing */
    abk_link entries; /* its requests without an answer */
    abk_link asks;
    abk_link sessions;
    uint32_t live, ask_count, wish_count;
    uint32_t watched; /* ABK_WATCH_... */
    abk_link stranger; /* in bus->strangers, while needs_auth */
    abk_link watching; /* in bus->watchers, while that is not 0 */
    int32_t source_worker; /* as it was told last: whose notifications come; -1: not yet */
    int64_t source_sole;
    abk_next next; /* as bus/next said */
    abk_share shares[]; /* one for each pool */
} abk_client;

enum {
    ABK_WATCH_WORKER = 1,
    ABK_WATCH_LINE_BAD = 2,
    ABK_WATCH_CLIENT = 4,
    ABK_WATCH_SESSION = 8, /* of its own sessions: bound, lost, over */
    ABK_WATCH_SOURCE = 16  /* where the next notification or request comes from */
};

typedef struct abk_door { /* a listener */
    abk_link link;
    abk_watch watch;
    abk_timer timer; /* out of fds: look again then */
    abk_bus *bus;
    bool admin, pauses;
    char *token;
    char *path; /* of a unix socket, to be removed */
    uint64_t device, inode;
} abk_door;

/* --- the bus --------------------------------------------------------------------------------- */

typedef struct abk_pending_event {
    abk_event event;
    size_t data_at, text_at; /* in bus->event_text; SIZE_MAX: event.data or .text is right */
    size_t keys_at;          /* in bus->event_keys */
} abk_pending_event;

typedef enum { ABK_NEW_BUS, ABK_RUNNING, ABK_DRAINING_ALL, ABK_ENDING, ABK_OVER } abk_phase;

struct abk_bus {
    abk_witness witness; /* of the process that it belongs to */
    abk_config *config;
    abk_loop loop;
    abk_timers timers;
    int32_t timer_owners; /* for each there is room in timers */
    uint32_t wide_pipes;  /* of processes that are */
    uint64_t now; /* of this step */
    uint64_t seed;
    char name[20]; /* its random id, on a wire */
    abk_phase phase;
    bool rewrite, guards_sigpipe, choked, tapped, host_taps, in_step;
    abk_pool *pools;
    uint32_t pool_count;
    abk_client *host; /* NULL: the process is no client itself */
    abk_client *served;
    abk_link clients, strangers, watchers, dirty_clients, dead_clients;
    uint32_t client_count; /* those that may ask for anything */
    uint32_t stranger_count; /* and those that may not yet */
    uint32_t next_client, tap_clients;
    abk_link doors;
    abk_link processes, dead_processes, dead_slots, dirty_lanes, dead_lanes;
    abk_map slots; /* by number */
    int32_t next_worker;
    abk_entry **entries; /* by index; a chunk of them is allocated at a time */
    uint32_t entry_cap;
    abk_entry *free_entries; /* linked by place.next */
    abk_map by_id;           /* live requests and, where ids pass as they are, tombstones */
    abk_link tombstones;     /* by age, cancelled ones as well */
    abk_timer tomb_timer;
    abk_link wishes;
    uint32_t wish_count;
    abk_timer wish_timer;
    abk_map asks;     /* by client and the id that it sees */
    uint64_t next_ask;
    abk_map sessions; /* by name */
    abk_link lost_sessions, idle_sessions;
    uint32_t unbound_sessions;
    abk_timer house_timer; /* gives memory back, ends idle sessions */
    abk_timer stop_timer;
    uint64_t stop_from, stop_grace; /* the ladder of all */
    uint64_t drain_until;
    bool stopping; /* that ladder has begun */
    abk_pending_event *events;
    size_t event_count, event_cap, event_at;
    abk_buf event_text, event_keys;
    abk_buf scratch; /* for lines that are put together */
    abk_buf report;
    abk_buf refusal_text;
    abk_failure refusal;
    abk_failure *refusal_of; /* whose tail that shows; NULL: none */
    abk_watch wakes[2]; /* of abk_watch() */
    uint32_t wake_count;
    uint64_t live;     /* requests without an answer */
    uint64_t house_seen;
    bool house_due, house_last;
    abk_stats counts;
};

/* What a watch or a timer belongs to. */
enum { ABK_ON_STDIN, ABK_ON_STDOUT, ABK_ON_STDERR, ABK_ON_EXIT, ABK_ON_CLIENT, ABK_ON_CLIENT_OUT,
       ABK_ON_DOOR, ABK_ON_WAKE, ABK_ON_SLOT, ABK_ON_TOMBSTONES, ABK_ON_HOUSE, ABK_ON_STOP,
       ABK_ON_STALL, ABK_ON_DOOR_TIMER,
       ABK_ON_WISHES };

/* api.c: whether a call may go on: it is a bus, this is its process; and it runs */
int abk_usable(const abk_bus *bus);
int abk_enter(abk_bus *bus);

/* bus.c */
void abk_run_step(abk_bus *bus, int wait_ms);
void abk_flush_all(abk_bus *bus);
void abk_look_at_stop(abk_bus *bus);
void abk_fail_all(abk_bus *bus); /* it is shutting down: every request, every wait for a lease */
void abk_bury(abk_bus *bus); /* free what has ended */
bool abk_timer_room(abk_bus *bus); /* for one owner more */
void abk_wake_at(abk_bus *bus, abk_timer *timer, uint64_t due);
ssize_t abk_write_quietly(abk_bus *bus, int fd, const struct iovec *parts, int count);

/* event.c: what cannot be stored for want of memory is lost, and counted as a log line */
abk_event *abk_tell(abk_bus *bus, int type, const abk_slot *slot);
void abk_tell_data(abk_bus *bus, const char *at, size_t len); /* of the last event, copied */
void abk_tell_text(abk_bus *bus, const char *at, size_t len);
void abk_tell_failure(abk_bus *bus, const abk_failure *failure, bool sent);
abk_event *abk_log(abk_bus *bus, int level, const abk_slot *slot, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void abk_tell_worker(abk_slot *slot);

/* entries.c */
abk_entry *abk_entry_new(abk_bus *bus); /* NULL: no memory */
void abk_entry_free(abk_bus *bus, abk_entry *entry);
typedef struct abk_way abk_way;
/* ABK_EINVAL: the id is in use. */
int abk_entry_name(abk_bus *bus, abk_entry *entry, const abk_way *way, const abk_value *id,
                   const abk_value *token);
void abk_entry_forget_id(abk_bus *bus, abk_entry *entry);

/* router.c, ends.c */
struct abk_way { /* where a frame goes */
    abk_client *client;
    abk_pool *pool;
    abk_text session; /* at NULL: none */
    int32_t worker;   /* -1: any */
    bool rebind, learns, probe;
    int64_t number; /* see abk_entry */
};
/* Take a frame; id: of a request, else NULL. The request's key, 0 for what is none, or ABK_EREFUSED
 * with bus->refusal. token: its progress token, to be restored; or NULL. */
int64_t abk_router_take(abk_bus *bus, const abk_way *way, const abk_value *id,
                        const abk_frame *frame, const abk_value *token);
void abk_router_rebind(abk_entry *entry, abk_lane *lane); /* what waits in the pool waits there */
void abk_entry_wait(abk_entry *entry, abk_lane *lane); /* NULL: for any of its pool */
void abk_entry_unwait(abk_entry *entry);
void abk_router_pump(abk_pool *pool);
void abk_router_finish(abk_bus *bus, abk_entry *entry); /* answered or failed: forget it */
int abk_router_withdraw(abk_bus *bus, abk_entry *entry, abk_text reason);
void abk_router_cancel(abk_bus *bus, abk_entry *entry); /* sent, and an answer is wanted */
void abk_router_fail(abk_bus *bus, abk_entry *entry, const abk_failure *failure);
/* Tell its client of a failure, without the end of it. */
void abk_router_tell(abk_bus *bus, const abk_entry *entry, const abk_failure *failure, bool sent);
void abk_router_fail_queue(abk_pool *pool, const abk_failure *failure);
void abk_router_expire(abk_bus *bus);
abk_entry *abk_router_find(abk_bus *bus, abk_client *client, const abk_value *id);
abk_entry *abk_router_find_json(abk_bus *bus, abk_client *client, const char *id, size_t len);
abk_entry *abk_router_by_key(const abk_bus *bus, int64_t key);
/* By a key as a worker spells it; some write 7 as 7.0 or 7e0. */
abk_entry *abk_router_by_id(const abk_bus *bus, const abk_value *id);
int64_t abk_router_key(const abk_entry *entry);
bool abk_entry_sent(const abk_entry *entry);
abk_entry *abk_lane_sole(const abk_lane *lane);
abk_lane *abk_lane_add(abk_slot *slot);
abk_lane *abk_router_choose(abk_pool *pool); /* for a session that begins; NULL: none is ready */
void abk_lane_set_mode(abk_lane *lane, abk_mode mode);
void abk_lane_drop(abk_lane *lane, const abk_failure *failure, abk_session *lease);
void abk_lane_settled(abk_lane *lane); /* after its in-flight has changed */
int abk_lane_write(abk_lane *lane, const char *at, size_t len); /* queue kernel-made bytes */
void abk_lane_mark(abk_lane *lane);                             /* there is something to write */
bool abk_router_init(abk_bus *bus);
void abk_router_free(abk_bus *bus);
void abk_refuse(abk_bus *bus, const abk_way *way, int code, const char *reason, const char *format,
                ...) __attribute__((format(printf, 5, 6)));
void abk_refuse_with(abk_bus *bus, abk_failure *stored);

/* sessions.c */
abk_session *abk_session_find(abk_bus *bus, abk_text name);
abk_session *abk_session_begin(abk_bus *bus, const abk_way *way); /* NULL: refused */
void abk_session_bind(abk_session *session, abk_lane *lane);
void abk_session_lose(abk_session *session, const abk_failure *failure, bool leased);
void abk_session_end(abk_bus *bus, abk_session *session); /* and its lease */
void abk_session_unused(abk_bus *bus, abk_session *session); /* nothing waits for it any more */
void abk_session_use(abk_bus *bus, abk_session *session);
bool abk_session_room(abk_bus *bus);
void abk_sessions_free(abk_bus *bus);
void abk_session_unlose(abk_session *session); /* lost, but something waits that begins it anew */
abk_session *abk_session_learn(abk_bus *bus, abk_client *owner, abk_lane *lane, abk_text name);

/* slot.c, lease.c */
abk_slot *abk_slot_add(abk_pool *pool, bool own);
abk_slot *abk_slot_find(const abk_bus *bus, int32_t worker);
void abk_slot_look(abk_slot *slot); /* something that it waits for may have changed */
void abk_slot_spawn(abk_slot *slot);
void abk_slot_drain(abk_slot *slot, double drain_s, bool retire);
bool abk_slot_rest(abk_slot *slot);
void abk_slot_kill(abk_slot *slot, const char *fault);
void abk_slot_retire(abk_slot *slot);
void abk_slot_fire(abk_slot *slot, abk_life_event event);
void abk_slot_admit(abk_slot *slot);
void abk_slot_bury(abk_slot *slot, const abk_spawn_error *error);
void abk_slot_hope(abk_pool *pool, const abk_failure *failure); /* one is parked or gone */
void abk_slot_free(abk_slot *slot);
void abk_slot_hold(abk_slot *slot, bool held);
int abk_slot_lend(abk_slot *slot, abk_client *owner, abk_text session, bool rebind);
void abk_slot_release(abk_slot *slot);
void abk_slot_follow_lease(abk_slot *slot, const abk_process *process, const abk_failure *failure);
void abk_slot_end_lease(abk_slot *slot, const abk_failure *failure);
void abk_slot_set_lease(abk_slot *slot, abk_session *session);
void abk_pool_resize(abk_pool *pool, uint32_t instances, double drain_s);

/* process.c */
int abk_process_start(abk_slot *slot, abk_spawn_error *error);
void abk_process_free(abk_process *process);
void abk_process_poll(abk_process *process);
void abk_process_unwatch_exit(abk_process *process);
void abk_process_flush(abk_process *process);
void abk_process_read(abk_process *process);
void abk_process_read_stderr(abk_process *process);
void abk_process_close_stdin(abk_process *process);
void abk_process_watch(abk_process *process);   /* as paused, choked and in_full say */
bool abk_process_shaken(abk_process *process, const abk_message *answer); /* true: it was that */
void abk_process_end(abk_process *process);   /* close it; freed at the end of the step */
size_t abk_process_tail(const abk_process *process, size_t most, char *out);

/* answers.c */
void abk_take_lines(abk_process *process);

/* clients.c */
abk_client *abk_client_add(abk_bus *bus, abk_client_kind kind);
void abk_client_flush(abk_client *client);
void abk_client_read(abk_client *client);
void abk_client_check(abk_client *client);
void abk_client_mark(abk_client *client);
void abk_client_gone(abk_client *client, const char *why);
void abk_client_leaves(abk_client *client, const char *why);
void abk_client_stalled(abk_client *client);
void abk_client_watch(abk_client *client);
void abk_client_look(abk_client *client); /* has its input ended, and is nothing pending? */
void abk_client_close(abk_client *client); /* its fds */
void abk_client_free(abk_client *client);
void abk_client_fail(abk_client *client, abk_text id, const abk_failure *failure, bool sent);
void abk_choke(abk_bus *bus);
bool abk_client_full(const abk_client *client);
bool abk_client_loses(const abk_client *client); /* notifications */
abk_client *abk_client_sole(const abk_bus *bus);
void abk_client_admit(abk_client *client, bool admitted);
bool abk_client_send(abk_client *client, const abk_frame *frame);
void abk_client_put(abk_client *client, const abk_buf *line); /* made by the kernel */

/* requests.c, methods.c */
int64_t abk_host_submit(abk_bus *bus, const abk_route *route, const abk_message *message,
                        abk_text line);
void abk_take_line(abk_client *client, const char *line, size_t len);
void abk_take_bad_line(abk_client *client, const abk_line *line); /* over the limit */
int abk_take_method(abk_client *client, const abk_message *message); /* 1: it was the kernel's */
void abk_turn_away(abk_client *client, const abk_message *message); /* NULL: it was none */
void abk_watchers_worker(abk_slot *slot);
void abk_watchers_client(abk_client *client, bool came, const char *why);
void abk_watchers_session(const abk_session *session, bool over);
void abk_watchers_source(abk_client *client, const abk_lane *lane);
void abk_watchers_bad_line(abk_slot *slot, const char *at, size_t len, const char *reason,
                           uint64_t size);
abk_pool *abk_pool_find(abk_bus *bus, abk_text id);
bool abk_cancels(const abk_message *message);
int abk_cancel_profile(const abk_message *message, abk_value *id); /* 1: it cancels this id */
void abk_cancel_frame(abk_buf *out, abk_cancel profile, abk_text id, abk_text reason);

/* asks.c: requests of workers that clients on a wire have to answer */
abk_ask *abk_ask_add(abk_lane *lane, abk_client *client, const abk_value *id); /* NULL: no room */
abk_ask *abk_ask_find(abk_client *client, const abk_value *seen);
abk_ask *abk_ask_of_worker(abk_lane *lane, const abk_value *id);
void abk_ask_end(abk_bus *bus, abk_ask *ask);
void abk_asks_free(abk_bus *bus);
void abk_asks_lane_gone(abk_lane *lane);
void abk_asks_client_gone(abk_client *client);
void abk_ask_refuse(abk_lane *lane, abk_text id, int code, const char *message);

/* listen.c */
void abk_door_accept(abk_door *door);
void abk_door_free(abk_bus *bus, abk_door *door, bool keep_path); /* keep_path: of a fork */

/* wishes.c: clients that wait for a lease */
void abk_wish_make(abk_client *client, abk_pool *pool, abk_text id, abk_text name, bool rebind,
                   double wait_s);
void abk_wishes_look(abk_bus *bus);
void abk_wishes_drop(abk_bus *bus, const abk_client *client); /* NULL: all */
void abk_wishes_fail(abk_bus *bus, const abk_failure *failure);
bool abk_wish_cancel(abk_client *client, const abk_value *id); /* true: it was one */
void abk_answer_session(abk_client *client, abk_text id, abk_text name, const abk_lane *lane);

/* report.c, tap.c */
void abk_report_status(const abk_bus *bus, abk_buf *out, size_t tail_bytes);
void abk_report_worker(const abk_slot *slot, abk_buf *out, size_t tail_bytes);
void abk_report_session(const abk_session *session, abk_buf *out);
void abk_report_stats(const abk_bus *bus, abk_stats *stats);
void abk_tap_from(abk_process *process, const char *line, size_t len, uint64_t size,
                  const abk_message *message, const char *reason);
void abk_tap_to(abk_lane *lane, const char *at, size_t len);
void abk_tap_on(abk_bus *bus); /* whether anybody looks at taps */

#endif
