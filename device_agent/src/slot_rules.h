/*
 * What the rules of slots.c do to a component's record alone: nothing but the record is touched, so that a bootloader can ask the
 * same questions (boot_select.c).
 */
#ifndef FLEET_SLOT_RULES_H
#define FLEET_SLOT_RULES_H

#include "fleet_agent.h"

/** The journal's key of a component's record. */
#define FLEET_RECORD_KEY(component) ((uint8_t)(FLEET_KEY_COMPONENTS + 2U * (component)))

/** TESTING or CONFIRMED. */
bool fleet_state_is_running(uint8_t state);

/** A whole image was read back from flash and may still be there. */
bool fleet_record_holds_image(const fleet_slot_record_t *slot);

void fleet_record_set_state(fleet_slot_record_t *slot, fleet_slot_state_t state, fleet_reason_t reason);

/** TESTING -> REJECTED(reason); the fallback is active again where it may be. */
void fleet_record_revert(fleet_component_record_t *record, fleet_reason_t reason);

/** Rule 6: a boot with candidates; those with too many are REJECTED(ATTEMPTS_EXHAUSTED). */
void fleet_record_count_attempts(fleet_component_record_t *record);

/** Rule 9: the image in `slot` is damaged. */
void fleet_record_drop_damaged(fleet_component_record_t *record, uint8_t slot);

/** Rules 1, 7 and 9: the slot that answers, or FLEET_NO_SLOT. @param[in] usable which images open with a good CRC */
uint8_t fleet_record_choose(const fleet_component_record_t *record, const bool usable[2]);

#endif
