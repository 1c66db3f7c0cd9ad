/* Events and state: what the device tells about itself when something changes. */
#ifndef FLEET_EVENTS_H
#define FLEET_EVENTS_H

#include "cbor.h"
#include "fleet_agent.h"

#define FLEET_COMPONENT_NAME_BYTES 9U

/** Members of an event that not every one has, as bits by key: see fleet_event_t.members. */
#define FLEET_EVENT_HAS(key) (1U << FLEET_KEY_EVENT_##key)

/**
 * A new event, of a component where that is not null, numbered and kept until it is handed to the MQTT queue; the oldest goes when the ring is full. The caller fills in
 * what else it says. Its reason is noted for `state`, unless it is a fault or a command.
 */
fleet_event_t *fleet_event(fleet_agent_t *agent, const fleet_component_t *component, fleet_event_kind_t kind, fleet_reason_t reason);

/** The event names the image in a slot. */
void fleet_event_image(fleet_event_t *event, const fleet_slot_record_t *slot);

/** The assignment `sequence` cannot be followed, because of a component or (null) at all: an event, and `state` names it from now on. */
void fleet_refuse(fleet_agent_t *agent, const fleet_component_t *component, uint64_t sequence, fleet_reason_t reason);

/** A reason worth showing in `state`. */
void fleet_note_reason(fleet_agent_t *agent, fleet_reason_t reason);

/** Name of a component in messages by its number, zero-terminated. */
void fleet_component_name(uint8_t component, char name[FLEET_COMPONENT_NAME_BYTES]);

/** What one slot holds now. */
void fleet_slot_info(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot, fleet_slot_info_t *info);

/** The oldest event was handed over, or makes room. */
void fleet_event_drop(fleet_agent_t *agent);

/** Payload of the oldest event. @return its bytes, 0 when it does not fit */
uint32_t fleet_event_encode(fleet_agent_t *agent, fleet_cbor_out_t *out);

/** Payload of `state`. @return its bytes, 0 when it does not fit */
uint32_t fleet_state_encode(fleet_agent_t *agent, fleet_cbor_out_t *out);

#endif
