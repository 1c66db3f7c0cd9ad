#include "command.h"

#if FLEET_WITH_COMMANDS

#include <string.h>

#include "assignment.h"
#include "device_record.h"
#include "events.h"
#include "fields.h"
#include "link.h"

/* `fleet_device_record_t.command`: the number, and above it the low byte of the epoch, so that numbers begin anew under a new one. */
enum { NUMBER_BITS = 24, MEMBERS = 0x7F };
#define NUMBER_MAX ((UINT32_C(1) << NUMBER_BITS) - 1U)

typedef struct {
    uint64_t epoch;
    uint64_t expires;
    uint32_t number;
    uint8_t action;
    uint8_t nonce[8];
    fleet_cbor_t device;
} command_t;

static fleet_reason_t read_content(const fleet_agent_t *agent, fleet_cbor_t *in, command_t *command) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_COMMAND_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD_AS(FLEET_KEY_COMMAND_DEVICE, FLEET_FIELD_ITEM, command_t, device),
        FLEET_FIELD(FLEET_KEY_COMMAND_DIRECTOR_EPOCH, command_t, epoch),
        FLEET_FIELD(FLEET_KEY_COMMAND_NUMBER, command_t, number),
        FLEET_FIELD_STRING(FLEET_KEY_COMMAND_NONCE, command_t, nonce),
        FLEET_FIELD(FLEET_KEY_COMMAND_EXPIRES, command_t, expires),
        FLEET_FIELD(FLEET_KEY_COMMAND_ACTION, command_t, action),
    };
    const uint32_t seen = fleet_fields_read(in, command, FLEET_FIELDS(fields));
    const bool here = fleet_cbor_is_text(&command->device, agent->config.device);
    if (!fleet_cbor_done(in) || command->device.bad || (seen & MEMBERS) != MEMBERS || command->number > NUMBER_MAX) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    return here ? FLEET_REASON_NONE : FLEET_REASON_ASSIGNMENT_OTHER_DEVICE;
}

static uint32_t newest_number(const fleet_agent_t *agent, uint64_t epoch) {
    const uint32_t newest = agent->device.command;
    return newest >> NUMBER_BITS == (uint8_t)epoch ? newest & NUMBER_MAX : 0U;
}

static bool is_over(const fleet_agent_t *agent, const command_t *command) {
    const fleet_clock_t *clock = agent->config.clock;
    const uint64_t now_s = clock->wall_clock_s != NULL ? clock->wall_clock_s(clock->ctx) : 0;
    return now_s >= command->expires; /* an unknown time is 0 */
}

static bool is_supported(const fleet_agent_t *agent, uint8_t action) {
    return action == FLEET_ACTION_DIAGNOSTICS || (action == FLEET_ACTION_REBOOT && agent->config.clock->reset != NULL);
}

static fleet_reason_t check(const fleet_agent_t *agent, const command_t *command) {
    if (command->epoch != agent->root.director_epoch || command->number <= newest_number(agent, command->epoch)) {
        return FLEET_REASON_ASSIGNMENT_OLD_SEQUENCE;
    }
    if (!fleet_nonce_is_known(agent, command->nonce)) {
        return FLEET_REASON_ASSIGNMENT_STALE_NONCE;
    }
    if (is_over(agent, command)) {
        return FLEET_REASON_COMMAND_EXPIRED;
    }
    return is_supported(agent, command->action) ? FLEET_REASON_NONE : FLEET_REASON_COMMAND_UNSUPPORTED;
}

/* Stored before it is carried out: a reboot that came again with every connection would never end. */
static fleet_reason_t store(fleet_agent_t *agent, const command_t *command) {
    fleet_device_record_t next;
    fleet_device_copy(agent, &next);
    next.command = (uint32_t)(uint8_t)command->epoch << NUMBER_BITS | command->number;
    return fleet_device_store(agent, &next) ? FLEET_REASON_NONE : FLEET_REASON_FLASH_FAILED;
}

static void answer(fleet_agent_t *agent, const command_t *command, fleet_reason_t reason) {
    fleet_event_t *event = fleet_event(agent, NULL, FLEET_EVENT_KIND_COMMAND, reason);
    event->sequence = command->number;
    event->detail = reason == FLEET_REASON_NONE ? agent->uptime_s : newest_number(agent, agent->root.director_epoch);
    event->members |= FLEET_EVENT_HAS(SEQUENCE) | FLEET_EVENT_HAS(DETAIL);
}

/* Diagnostics are what the device reports anyway, now: counters, stack, resets, slots, reasons. */
static void carry_out(fleet_agent_t *agent, uint8_t action) {
    agent->telemetry_due = true;
    agent->state_dirty = true;
    agent->reboot_asked = action == FLEET_ACTION_REBOOT;
}

void fleet_command(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    command_t command;
    fleet_reason_t reason = FLEET_REASON_ASSIGNMENT_MALFORMED;
    fleet_cbor_t content;
    memset(&command, 0, sizeof command);
    if (message->payload != NULL) {
        reason = fleet_director_open(agent, message->payload, message->payload_bytes, &content);
    }
    if (reason == FLEET_REASON_NONE) {
        reason = read_content(agent, &content, &command);
    }
    if (reason == FLEET_REASON_NONE) {
        reason = check(agent, &command);
    }
    if (reason == FLEET_REASON_NONE) {
        reason = store(agent, &command);
    }
    answer(agent, &command, reason);
    if (reason == FLEET_REASON_NONE) {
        carry_out(agent, command.action);
    }
}

void fleet_command_reboot(fleet_agent_t *agent) {
    const fleet_clock_t *clock = agent->config.clock;
    if (agent->reboot_asked && agent->event_count == 0 && fleet_mqtt_queued_bytes(&agent->mqtt) == 0) {
        agent->reboot_asked = false;
        clock->reset(clock->ctx);
    }
}

#endif
