#define _POSIX_C_SOURCE 200809L
#include "agent_rig.h"

#include <stdlib.h>
#include <string.h>

#include "slots.h"

/* ---- flash ---- */

typedef enum { GO_ON, POWER_FAILS, REFUSED } fate_t;

static fate_t next_operation(rig_flash_t *flash) {
    if (flash->dead) {
        return REFUSED;
    }
    flash->operations++;
    if (flash->cut_at != 0 && flash->operations == flash->cut_at) {
        flash->dead = true;
        return POWER_FAILS;
    }
    return flash->fail_from != 0 && flash->operations >= flash->fail_from ? REFUSED : GO_ON;
}

static fleet_status_t flash_read(void *ctx, uint32_t offset, void *data, uint32_t bytes) {
    rig_flash_t *flash = ctx;
    if (flash->busy > 0 || offset > flash->port.size || bytes > flash->port.size - offset) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    if (flash->dead) {
        return FLEET_ERR_STORAGE;
    }
    memcpy(data, flash->data + offset, bytes);
    return FLEET_OK;
}

static fleet_status_t flash_prog(void *ctx, uint32_t offset, const void *data, uint32_t bytes) {
    rig_flash_t *flash = ctx;
    const uint32_t unit = flash->port.program_bytes;
    if (flash->busy > 0 || bytes != unit || offset % unit != 0 || offset + bytes > flash->port.size || flash->programmed[offset / unit]) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    const fate_t fate = next_operation(flash);
    if (fate == REFUSED || (fate == POWER_FAILS && flash->cut_variant == CUT_NOTHING)) {
        return FLEET_ERR_STORAGE;
    }
    const uint32_t done = fate == POWER_FAILS && flash->cut_variant == CUT_PREFIX ? bytes / 2U : bytes;
    memcpy(flash->data + offset, data, done);
    flash->programmed[offset / unit] = 1;
    return fate == GO_ON ? FLEET_OK : FLEET_ERR_STORAGE;
}

static fleet_status_t flash_erase_start(void *ctx, uint32_t offset) {
    rig_flash_t *flash = ctx;
    const uint32_t unit = flash->port.program_bytes;
    if (flash->busy > 0 || offset % flash->port.erase_bytes != 0 || offset >= flash->port.size) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    const fate_t fate = next_operation(flash);
    if (fate == REFUSED || (fate == POWER_FAILS && flash->cut_variant == CUT_NOTHING)) {
        return FLEET_ERR_STORAGE;
    }
    const bool torn = fate == POWER_FAILS && flash->cut_variant == CUT_PREFIX;
    const uint32_t done = torn ? flash->port.erase_bytes / 2U : flash->port.erase_bytes;
    memset(flash->data + offset, 0xFF, done);
    if (!torn) { /* a torn erase must be done again */
        memset(flash->programmed + offset / unit, 0, flash->port.erase_bytes / unit);
    }
    flash->busy = fate == GO_ON ? flash->busy_polls : 0;
    return fate == GO_ON ? FLEET_OK : FLEET_ERR_STORAGE;
}

static int flash_erase_busy(void *ctx) {
    rig_flash_t *flash = ctx;
    if (flash->dead) {
        return -1;
    }
    if (flash->busy > 0) {
        flash->busy--;
        return flash->busy > 0 ? 1 : 0;
    }
    return 0;
}

rig_flash_t *rig_flash_new(uint32_t size, uint32_t erase_bytes, uint32_t program_bytes) {
    rig_flash_t *flash = calloc(1, sizeof *flash);
    void *data = NULL;
    if (flash == NULL || posix_memalign(&data, 16, size) != 0) {
        abort();
    }
    flash->data = data;
    flash->programmed = calloc(size / program_bytes, 1);
    memset(flash->data, 0xFF, size);
    flash->port = (fleet_flash_t){flash_read, flash_prog, flash_erase_start, flash_erase_busy, flash->data, size, erase_bytes, program_bytes, flash};
    return flash;
}

void rig_flash_free(rig_flash_t *flash) {
    free(flash->data);
    free(flash->programmed);
    free(flash);
}

void rig_flash_power_on(rig_flash_t *flash) {
    flash->dead = false;
    flash->cut_at = 0;
    flash->fail_from = 0;
    flash->operations = 0;
    flash->busy = 0;
}

uint8_t *rig_flash_data(rig_flash_t *flash) {
    return flash->data;
}

uint8_t *rig_flash_programmed(rig_flash_t *flash) {
    return flash->programmed;
}

uint64_t rig_flash_operations(rig_flash_t *flash) {
    return flash->operations;
}

uint32_t rig_flash_violations(rig_flash_t *flash) {
    return flash->violations;
}

bool rig_flash_dead(rig_flash_t *flash) {
    return flash->dead;
}

void rig_flash_cut(rig_flash_t *flash, uint64_t at, int variant) {
    flash->cut_at = at;
    flash->cut_variant = variant;
}

void rig_flash_fail_from(rig_flash_t *flash, uint64_t at) {
    flash->fail_from = at;
}

void rig_flash_busy_polls(rig_flash_t *flash, int polls) {
    flash->busy_polls = polls;
}

/* ---- agent ---- */

void rig_transport(rig_t *rig, int (*connect)(void *), int32_t (*send)(void *, const uint8_t *, uint32_t),
                   int32_t (*recv)(void *, uint8_t *, uint32_t), void (*close)(void *)) {
    rig->transport = (fleet_transport_t){connect, send, recv, close, rig};
}

void rig_clock(rig_t *rig, uint32_t step_us, uint64_t wall_s) {
    rig->step_us = step_us;
    rig->wall_s = wall_s;
}

static uint32_t clock_now_us(void *ctx) {
    rig_t *rig = ctx;
    rig->clock_us += rig->step_us;
    return rig->clock_us;
}

static uint64_t clock_wall_s(void *ctx) {
    return ((rig_t *)ctx)->wall_s;
}

rig_t *rig_new(rig_flash_t *flash) {
    rig_t *rig = calloc(1, sizeof *rig);
    if (rig == NULL) {
        abort();
    }
    rig->flash = flash;
    rig->step_us = 100;
    rig->crypto = fleet_posix_crypto_port(&rig->crypto_state);
    rig->clock.now_us = clock_now_us;
    rig->clock.wall_clock_s = clock_wall_s;
    rig->clock.ctx = rig;
    return rig;
}

void rig_free(rig_t *rig) {
    free(rig);
}

int rig_boot(rig_t *rig, const char *device, const char *device_class, const uint8_t *root, uint32_t root_bytes, uint8_t *arena,
             uint32_t arena_bytes, uint32_t slot_bytes, uint32_t report_interval_s) {
    fleet_agent_config_t config;
    memset(&config, 0, sizeof config);
    config.device = device;
    config.device_class = device_class;
    config.root = root;
    config.root_bytes = root_bytes;
    config.flash = &rig->flash->port;
    config.transport = &rig->transport;
    config.crypto = &rig->crypto;
    config.clock = &rig->clock;
    config.arena = arena;
    config.arena_bytes = arena_bytes;
    config.slot_bytes = slot_bytes;
    config.components = 1;
    config.report_interval_s = report_interval_s;
    return fleet_agent_init(&rig->agent, &config);
}

uint64_t rig_step(rig_t *rig, uint64_t now_ms) {
    return fleet_agent_step(&rig->agent, now_ms);
}

int rig_infer(rig_t *rig, const void *data, uint32_t bytes, int is_float, uint8_t *output, uint32_t *top, uint32_t *id) {
    const fleet_input_t input = {data, bytes, is_float ? FLEET_INPUT_FLOAT32 : FLEET_INPUT_RAW};
    fleet_answer_t answer;
    memset(&answer, 0, sizeof answer);
    answer.output = output;
    answer.output_bytes = 64;
    const int status = fleet_agent_infer(&rig->agent, 0, &input, &answer, id);
    *top = answer.top;
    return status;
}

int rig_label(rig_t *rig, uint32_t id, uint32_t label) {
    return fleet_agent_label(&rig->agent, id, label);
}

int rig_factory_reset(rig_t *rig) {
    return fleet_agent_factory_reset(&rig->agent);
}

int rig_shutdown(rig_t *rig, uint64_t now_ms) {
    return fleet_agent_shutdown(&rig->agent, now_ms);
}

void rig_info(const rig_t *rig, fleet_agent_info_t *info) {
    (void)fleet_agent_info(&rig->agent, 0, info);
}

uint32_t rig_slot_offset(const rig_t *rig, uint8_t slot) {
    return fleet_slot_offset(&rig->agent, 0, slot);
}

uint32_t rig_agent_bytes(void) {
    return (uint32_t)sizeof(fleet_agent_t);
}
