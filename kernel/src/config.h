/* Read and check a configuration: the schema of anyio_bus/_config.py (BusConfig.from_json), whose
 * names, defaults, bounds and error texts ("Pool('a').instances: must be greater than 0, not 0")
 * these are. Full strict JSON; numbers have real ranges; unknown keys are warnings, or errors.
 */
#ifndef ABK_CONFIG_H
#define ABK_CONFIG_H

#include "scan.h"

#include <sys/resource.h>

typedef enum { ABK_LEAST_BUSY, ABK_ROUND_ROBIN } abk_balance;
typedef enum { ABK_CANCEL_LSP, ABK_CANCEL_MCP, ABK_CANCEL_ACP, ABK_CANCEL_NONE } abk_cancel;

typedef struct abk_env { /* value NULL: remove it */
    const char *name;
    const char *value;
} abk_env;

typedef struct abk_rlimit {
    int resource;
    struct rlimit limit;
} abk_rlimit;

typedef struct abk_launch { /* what is applied between fork and exec, in this order */
    abk_rlimit *rlimits;
    uint32_t rlimit_count;
    int nice;
    gid_t *groups; /* NULL: leave them; else the primary one first */
    uint32_t group_count;
    bool has_user;
    uid_t user;
    bool has_umask;
    mode_t umask;
} abk_launch;

typedef struct abk_handshake {
    const char *method; /* NULL: ready when spawned */
    abk_text request;   /* the whole frame, id "anyio-bus/handshake" */
    abk_text notify;    /* the whole frame sent after the answer; len 0: none */
    double timeout_s;
} abk_handshake;

typedef struct abk_pool_config {
    const char *id;
    char **argv; /* ends with NULL */
    uint32_t instances;
    abk_env *env;
    uint32_t env_count;
    const char *cwd; /* NULL: ours */
    abk_balance balance;
    uint32_t max_in_flight; /* 0: no count */
    bool strip;             /* envelope: leave sessionId and pool out of what workers get */
    abk_path session;       /* count 0: top-level sessionId; else a path from the top, "params" first */
    bool session_acp;       /* session/new makes one, session/load brings one back */
    abk_cancel cancel;
    abk_handshake ready;
    bool packs; /* idle_timeout_s > 0 and least_busy: ties go to the lane that was opened first */
    uint64_t max_requests;
    bool probed; /* health is set: there may be probes in flight */
    abk_launch launch;
} abk_pool_config;

typedef struct abk_limits {
    uint32_t max_frame_bytes;  /* JSON: max_input_buffer; 64 MiB; at most 1 GiB */
    uint64_t max_output_bytes; /* JSON: max_output_queue; 64 MiB */
    uint32_t max_pending, max_queued, max_sessions, max_handlers, max_restarts, start_attempts;
    double restart_window_s, start_window_s, restart_delay_s, restart_delay_max_s, stable_after_s,
        park_retry_s, cancel_grace_s, drain_timeout_s, backpressure_timeout_s, session_idle_s,
        auth_timeout_s;
    uint32_t stderr_tail_bytes;
} abk_limits;

typedef struct abk_config {
    abk_pool_config *pools;
    uint32_t pool_count;
    abk_limits limits;
    bool reserved_methods; /* default true: bus/... is the kernel's own */
    char **warnings;       /* unknown keys and keys that this kernel leaves to its client */
    uint32_t warning_count;
    char **client_only; /* keys that a daemon on its own does not do */
    uint32_t client_only_count;
    struct abk_arena *arena; /* all of the above lives there */
} abk_config;

/* Read a configuration. NULL on error, and *error says "config: ..." with the field's path. */
abk_config *abk_config_read(const char *json, size_t len, bool strict, abk_error *error);
void abk_config_free(abk_config *config);

#endif
