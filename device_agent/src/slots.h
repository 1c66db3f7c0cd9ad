/* The slots of a component: boot selection and every transition. The rules stand at the top of slots.c. */
#ifndef FLEET_SLOTS_H
#define FLEET_SLOTS_H

#include "fleet_agent.h"

/** Offset of a slot in flash. */
uint32_t fleet_slot_offset(const fleet_agent_t *agent, uint8_t component, uint8_t slot);

/** Reads a component's record, counts the attempt of a candidate, opens images and picks the slot that answers. */
fleet_status_t fleet_slots_boot(fleet_agent_t *agent, uint8_t component, bool journal_lost);

/** The slot that downloads go to: never the one that answers. */
uint8_t fleet_slots_target(const fleet_component_t *component);

/** The slot with a candidate that is STAGED or SHADOW, or FLEET_NO_SLOT. */
uint8_t fleet_slots_candidate(const fleet_component_t *component);

/** -> WRITING, for the component's entry. Nothing was erased yet. `keep_failures`: the same assignment tries again. */
bool fleet_slots_begin(fleet_agent_t *agent, uint8_t component, uint8_t slot, const fleet_release_t *release, bool keep_failures);

/** WRITING again for an image that is whole in a slot: it is read back and STAGED without a download. */
bool fleet_slots_restage(fleet_agent_t *agent, uint8_t component, uint8_t slot);

/** WRITING -> STAGED: the digest was read back; opens and verifies the image, or -> REJECTED(IMAGE_INVALID). */
bool fleet_slots_staged(fleet_agent_t *agent, uint8_t component, uint8_t slot, uint32_t received_bytes);

/** WRITING, STAGED or SHADOW -> REJECTED(reason). */
bool fleet_slots_reject(fleet_agent_t *agent, uint8_t component, uint8_t slot, fleet_reason_t reason);

/** A download failed: counts it; after FLEET_DOWNLOADS_MAX -> REJECTED(reason). */
bool fleet_slots_failed(fleet_agent_t *agent, uint8_t component, uint8_t slot, fleet_reason_t reason);

/** fallback -> TESTING. The caller checked floor and key. */
bool fleet_slots_undo(fleet_agent_t *agent, uint8_t component);

/** TESTING -> REJECTED(reason); the fallback answers again. */
bool fleet_slots_revert(fleet_agent_t *agent, uint8_t component, fleet_reason_t reason);

/** Takes `until`, minimum, timeout and budget of the entry for a slot that holds its image. */
bool fleet_slots_follow_entry(fleet_agent_t *agent, uint8_t component, uint8_t slot);

/** A candidate -> TESTING; it answers. */
bool fleet_slots_test(fleet_agent_t *agent, uint8_t component, uint8_t slot);

/** TESTING -> CONFIRMED. */
bool fleet_slots_confirm(fleet_agent_t *agent, uint8_t component);

/** Rule 6: one more boot with a candidate. */
bool fleet_slots_count_attempt(fleet_agent_t *agent, uint8_t component);

/** What is due by itself: STAGED -> SHADOW -> TESTING -> CONFIRMED, or back. */
void fleet_slots_advance(fleet_agent_t *agent, uint8_t component);

/** Forgets every image of a component; the floor stays. */
bool fleet_slots_clear(fleet_agent_t *agent, uint8_t component);

#endif
