#include "device_record.h"

#include <string.h>

#include "events.h"
#include "journal.h"

bool fleet_device_store(fleet_agent_t *agent, const fleet_device_record_t *next) {
    if (memcmp(next, &agent->device, sizeof *next) == 0) {
        return true;
    }
    if (fleet_journal_write(&agent->journal, FLEET_KEY_DEVICE, next, sizeof *next) != FLEET_OK) {
        fleet_note_reason(agent, FLEET_REASON_FLASH_FAILED);
        return false;
    }
    memcpy(&agent->device, next, sizeof *next);
    return true;
}
