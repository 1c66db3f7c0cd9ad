/* From what the director wants to what is done: one step for one component. */
#ifndef FLEET_FOLLOW_H
#define FLEET_FOLLOW_H

#include "fleet_agent.h"

/** A message on `desired`: checks it, follows it or says why not. False when flash did not take it: it has to come again. */
bool fleet_follow_desired(fleet_agent_t *agent, const fleet_mqtt_event_t *message);

/** A message on `root/<n>`: walks one step when it is the next root. True when it was accepted. */
bool fleet_follow_root(fleet_agent_t *agent, const fleet_mqtt_event_t *message);

/** Compares a component with its entry and starts what is missing. */
void fleet_follow(fleet_agent_t *agent, fleet_component_t *component);

#endif
