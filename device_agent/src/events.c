#include "events.h"

#include <string.h>

#include "download.h"
#include "fields.h"
#include "fleet_image.h"
#include "ids.h"

/* A state at its longest: what does not fit would never be published. */
#define STATE_BYTES_MAX (174 + 113 * FLEET_COMPONENTS)
typedef char fleet_message_holds_a_state[FLEET_MESSAGE_BYTES >= STATE_BYTES_MAX ? 1 : -1];

void fleet_event_drop(fleet_agent_t *agent) {
    agent->event_first = (uint8_t)((agent->event_first + 1U) % FLEET_EVENT_RING);
    agent->event_count--;
}

fleet_event_t *fleet_event(fleet_agent_t *agent, const fleet_component_t *component, fleet_event_kind_t kind, fleet_reason_t reason) {
    if (agent->event_count == FLEET_EVENT_RING) {
        fleet_event_drop(agent);
    }
    fleet_event_t *event = &agent->events[(agent->event_first + agent->event_count) % FLEET_EVENT_RING];
    agent->event_count++;
    agent->event_number++;
    memset(event, 0, sizeof *event);
    event->kind = (uint8_t)kind;
    event->reason = (uint8_t)reason;
    event->members = FLEET_EVENT_HAS(PROTOCOL) | FLEET_EVENT_HAS(BOOT) | FLEET_EVENT_HAS(NUMBER) | FLEET_EVENT_HAS(KIND) |
                     FLEET_EVENT_HAS(REASON);
    if (component != NULL) {
        event->component = fleet_component_index(agent, component);
        event->members |= FLEET_EVENT_HAS(COMPONENT);
    }
    if (kind != FLEET_EVENT_KIND_FAULT && kind != FLEET_EVENT_KIND_COMMAND) {
        fleet_note_reason(agent, reason);
    }
    return event;
}

void fleet_event_image(fleet_event_t *event, const fleet_slot_record_t *slot) {
    fleet_id_copy(event->image, slot->digest);
    event->members |= FLEET_EVENT_HAS(IMAGE);
}

void fleet_refuse(fleet_agent_t *agent, const fleet_component_t *component, uint64_t sequence, fleet_reason_t reason) {
    fleet_event_t *event = fleet_event(agent, component, FLEET_EVENT_KIND_ASSIGNMENT_REFUSED, reason);
    event->sequence = sequence;
    event->members |= FLEET_EVENT_HAS(SEQUENCE);
    agent->has_refused = true;
    agent->refused_sequence = sequence;
}

void fleet_note_reason(fleet_agent_t *agent, fleet_reason_t reason) {
    if (reason != FLEET_REASON_NONE) {
        agent->last_reason = (uint8_t)reason;
        agent->state_dirty = true;
    }
}

void fleet_slot_info(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t index, fleet_slot_info_t *info) {
    const fleet_slot_record_t *slot = &component->record.slots[index];
    info->state = slot->state;
    info->reason = slot->reason;
    info->attempts = slot->attempts;
    fleet_id_copy(info->image, slot->digest);
    info->image_bytes = slot->image_bytes;
    info->written_bytes = fleet_download_written(agent, component, index);
    info->release_counter = slot->release_counter;
}

void fleet_component_name(uint8_t component, char name[FLEET_COMPONENT_NAME_BYTES]) {
    static const char model[FLEET_COMPONENT_NAME_BYTES] = "model/0";
    static const char firmware[FLEET_COMPONENT_NAME_BYTES] = "firmware";
    const bool is_firmware = FLEET_WITH_FIRMWARE && component == FLEET_FIRMWARE;
    memcpy(name, is_firmware ? firmware : model, FLEET_COMPONENT_NAME_BYTES);
    if (!is_firmware) {
        name[6] = (char)('0' + component);
    }
}

static void put_component_name(fleet_cbor_out_t *out, uint32_t key, uint8_t component) {
    char name[FLEET_COMPONENT_NAME_BYTES];
    fleet_component_name(component, name);
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_text(out, name);
}

static uint32_t members_in(uint32_t mask) {
    uint32_t count = 0;
    for (; mask != 0; mask &= mask - 1U) {
        count++;
    }
    return count;
}

uint32_t fleet_event_encode(fleet_agent_t *agent, fleet_cbor_out_t *out) {
    static const fleet_field_t head[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_EVENT_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD(FLEET_KEY_EVENT_BOOT, fleet_agent_t, device.boot),
    };
    static const fleet_field_t rest[] = {
        FLEET_FIELD_STRING(FLEET_KEY_EVENT_IMAGE, fleet_event_t, image),
        FLEET_FIELD(FLEET_KEY_EVENT_FROM, fleet_event_t, from),
        FLEET_FIELD(FLEET_KEY_EVENT_TO, fleet_event_t, to),
        FLEET_FIELD(FLEET_KEY_EVENT_REASON, fleet_event_t, reason),
        FLEET_FIELD(FLEET_KEY_EVENT_SEQUENCE, fleet_event_t, sequence),
        FLEET_FIELD(FLEET_KEY_EVENT_RECEIVED_BYTES, fleet_event_t, received_bytes),
        FLEET_FIELD(FLEET_KEY_EVENT_DETAIL, fleet_event_t, detail),
    };
    const fleet_event_t *event = &agent->events[agent->event_first];
    fleet_cbor_put_map(out, members_in(event->members));
    fleet_fields_put(out, agent, FLEET_FIELDS(head));
    fleet_put_pair(out, FLEET_KEY_EVENT_NUMBER, agent->event_number - agent->event_count);
    fleet_put_pair(out, FLEET_KEY_EVENT_KIND, event->kind);
    if ((event->members & FLEET_EVENT_HAS(COMPONENT)) != 0) {
        put_component_name(out, FLEET_KEY_EVENT_COMPONENT, event->component);
    }
    fleet_fields_put_some(out, event, FLEET_FIELDS(rest), event->members);
    return out->full ? 0U : out->used;
}

static void put_slot(fleet_cbor_out_t *out, const fleet_agent_t *agent, const fleet_component_t *component, uint8_t index) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD(FLEET_KEY_SLOT_STATE, fleet_slot_info_t, state),
        FLEET_FIELD_AS(FLEET_KEY_SLOT_IMAGE, FLEET_FIELD_ID, fleet_slot_info_t, image),
        FLEET_FIELD(FLEET_KEY_SLOT_REASON, fleet_slot_info_t, reason),
        FLEET_FIELD(FLEET_KEY_SLOT_WRITTEN_BYTES, fleet_slot_info_t, written_bytes),
        FLEET_FIELD(FLEET_KEY_SLOT_IMAGE_BYTES, fleet_slot_info_t, image_bytes),
        FLEET_FIELD(FLEET_KEY_SLOT_ATTEMPTS, fleet_slot_info_t, attempts),
        FLEET_FIELD(FLEET_KEY_SLOT_RELEASE_COUNTER, fleet_slot_info_t, release_counter),
    };
    fleet_slot_info_t info;
    fleet_slot_info(agent, component, index, &info);
    fleet_cbor_put_map(out, sizeof fields / sizeof *fields);
    fleet_fields_put(out, &info, FLEET_FIELDS(fields));
}

static void put_component(fleet_cbor_out_t *out, const fleet_agent_t *agent, const fleet_component_t *component) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_AS(FLEET_KEY_COMPONENT_STATE_ACTIVE, FLEET_FIELD_SLOT, fleet_component_t, answering),
        FLEET_FIELD_AS(FLEET_KEY_COMPONENT_STATE_FALLBACK, FLEET_FIELD_SLOT, fleet_component_t, record.fallback),
        FLEET_FIELD(FLEET_KEY_COMPONENT_STATE_FLOOR, fleet_component_t, record.floor),
        {FLEET_KEY_COMPONENT_STATE_SLOTS, FLEET_FIELD_ARRAY, 2},
    };
    fleet_cbor_put_map(out, 5);
    put_component_name(out, FLEET_KEY_COMPONENT_STATE_COMPONENT, fleet_component_index(agent, component));
    fleet_fields_put(out, component, FLEET_FIELDS(fields));
    put_slot(out, agent, component, 0);
    put_slot(out, agent, component, 1);
}

uint32_t fleet_state_encode(fleet_agent_t *agent, fleet_cbor_out_t *out) {
    static const fleet_field_t head[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_STATE_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD_AS(FLEET_KEY_STATE_DEVICE_CLASS, FLEET_FIELD_TEXT, fleet_agent_t, config.device_class),
        {FLEET_KEY_STATE_AGENT, FLEET_FIELD_AGENT, 0},
        FLEET_FIELD_VALUE(FLEET_KEY_STATE_ABI, FLEET_IMAGE_ABI),
        FLEET_FIELD(FLEET_KEY_STATE_BOOT, fleet_agent_t, device.boot),
        FLEET_FIELD(FLEET_KEY_STATE_DIRECTOR_EPOCH, fleet_agent_t, device.followed.epoch),
        FLEET_FIELD(FLEET_KEY_STATE_SEQUENCE, fleet_agent_t, device.followed.sequence),
        FLEET_FIELD_STRING(FLEET_KEY_STATE_NONCE, fleet_agent_t, device.nonce),
        FLEET_FIELD(FLEET_KEY_STATE_ROOT, fleet_agent_t, root.number),
        FLEET_FIELD(FLEET_KEY_STATE_REPORT_INTERVAL_S, fleet_agent_t, config.report_interval_s),
        FLEET_FIELD(FLEET_KEY_STATE_SLEEP_MAX_S, fleet_agent_t, config.sleep_max_s),
    };
    static const fleet_field_t rest[] = {
        FLEET_FIELD(FLEET_KEY_STATE_LAST_REASON, fleet_agent_t, last_reason),
        {FLEET_KEY_STATE_WAITING, FLEET_FIELD_ARRAY, 2},
        FLEET_FIELD_AS(FLEET_KEY_STATE_FRESH, FLEET_FIELD_NOT, fleet_agent_t, stale),
        FLEET_FIELD(FLEET_KEY_STATE_REFUSED_SEQUENCE, fleet_agent_t, refused_sequence),
    };
    const bool waiting = agent->download.waiting;
    fleet_cbor_put_map(out, 14U + waiting + agent->has_refused);
    fleet_fields_put(out, agent, FLEET_FIELDS(head));
    fleet_cbor_put_uint(out, FLEET_KEY_STATE_COMPONENTS);
    fleet_cbor_put_array(out, fleet_models(agent) + (fleet_has_component(agent, FLEET_FIRMWARE) ? 1U : 0U));
    for (uint8_t c = 0; c < FLEET_COMPONENTS; c++) {
        if (fleet_has_component(agent, c)) {
            put_component(out, agent, &agent->components[c]);
        }
    }
    fleet_fields_put(out, agent, rest, waiting ? 2 : 1);
    if (waiting) {
        fleet_cbor_put_bytes(out, agent->download.component->entry.blob, FLEET_ID_BYTES);
        fleet_cbor_put_uint(out, agent->download.chunk);
    }
    fleet_fields_put(out, agent, rest + 2, agent->has_refused ? 2 : 1);
    return out->full ? 0U : out->used;
}
