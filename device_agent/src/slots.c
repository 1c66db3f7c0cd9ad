/*
 * Slots, rule by rule. A component has two slots and one journal record; every transition is one journal write, all or nothing.
 *
 *   EMPTY -> WRITING -> STAGED -> SHADOW -> TESTING -> CONFIRMED
 *               |          |         |         |
 *               +----------+---------+---------+--> REJECTED(reason)          (any) -> WRITING by a newer assignment
 *
 *  1. `active` is the slot that answers: CONFIRMED, or the candidate while it is TESTING. `fallback` is the CONFIRMED slot that
 *     revert and undo go to. A download never touches the slot that answers; it takes the other one and ends its fallback.
 *     Where nothing answers there is one candidate too: the slot that the wanted image does not go to gives up what was on its way.
 *  2. WRITING is recorded before the first erase. STAGED is recorded only after the digest of the release manifest was read
 *     back from flash and the image opened with a good CRC. From then on the slot is `intact` until the next WRITING.
 *  3. Golden vectors run before anything else of a candidate does, once per boot; of one that is TESTING at a boot, in that boot.
 *     A mismatch is REJECTED(GOLDEN_FAILED). Only undo, to an image that was CONFIRMED here, goes without them, until a boot.
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
#include "ids.h"
#include "journal.h"
#include "roots.h"
#include "slot_rules.h"
#include "telemetry.h"

/* Values in flash have no padding, so one build reads what another wrote. */
typedef char fleet_device_record_size_is_fixed[sizeof(fleet_device_record_t) == 64 ? 1 : -1];
typedef char fleet_slot_record_size_is_fixed[sizeof(fleet_slot_record_t) == 128 ? 1 : -1];
typedef char fleet_component_record_size_is_fixed[sizeof(fleet_component_record_t) == 264 ? 1 : -1];
typedef char fleet_progress_record_size_is_fixed[sizeof(fleet_progress_record_t) == 48 ? 1 : -1];

uint32_t fleet_slot_offset(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot) {
    const uint32_t before = 2U * fleet_component_index(agent, component) + slot;
    return fleet_is_firmware(agent, component) ? 0 : 2U * agent->journal.half_bytes + before * agent->slot_bytes;
}

/* ---- what follows from a record ---- */

static void choose_answering(fleet_agent_t *agent, fleet_component_t *component) {
    const uint8_t before = component->answering;
    const uint8_t now = fleet_record_choose(&component->record, component->usable);
    component->answering = now;
    if (now != FLEET_NO_SLOT && now != before && component->counters[now] != FLEET_IMAGES_NONE) {
        agent->counters[component->counters[now]].activations++;
        (void)fleet_model_reset_state(&component->models[now]);
    }
}

FLEET_APART static void bind_counters(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const fleet_slot_record_t *record = &component->record.slots[slot];
    component->counters[slot] = FLEET_IMAGES_NONE;
    if (fleet_record_holds_image(record)) {
        const uint8_t image = fleet_counters_of(agent, record->digest);
        component->counters[slot] = image;
        agent->counters[image].role = record->state;
    }
}

static void tell_transition(fleet_agent_t *agent, const fleet_component_t *component, uint8_t from, const fleet_slot_record_t *to) {
    fleet_event_t *event = fleet_event(agent, component, FLEET_EVENT_KIND_SLOT, (fleet_reason_t)to->reason);
    fleet_event_image(event, to);
    event->from = from;
    event->to = to->state;
    event->sequence = to->sequence;
    event->received_bytes = to->received_bytes;
    event->members |= FLEET_EVENT_HAS(FROM) | FLEET_EVENT_HAS(TO) | FLEET_EVENT_HAS(SEQUENCE);
    if (to->state == FLEET_SLOT_STATE_STAGED) {
        event->members |= FLEET_EVENT_HAS(RECEIVED_BYTES);
    }
}

static bool is_transition(const fleet_slot_record_t *from, const fleet_slot_record_t *to) {
    return from->state != to->state || !fleet_digest_same(from->digest, to->digest);
}

static void take_slot(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot, const fleet_slot_record_t *next) {
    fleet_slot_record_t *record = &component->record.slots[slot];
    if (is_transition(record, next)) {
        tell_transition(agent, component, record->state, next);
    }
    *record = *next;
    if (!fleet_record_holds_image(next)) {
        component->usable[slot] = false;
        component->golden[slot] = false;
    }
    if (!fleet_is_firmware(agent, component)) {
        bind_counters(agent, component, slot);
    }
}

/* Stores the new record, then lives by it: rule 11. */
static bool commit(fleet_agent_t *agent, fleet_component_t *component, const fleet_component_record_t *next) {
    const uint8_t key = FLEET_RECORD_KEY(fleet_component_index(agent, component));
    if (memcmp(next, &component->record, sizeof *next) == 0) {
        return true;
    }
    if (fleet_journal_write(&agent->journal, key, next, sizeof *next) != FLEET_OK) {
        fleet_note_reason(agent, FLEET_REASON_FLASH_FAILED);
        return false;
    }
    component->record.active = next->active;
    component->record.fallback = next->fallback;
    component->record.floor = next->floor;
    take_slot(agent, component, 0, &next->slots[0]);
    take_slot(agent, component, 1, &next->slots[1]);
    choose_answering(agent, component);
    agent->state_dirty = true;
    return true;
}

/* ---- transitions ---- */

/* The entry that is being followed decides about the slot. Where others than the slot's own may have changed since a boot, its last one does. */
FLEET_APART static void stamp(const fleet_agent_t *agent, const fleet_component_t *component, fleet_slot_record_t *slot) {
    if (FLEET_COMPONENTS > 1 && !agent->entries_known) {
        return;
    }
    slot->epoch = agent->device.followed.epoch;
    slot->sequence = fleet_entry_sequence(agent, component);
}

/* What the component's entry asks for. */
FLEET_APART static void follow_entry(const fleet_agent_t *agent, const fleet_component_t *component, fleet_slot_record_t *slot) {
    const fleet_entry_t *entry = &component->entry;
    slot->until = entry->until;
    slot->confirm_min_inferences = entry->confirm_min_inferences;
    slot->confirm_timeout_s = entry->confirm_timeout_s;
    slot->latency_budget_us = entry->latency_budget_us;
    stamp(agent, component, slot);
}

static bool is_same_download(const fleet_agent_t *agent, const fleet_component_t *component, const fleet_slot_record_t *slot) {
    return fleet_is_this_entry(agent, component, slot) && fleet_digest_same(slot->manifest, component->entry.manifest);
}

/* What will be in the slot, by the manifest; failures of the same assignment stay counted. */
FLEET_APART static void expect_image(const fleet_agent_t *agent, const fleet_component_t *component, fleet_slot_record_t *slot) {
    const fleet_release_t *release = &agent->download.release;
    const uint8_t failures = is_same_download(agent, component, slot) ? slot->failures : 0;
    memset(slot, 0, sizeof *slot);
    fleet_digest_copy(slot->digest, release->digest);
    memcpy(slot->release_kid, release->kid, FLEET_KID_BYTES);
    slot->image_bytes = release->image_bytes;
    slot->release_counter = release->release_counter;
    slot->security_floor = release->security_floor;
    slot->failures = failures;
}

/* The image is there: it is read back only. */
static void keep_image(fleet_slot_record_t *slot) {
    slot->intact = 0;
    slot->attempts = 0;
    slot->failures = 0;
    slot->received_bytes = 0;
}

/* The slot is about to be erased or read back: nobody may name it any more. */
static void begin_writing(const fleet_agent_t *agent, const fleet_component_t *component, fleet_component_record_t *record, uint8_t slot) {
    if (record->fallback == slot) {
        record->fallback = FLEET_NO_SLOT;
    }
    if (record->active == slot) {
        record->active = component->answering;
        record->fallback = FLEET_NO_SLOT;
    }
    fleet_digest_copy(record->slots[slot].manifest, component->entry.manifest);
    follow_entry(agent, component, &record->slots[slot]);
    fleet_record_set_state(&record->slots[slot], FLEET_SLOT_STATE_WRITING, FLEET_REASON_NONE);
}

static void count_failure(fleet_slot_record_t *slot, fleet_reason_t reason) {
    slot->failures = (uint8_t)(slot->failures < UINT8_MAX ? slot->failures + 1U : UINT8_MAX);
    slot->reason = (uint8_t)reason;
    if (slot->failures >= FLEET_DOWNLOADS_MAX) {
        fleet_record_set_state(slot, FLEET_SLOT_STATE_REJECTED, reason);
    }
}

FLEET_APART static void begin_test(const fleet_agent_t *agent, fleet_component_t *component, fleet_component_record_t *record, uint8_t slot) {
    const bool running = record->active != FLEET_NO_SLOT && record->slots[record->active].state == FLEET_SLOT_STATE_CONFIRMED;
    component->test_inferences = 0;
    component->budget_faults = 0;
    component->test_began_s = agent->uptime_s;
    record->fallback = running ? record->active : FLEET_NO_SLOT;
    record->active = slot;
    record->slots[slot].attempts = 0;
    fleet_record_set_state(&record->slots[slot], FLEET_SLOT_STATE_TESTING, FLEET_REASON_NONE);
}

/* Rules 7 and 8. A fallback below the floor is not promised: undo to it would be refused. */
static void confirm(const fleet_agent_t *agent, const fleet_component_t *component, fleet_component_record_t *record,
                    fleet_slot_record_t *slot) {
    fleet_slot_record_t *other = &record->slots[record->fallback & 1U];
    fleet_record_set_state(slot, FLEET_SLOT_STATE_CONFIRMED, FLEET_REASON_NONE);
    record->floor = slot->security_floor > record->floor ? slot->security_floor : record->floor;
    if (slot->undo != 0 && record->fallback != FLEET_NO_SLOT) {
        fleet_record_set_state(other, FLEET_SLOT_STATE_REJECTED, FLEET_REASON_UNDONE);
        stamp(agent, component, other);
        record->fallback = FLEET_NO_SLOT;
    }
    slot->undo = 0;
    if (other->release_counter < record->floor) {
        record->fallback = FLEET_NO_SLOT;
    }
}

FLEET_APART static void empty_record(fleet_component_record_t *record) {
    const uint32_t floor = record->floor;
    memset(record, 0, sizeof *record);
    record->active = FLEET_NO_SLOT;
    record->fallback = FLEET_NO_SLOT;
    record->floor = floor;
}

bool fleet_slots_change(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot, fleet_change_t change) {
    fleet_component_record_t next = component->record;
    fleet_slot_record_t *to = &next.slots[slot];
    const fleet_reason_t reason = (fleet_reason_t)(change >> 4);
    switch (change & 15U) {
        case FLEET_BEGIN:
            expect_image(agent, component, to);
            begin_writing(agent, component, &next, slot);
            break;
        case FLEET_RESTAGE:
            keep_image(to);
            begin_writing(agent, component, &next, slot);
            break;
        case FLEET_STAGE:
            to->intact = 1;
            to->received_bytes = agent->download.received;
            component->golden[slot] = false;
            fleet_record_set_state(to, FLEET_SLOT_STATE_STAGED, FLEET_REASON_NONE);
            break;
        case FLEET_REJECT:
            fleet_record_set_state(to, FLEET_SLOT_STATE_REJECTED, reason);
            stamp(agent, component, to);
            break;
        case FLEET_FAIL: count_failure(to, reason); break;
        case FLEET_UNDO:
            begin_test(agent, component, &next, slot);
            to->undo = 1;
            follow_entry(agent, component, to);
            break;
        case FLEET_REVERT:
            fleet_record_revert(&next, reason);
            stamp(agent, component, to);
            break;
        case FLEET_FOLLOW: follow_entry(agent, component, to); break;
        case FLEET_TO_SHADOW:
            to->attempts = 0;
            component->shadow_position = 0;
            fleet_record_set_state(to, FLEET_SLOT_STATE_SHADOW, FLEET_REASON_NONE);
            break;
        case FLEET_TEST:
            begin_test(agent, component, &next, slot);
            to->undo = 0;
            break;
        case FLEET_CONFIRM: confirm(agent, component, &next, to); break;
        case FLEET_COUNT_ATTEMPT: fleet_record_count_attempts(&next); break;
        case FLEET_DROP_DAMAGED: fleet_record_drop_damaged(&next, slot); break;
        default: empty_record(&next); break; /* FLEET_CLEAR */
    }
    return commit(agent, component, &next);
}

/* ---- images ---- */

/* An image that keeps more than its slot's area stays without: it opens, but does not run. */
static void attach_state(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const size_t areas = 2U * fleet_component_index(agent, component) + slot;
    if (agent->config.state != NULL) {
        uint8_t *area = agent->config.state + areas * agent->config.state_bytes;
        (void)fleet_model_attach_state(&component->models[slot], area, agent->config.state_bytes);
    }
}

static fleet_status_t open_model(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const uint32_t bytes = component->record.slots[slot].image_bytes;
    const uint32_t offset = fleet_slot_offset(agent, component, slot);
    fleet_model_t *model = &component->models[slot];
    if (bytes == 0 || bytes > agent->slot_bytes || !fleet_flash_is_readable(agent->config.flash, offset, bytes)) {
        return FLEET_ERR_SIZE;
    }
    fleet_status_t status = fleet_model_open(model, agent->config.flash->mapped + offset, bytes);
    if (status == FLEET_OK) {
        status = fleet_model_verify(model);
    }
    if (status == FLEET_OK && model->image_bytes != bytes) {
        status = FLEET_ERR_TRUNCATED;
    }
    if (status == FLEET_OK) {
        attach_state(agent, component, slot);
    }
    return status;
}

/* @return NONE, ABI_MISMATCH or IMAGE_INVALID */
static fleet_reason_t open_image(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const fleet_status_t status = fleet_is_firmware(agent, component)
                                      ? fleet_firmware_open(agent, component->record.slots[slot].image_bytes)
                                      : open_model(agent, component, slot);
    component->usable[slot] = status == FLEET_OK;
    switch (status) {
        case FLEET_OK: return FLEET_REASON_NONE;
        case FLEET_ERR_ABI:
        case FLEET_ERR_KERNEL_SET:
        case FLEET_ERR_OPERATOR:
        case FLEET_ERR_PACKING:
        case FLEET_ERR_VERSION: return FLEET_REASON_ABI_MISMATCH;
        default: return FLEET_REASON_IMAGE_INVALID;
    }
}

/* Rule 3. @return NONE, or why the slot is to be rejected */
static fleet_reason_t judge_golden(const fleet_agent_t *agent, const fleet_model_t *model) {
    fleet_model_info_t info;
    fleet_model_info(model, &info);
    if (info.arena_bytes > agent->config.arena_bytes || info.state_bytes > agent->config.state_bytes) {
        return FLEET_REASON_SHADOW_NO_RAM;
    }
    const fleet_status_t status = fleet_model_golden(model, agent->config.arena, agent->config.arena_bytes);
    return status == FLEET_OK ? FLEET_REASON_NONE : FLEET_REASON_GOLDEN_FAILED;
}

/* ---- boot ---- */

/* What the flash holds when no journal tells: whole images only, the first answers. */
static void recover_slot(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot, fleet_component_record_t *record) {
    const uint32_t offset = fleet_slot_offset(agent, component, slot);
    const uint8_t *image = agent->config.flash->mapped + offset;
    fleet_slot_record_t *to = &record->slots[slot];
    fleet_model_t model;
    if (!fleet_flash_is_readable(agent->config.flash, offset, agent->slot_bytes) ||
        fleet_model_open(&model, image, agent->slot_bytes) != FLEET_OK || fleet_model_verify(&model) != FLEET_OK) {
        return;
    }
    to->image_bytes = model.image_bytes;
    to->intact = 1;
    fleet_sha256(agent->config.crypto, image, model.image_bytes, to->digest);
    fleet_record_set_state(to, FLEET_SLOT_STATE_CONFIRMED, FLEET_REASON_JOURNAL_RECOVERED);
    *(record->active == FLEET_NO_SLOT ? &record->active : &record->fallback) = slot;
}

static fleet_status_t load_record(fleet_agent_t *agent, fleet_component_t *component, bool journal_lost) {
    const uint8_t key = FLEET_RECORD_KEY(fleet_component_index(agent, component));
    fleet_component_record_t record;
    uint32_t bytes;
    empty_record(&component->record);
    record = component->record;
    const fleet_status_t status = fleet_journal_read(&agent->journal, key, &record, sizeof record, &bytes);
    if (status != FLEET_OK) {
        return status;
    }
    if (bytes == sizeof record) {
        component->record = record;
    } else if (journal_lost && !fleet_is_firmware(agent, component)) {
        recover_slot(agent, component, 0, &record);
        recover_slot(agent, component, 1, &record);
        (void)commit(agent, component, &record);
    }
    return FLEET_OK;
}

static fleet_reason_t open_images(fleet_agent_t *agent, fleet_component_t *component) {
    fleet_reason_t reason = FLEET_REASON_NONE;
    for (uint8_t s = 0; s < 2; s++) {
        if (!fleet_record_holds_image(&component->record.slots[s])) {
            continue;
        }
        const fleet_reason_t opened = open_image(agent, component, s);
        if (opened == FLEET_REASON_ABI_MISMATCH) {
            reason = opened;
        } else if (opened != FLEET_REASON_NONE) {
            (void)fleet_slots_change(agent, component, s, FLEET_DROP_DAMAGED);
        }
        bind_counters(agent, component, s);
    }
    return reason;
}

/* Rule 3: an image that is TESTING answers as soon as it is open. */
static void test_again(fleet_agent_t *agent, fleet_component_t *component) {
    const uint8_t active = component->record.active;
    if (fleet_is_testing(component) && component->usable[active]) {
        const fleet_reason_t reason = judge_golden(agent, &component->models[active]);
        if (reason != FLEET_REASON_NONE) {
            (void)fleet_slots_revert(agent, component, reason);
        }
    }
}

static void tell_boot(fleet_agent_t *agent, const fleet_component_t *component, uint8_t wanted, fleet_reason_t reason) {
    const uint8_t answering = component->answering;
    if (wanted != answering && reason == FLEET_REASON_NONE) {
        reason = answering == FLEET_NO_SLOT ? FLEET_REASON_BOOT_NO_IMAGE : FLEET_REASON_BOOT_OTHER_SLOT;
    }
    fleet_event_t *event = fleet_event(agent, component, FLEET_EVENT_KIND_BOOT, reason);
    if (answering != FLEET_NO_SLOT) {
        fleet_event_image(event, &component->record.slots[answering]);
    }
}

fleet_status_t fleet_slots_boot(fleet_agent_t *agent, fleet_component_t *component, bool journal_lost) {
    component->answering = FLEET_NO_SLOT;
    component->counters[0] = FLEET_IMAGES_NONE;
    component->counters[1] = FLEET_IMAGES_NONE;
    const fleet_status_t status = load_record(agent, component, journal_lost);
    if (status != FLEET_OK) {
        return status;
    }
    const uint8_t wanted = component->record.active;
    fleet_reason_t reason = FLEET_REASON_NONE;
    if (fleet_is_firmware(agent, component)) {
        if (fleet_firmware_boot(agent) != FLEET_OK) {
            return FLEET_ERR_FLASH;
        }
    } else if (fleet_slots_change(agent, component, 0, FLEET_COUNT_ATTEMPT)) {
        reason = open_images(agent, component);
        test_again(agent, component);
    } else {
        return FLEET_ERR_FLASH; /* running a candidate uncounted could loop for ever */
    }
    choose_answering(agent, component);
    tell_boot(agent, component, wanted, wanted != FLEET_NO_SLOT && journal_lost ? FLEET_REASON_JOURNAL_RECOVERED : reason);
    return FLEET_OK;
}

/* ---- what is where ---- */

uint64_t fleet_entry_sequence(const fleet_agent_t *agent, const fleet_component_t *component) {
#if FLEET_COMPONENTS > 1
    if (component->entry.brought_by != 0) {
        return component->entry.brought_by;
    }
#else
    (void)component;
#endif
    return agent->device.followed.sequence;
}

bool fleet_is_this_entry(const fleet_agent_t *agent, const fleet_component_t *component, const fleet_slot_record_t *slot) {
    return slot->epoch == agent->device.followed.epoch && slot->sequence == fleet_entry_sequence(agent, component);
}

bool fleet_is_testing(const fleet_component_t *component) {
    const uint8_t active = component->record.active;
    return active != FLEET_NO_SLOT && component->record.slots[active].state == FLEET_SLOT_STATE_TESTING;
}

uint8_t fleet_slots_target(const fleet_component_t *component) {
    if (component->answering != FLEET_NO_SLOT) {
        return component->answering ^ 1U;
    }
    for (uint8_t s = 0; s < 2; s++) { /* nothing answers: rather not over an image that a firmware change may revive */
        if (component->record.active != s && !fleet_state_is_running(component->record.slots[s].state)) {
            return s;
        }
    }
    return component->record.active == 1 ? 0 : 1;
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

bool fleet_slots_stage(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const fleet_reason_t reason = open_image(agent, component, slot);
    return fleet_slots_change(agent, component, slot, reason == FLEET_REASON_NONE ? FLEET_STAGE : FLEET_FOR(FLEET_REJECT, reason));
}

bool fleet_slots_revert(fleet_agent_t *agent, fleet_component_t *component, fleet_reason_t reason) {
    return fleet_slots_change(agent, component, component->record.active, FLEET_FOR(FLEET_REVERT, reason));
}

/* ---- transitions by itself ---- */

static bool pass_golden(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    if (!component->golden[slot]) {
        const fleet_reason_t reason = judge_golden(agent, &component->models[slot]);
        component->golden[slot] = reason == FLEET_REASON_NONE;
        if (reason != FLEET_REASON_NONE) {
            (void)fleet_slots_change(agent, component, slot, FLEET_FOR(FLEET_REJECT, reason));
        }
    }
    return component->golden[slot];
}

bool fleet_test_is_over(const fleet_agent_t *agent, const fleet_component_t *component) {
    const fleet_slot_record_t *slot = &component->record.slots[component->record.active];
    return slot->confirm_timeout_s > 0 && agent->uptime_s - component->test_began_s > slot->confirm_timeout_s;
}

static void advance_test(fleet_agent_t *agent, fleet_component_t *component) {
    const uint8_t active = component->record.active;
    if (component->test_inferences >= component->record.slots[active].confirm_min_inferences) {
        (void)fleet_slots_change(agent, component, active, FLEET_CONFIRM);
    } else if (fleet_test_is_over(agent, component)) {
        (void)fleet_slots_revert(agent, component, FLEET_REASON_CONFIRM_TIMEOUT);
    }
}

void fleet_slots_advance(fleet_agent_t *agent, fleet_component_t *component) {
    if (fleet_is_firmware(agent, component)) {
        fleet_firmware_advance(agent);
        return;
    }
    const uint8_t slot = fleet_slots_candidate(component);
    if (fleet_is_testing(component) && component->usable[component->record.active]) {
        advance_test(agent, component);
        return;
    }
    if (slot == FLEET_NO_SLOT || !component->usable[slot] || !pass_golden(agent, component, slot)) {
        return;
    }
    const fleet_slot_record_t *record = &component->record.slots[slot];
    if (record->until == FLEET_SLOT_STATE_CONFIRMED) {
        (void)fleet_slots_change(agent, component, slot, FLEET_TEST);
    } else if (!FLEET_WITH_SHADOW) {
        (void)fleet_slots_change(agent, component, slot, FLEET_FOR(FLEET_REJECT, FLEET_REASON_SHADOW_NO_RAM));
    } else if (record->state == FLEET_SLOT_STATE_STAGED) {
        (void)fleet_slots_change(agent, component, slot, FLEET_TO_SHADOW);
    }
}
