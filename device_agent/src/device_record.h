/* What is kept once per device: boots, nonces, and what was followed last. */
#ifndef FLEET_DEVICE_RECORD_H
#define FLEET_DEVICE_RECORD_H

#include "fleet_agent.h"

/** A copy, to be changed and stored. */
void fleet_device_copy(const fleet_agent_t *agent, fleet_device_record_t *next);

/** A nonce that nobody has echoed, its age begins anew. Where there is no randomness the old one stays. @return FLEET_OK or the error of the port */
fleet_status_t fleet_device_renew_nonce(const fleet_agent_t *agent, fleet_device_record_t *next);

/** One more step without an echo. */
void fleet_device_age_echo(fleet_device_record_t *next);

/** No echo for so many of them. */
#define FLEET_STALE_STEPS ((uint32_t)(FLEET_STALE_AFTER_S / FLEET_ECHO_STEP_S))

/** Stores a changed record, then lives by it. False when it could not be stored: nothing changed, `state` says FLASH_FAILED. */
bool fleet_device_store(fleet_agent_t *agent, const fleet_device_record_t *next);

#endif
