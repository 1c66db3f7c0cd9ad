#include "slot_rules.h"

bool fleet_state_is_running(uint8_t state) {
    return state == FLEET_SLOT_STATE_CONFIRMED || state == FLEET_SLOT_STATE_TESTING;
}

bool fleet_record_holds_image(const fleet_slot_record_t *slot) {
    return slot->intact != 0 && slot->state != FLEET_SLOT_STATE_EMPTY && slot->state != FLEET_SLOT_STATE_WRITING;
}

static bool may_answer(const fleet_component_record_t *record, const bool usable[2], uint8_t slot) {
    return slot != FLEET_NO_SLOT && usable[slot] && fleet_state_is_running(record->slots[slot].state) &&
           record->slots[slot].release_counter >= record->floor;
}

uint8_t fleet_record_choose(const fleet_component_record_t *record, const bool usable[2]) {
    if (may_answer(record, usable, record->active)) {
        return record->active;
    }
    return may_answer(record, usable, record->fallback) ? record->fallback : FLEET_NO_SLOT;
}

void fleet_record_set_state(fleet_slot_record_t *slot, fleet_slot_state_t state, fleet_reason_t reason) {
    slot->state = (uint8_t)state;
    slot->reason = (uint8_t)reason;
}

void fleet_record_revert(fleet_component_record_t *record, fleet_reason_t reason) {
    fleet_record_set_state(&record->slots[record->active], FLEET_SLOT_STATE_REJECTED, reason);
    record->slots[record->active].undo = 0;
    const uint8_t back = record->fallback;
    const bool legal = back != FLEET_NO_SLOT && record->slots[back].release_counter >= record->floor;
    record->active = legal ? back : FLEET_NO_SLOT;
    record->fallback = FLEET_NO_SLOT;
}

static void reject_record(fleet_component_record_t *record, uint8_t slot, fleet_reason_t reason) {
    if (record->active == slot && record->slots[slot].state == FLEET_SLOT_STATE_TESTING) {
        fleet_record_revert(record, reason);
    } else {
        fleet_record_set_state(&record->slots[slot], FLEET_SLOT_STATE_REJECTED, reason);
    }
}

static bool is_candidate_state(uint8_t state) {
    return state == FLEET_SLOT_STATE_STAGED || state == FLEET_SLOT_STATE_SHADOW || state == FLEET_SLOT_STATE_TESTING;
}

void fleet_record_count_attempts(fleet_component_record_t *record) {
    for (uint8_t s = 0; s < 2; s++) {
        fleet_slot_record_t *slot = &record->slots[s];
        if (is_candidate_state(slot->state) && slot->attempts++ >= FLEET_ATTEMPTS_MAX) {
            reject_record(record, s, FLEET_REASON_ATTEMPTS_EXHAUSTED);
        }
    }
}

void fleet_record_drop_damaged(fleet_component_record_t *record, uint8_t slot) {
    const uint8_t other = slot ^ 1U;
    record->slots[slot].intact = 0;
    if (record->active == slot && record->slots[slot].state == FLEET_SLOT_STATE_CONFIRMED) {
        fleet_record_set_state(&record->slots[slot], FLEET_SLOT_STATE_REJECTED, FLEET_REASON_BOOT_IMAGE_CORRUPT);
        record->active = record->slots[other].state == FLEET_SLOT_STATE_CONFIRMED ? other : FLEET_NO_SLOT;
        record->fallback = FLEET_NO_SLOT;
        return;
    }
    reject_record(record, slot, FLEET_REASON_BOOT_IMAGE_CORRUPT);
    if (record->fallback == slot) {
        record->fallback = FLEET_NO_SLOT;
    }
}
