/* The life of a slot: see lifecycle.h. */
#include "lifecycle.h"

typedef struct rule {
    abk_state state;
    abk_action action; /* ABK_DO_IGNORE, which is 0: an empty cell */
} rule;

#define S(name) ABK_S_##name
#define GO(state, action) {S(state), ABK_DO_##action}

static const rule table[ABK_STATES][ABK_LIFE_EVENTS] = {
    [S(VACANT)] = {[ABK_E_SPAWN] = GO(STARTING, START), [ABK_E_RETIRE] = GO(STOPPED, FORGET)},
    [S(STARTING)] = {[ABK_E_UP] = GO(READY, ADMIT),
                     [ABK_E_DRAIN] = GO(STOPPING, CLIMB),
                     [ABK_E_HUNG_UP] = GO(STOPPING, CLIMB),
                     [ABK_E_KILL] = GO(STOPPING, CLIMB),
                     [ABK_E_EXITED] = GO(BACKOFF, BURY),
                     [ABK_E_RETIRE] = GO(STOPPING, CLIMB)},
    [S(READY)] = {[ABK_E_DRAIN] = GO(DRAINING, CLOSE),
                  [ABK_E_HUNG_UP] = GO(STOPPING, CLIMB),
                  [ABK_E_KILL] = GO(STOPPING, CLIMB),
                  [ABK_E_EXITED] = GO(BACKOFF, BURY),
                  [ABK_E_RETIRE] = GO(STOPPING, CLIMB)},
    [S(DRAINING)] = {[ABK_E_DRAINED] = GO(STOPPING, CLIMB),
                     [ABK_E_HUNG_UP] = GO(STOPPING, CLIMB),
                     [ABK_E_KILL] = GO(STOPPING, CLIMB),
                     [ABK_E_EXITED] = GO(BACKOFF, BURY),
                     [ABK_E_RETIRE] = GO(STOPPING, CLIMB)},
    [S(STOPPING)] = {[ABK_E_EXITED] = GO(BACKOFF, BURY)},
    [S(BACKOFF)] = {[ABK_E_SPAWN] = GO(STARTING, START),
                    [ABK_E_GIVE_UP] = GO(PARKED, NONE),
                    [ABK_E_REST] = GO(VACANT, NONE),
                    [ABK_E_RETIRE] = GO(STOPPED, FORGET)},
    [S(PARKED)] = {[ABK_E_SPAWN] = GO(STARTING, START), [ABK_E_RETIRE] = GO(STOPPED, FORGET)},
};

abk_action abk_life_fire(abk_lifecycle *life, abk_life_event event)
{
    if (event == ABK_E_RETIRE)
        life->retired = true;
    const rule *found = &table[life->state][event];
    if (found->action == ABK_DO_IGNORE)
        return ABK_DO_IGNORE;
    if (life->retired && found->state == ABK_S_BACKOFF) {
        life->state = ABK_S_STOPPED;
        return ABK_DO_FINISH;
    }
    life->state = found->state;
    return found->action;
}

const char *abk_state_name(abk_state state)
{
    static const char *const names[] = {"vacant",   "starting", "ready",  "draining",
                                        "stopping", "backoff",  "parked", "stopped"};
    return names[state];
}

const char *abk_life_event_name(abk_life_event event)
{
    static const char *const names[] = {"spawn",  "up",      "drain", "drained", "hung_up", "kill",
                                        "exited", "give_up", "rest",  "retire"};
    return names[event];
}

const char *abk_action_name(abk_action action)
{
    static const char *const names[] = {"",      "none", "start",  "admit", "close",
                                        "climb", "bury", "finish", "forget"};
    return names[action];
}
