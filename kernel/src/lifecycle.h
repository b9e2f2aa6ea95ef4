/* The life of a slot: what each event means in each state. The table of docs/design/kernel.md. */
#ifndef ABK_LIFECYCLE_H
#define ABK_LIFECYCLE_H

#include "base.h"

typedef enum { /* in the order of ABK_WORKER_... in abk.h */
    ABK_S_VACANT, ABK_S_STARTING, ABK_S_READY, ABK_S_DRAINING, ABK_S_STOPPING, ABK_S_BACKOFF,
    ABK_S_PARKED, ABK_S_STOPPED, ABK_STATES
} abk_state;

typedef enum {
    ABK_E_SPAWN, ABK_E_UP, ABK_E_DRAIN, ABK_E_DRAINED, ABK_E_HUNG_UP, ABK_E_KILL, ABK_E_EXITED,
    ABK_E_GIVE_UP, ABK_E_REST, ABK_E_RETIRE, ABK_LIFE_EVENTS
} abk_life_event;

typedef enum {
    ABK_DO_IGNORE, /* the event is late or has no meaning here; nothing changes */
    ABK_DO_NONE,   /* another state, and nothing else */
    ABK_DO_START, ABK_DO_ADMIT, ABK_DO_CLOSE, ABK_DO_CLIMB, ABK_DO_BURY, ABK_DO_FINISH,
    ABK_DO_FORGET
} abk_action;

typedef struct abk_lifecycle {
    abk_state state;
    bool retired; /* ends in STOPPED when its process exits */
} abk_lifecycle;

abk_action abk_life_fire(abk_lifecycle *life, abk_life_event event);

/* Names as on the wire and in the table of the docs; tests compare the two. */
const char *abk_state_name(abk_state state);
const char *abk_life_event_name(abk_life_event event);
const char *abk_action_name(abk_action action);

#endif
