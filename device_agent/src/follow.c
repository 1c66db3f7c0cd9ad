#include "follow.h"

#include <string.h>

#include "assignment.h"
#include "compact.h"
#include "device_record.h"
#include "download.h"
#include "events.h"
#include "firmware.h"
#include "ids.h"
#include "journal.h"
#include "link.h"
#include "roots.h"
#include "slots.h"

/* A retained message comes again with every connection: told once. */
FLEET_APART static void refuse(fleet_agent_t *agent, uint64_t sequence, fleet_reason_t reason) {
    if (!agent->has_refused || agent->refused_sequence != sequence || agent->last_reason != (uint8_t)reason) {
        fleet_refuse(agent, NULL, sequence, reason);
    }
}

/* The same message again, with its entries known: what is settled stays settled. */
static bool is_repeated(const fleet_agent_t *agent, const fleet_assignment_t *assignment) {
    return agent->entries_known && memcmp(&assignment->pair, &agent->device.followed, sizeof assignment->pair) == 0;
}

/* An echo of the newest nonce counts once: a new one takes its place in the same write, so that no replay brings it again, in this boot or a later one. */
static bool store_pair(fleet_agent_t *agent, const fleet_assignment_t *assignment) {
    fleet_device_record_t next;
    fleet_device_copy(agent, &next);
    next.followed = assignment->pair;
    if (assignment->echo != NULL && memcmp(assignment->echo, next.nonce, sizeof next.nonce) == 0 &&
        fleet_device_renew_nonce(agent, &next) == FLEET_OK) {
        agent->echo_step_s = agent->uptime_s;
    }
    return fleet_device_store(agent, &next);
}

/* A running download goes on only when what it fetches stayed the same. */
static bool same_transfer(const fleet_entry_t *a, const fleet_entry_t *b) {
    enum { FROM = offsetof(fleet_entry_t, blob_bytes), TO = offsetof(fleet_entry_t, content_key) };
    return b->present && a->codec == b->codec && a->has_base == b->has_base &&
           memcmp((const uint8_t *)a + FROM, (const uint8_t *)b + FROM, TO - FROM) == 0;
}

bool fleet_follow_desired(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    fleet_assignment_t assignment;
    if (message->payload != NULL && message->payload_bytes == 0) {
        return true; /* gone: the device keeps what it has */
    }
    fleet_reason_t reason = FLEET_REASON_ASSIGNMENT_MALFORMED;
    assignment.pair.sequence = 0;
    if (message->payload != NULL) {
        reason = fleet_assignment_read(agent, message->payload, message->payload_bytes, &assignment);
    }
    if (reason != FLEET_REASON_NONE) {
        refuse(agent, assignment.pair.sequence, reason);
        return true;
    }
    if (is_repeated(agent, &assignment)) {
        return true;
    }
    if (!store_pair(agent, &assignment)) {
        return false;
    }
    agent->entries_known = true;
    agent->has_refused = false;
    agent->state_dirty = true;
    for (uint8_t c = 0; c < FLEET_COMPONENTS; c++) {
        fleet_component_t *component = &agent->components[c];
        if (!same_transfer(&component->entry, &assignment.entries[c])) {
            component->due_s = 0;
            if (fleet_download_runs(agent, component)) {
                fleet_download_stop(agent);
            }
        }
        component->entry = assignment.entries[c];
        component->retry_s = 0;
    }
    return true;
}

bool fleet_follow_root(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    fleet_root_t next;
    if (message->payload == NULL || message->payload_bytes == 0) {
        return false;
    }
    uint8_t *scratch = message->payload + message->payload_bytes; /* the rest of `rx`, enough for any root */
    if (!fleet_root_accept(agent->config.crypto, message->payload, message->payload_bytes, &agent->root, scratch, &next)) {
        (void)fleet_event(agent, NULL, FLEET_EVENT_KIND_FAULT, FLEET_REASON_ROOT_INVALID);
        fleet_note_reason(agent, FLEET_REASON_ROOT_INVALID);
        return false;
    }
    if (fleet_journal_write(&agent->journal, FLEET_KEY_ROOT, message->payload, message->payload_bytes) != FLEET_OK) {
        fleet_note_reason(agent, FLEET_REASON_FLASH_FAILED);
        return false;
    }
    agent->root = next;
    agent->state_dirty = true;
    return true;
}

/* ---- one component ---- */

static bool is_manifest(const fleet_slot_record_t *slot, const fleet_entry_t *entry) {
    return slot->state != FLEET_SLOT_STATE_EMPTY && fleet_digest_same(slot->manifest, entry->manifest);
}

static bool is_unfinished(uint8_t state) {
    return state == FLEET_SLOT_STATE_WRITING || state == FLEET_SLOT_STATE_STAGED || state == FLEET_SLOT_STATE_SHADOW;
}

/* Another image is wanted than the one in this slot on its way. */
static void drop_candidate(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    if (is_unfinished(component->record.slots[slot].state)) {
        (void)fleet_slots_change(agent, component, slot, FLEET_FOR(FLEET_REJECT, FLEET_REASON_SUPERSEDED));
    }
}

static void refuse_entry(fleet_agent_t *agent, fleet_component_t *component, fleet_reason_t reason) {
    component->entry.settled = true;
    refuse(agent, fleet_entry_sequence(agent, component), reason);
}

/* Read back what is whole in the slot. */
static void restage(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    if (fleet_slots_change(agent, component, slot, FLEET_RESTAGE)) {
        fleet_download_restage(agent, component, slot);
    }
}

FLEET_APART static bool is_revoked(const fleet_agent_t *agent, const fleet_slot_record_t *record) {
    return fleet_key_find(&agent->root.keys[FLEET_ROLE_RELEASE], record->release_kid) == NULL;
}

/* Why the image may not be used again: NONE, BELOW_FLOOR or KEY_REVOKED. */
FLEET_APART static fleet_reason_t judge(const fleet_agent_t *agent, const fleet_component_t *component, const fleet_slot_record_t *record) {
    if (record->release_counter < component->record.floor) {
        return FLEET_REASON_BELOW_FLOOR;
    }
    return is_revoked(agent, record) ? FLEET_REASON_KEY_REVOKED : FLEET_REASON_NONE;
}

/* What is on its way while a root takes its key back goes no further, also when power fails in between. */
static void drop_revoked(fleet_agent_t *agent, fleet_component_t *component) {
    for (uint8_t s = 0; s < 2; s++) {
        const fleet_slot_record_t *record = &component->record.slots[s];
        if (is_unfinished(record->state) && is_revoked(agent, record)) {
            if (fleet_download_runs(agent, component)) {
                fleet_download_stop(agent);
            }
            (void)fleet_slots_change(agent, component, s, FLEET_FOR(FLEET_REJECT, FLEET_REASON_KEY_REVOKED));
        }
    }
}

/* The wanted image was confirmed here before: SPEC's instant undo. */
static void follow_undo(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const bool to_confirmed = component->entry.until == FLEET_SLOT_STATE_CONFIRMED;
    const fleet_reason_t reason =
        component->usable[slot] ? judge(agent, component, &component->record.slots[slot]) : FLEET_REASON_ABI_MISMATCH;
    if (reason != FLEET_REASON_NONE) {
        refuse_entry(agent, component, reason);
    } else if (fleet_is_testing(component)) {
        (void)fleet_slots_revert(agent, component, FLEET_REASON_UNDONE);
    } else if (component->record.fallback == slot && to_confirmed && !fleet_is_firmware(agent, component)) {
        (void)fleet_slots_change(agent, component, slot, FLEET_UNDO);
    } else {
        restage(agent, component, slot);
    }
}

/* A WRITING slot without a running download: after a boot, or after a failure whose back-off is over. */
static void follow_writing(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    if (agent->uptime_s >= component->retry_s && fleet_download_may_start(agent, component)) {
        fleet_download_start(agent, component, slot);
    }
}

static bool failed_downloads(const fleet_slot_record_t *slot) {
    return slot->failures >= FLEET_DOWNLOADS_MAX && slot->intact == 0;
}

static void follow_rejected(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    const fleet_slot_record_t *record = &component->record.slots[slot];
    const bool decayed = record->reason == FLEET_REASON_BOOT_IMAGE_CORRUPT; /* it was good once: fetch it again */
    if (fleet_is_this_entry(agent, component, record) && !decayed) {
        if (!failed_downloads(record)) {
            component->entry.settled = true;
        } else if (component->retry_s == 0) { /* first look since boot: the back-off is persisted as its count */
            component->retry_s = agent->uptime_s + fleet_download_backoff_s(record->failures);
        } else {
            follow_writing(agent, component, slot);
        }
        return;
    }
    if (!fleet_download_may_start(agent, component)) {
        return;
    }
    if (record->intact != 0 && component->usable[slot] && judge(agent, component, record) == FLEET_REASON_NONE) {
        restage(agent, component, slot);
    } else {
        fleet_download_start(agent, component, slot);
    }
}

/* The wanted image is in `slot`, which does not answer. */
static void follow_there(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    switch (component->record.slots[slot].state) {
        case FLEET_SLOT_STATE_WRITING: follow_writing(agent, component, slot); break;
        case FLEET_SLOT_STATE_STAGED:
        case FLEET_SLOT_STATE_SHADOW: (void)fleet_slots_change(agent, component, slot, FLEET_FOLLOW); break;
        case FLEET_SLOT_STATE_CONFIRMED: follow_undo(agent, component, slot); break;
        case FLEET_SLOT_STATE_REJECTED: follow_rejected(agent, component, slot); break;
        default: break; /* TESTING, but another ABI runs: it stays */
    }
}

static void follow_new(fleet_agent_t *agent, fleet_component_t *component) {
    if (fleet_is_testing(component) && component->record.fallback != FLEET_NO_SLOT &&
        !fleet_slots_revert(agent, component, FLEET_REASON_SUPERSEDED)) {
        return;
    }
    const uint8_t slot = fleet_slots_target(component);
    drop_candidate(agent, component, slot);
    if (fleet_download_may_start(agent, component)) {
        fleet_download_start(agent, component, slot);
    }
}

/* The slot that does not answer. Where neither does, the one that the wanted image is on its way in. */
static uint8_t slot_to_follow(const fleet_component_t *component) {
    const uint8_t target = fleet_slots_target(component);
    const fleet_slot_record_t *opposite = &component->record.slots[target ^ 1U];
    const bool there = component->answering == FLEET_NO_SLOT && is_unfinished(opposite->state) && is_manifest(opposite, &component->entry);
    return there ? target ^ 1U : target;
}

void fleet_follow(fleet_agent_t *agent, fleet_component_t *component) {
    const fleet_entry_t *entry = &component->entry;
    const uint8_t answering = component->answering;
    if (fleet_is_firmware(agent, component) && fleet_firmware_holds(agent)) {
        return;
    }
    drop_revoked(agent, component);
    if (!agent->entries_known || entry->settled || fleet_download_runs(agent, component)) {
        return;
    }
    const uint8_t other = slot_to_follow(component);
    if (answering == FLEET_NO_SLOT) {
        drop_candidate(agent, component, other ^ 1U); /* one candidate at a time: it would take the turn of the one wanted */
    }
    if (!entry->present) {
        drop_candidate(agent, component, other);
    } else if (answering != FLEET_NO_SLOT && is_manifest(&component->record.slots[answering], entry)) {
        drop_candidate(agent, component, other);
        if (component->record.slots[answering].state == FLEET_SLOT_STATE_TESTING && entry->until == FLEET_SLOT_STATE_CONFIRMED) {
            (void)fleet_slots_change(agent, component, answering, FLEET_FOLLOW);
        }
    } else if (is_manifest(&component->record.slots[other], entry)) {
        follow_there(agent, component, other);
    } else {
        follow_new(agent, component);
    }
}
