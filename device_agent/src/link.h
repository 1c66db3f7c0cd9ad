/* The connection to the broker: transport, MQTT session, reconnects with jitter, what is subscribed and published. */
#ifndef FLEET_LINK_H
#define FLEET_LINK_H

#include "fleet_agent.h"

/** The longest that a step may be off, ms. */
enum { FLEET_IDLE_MS = 1000 };

/** Anywhere below `bound`: a fleet that was powered up together does not act together. 0 for 0; the last one without a random source, so that delays grow. */
uint32_t fleet_random_below(const fleet_agent_t *agent, uint32_t bound);

/** How long until `due_ms`, 0 when it is past; at most half the range of the clock apart. */
uint32_t fleet_wait_ms(const fleet_agent_t *agent, uint32_t due_ms);

/** Prepares the MQTT client. */
fleet_status_t fleet_link_init(fleet_agent_t *agent);

/** Connects, reads, acts on messages. @return how long until it wants to be called again, ms */
uint32_t fleet_link_step(fleet_agent_t *agent);

/** Publishes what is due and sends what is queued, after the rest of the step queued more. */
void fleet_link_flush(fleet_agent_t *agent);

/** Sends a DISCONNECT once everything is delivered. True when the transport is closed. */
bool fleet_link_end(fleet_agent_t *agent);

#endif
