#include "events.h"

#include <string.h>

#include "cbor.h"
#include "download.h"
#include "fleet_image.h"

fleet_event_t fleet_event(fleet_event_kind_t kind, fleet_reason_t reason) {
    fleet_event_t event;
    memset(&event, 0, sizeof event);
    event.kind = (uint8_t)kind;
    event.reason = (uint8_t)reason;
    event.component = FLEET_NO_SLOT;
    event.to = FLEET_NO_SLOT;
    return event;
}

void fleet_event_push(fleet_agent_t *agent, const fleet_event_t *event) {
    if (agent->event_count == FLEET_EVENT_RING) {
        agent->event_first = (uint16_t)((agent->event_first + 1U) % FLEET_EVENT_RING);
        agent->event_count--;
    }
    fleet_event_t *place = &agent->events[(agent->event_first + agent->event_count) % FLEET_EVENT_RING];
    *place = *event;
    place->number = agent->event_number++;
    agent->event_count++;
}

void fleet_note_reason(fleet_agent_t *agent, fleet_reason_t reason) {
    if (reason != FLEET_REASON_NONE) {
        agent->last_reason = (uint8_t)reason;
        agent->state_dirty = true;
    }
}

static void put_pair(fleet_cbor_out_t *out, uint32_t key, uint64_t value) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_uint(out, value);
}

static void put_component_name(fleet_cbor_out_t *out, uint8_t component) {
    const char name[8] = {'m', 'o', 'd', 'e', 'l', '/', (char)('0' + component), 0};
    fleet_cbor_put_text(out, name);
}

static uint32_t event_members(const fleet_event_t *event) {
    const bool slot = event->to != FLEET_NO_SLOT;
    return 5U + (event->component != FLEET_NO_SLOT) + event->has_image + (slot ? 2U : 0U) + event->has_sequence +
           event->has_received + event->has_detail;
}

uint32_t fleet_event_encode(fleet_agent_t *agent, const fleet_event_t *event) {
    fleet_cbor_out_t out = fleet_cbor_writer(agent->message, sizeof agent->message);
    fleet_cbor_put_map(&out, event_members(event));
    put_pair(&out, FLEET_KEY_EVENT_PROTOCOL, FLEET_PROTOCOL_VERSION);
    put_pair(&out, FLEET_KEY_EVENT_BOOT, agent->device.boot);
    put_pair(&out, FLEET_KEY_EVENT_NUMBER, event->number);
    put_pair(&out, FLEET_KEY_EVENT_KIND, event->kind);
    if (event->component != FLEET_NO_SLOT) {
        fleet_cbor_put_uint(&out, FLEET_KEY_EVENT_COMPONENT);
        put_component_name(&out, event->component);
    }
    if (event->has_image) {
        fleet_cbor_put_uint(&out, FLEET_KEY_EVENT_IMAGE);
        fleet_cbor_put_bytes(&out, event->image, FLEET_ID_BYTES);
    }
    if (event->to != FLEET_NO_SLOT) {
        put_pair(&out, FLEET_KEY_EVENT_FROM, event->from);
        put_pair(&out, FLEET_KEY_EVENT_TO, event->to);
    }
    put_pair(&out, FLEET_KEY_EVENT_REASON, event->reason);
    if (event->has_sequence) {
        put_pair(&out, FLEET_KEY_EVENT_SEQUENCE, event->sequence);
    }
    if (event->has_received) {
        put_pair(&out, FLEET_KEY_EVENT_RECEIVED_BYTES, event->received_bytes);
    }
    if (event->has_detail) {
        put_pair(&out, FLEET_KEY_EVENT_DETAIL, event->detail);
    }
    return out.full ? 0U : out.used;
}

static void put_slot_index(fleet_cbor_out_t *out, uint32_t key, uint8_t slot) {
    fleet_cbor_put_uint(out, key);
    if (slot == FLEET_NO_SLOT) {
        fleet_cbor_put_null(out);
    } else {
        fleet_cbor_put_uint(out, slot);
    }
}

static void put_slot(fleet_cbor_out_t *out, const fleet_agent_t *agent, uint8_t component, uint8_t index) {
    const fleet_slot_record_t *slot = &agent->components[component].record.slots[index];
    fleet_cbor_put_map(out, 7);
    put_pair(out, FLEET_KEY_SLOT_STATE, slot->state);
    fleet_cbor_put_uint(out, FLEET_KEY_SLOT_IMAGE);
    if (slot->state == FLEET_SLOT_STATE_EMPTY) {
        fleet_cbor_put_null(out);
    } else {
        fleet_cbor_put_bytes(out, slot->digest, FLEET_ID_BYTES);
    }
    put_pair(out, FLEET_KEY_SLOT_REASON, slot->reason);
    put_pair(out, FLEET_KEY_SLOT_WRITTEN_BYTES, fleet_download_written(agent, component, index));
    put_pair(out, FLEET_KEY_SLOT_IMAGE_BYTES, slot->image_bytes);
    put_pair(out, FLEET_KEY_SLOT_ATTEMPTS, slot->attempts);
    put_pair(out, FLEET_KEY_SLOT_RELEASE_COUNTER, slot->release_counter);
}

static void put_component(fleet_cbor_out_t *out, const fleet_agent_t *agent, uint8_t component) {
    const fleet_component_record_t *record = &agent->components[component].record;
    fleet_cbor_put_map(out, 5);
    fleet_cbor_put_uint(out, FLEET_KEY_COMPONENT_STATE_COMPONENT);
    put_component_name(out, component);
    put_slot_index(out, FLEET_KEY_COMPONENT_STATE_ACTIVE, agent->components[component].answering);
    put_slot_index(out, FLEET_KEY_COMPONENT_STATE_FALLBACK, record->fallback);
    put_pair(out, FLEET_KEY_COMPONENT_STATE_FLOOR, record->floor);
    fleet_cbor_put_uint(out, FLEET_KEY_COMPONENT_STATE_SLOTS);
    fleet_cbor_put_array(out, 2);
    put_slot(out, agent, component, 0);
    put_slot(out, agent, component, 1);
}

static void put_text(fleet_cbor_out_t *out, uint32_t key, const char *text) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_text(out, text);
}

uint32_t fleet_state_encode(fleet_agent_t *agent) {
    fleet_cbor_out_t out = fleet_cbor_writer(agent->message, sizeof agent->message);
    const bool waiting = agent->download.waiting;
    fleet_cbor_put_map(&out, 14U + waiting + agent->has_refused);
    put_pair(&out, FLEET_KEY_STATE_PROTOCOL, FLEET_PROTOCOL_VERSION);
    put_text(&out, FLEET_KEY_STATE_DEVICE_CLASS, agent->config.device_class);
    put_text(&out, FLEET_KEY_STATE_AGENT, FLEET_AGENT_VERSION);
    put_pair(&out, FLEET_KEY_STATE_ABI, FLEET_IMAGE_ABI);
    put_pair(&out, FLEET_KEY_STATE_BOOT, agent->device.boot);
    put_pair(&out, FLEET_KEY_STATE_DIRECTOR_EPOCH, agent->device.epoch);
    put_pair(&out, FLEET_KEY_STATE_SEQUENCE, agent->device.sequence);
    fleet_cbor_put_uint(&out, FLEET_KEY_STATE_NONCE);
    fleet_cbor_put_bytes(&out, agent->device.nonce, sizeof agent->device.nonce);
    put_pair(&out, FLEET_KEY_STATE_ROOT, agent->root.number);
    put_pair(&out, FLEET_KEY_STATE_REPORT_INTERVAL_S, agent->config.report_interval_s);
    put_pair(&out, FLEET_KEY_STATE_SLEEP_MAX_S, agent->config.sleep_max_s);
    fleet_cbor_put_uint(&out, FLEET_KEY_STATE_COMPONENTS);
    fleet_cbor_put_array(&out, agent->config.components);
    for (uint8_t c = 0; c < agent->config.components; c++) {
        put_component(&out, agent, c);
    }
    put_pair(&out, FLEET_KEY_STATE_LAST_REASON, agent->last_reason);
    if (waiting) {
        fleet_cbor_put_uint(&out, FLEET_KEY_STATE_WAITING);
        fleet_cbor_put_array(&out, 2);
        fleet_cbor_put_bytes(&out, agent->components[agent->download.component].entry.blob, FLEET_ID_BYTES);
        fleet_cbor_put_uint(&out, agent->download.chunk);
    }
    fleet_cbor_put_uint(&out, FLEET_KEY_STATE_FRESH);
    fleet_cbor_put_bool(&out, !agent->stale);
    if (agent->has_refused) {
        put_pair(&out, FLEET_KEY_STATE_REFUSED_SEQUENCE, agent->refused_sequence);
    }
    return out.full ? 0U : out.used;
}
