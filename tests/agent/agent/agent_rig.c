#define _POSIX_C_SOURCE 200809L
#include "agent_rig.h"

#include <stdlib.h>
#include <string.h>

#include "fleet_boot.h"
#include "slots.h"

void rig_transport(rig_t *rig, int (*connect)(void *), int32_t (*send)(void *, const uint8_t *, uint32_t),
                   int32_t (*recv)(void *, uint8_t *, uint32_t), void (*close)(void *)) {
    rig->transport = (fleet_transport_t){connect, send, recv, close, rig};
}

void rig_clock(rig_t *rig, uint32_t step_us, uint64_t wall_s) {
    rig->step_us = step_us;
    rig->wall_s = wall_s;
}

void rig_state(rig_t *rig, uint8_t *state, uint32_t state_bytes) {
    rig->state = state;
    rig->state_bytes = state_bytes;
}

int rig_reset_stream(rig_t *rig) {
    return fleet_agent_reset_stream(&rig->agent, 0);
}

static uint32_t clock_now_us(void *ctx) {
    rig_t *rig = ctx;
    rig->clock_us += rig->step_us;
    return rig->clock_us;
}

static uint64_t clock_wall_s(void *ctx) {
    return ((rig_t *)ctx)->wall_s;
}

static void reset(void *ctx) {
    ((rig_t *)ctx)->resets++;
}

rig_t *rig_new(rig_flash_t *flash) {
    rig_t *rig = calloc(1, sizeof *rig);
    if (rig == NULL) {
        abort();
    }
    rig->flash = flash;
    rig->step_us = 100;
    rig->components = 1;
    rig->output_room = 64;
    rig->crypto = fleet_posix_crypto_port(&rig->crypto_state);
    rig->clock.now_us = clock_now_us;
    rig->clock.wall_clock_s = clock_wall_s;
    rig->clock.reset = reset;
    rig->clock.ctx = rig;
    return rig;
}

void rig_key(rig_t *rig, const char *path) {
    fleet_posix_crypto_open(&rig->crypto_state, path);
}

void rig_without_decryption(rig_t *rig) {
    rig->crypto.aes128_gcm_open = NULL;
}

static fleet_status_t no_random(void *ctx, void *data, size_t bytes) {
    (void)ctx;
    (void)data;
    (void)bytes;
    return FLEET_ERR_CRYPTO;
}

void rig_without_random(rig_t *rig) {
    rig->crypto.random = no_random;
}

void rig_free(rig_t *rig) {
    fleet_posix_crypto_close(&rig->crypto_state);
    free(rig);
}

static void answered(void *ctx, uint8_t component, const fleet_answer_t *answer) {
    rig_t *rig = ctx;
    (void)component;
    rig->answers++;
    rig->answered_top = answer->top;
}

uint32_t rig_answers(const rig_t *rig, uint32_t *top) {
    *top = rig->answered_top;
    return rig->answers;
}

void rig_fault(rig_t *rig, int kind, const uint8_t *image) {
    rig->fault = (rig_fault_t){kind, image};
}

void rig_output_room(rig_t *rig, uint32_t bytes) {
    rig->output_room = bytes;
}

void rig_components(rig_t *rig, uint8_t components) {
    rig->components = components;
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
    config.firmware = rig->has_firmware ? &rig->firmware : NULL;
    config.arena = arena;
    config.arena_bytes = arena_bytes;
    config.state = rig->state;
    config.state_bytes = rig->state_bytes;
    config.slot_bytes = slot_bytes;
    config.components = rig->components;
    config.answered = answered;
    config.answered_ctx = rig;
    config.report_interval_s = report_interval_s;
    return fleet_agent_init(&rig->agent, &config);
}

uint64_t rig_step(rig_t *rig, uint64_t now_ms) {
    return fleet_agent_step(&rig->agent, now_ms);
}

int rig_infer(rig_t *rig, uint8_t component, const void *data, uint32_t bytes, int is_float, uint8_t *output, uint32_t *top, uint32_t *id) {
    const fleet_input_t input = {data, bytes, is_float ? FLEET_INPUT_FLOAT32 : FLEET_INPUT_RAW};
    fleet_answer_t answer;
    memset(&answer, 0, sizeof answer);
    answer.output = output;
    answer.output_bytes = rig->output_room;
    static const rig_fault_t none;
    rig_fault_now = rig->fault;
    if (setjmp(rig_reset_point) != 0) {
        rig_fault_now = none;
        return RIG_RESET;
    }
    const int status = fleet_agent_infer(&rig->agent, component, &input, &answer, id);
    rig_fault_now = none;
    *top = answer.top;
    return status;
}

int rig_label(rig_t *rig, uint32_t id, uint32_t label) {
    return FLEET_WITH_LABELS ? fleet_agent_label(&rig->agent, id, label) : FLEET_ERR_LABEL;
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
    return fleet_slot_offset(&rig->agent, &rig->agent.components[0], slot);
}

int rig_boot_select(const rig_t *rig, uint32_t slot_bytes, uint8_t *slot) {
    fleet_boot_choice_t choice;
    const int status = fleet_boot_select(&rig->flash->port, slot_bytes, 0, &choice);
    *slot = choice.slot;
    return status;
}

static fleet_status_t view_read(void *ctx, uint32_t offset, void *data, uint32_t bytes) {
    const rig_view_t *view = ctx;
    return offset + bytes <= view->port.size ? view->whole->read(view->whole->ctx, view->base + offset, data, bytes) : FLEET_ERR_FLASH;
}

static fleet_status_t view_prog(void *ctx, uint32_t offset, const void *data, uint32_t bytes) {
    const rig_view_t *view = ctx;
    return offset + bytes <= view->port.size ? view->whole->prog(view->whole->ctx, view->base + offset, data, bytes) : FLEET_ERR_FLASH;
}

static fleet_status_t view_erase(void *ctx, uint32_t offset) {
    const rig_view_t *view = ctx;
    return offset < view->port.size ? view->whole->erase_start(view->whole->ctx, view->base + offset) : FLEET_ERR_FLASH;
}

static int view_busy(void *ctx) {
    const rig_view_t *view = ctx;
    return view->whole->erase_busy(view->whole->ctx);
}

static void view_open(rig_view_t *view, const fleet_flash_t *whole, uint32_t base, uint32_t bytes) {
    view->whole = whole;
    view->base = base;
    view->port = (fleet_flash_t){view_read, view_prog, view_erase, view_busy, NULL, bytes, whole->erase_bytes, whole->program_bytes, view};
}

static int self_test(void *ctx) {
    return ((rig_t *)ctx)->self_test;
}

void rig_firmware(rig_t *rig, uint32_t primary, uint32_t secondary, uint32_t slot_bytes) {
    view_open(&rig->primary, &rig->flash->port, primary, slot_bytes);
    view_open(&rig->secondary, &rig->flash->port, secondary, slot_bytes);
    rig->firmware = (fleet_firmware_t){&rig->primary.port, &rig->secondary.port, self_test, rig};
    rig->has_firmware = true;
}

void rig_self_test(rig_t *rig, int answer) {
    rig->self_test = answer;
}

uint32_t rig_resets(const rig_t *rig) {
    return rig->resets;
}

void rig_component_info(const rig_t *rig, uint8_t component, fleet_agent_info_t *info) {
    (void)fleet_agent_info(&rig->agent, component, info);
}

uint32_t rig_agent_bytes(void) {
    return (uint32_t)sizeof(fleet_agent_t);
}
