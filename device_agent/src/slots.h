/* The slots of a component: boot selection and every transition. The rules stand at the top of slots.c. */
#ifndef FLEET_SLOTS_H
#define FLEET_SLOTS_H

#include "fleet_agent.h"

/** Offset of a slot in flash. */
uint32_t fleet_slot_offset(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot);

/** Reads a component's record, counts the attempt of a candidate, opens images and picks the slot that answers. */
fleet_status_t fleet_slots_boot(fleet_agent_t *agent, fleet_component_t *component, bool journal_lost);

/** Sequence of the assignment that brought the entry the component follows: later ones may have taken it over as it was. */
uint64_t fleet_entry_sequence(const fleet_agent_t *agent, const fleet_component_t *component);

/** The entry followed now decided about this slot. */
bool fleet_is_this_entry(const fleet_agent_t *agent, const fleet_component_t *component, const fleet_slot_record_t *slot);

/** The active slot is TESTING. */
bool fleet_is_testing(const fleet_component_t *component);

/** The slot that is TESTING took longer than its confirm timeout, by less than two seconds. */
bool fleet_test_is_over(const fleet_agent_t *agent, const fleet_component_t *component);

/** The slot that downloads go to: never the one that answers. */
uint8_t fleet_slots_target(const fleet_component_t *component);

/** The slot with a candidate that is STAGED or SHADOW, or FLEET_NO_SLOT. */
uint8_t fleet_slots_candidate(const fleet_component_t *component);

/** What can happen to a slot. One of these, or FLEET_FOR one of these. */
typedef uint32_t fleet_change_t;
enum {
    FLEET_BEGIN,         /**< -> WRITING, for the component's entry and the release of the download. Nothing was erased yet */
    FLEET_RESTAGE,       /**< -> WRITING again for an image that is whole there: it is read back and STAGED without a download */
    FLEET_STAGE,         /**< WRITING -> STAGED: digest and image are good */
    FLEET_REJECT,        /**< WRITING, STAGED or SHADOW -> REJECTED; FLEET_FOR a reason */
    FLEET_FAIL,          /**< a download failed: counts it, after FLEET_DOWNLOADS_MAX -> REJECTED; FLEET_FOR a reason */
    FLEET_UNDO,          /**< the fallback -> TESTING. The caller checked floor and key */
    FLEET_REVERT,        /**< the active slot, TESTING -> REJECTED, the fallback answers again; FLEET_FOR a reason */
    FLEET_FOLLOW,        /**< takes `until`, minimum, timeout and budget of the entry for a slot that holds its image */
    FLEET_TO_SHADOW,     /**< STAGED -> SHADOW */
    FLEET_TEST,          /**< a candidate -> TESTING; it answers */
    FLEET_CONFIRM,       /**< the active slot, TESTING -> CONFIRMED */
    FLEET_COUNT_ATTEMPT, /**< rule 6: one more boot with a candidate, whichever slot it is in */
    FLEET_DROP_DAMAGED,  /**< rule 9 */
    FLEET_CLEAR          /**< forgets every image of the component; the floor stays */
};
#define FLEET_FOR(change, reason) ((uint32_t)(change) | (uint32_t)(reason) << 4)

/** One transition: one journal write, one event. False when it could not be stored: it did not happen. */
bool fleet_slots_change(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot, fleet_change_t change);

/** The digest was read back: opens and verifies the image, FLEET_STAGE or FLEET_REJECT. */
bool fleet_slots_stage(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot);

/** FLEET_REVERT of the active slot. */
bool fleet_slots_revert(fleet_agent_t *agent, fleet_component_t *component, fleet_reason_t reason);

/** What is due by itself: STAGED -> SHADOW -> TESTING -> CONFIRMED, or back. */
void fleet_slots_advance(fleet_agent_t *agent, fleet_component_t *component);

#endif
