/* Events and state: what the device tells about itself when something changes. */
#ifndef FLEET_EVENTS_H
#define FLEET_EVENTS_H

#include "fleet_agent.h"

/** An event with nothing but its kind and reason set. */
fleet_event_t fleet_event(fleet_event_kind_t kind, fleet_reason_t reason);

/** Numbers it and keeps it until it is handed to the MQTT queue; the oldest goes when the ring is full. */
void fleet_event_push(fleet_agent_t *agent, const fleet_event_t *event);

/** A reason worth showing in `state`. */
void fleet_note_reason(fleet_agent_t *agent, fleet_reason_t reason);

/** Payload of an event. @return bytes in agent->message, 0 when it does not fit */
uint32_t fleet_event_encode(fleet_agent_t *agent, const fleet_event_t *event);

/** Payload of `state`. @return bytes in agent->message, 0 when it does not fit */
uint32_t fleet_state_encode(fleet_agent_t *agent);

#endif
