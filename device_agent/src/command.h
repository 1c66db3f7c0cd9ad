/* Signed commands of the director: at most once each, in rising order (ota/SPEC.md section 4). */
#ifndef FLEET_COMMAND_H
#define FLEET_COMMAND_H

#include "fleet_agent.h"

/** Carries out what a message on the command topic asks for, or refuses it; either is told in an event. */
void fleet_command(fleet_agent_t *agent, const fleet_mqtt_event_t *message);

/** Restarts the device when a command asked for it and the answer is acknowledged. */
void fleet_command_reboot(fleet_agent_t *agent);

#endif
