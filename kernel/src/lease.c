/* Holds and leases: a worker that takes no work but what names it, or belongs to one session. */
#include "bus.h"

void abk_slot_hold(abk_slot *slot, bool held)
{
    slot->held = held;
    if (slot->process != NULL && slot->life.state == ABK_S_READY)
        abk_slot_admit(slot);
    slot->quiet_wanted = held;
    if (!held)
        slot->lease = NULL;
    if (slot->life.state != ABK_S_STARTING) /* which would look like one start more */
        abk_tell_worker(slot);
}

/* Its lane; without a process one where work waits for the next. */
static abk_lane *lane_of(abk_slot *slot)
{
    if (slot->lane == NULL)
        slot->lane = abk_lane_add(slot);
    return slot->lane;
}

int abk_slot_lend(abk_slot *slot, abk_client *owner, abk_text session, bool rebind)
{
    abk_lane *lane = lane_of(slot);
    if (lane == NULL)
        return ABK_ENOMEM;
    abk_session *leased = abk_session_learn(slot->bus, owner, lane, session);
    if (leased == NULL)
        return ABK_ENOMEM;
    slot->lease = leased;
    slot->lease_rebinds = rebind;
    abk_slot_hold(slot, true);
    return ABK_OK;
}

void abk_slot_release(abk_slot *slot)
{
    abk_slot_hold(slot, false);
    if (slot->own)
        abk_slot_drain(slot, 0.0, true); /* nobody waits for what it has */
}

/* After a death: the lease goes on with the successor if it may, or has not begun. */
void abk_slot_follow_lease(abk_slot *slot, const abk_process *process, const abk_failure *failure)
{
    if (slot->lease == NULL)
        return;
    abk_lane *lane = slot->lease_rebinds || process == NULL || !process->up ? lane_of(slot) : NULL;
    if (lane != NULL)
        abk_session_bind(slot->lease, lane);
    else
        abk_slot_end_lease(slot, failure);
}

/* No process will follow, or not for this lease: nothing is to wait for one. */
void abk_slot_end_lease(abk_slot *slot, const abk_failure *failure)
{
    abk_session *lease = slot->lease;
    slot->lease = NULL;
    if (slot->lane != NULL && slot->process == NULL)
        abk_lane_drop(slot->lane, failure, lease);
    if (lease == NULL)
        return;
    slot->held = false;
    if (slot->own)
        abk_life_fire(&slot->life, ABK_E_RETIRE);
}
