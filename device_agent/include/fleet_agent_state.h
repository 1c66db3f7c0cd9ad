/* The memory of an agent: included by fleet_agent.h so that callers know its size. All fields are private. */
#ifndef FLEET_AGENT_STATE_H
#define FLEET_AGENT_STATE_H

#include "fleet_mqtt.h"
#include "fleet_protocol.h"

struct fleet_agent {
    fleet_agent_config_t config;
};

#endif
