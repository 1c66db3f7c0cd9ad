#include "device_record.h"

#include <string.h>

#include "events.h"
#include "journal.h"

typedef char fleet_stale_is_a_step_at_least[FLEET_STALE_STEPS > 0 ? 1 : -1];

void fleet_device_copy(const fleet_agent_t *agent, fleet_device_record_t *next) {
    memmove(next, &agent->device, sizeof *next); /* a call: GCC would write a copy out */
}

fleet_status_t fleet_device_renew_nonce(const fleet_agent_t *agent, fleet_device_record_t *next) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    uint8_t nonce[sizeof next->nonce];
    const fleet_status_t status = crypto->random(crypto->ctx, nonce, sizeof nonce);
    if (status == FLEET_OK) {
        memcpy(next->nonce_before, next->nonce, sizeof nonce);
        memcpy(next->nonce, nonce, sizeof nonce);
        next->echo_age = 0;
    }
    return status;
}

void fleet_device_age_echo(fleet_device_record_t *next) {
    next->echo_age += next->echo_age < FLEET_STALE_STEPS;
}

bool fleet_device_store(fleet_agent_t *agent, const fleet_device_record_t *next) {
    if (memcmp(next, &agent->device, sizeof *next) == 0) {
        return true;
    }
    if (fleet_journal_write(&agent->journal, FLEET_KEY_DEVICE, next, sizeof *next) != FLEET_OK) {
        fleet_note_reason(agent, FLEET_REASON_FLASH_FAILED);
        return false;
    }
    memmove(&agent->device, next, sizeof *next);
    return true;
}
