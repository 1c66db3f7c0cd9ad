/* What is kept once per device: boots, nonces, and what was followed last. */
#ifndef FLEET_DEVICE_RECORD_H
#define FLEET_DEVICE_RECORD_H

#include "fleet_agent.h"

/** A copy, to be changed and stored. */
void fleet_device_copy(const fleet_agent_t *agent, fleet_device_record_t *next);

/** Stores a changed record, then lives by it. False when it could not be stored: nothing changed, `state` says FLASH_FAILED. */
bool fleet_device_store(fleet_agent_t *agent, const fleet_device_record_t *next);

#endif
