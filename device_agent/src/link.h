/* The connection to the broker: transport, MQTT session, reconnects with jitter, what is subscribed and published. */
#ifndef FLEET_LINK_H
#define FLEET_LINK_H

#include "fleet_agent.h"

/** Prepares the MQTT client. */
fleet_status_t fleet_link_init(fleet_agent_t *agent);

/** Connects, reads, acts on messages, publishes what is due, sends. @return when to be called next, ms */
uint64_t fleet_link_step(fleet_agent_t *agent);

/** Sends what is queued after the rest of the step queued more. */
void fleet_link_flush(fleet_agent_t *agent);

/** Sends a DISCONNECT once everything is delivered. True when the transport is closed. */
bool fleet_link_end(fleet_agent_t *agent);

#endif
