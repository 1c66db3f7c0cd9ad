/*
 * Slots, rule by rule. A component has two slots and one journal record; every transition is one journal write, all or nothing.
 *
 *   EMPTY -> WRITING -> STAGED -> SHADOW -> TESTING -> CONFIRMED
 *               |          |         |         |
 *               +----------+---------+---------+--> REJECTED(reason)          (any) -> WRITING by a newer assignment
 *
 *  1. `active` is the slot that answers: CONFIRMED, or the candidate while it is TESTING. `fallback` is the CONFIRMED slot that
 *     revert and undo go to. A download never touches the slot that answers; it takes the other one and ends its fallback.
 *  2. WRITING is recorded before the first erase. STAGED is recorded only after the digest of the release manifest was read
 *     back from flash and the image opened with a good CRC. From then on the slot is `intact` until the next WRITING.
 *  3. Golden vectors run before anything else of a candidate does, once per boot. A mismatch is REJECTED(GOLDEN_FAILED).
 *  4. `until` SHADOW stops at SHADOW; CONFIRMED goes on to TESTING. Going further needs a higher sequence that says so. Where no
 *     model answers SHADOW counts nothing; a candidate that does not fit arena and state area is REJECTED(SHADOW_NO_RAM).
 *  5. TESTING answers. It is CONFIRMED after `confirm_min_inferences` without fault; it is reverted by a failed inference, by
 *     FLEET_BUDGET_FAULTS_MAX answers above the latency budget, or after `confirm_timeout_s`. A revert makes the fallback
 *     active again; without one nothing answers and `state` says so.
 *  6. Every boot with a STAGED, SHADOW or TESTING slot counts an attempt BEFORE code of that image runs; above
 *     FLEET_ATTEMPTS_MAX it is REJECTED(ATTEMPTS_EXHAUSTED). So no candidate can keep a device in a reset loop.
 *  7. CONFIRMED raises the floor to the image's security floor. Nothing below the floor is installed, undone to, reverted to
 *     or booted.
 *  8. Undo: fallback -> TESTING at once, without a download; when it is CONFIRMED the other slot is REJECTED(UNDONE) but stays
 *     intact, so the same image can be staged again without a download.
 *  9. Boot: the active slot when it opens with a good CRC, else the other one when it is CONFIRMED and at or above the floor, else
 *     none. A damaged slot is REJECTED(BOOT_IMAGE_CORRUPT); an image of another ABI stays where it is, since the firmware may change
 *     back. Each case is an event.
 * 10. What a model keeps between inferences is RAM, one area a slot: at its initial value after a boot, after golden vectors and
 *     when the slot begins to answer.
 * 11. When a journal write fails the transition did not happen; the device goes on as before and reports FLASH_FAILED.
 *
 * tests/agent/agent/slot_model.py says the same in Python; property tests lead both through the same steps.
 */
#include "slots.h"

#include <string.h>

#include "compact.h"
#include "events.h"
#include "firmware.h"
#include "flash_area.h"
#include "journal.h"
#include "roots.h"
#include "slot_rules.h"
#include "telemetry.h"

/* Values in flash have no padding, so one build reads what another wrote. */
typedef char fleet_device_record_size_is_fixed[sizeof(fleet_device_record_t) == 56 ? 1 : -1];
typedef char fleet_slot_record_size_is_fixed[sizeof(fleet_slot_record_t) == 128 ? 1 : -1];
typedef char fleet_component_record_size_is_fixed[sizeof(fleet_component_record_t) == 264 ? 1 : -1];
typedef char fleet_progress_record_size_is_fixed[sizeof(fleet_progress_record_t) == 48 ? 1 : -1];

uint32_t fleet_slot_offset(const fleet_agent_t *agent, uint8_t component, uint8_t slot) {
    return fleet_is_firmware(component) ? 0 : 2U * agent->journal.half_bytes + (2U * component + slot) * agent->slot_bytes;
}

/* ---- what follows from a record ---- */

static void choose_answering(fleet_agent_t *agent, fleet_component_t *component) {
    const uint8_t before = component->answering;
    component->answering = fleet_record_choose(&component->record, component->usable);
    if (component->answering != FLEET_NO_SLOT && component->answering != before &&
        component->counters[component->answering] != FLEET_IMAGES_NONE) {
        agent->counters[component->counters[component->answering]].activations++;
        (void)fleet_model_reset_state(&component->models[component->answering]);
    }
}

FLEET_APART static void bind_counters(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const fleet_slot_record_t *record = &component->record.slots[slot];
    component->counters[slot] = FLEET_IMAGES_NONE;
    if (fleet_record_holds_image(record)) {
        component->counters[slot] = fleet_counters_of(agent, record->digest);
    }
}

static void tell_transition(fleet_agent_t *agent, uint8_t component, const fleet_slot_record_t *from, const fleet_slot_record_t *to) {
    fleet_event_t *event = fleet_event(agent, FLEET_EVENT_KIND_SLOT, (fleet_reason_t)to->reason);
    fleet_event_component(event, component);
    fleet_event_image(event, to);
    event->from = from->state;
    event->to = to->state;
    event->sequence = to->sequence;
    event->received_bytes = to->received_bytes;
    event->members |= FLEET_EVENT_HAS(FROM) | FLEET_EVENT_HAS(TO) | FLEET_EVENT_HAS(SEQUENCE);
    if (to->state == FLEET_SLOT_STATE_STAGED) {
        event->members |= FLEET_EVENT_HAS(RECEIVED_BYTES);
    }
}

/* Stores the new record, then lives by it: rule 11. */
static bool commit(fleet_agent_t *agent, uint8_t index, const fleet_component_record_t *next) {
    fleet_component_t *component = fleet_component(agent, index);
    if (memcmp(next, &component->record, sizeof *next) == 0) {
        return true;
    }
    if (fleet_journal_write(&agent->journal, FLEET_RECORD_KEY(index), next, sizeof *next) != FLEET_OK) {
        fleet_note_reason(agent, FLEET_REASON_FLASH_FAILED);
        return false;
    }
    const fleet_component_record_t before = component->record;
    component->record = *next;
    for (uint8_t s = 0; s < 2; s++) {
        if (before.slots[s].state != next->slots[s].state || memcmp(before.slots[s].digest, next->slots[s].digest, FLEET_DIGEST_BYTES) != 0) {
            tell_transition(agent, index, &before.slots[s], &next->slots[s]);
        }
        if (!fleet_record_holds_image(&next->slots[s])) {
            component->usable[s] = false;
            component->golden[s] = false;
        }
        if (!fleet_is_firmware(index)) {
            bind_counters(agent, component, s);
        }
    }
    choose_answering(agent, component);
    agent->state_dirty = true;
    return true;
}

/* The assignment that is being followed decides about the slot. */
FLEET_APART static void stamp(const fleet_agent_t *agent, fleet_slot_record_t *slot) {
    slot->epoch = agent->device.epoch;
    slot->sequence = agent->device.sequence;
}

/* ---- images ---- */

static uint32_t arena_of(const fleet_model_t *model) {
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    return info.arena_bytes;
}

static bool state_fits(const fleet_agent_t *agent, const fleet_model_t *model) {
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    return info.state_bytes <= agent->config.state_bytes;
}

/* An image that keeps more than its slot's area stays without: it opens, but does not run. */
static void attach_state(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_model_t *model = &fleet_component(agent, index)->models[slot];
    if (agent->config.state != NULL && state_fits(agent, model)) {
        uint8_t *area = agent->config.state + (2U * index + slot) * (size_t)agent->config.state_bytes;
        (void)fleet_model_attach_state(model, area, agent->config.state_bytes);
    }
}

static fleet_status_t open_image(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_t *component = fleet_component(agent, index);
    const fleet_slot_record_t *record = &component->record.slots[slot];
    if (fleet_is_firmware(index)) {
        const fleet_status_t found = fleet_firmware_open(agent, record->image_bytes);
        component->usable[slot] = found == FLEET_OK;
        return found;
    }
    const uint8_t *image = agent->config.flash->mapped + fleet_slot_offset(agent, index, slot);
    fleet_model_t *model = &component->models[slot];
    component->usable[slot] = false;
    if (record->image_bytes == 0 || record->image_bytes > agent->slot_bytes ||
        !fleet_flash_is_readable(agent->config.flash, fleet_slot_offset(agent, index, slot), record->image_bytes)) {
        return FLEET_ERR_SIZE;
    }
    fleet_status_t status = fleet_model_open(model, image, record->image_bytes);
    if (status == FLEET_OK) {
        status = fleet_model_verify(model);
    }
    if (status == FLEET_OK && model->image_bytes != record->image_bytes) {
        status = FLEET_ERR_TRUNCATED;
    }
    if (status == FLEET_OK) {
        attach_state(agent, index, slot);
    }
    component->usable[slot] = status == FLEET_OK;
    return status;
}

static bool is_abi_status(fleet_status_t status) {
    return status == FLEET_ERR_ABI || status == FLEET_ERR_KERNEL_SET || status == FLEET_ERR_OPERATOR ||
           status == FLEET_ERR_PACKING || status == FLEET_ERR_VERSION;
}

/* ---- boot ---- */

FLEET_APART static void empty_record(fleet_component_record_t *record) {
    memset(record, 0, sizeof *record);
    record->active = FLEET_NO_SLOT;
    record->fallback = FLEET_NO_SLOT;
}

/* What the flash holds when no journal tells: whole images only, the first answers. */
static void recover_record(fleet_agent_t *agent, uint8_t index, fleet_component_record_t *record) {
    for (uint8_t s = 0; s < 2; s++) {
        fleet_model_t model;
        const uint8_t *image = agent->config.flash->mapped + fleet_slot_offset(agent, index, s);
        if (!fleet_flash_is_readable(agent->config.flash, fleet_slot_offset(agent, index, s), agent->slot_bytes) ||
            fleet_model_open(&model, image, agent->slot_bytes) != FLEET_OK || fleet_model_verify(&model) != FLEET_OK) {
            continue;
        }
        fleet_slot_record_t *slot = &record->slots[s];
        slot->image_bytes = model.image_bytes;
        slot->intact = 1;
        fleet_sha256(agent->config.crypto, image, model.image_bytes, slot->digest);
        fleet_record_set_state(slot, FLEET_SLOT_STATE_CONFIRMED, FLEET_REASON_JOURNAL_RECOVERED);
        if (record->active == FLEET_NO_SLOT) {
            record->active = s;
        } else {
            record->fallback = s;
        }
    }
}

static fleet_status_t load_record(fleet_agent_t *agent, uint8_t index, bool journal_lost) {
    fleet_component_record_t *record = &fleet_component(agent, index)->record;
    uint32_t bytes;
    empty_record(record);
    fleet_component_record_t stored;
    const fleet_status_t status = fleet_journal_read(&agent->journal, FLEET_RECORD_KEY(index), &stored, sizeof stored, &bytes);
    if (status != FLEET_OK) {
        return status;
    }
    if (bytes == sizeof stored) {
        *record = stored;
    } else if (journal_lost && !fleet_is_firmware(index)) {
        fleet_component_record_t found = *record;
        recover_record(agent, index, &found);
        (void)commit(agent, index, &found);
    }
    return FLEET_OK;
}

/* Rule 6. */
bool fleet_slots_count_attempt(fleet_agent_t *agent, uint8_t index) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    fleet_record_count_attempts(&next);
    return commit(agent, index, &next);
}

static fleet_reason_t open_images(fleet_agent_t *agent, uint8_t index) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_reason_t reason = FLEET_REASON_NONE;
    for (uint8_t s = 0; s < 2; s++) {
        if (!fleet_record_holds_image(&component->record.slots[s])) {
            continue;
        }
        const fleet_status_t status = open_image(agent, index, s);
        if (is_abi_status(status)) {
            reason = FLEET_REASON_ABI_MISMATCH;
        } else if (status != FLEET_OK) {
            fleet_component_record_t next = component->record;
            fleet_record_drop_damaged(&next, s);
            (void)commit(agent, index, &next);
        }
        bind_counters(agent, component, s);
    }
    return reason;
}

static void tell_boot(fleet_agent_t *agent, uint8_t index, uint8_t wanted, fleet_reason_t cause) {
    const fleet_component_t *component = fleet_component_of(agent, index);
    fleet_reason_t reason = cause;
    if (wanted != FLEET_NO_SLOT && component->answering == FLEET_NO_SLOT) {
        reason = cause != FLEET_REASON_NONE ? cause : FLEET_REASON_BOOT_NO_IMAGE;
    } else if (wanted != component->answering && reason == FLEET_REASON_NONE) {
        reason = FLEET_REASON_BOOT_OTHER_SLOT;
    }
    fleet_event_t *event = fleet_event(agent, FLEET_EVENT_KIND_BOOT, reason);
    fleet_event_component(event, index);
    if (component->answering != FLEET_NO_SLOT) {
        fleet_event_image(event, &component->record.slots[component->answering]);
    }
}

fleet_status_t fleet_slots_boot(fleet_agent_t *agent, uint8_t index, bool journal_lost) {
    fleet_component_t *component = fleet_component(agent, index);
    component->answering = FLEET_NO_SLOT;
    component->counters[0] = FLEET_IMAGES_NONE;
    component->counters[1] = FLEET_IMAGES_NONE;
    const fleet_status_t status = load_record(agent, index, journal_lost);
    if (status != FLEET_OK) {
        return status;
    }
    const uint8_t wanted = component->record.active;
    fleet_reason_t reason = wanted != FLEET_NO_SLOT && journal_lost ? FLEET_REASON_JOURNAL_RECOVERED : FLEET_REASON_NONE;
    fleet_reason_t opened = FLEET_REASON_NONE;
    if (fleet_is_firmware(index)) {
        if (fleet_firmware_boot(agent) != FLEET_OK) {
            return FLEET_ERR_FLASH;
        }
    } else if (fleet_slots_count_attempt(agent, index)) {
        opened = open_images(agent, index);
    } else {
        return FLEET_ERR_FLASH; /* running a candidate uncounted could loop for ever */
    }
    choose_answering(agent, component);
    tell_boot(agent, index, wanted, reason != FLEET_REASON_NONE ? reason : opened);
    return FLEET_OK;
}

/* ---- transitions asked for ---- */

uint8_t fleet_slots_target(const fleet_component_t *component) {
    if (component->answering != FLEET_NO_SLOT) {
        return component->answering ^ 1U;
    }
    for (uint8_t s = 0; s < 2; s++) { /* nothing answers: rather not over an image that a firmware change may revive */
        if (component->record.active != s && !fleet_state_is_running(component->record.slots[s].state)) {
            return s;
        }
    }
    return 1;
}

uint8_t fleet_slots_candidate(const fleet_component_t *component) {
    for (uint8_t s = 0; s < 2; s++) {
        const uint8_t state = component->record.slots[s].state;
        if (state == FLEET_SLOT_STATE_STAGED || state == FLEET_SLOT_STATE_SHADOW) {
            return s;
        }
    }
    return FLEET_NO_SLOT;
}

FLEET_APART static void copy_terms(fleet_slot_record_t *slot, const fleet_entry_t *entry) {
    slot->until = entry->until;
    slot->confirm_min_inferences = entry->confirm_min_inferences;
    slot->confirm_timeout_s = entry->confirm_timeout_s;
    slot->latency_budget_us = entry->latency_budget_us;
}

/* The slot is about to be erased or read back: nobody may name it any more. */
FLEET_APART static void release_slot(const fleet_component_t *component, fleet_component_record_t *record, uint8_t slot) {
    if (record->fallback == slot) {
        record->fallback = FLEET_NO_SLOT;
    }
    if (record->active == slot) {
        record->active = component->answering;
        record->fallback = FLEET_NO_SLOT;
    }
}

bool fleet_slots_begin(fleet_agent_t *agent, uint8_t index, uint8_t slot, const fleet_release_t *release, bool keep_failures) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    fleet_slot_record_t *to = &next.slots[slot];
    const uint8_t failures = keep_failures ? to->failures : 0;
    release_slot(component, &next, slot);
    memset(to, 0, sizeof *to);
    memcpy(to->manifest, component->entry.manifest, FLEET_DIGEST_BYTES);
    memcpy(to->digest, release->digest, FLEET_DIGEST_BYTES);
    memcpy(to->release_kid, release->kid, FLEET_KID_BYTES);
    to->image_bytes = release->image_bytes;
    to->release_counter = release->release_counter;
    to->security_floor = release->security_floor;
    to->failures = failures;
    copy_terms(to, &component->entry);
    stamp(agent, to);
    fleet_record_set_state(to, FLEET_SLOT_STATE_WRITING, FLEET_REASON_NONE);
    return commit(agent, index, &next);
}

bool fleet_slots_restage(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    fleet_slot_record_t *to = &next.slots[slot];
    release_slot(component, &next, slot);
    memcpy(to->manifest, component->entry.manifest, FLEET_DIGEST_BYTES);
    to->intact = 0;
    to->attempts = 0;
    to->failures = 0;
    to->received_bytes = 0;
    copy_terms(to, &component->entry);
    stamp(agent, to);
    fleet_record_set_state(to, FLEET_SLOT_STATE_WRITING, FLEET_REASON_NONE);
    return commit(agent, index, &next);
}

bool fleet_slots_staged(fleet_agent_t *agent, uint8_t index, uint8_t slot, uint32_t received_bytes) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    const fleet_status_t status = open_image(agent, index, slot);
    if (status != FLEET_OK) {
        const fleet_reason_t reason = is_abi_status(status) ? FLEET_REASON_ABI_MISMATCH : FLEET_REASON_IMAGE_INVALID;
        return fleet_slots_reject(agent, index, slot, reason);
    }
    next.slots[slot].intact = 1;
    next.slots[slot].received_bytes = received_bytes;
    fleet_record_set_state(&next.slots[slot], FLEET_SLOT_STATE_STAGED, FLEET_REASON_NONE);
    component->golden[slot] = false;
    return commit(agent, index, &next);
}

bool fleet_slots_reject(fleet_agent_t *agent, uint8_t index, uint8_t slot, fleet_reason_t reason) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    fleet_record_set_state(&next.slots[slot], FLEET_SLOT_STATE_REJECTED, reason);
    stamp(agent, &next.slots[slot]);
    return commit(agent, index, &next);
}

bool fleet_slots_failed(fleet_agent_t *agent, uint8_t index, uint8_t slot, fleet_reason_t reason) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    fleet_slot_record_t *failed = &next.slots[slot];
    failed->failures = (uint8_t)(failed->failures < UINT8_MAX ? failed->failures + 1U : UINT8_MAX);
    failed->reason = (uint8_t)reason;
    if (failed->failures >= FLEET_DOWNLOADS_MAX) {
        fleet_record_set_state(failed, FLEET_SLOT_STATE_REJECTED, reason);
    }
    return commit(agent, index, &next);
}

static void begin_test(fleet_agent_t *agent, fleet_component_t *component) {
    component->test_inferences = 0;
    component->budget_faults = 0;
    component->test_began_ms = agent->now_ms;
}

FLEET_APART static void test_record(fleet_component_record_t *record, uint8_t slot) {
    const bool running = record->active != FLEET_NO_SLOT && record->slots[record->active].state == FLEET_SLOT_STATE_CONFIRMED;
    record->fallback = running ? record->active : FLEET_NO_SLOT;
    record->active = slot;
    record->slots[slot].attempts = 0;
    fleet_record_set_state(&record->slots[slot], FLEET_SLOT_STATE_TESTING, FLEET_REASON_NONE);
}

bool fleet_slots_undo(fleet_agent_t *agent, uint8_t index) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    const uint8_t slot = next.fallback;
    test_record(&next, slot);
    next.slots[slot].undo = 1;
    copy_terms(&next.slots[slot], &component->entry);
    stamp(agent, &next.slots[slot]);
    begin_test(agent, component);
    return commit(agent, index, &next);
}

bool fleet_slots_revert(fleet_agent_t *agent, uint8_t index, fleet_reason_t reason) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    const uint8_t slot = next.active;
    fleet_record_revert(&next, reason);
    stamp(agent, &next.slots[slot]);
    return commit(agent, index, &next);
}

bool fleet_slots_follow_entry(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    copy_terms(&next.slots[slot], &component->entry);
    stamp(agent, &next.slots[slot]);
    return commit(agent, index, &next);
}

bool fleet_slots_clear(fleet_agent_t *agent, uint8_t index) {
    fleet_component_record_t next;
    empty_record(&next);
    next.floor = fleet_component_of(agent, index)->record.floor;
    return commit(agent, index, &next);
}

/* ---- transitions by itself ---- */

/* Rule 3. False: the slot was rejected. */
static bool pass_golden(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_t *component = fleet_component(agent, index);
    if (component->golden[slot]) {
        return true;
    }
    const fleet_model_t *model = &component->models[slot];
    if (arena_of(model) > agent->config.arena_bytes || !state_fits(agent, model)) {
        (void)fleet_slots_reject(agent, index, slot, FLEET_REASON_SHADOW_NO_RAM);
        return false;
    }
    if (fleet_model_golden(model, agent->config.arena, agent->config.arena_bytes) != FLEET_OK) {
        (void)fleet_slots_reject(agent, index, slot, FLEET_REASON_GOLDEN_FAILED);
        return false;
    }
    component->golden[slot] = true;
    return true;
}

static bool to_shadow(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    next.slots[slot].attempts = 0;
    fleet_record_set_state(&next.slots[slot], FLEET_SLOT_STATE_SHADOW, FLEET_REASON_NONE);
    fleet_component(agent, index)->shadow_position = 0;
    return commit(agent, index, &next);
}

bool fleet_slots_test(fleet_agent_t *agent, uint8_t index, uint8_t slot) {
    fleet_component_t *component = fleet_component(agent, index);
    fleet_component_record_t next = component->record;
    test_record(&next, slot);
    next.slots[slot].undo = 0;
    begin_test(agent, component);
    return commit(agent, index, &next);
}

/* Rules 7 and 8. */
bool fleet_slots_confirm(fleet_agent_t *agent, uint8_t index) {
    fleet_component_record_t next = fleet_component_of(agent, index)->record;
    fleet_slot_record_t *slot = &next.slots[next.active];
    fleet_record_set_state(slot, FLEET_SLOT_STATE_CONFIRMED, FLEET_REASON_NONE);
    next.floor = slot->security_floor > next.floor ? slot->security_floor : next.floor;
    if (slot->undo != 0 && next.fallback != FLEET_NO_SLOT) {
        fleet_record_set_state(&next.slots[next.fallback], FLEET_SLOT_STATE_REJECTED, FLEET_REASON_UNDONE);
        stamp(agent, &next.slots[next.fallback]);
        next.fallback = FLEET_NO_SLOT;
    }
    slot->undo = 0;
    if (next.fallback != FLEET_NO_SLOT && next.slots[next.fallback].release_counter < next.floor) {
        next.fallback = FLEET_NO_SLOT; /* below the floor now: undo would be refused, so it is not promised */
    }
    return commit(agent, index, &next);
}

static void advance_test(fleet_agent_t *agent, uint8_t index) {
    fleet_component_t *component = fleet_component(agent, index);
    const fleet_slot_record_t *slot = &component->record.slots[component->record.active];
    const uint64_t tested_ms = agent->now_ms - component->test_began_ms;
    if (component->test_inferences >= slot->confirm_min_inferences) {
        (void)fleet_slots_confirm(agent, index);
    } else if (slot->confirm_timeout_s > 0 && tested_ms >= (uint64_t)slot->confirm_timeout_s * 1000U) {
        (void)fleet_slots_revert(agent, index, FLEET_REASON_CONFIRM_TIMEOUT);
    }
}

void fleet_slots_advance(fleet_agent_t *agent, uint8_t index) {
    if (fleet_is_firmware(index)) {
        fleet_firmware_advance(agent);
        return;
    }
    fleet_component_t *component = fleet_component(agent, index);
    const uint8_t active = component->record.active;
    const uint8_t slot = fleet_slots_candidate(component);
    if (active != FLEET_NO_SLOT && component->record.slots[active].state == FLEET_SLOT_STATE_TESTING && component->usable[active]) {
        advance_test(agent, index);
        return;
    }
    if (slot == FLEET_NO_SLOT || !component->usable[slot] || !pass_golden(agent, index, slot)) {
        return;
    }
    const fleet_slot_record_t *record = &component->record.slots[slot];
    if (record->until == FLEET_SLOT_STATE_CONFIRMED) {
        (void)fleet_slots_test(agent, index, slot);
    } else if (record->state == FLEET_SLOT_STATE_STAGED) {
        (void)to_shadow(agent, index, slot);
    }
}
