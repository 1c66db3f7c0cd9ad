#include "fleet_agent.h"

#include <string.h>

#include "command.h"
#include "device_record.h"
#include "download.h"
#include "events.h"
#include "firmware.h"
#include "flash_area.h"
#include "follow.h"
#include "journal.h"
#include "link.h"
#include "roots.h"
#include "slots.h"

/* ---- init ---- */

/* Bounds of knobs: of the wire, or of the field that counts so far. */
#define KNOB(name, least, most) typedef char name##_is_##least##_to_##most[(name) >= (least) && (name) <= (most) ? 1 : -1]
KNOB(FLEET_MODELS_MAX, 1, 10);
KNOB(FLEET_SHADOW_DUTY_PCT, 1, 100);
KNOB(FLEET_COUNTER_IMAGES, 2, 22);
KNOB(FLEET_CLASSES_MAX, 2, 32);
KNOB(FLEET_LATENCY_BUCKETS, 4, 32);
KNOB(FLEET_EVENT_RING, 1, 255);
KNOB(FLEET_ROOT_KEYS_MAX, 1, 4);
KNOB(FLEET_WINDOW, 1, 8);
KNOB(FLEET_ATTEMPTS_MAX, 1, 255);
KNOB(FLEET_BUDGET_FAULTS_MAX, 1, 255);
KNOB(FLEET_DOWNLOADS_MAX, 1, 255);
KNOB(FLEET_KEEP_ALIVE_S, 0, 65535);

static bool geometry_usable(const fleet_flash_t *flash, uint32_t slot_bytes, uint8_t components) {
    const uint32_t unit = flash->program_bytes;
    return unit > 0 && unit <= FLEET_FLASH_UNIT_MAX && (unit & (unit - 1U)) == 0 && flash->erase_bytes >= 16U &&
           flash->erase_bytes % unit == 0 && flash->erase_bytes % 16U == 0 && slot_bytes > 0 && slot_bytes <= UINT32_MAX / 32U &&
           components > 0 && components <= FLEET_MODELS_MAX;
}

uint32_t fleet_agent_flash_bytes(const fleet_flash_t *flash, uint32_t slot_bytes, uint8_t components) {
    if (flash == NULL || !geometry_usable(flash, slot_bytes, components)) {
        return 0;
    }
    return 2U * fleet_journal_half_bytes(flash) + 2U * components * fleet_round_up(slot_bytes, flash->erase_bytes);
}

static bool text_fits(const char *text) {
    const size_t bytes = text != NULL ? strlen(text) : 0;
    return bytes > 0 && bytes <= FLEET_DEVICE_ID_MAX;
}

/* Less than half of what milliseconds of 32 bits hold. */
enum { INTERVAL_MAX_S = 2000000 };

static bool is_aligned(const fleet_agent_config_t *config) {
    return (((uintptr_t)config->arena | (uintptr_t)config->state | config->state_bytes | (uintptr_t)config->flash->mapped) & 15U) == 0;
}

static fleet_status_t check_config(const fleet_agent_config_t *config) {
    if (!text_fits(config->device) || !text_fits(config->device_class) || config->root == NULL || config->flash == NULL ||
        config->transport == NULL || config->crypto == NULL || config->clock == NULL || config->arena == NULL || config->flash->mapped == NULL ||
        (config->state == NULL) != (config->state_bytes == 0) || !is_aligned(config) ||
        config->report_interval_s == 0 || config->report_interval_s > INTERVAL_MAX_S || config->sleep_max_s > INTERVAL_MAX_S) {
        return FLEET_ERR_ARGUMENT;
    }
    if (FLEET_WITH_FIRMWARE && fleet_firmware_check(config) != FLEET_OK) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint32_t needed = fleet_agent_flash_bytes(config->flash, config->slot_bytes, config->components);
    if (needed == 0) {
        return FLEET_ERR_ARGUMENT;
    }
    return needed <= config->flash->size ? FLEET_OK : FLEET_ERR_SINGLE_SLOT;
}

/* `rx` holds a root and what its signatures cover. */
typedef char fleet_rx_holds_a_root_and_its_scratch
    [FLEET_RX_BYTES >= FLEET_TOPIC_ROOT_SIZE + 4U + FLEET_ROOT_BYTES_MAX + FLEET_ROOT_SCRATCH_BYTES ? 1 : -1];

/* The newest root: the stored one when it is, else the provisioned one. */
static fleet_status_t load_root(fleet_agent_t *agent) {
    const fleet_agent_config_t *config = &agent->config;
    uint8_t *scratch = agent->rx + FLEET_ROOT_BYTES_MAX;
    uint32_t bytes;
    if (!fleet_root_accept(config->crypto, config->root, config->root_bytes, NULL, scratch, &agent->root)) {
        return FLEET_ERR_ROOT;
    }
    if (fleet_journal_read(&agent->journal, FLEET_KEY_ROOT, agent->rx, FLEET_ROOT_BYTES_MAX, &bytes) != FLEET_OK) {
        return FLEET_ERR_FLASH;
    }
    fleet_root_t stored;
    if (bytes > 0 && fleet_root_accept(config->crypto, agent->rx, bytes, NULL, scratch, &stored) &&
        stored.number > agent->root.number) {
        agent->root = stored;
    }
    return FLEET_OK;
}

static fleet_status_t load_device(fleet_agent_t *agent) {
    fleet_device_record_t *device = &agent->device;
    uint32_t bytes;
    fleet_status_t status = fleet_journal_read(&agent->journal, FLEET_KEY_DEVICE, device, sizeof *device, &bytes);
    device->boot++;
    agent->stale = device->echo_age >= FLEET_STALE_STEPS;
    fleet_device_age_echo(device);
    if (status == FLEET_OK && bytes == 0) {
        device->followed.epoch = agent->root.director_epoch;
        status = fleet_device_renew_nonce(agent, device);
        memcpy(device->nonce_before, device->nonce, sizeof device->nonce);
    }
    return status == FLEET_OK ? fleet_journal_write(&agent->journal, FLEET_KEY_DEVICE, device, sizeof *device) : status;
}

static fleet_status_t load(fleet_agent_t *agent) {
    fleet_journal_origin_t origin;
    fleet_status_t status = fleet_journal_open(&agent->journal, agent->config.flash, &origin);
    if (status == FLEET_OK) {
        status = load_root(agent);
    }
    if (status == FLEET_OK) {
        status = load_device(agent);
    }
    for (uint8_t c = 0; c < FLEET_COMPONENTS && status == FLEET_OK; c++) {
        if (fleet_has_component(agent, c)) {
            status = fleet_slots_boot(agent, &agent->components[c], origin == FLEET_JOURNAL_LOST);
        }
    }
    return status;
}

fleet_status_t fleet_agent_init(fleet_agent_t *agent, const fleet_agent_config_t *config) {
    if (agent == NULL || config == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    const fleet_status_t checked = check_config(config);
    if (checked != FLEET_OK) {
        return checked;
    }
    memset(agent, 0, sizeof *agent);
    agent->config = *config;
    agent->slot_bytes = fleet_round_up(config->slot_bytes, config->flash->erase_bytes);
    agent->state_dirty = true;
    if (config->stack_low != NULL) {
        fleet_stack_mark(config->stack_low, config->stack_bytes);
    }
    const fleet_status_t status = load(agent);
    return status == FLEET_OK ? fleet_link_init(agent) : status;
}

/* ---- step ---- */

static void begin_clock(fleet_agent_t *agent, uint32_t now_ms) {
    agent->began = true;
    agent->now_ms = now_ms;
    agent->link_due_ms = now_ms;
    agent->report_due_ms = now_ms + fleet_random_below(agent, agent->config.report_interval_s * 1000U);
}

/* By the uptime that is counted here candidates are reverted and assignments get stale. */
static void count_exposure(fleet_agent_t *agent, uint32_t elapsed_ms) {
    elapsed_ms += agent->uptime_rest_ms;
    const uint32_t seconds = elapsed_ms / 1000U;
    agent->uptime_s += seconds;
    agent->uptime_rest_ms = (uint16_t)(elapsed_ms % 1000U);
    for (uint8_t c = 0; c < fleet_models(agent); c++) {
        const fleet_component_t *component = &agent->components[c];
        if (component->answering != FLEET_NO_SLOT) {
            agent->counters[component->counters[component->answering]].active_s += seconds;
        }
    }
}

/* Reports keep their phase, but for a pause longer than the interval. */
static void schedule_report(fleet_agent_t *agent) {
    if (fleet_wait_ms(agent, agent->report_due_ms) == 0) {
        const uint32_t interval_ms = agent->config.report_interval_s * 1000U;
        const uint32_t late_ms = agent->now_ms - agent->report_due_ms;
        agent->report_due_ms += late_ms < interval_ms ? interval_ms : late_ms + interval_ms;
        agent->telemetry_due = true;
    }
}

/* By uptime: no clock is trusted. Time that is off, or lost by a reset within a step, does not count, but for the step that each boot begins with. */
static void watch_freshness(fleet_agent_t *agent) {
    if (agent->uptime_s - agent->echo_step_s >= FLEET_ECHO_STEP_S) {
        fleet_device_record_t next;
        fleet_device_copy(agent, &next);
        fleet_device_age_echo(&next);
        (void)fleet_device_store(agent, &next);
        agent->echo_step_s += FLEET_ECHO_STEP_S;
    }
    const bool stale = agent->device.echo_age >= FLEET_STALE_STEPS;
    if (stale && !agent->stale) {
        fleet_note_reason(agent, FLEET_REASON_ASSIGNMENT_STALE_NONCE);
    }
    agent->stale = stale;
}

static uint32_t shorter(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

uint64_t fleet_agent_step(fleet_agent_t *agent, uint64_t now_ms) {
    if (!agent->began) {
        begin_clock(agent, (uint32_t)now_ms);
    }
    count_exposure(agent, fleet_wait_ms(agent, (uint32_t)now_ms)); /* none where a clock went back */
    agent->now_ms = (uint32_t)now_ms;
    uint32_t wait_ms = fleet_link_step(agent);
    for (uint8_t c = 0; c < FLEET_COMPONENTS; c++) {
        if (fleet_has_component(agent, c)) {
            fleet_follow(agent, &agent->components[c]);
            fleet_slots_advance(agent, &agent->components[c]);
        }
    }
    wait_ms = shorter(wait_ms, fleet_download_step(agent));
    schedule_report(agent);
    watch_freshness(agent);
    fleet_link_flush(agent);
    if (FLEET_WITH_COMMANDS) {
        fleet_command_reboot(agent);
    }
    wait_ms = shorter(wait_ms, fleet_wait_ms(agent, agent->report_due_ms));
    return now_ms + shorter(wait_ms, FLEET_IDLE_MS);
}

bool fleet_agent_shutdown(fleet_agent_t *agent, uint64_t now_ms) {
    if (!agent->stopping) {
        agent->stopping = true;
        agent->telemetry_due = true;
        agent->state_dirty = true;
        fleet_download_stop(agent);
    }
    (void)fleet_agent_step(agent, now_ms);
    const bool told = !agent->telemetry_due && !agent->state_dirty;
    return (told || !fleet_mqtt_connected(&agent->mqtt)) && fleet_link_end(agent);
}

fleet_status_t fleet_agent_factory_reset(fleet_agent_t *agent) {
    fleet_download_stop(agent);
    for (uint8_t c = 0; c < FLEET_COMPONENTS; c++) {
        fleet_component_t *component = &agent->components[c];
        if (fleet_has_component(agent, c) && !fleet_is_firmware(agent, component) &&
            !fleet_slots_change(agent, component, 0, FLEET_CLEAR)) {
            return FLEET_ERR_FLASH;
        }
    }
    return FLEET_OK;
}

fleet_status_t fleet_agent_info(const fleet_agent_t *agent, uint8_t component, fleet_agent_info_t *info) {
    if (agent == NULL || info == NULL || !fleet_has_component(agent, component)) {
        return FLEET_ERR_ARGUMENT;
    }
    const fleet_component_t *of = &agent->components[component];
    info->connected = fleet_mqtt_connected(&agent->mqtt);
    info->answering = of->answering;
    info->active = of->record.active;
    info->fallback = of->record.fallback;
    info->floor = of->record.floor;
    fleet_slot_info(agent, of, 0, &info->slots[0]);
    fleet_slot_info(agent, of, 1, &info->slots[1]);
    info->sequence = agent->device.followed.sequence;
    info->director_epoch = agent->device.followed.epoch;
    info->root = agent->root.number;
    info->boot = agent->device.boot;
    info->last_reason = agent->last_reason;
    info->received_bytes = fleet_download_runs(agent, of) ? agent->download.received : 0;
    return FLEET_OK;
}
