#include "device_record.h"

#include <string.h>

#include "events.h"
#include "journal.h"

void fleet_device_copy(const fleet_agent_t *agent, fleet_device_record_t *next) {
    memmove(next, &agent->device, sizeof *next); /* a call: GCC would write a copy out */
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
