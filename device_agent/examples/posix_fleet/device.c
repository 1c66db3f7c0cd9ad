#define _POSIX_C_SOURCE 200809L

#include "device.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "enrol.h"
#include "fleet_protocol.h"
#include "seeded.h"

#define ARENA_ALIGNMENT 16U
#define STACK_BYTES (256U * 1024U)
#define SILENT_AFTER_MS 1500U /* time to report the activation first */
#define PATH_BYTES FLEET_POSIX_PATH_BYTES

static void fail(device_t *device, const char *text)
{
    report_text(&device->who, "failed", "error", text);
    device->phase = DEVICE_FAILED;
    device->next_ms = UINT64_MAX;
}

static void fail_status(device_t *device, const char *what, fleet_status_t status)
{
    char text[2U * FLEET_POSIX_ERROR_BYTES];
    (void)snprintf(text, sizeof text, "%s: %s", what, fleet_status_text(status));
    fail(device, text);
}

static bool join(char path[PATH_BYTES], const char *folder, const char *name)
{
    int bytes = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return bytes > 0 && (size_t)bytes < PATH_BYTES;
}

static bool make_folder(const char *path)
{
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool make_paths(device_t *device)
{
    const options_t *options = device->world->options;
    char folder[PATH_BYTES];
    (void)snprintf(device->name, sizeof device->name, "%.48s-%04lu", options->name_prefix, (unsigned long)device->index);
    return join(folder, options->state_dir, device->name) && join(device->key_path, folder, "key.pem") &&
           join(device->cert_path, folder, "cert.pem") && join(device->id_path, folder, "id") &&
           join(device->trust_path, folder, "ca.pem") && join(device->flash_path, folder, "flash.bin") && enrol_choose_trust(device) &&
           make_folder(options->state_dir) && make_folder(folder);
}

static uint32_t slow_now_us(void *ctx)
{
    device_t *device = ctx;
    fleet_clock_t real = fleet_posix_clock();
    device->clock_calls++; /* every interval between two calls grows by the fault's value */
    return real.now_us(NULL) + device->clock_calls * device->fault.value;
}

static void request_reset(void *ctx)
{
    device_t *device = ctx;
    device->reset_wanted = true;
}

static void open_clock(device_t *device)
{
    device->clock_port = fleet_posix_clock();
    device->clock_port.reset = request_reset;
    device->clock_port.ctx = device;
    if (device->fault.kind == FAULT_SLOW) {
        device->clock_port.now_us = slow_now_us;
    }
}

static bool open_flash(device_t *device)
{
    const options_t *options = device->world->options;
    device->flash.erase_bytes = options->erase_bytes;
    device->flash.program_bytes = options->program_bytes;
    device->flash.erase_ms = options->erase_ms;
    fleet_flash_t geometry = {.erase_bytes = options->erase_bytes, .program_bytes = options->program_bytes, .size = UINT32_MAX};
    device->flash.size = fleet_agent_flash_bytes(&geometry, options->slot_bytes, FLEET_MODELS_MAX);
    if (device->flash.size == 0U) {
        fail(device, "impossible flash: check --slot-bytes, --erase-bytes, --program-bytes");
        return false;
    }
    fleet_status_t status = fleet_posix_flash_open(&device->flash, device->flash_path);
    if (status != FLEET_OK) {
        fail(device, device->flash.error[0] != '\0' ? device->flash.error : fleet_status_text(status));
        return false;
    }
    device->flash_port = fleet_posix_flash_port(&device->flash);
    return true;
}

static bool open_arena(device_t *device)
{
    void *memory = NULL;
    if (device->arena == NULL && posix_memalign(&memory, ARENA_ALIGNMENT, device->world->options->arena_bytes) == 0) {
        device->arena = memory;
    }
    return device->arena != NULL;
}

/* An area for each of the two slots of each model. */
static bool open_state(device_t *device)
{
    const size_t bytes = 2U * FLEET_MODELS_MAX * (size_t)device->world->options->state_bytes;
    void *memory = NULL;
    if (device->state == NULL && bytes > 0 && posix_memalign(&memory, ARENA_ALIGNMENT, bytes) == 0) {
        device->state = memory;
    }
    return device->state != NULL || bytes == 0;
}

static void open_transport(device_t *device)
{
    const options_t *options = device->world->options;
    fleet_posix_tls_config_t config = {options->broker_host, options->broker_port, device->ca_path, device->cert_path,
                                       device->key_path};
    fleet_posix_tls_open(&device->tls, &config);
    slow_link_open(&device->link, fleet_posix_tls_port(&device->tls), options->rx_bytes_per_s, fleet_posix_now_ms());
    device->transport_port = slow_link_port(&device->link);
}

/* Of this process, shared by its agents; the kernel grows it when the mark is written. */
static uint32_t *stack_below(const void *frame)
{
    return (uint32_t *)(((uintptr_t)frame & ~(uintptr_t)0xFFFu) - STACK_BYTES);
}

static fleet_status_t boot_agent(device_t *device)
{
    const options_t *options = device->world->options;
    fleet_agent_config_t config = {
        .device = device->id,
        .device_class = options->device_class,
        .root = device->world->root,
        .root_bytes = device->world->root_bytes,
        .flash = &device->flash_port,
        .transport = &device->transport_port,
        .crypto = &device->crypto_port,
        .clock = &device->clock_port,
        .arena = device->arena,
        .arena_bytes = options->arena_bytes,
        .stack_low = stack_below(&options),
        .stack_bytes = STACK_BYTES,
        .state = device->state,
        .state_bytes = options->state_bytes,
        .slot_bytes = options->slot_bytes,
        .components = FLEET_MODELS_MAX,
        .report_interval_s = options->report_interval_s,
        .sleep_max_s = options->sleep_max_s,
    };
    memset(&device->agent, 0, sizeof device->agent);
    memset(&device->seen, 0, sizeof device->seen);
    device->seen.answering = FLEET_NO_SLOT;
    return fleet_agent_init(&device->agent, &config);
}

/* Everything from flash to agent; the identity is there. */
static void start(device_t *device, uint64_t now_ms)
{
    const options_t *options = device->world->options;
    if (!open_flash(device)) {
        return;
    }
    if (!open_arena(device) || !open_state(device)) {
        fail(device, "out of memory for arena or state: lower --arena-bytes, --state-bytes or --count");
        return;
    }
    open_transport(device);
    open_clock(device);
    fleet_status_t status = boot_agent(device);
    if (status != FLEET_OK) {
        fail_status(device, "the agent does not start", status);
        return;
    }
    const dataset_t *dataset = device->world->dataset;
    if (dataset != NULL && device->feed.order == NULL &&
        !feed_open(&device->feed, dataset, options->rate_hz, options->label_delay_ms, seeded_next(&device->random), now_ms)) {
        fail(device, "out of memory for the data set");
        return;
    }
    device->phase = DEVICE_RUNNING;
    report(&device->who, "started");
}

/* What a reset leaves: flash and files. No goodbye to the broker, as after a power cut. */
static void restart(device_t *device, uint64_t now_ms)
{
    device->reset_wanted = false;
    report(&device->who, "reset");
    device->transport_port.close(device->transport_port.ctx);
    fleet_posix_flash_close(&device->flash);
    device->phase = DEVICE_NEW;
    start(device, now_ms);
}

bool device_open(device_t *device, world_t *world, uint32_t index)
{
    memset(device, 0, sizeof *device);
    device->world = world;
    device->index = index;
    device->random = world->options->seed * 0x100000001B3U + index;
    device->fault = options_fault(world->options, index);
    device->who = (reporter_t){device->name, device->id};
    device->flash.file = -1;
    device->tls.socket = -1;
    if (!make_paths(device)) {
        char text[128];
        (void)snprintf(text, sizeof text, "cannot make the device's folder: %s", strerror(errno));
        fail(device, text);
        return false;
    }
    fleet_posix_crypto_open(&device->crypto, device->key_path);
    device->crypto_port = fleet_posix_crypto_port(&device->crypto);
    return true;
}

static bool update_is_written(const fleet_agent_info_t *info, uint32_t percent)
{
    for (unsigned i = 0; i < 2U; i++) {
        const fleet_slot_info_t *slot = &info->slots[i];
        bool writing = slot->state == FLEET_SLOT_STATE_WRITING && slot->written_bytes > 0U;
        if (writing && (uint64_t)slot->written_bytes * 100U >= (uint64_t)slot->image_bytes * percent) {
            return info->answering != FLEET_NO_SLOT;
        }
    }
    return false;
}

static bool is_testing(const fleet_agent_info_t *info)
{
    return info->slots[0].state == FLEET_SLOT_STATE_TESTING || info->slots[1].state == FLEET_SLOT_STATE_TESTING;
}

static bool is_activation(const fleet_agent_info_t *before, const fleet_agent_info_t *after)
{
    return after->answering != FLEET_NO_SLOT && before->answering != after->answering;
}

static void die(device_t *device)
{
    report(&device->who, "killed");
    (void)raise(SIGKILL);
}

static void strike(device_t *device, const fleet_agent_info_t *info, uint64_t now_ms)
{
    switch (device->fault.kind) {
    case FAULT_SILENT:
        if (device->silent_ms == 0U && device->activations >= device->fault.value) {
            device->silent_ms = now_ms + SILENT_AFTER_MS;
        }
        if (device->silent_ms != 0U && now_ms >= device->silent_ms) {
            report(&device->who, "silent");
            device->phase = DEVICE_SILENT;
        }
        break;
    case FAULT_RESET_WRITING:
        if (update_is_written(info, device->fault.value)) {
            device->fault.kind = FAULT_NONE;
            device->reset_wanted = true;
        }
        break;
    case FAULT_KILL_WRITING:
        if (update_is_written(info, device->fault.value)) {
            die(device);
        }
        break;
    case FAULT_KILL_TESTING:
        if (is_testing(info)) {
            die(device);
        }
        break;
    case FAULT_NONE:
    case FAULT_SLOW:
    default: break;
    }
}

/* A connection that keeps failing for the same reason is told once. */
static void report_offline(device_t *device)
{
    if (device->tls.error[0] != '\0' && strcmp(device->tls.error, device->last_error) != 0) {
        (void)snprintf(device->last_error, sizeof device->last_error, "%s", device->tls.error);
        report_text(&device->who, "offline", "error", device->last_error);
    }
}

static void observe(device_t *device, uint64_t now_ms)
{
    fleet_agent_info_t info;
    memset(&info, 0, sizeof info);
    (void)fleet_agent_info(&device->agent, 0, &info);
    device->activations += is_activation(&device->seen, &info) ? 1U : 0U;
    report_changes(&device->who, &device->seen, &info);
    if (info.connected) {
        device->last_error[0] = '\0';
        device->tls.error[0] = '\0';
    }
    report_offline(device);
    device->seen = info;
    strike(device, &info, now_ms);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void run(device_t *device, uint64_t now_ms)
{
    uint64_t next = enrol_renew(device, now_ms);
    next = earlier(next, fleet_agent_step(&device->agent, now_ms));
    if (device->feed.order != NULL) {
        next = earlier(next, feed_step(&device->feed, &device->agent, now_ms));
    }
    observe(device, now_ms);
    if (device->silent_ms != 0U) {
        next = earlier(next, device->silent_ms);
    }
    uint64_t wake_ms = UINT64_MAX;
    bool throttled = slow_link_is_throttled(&device->link, now_ms, &wake_ms);
    if (throttled && fleet_posix_tls_socket(&device->tls) >= 0) {
        next = earlier(next, wake_ms);
    }
    bool more = !throttled && fleet_posix_tls_has_bytes(&device->tls); /* poll(2) would not tell */
    device->next_ms = more || device->reset_wanted ? now_ms : next;
}

void device_step(device_t *device, uint64_t now_ms)
{
    switch (device->phase) {
    case DEVICE_NEW:
        if (enrol_step(device, now_ms)) {
            start(device, now_ms);
            device->next_ms = device->phase == DEVICE_RUNNING ? now_ms : UINT64_MAX;
        }
        break;
    case DEVICE_RUNNING:
        if (device->reset_wanted) {
            restart(device, now_ms);
        }
        if (device->phase == DEVICE_RUNNING) {
            run(device, now_ms);
        }
        break;
    case DEVICE_SILENT:
    case DEVICE_FAILED:
    default: device->next_ms = UINT64_MAX; break;
    }
}

int device_socket(device_t *device, uint64_t now_ms, short *events)
{
    if (device->phase == DEVICE_NEW && device->est != NULL) {
        *events = fleet_posix_tls_events(&device->est->tls);
        return fleet_posix_tls_socket(&device->est->tls);
    }
    if (device->phase != DEVICE_RUNNING) {
        return -1;
    }
    uint64_t wake_ms = 0;
    *events = fleet_posix_tls_events(&device->tls);
    if (slow_link_is_throttled(&device->link, now_ms, &wake_ms)) {
        *events = (short)(*events & ~POLLIN);
    }
    return fleet_posix_tls_socket(&device->tls);
}

bool device_stop(device_t *device, uint64_t now_ms)
{
    if (device->phase != DEVICE_RUNNING) {
        return true;
    }
    if (!fleet_agent_shutdown(&device->agent, now_ms)) {
        device->next_ms = fleet_agent_step(&device->agent, now_ms);
        return false;
    }
    device->transport_port.close(device->transport_port.ctx);
    if (device->feed.order != NULL) {
        report_number(&device->who, "stopped", "inferences", device->feed.inferences);
    } else {
        report(&device->who, "stopped");
    }
    device->phase = DEVICE_SILENT;
    return true;
}

void device_close(device_t *device)
{
    enrol_close(device);
    if (device->transport_port.close != NULL) {
        device->transport_port.close(device->transport_port.ctx);
    }
    fleet_posix_flash_close(&device->flash);
    fleet_posix_crypto_close(&device->crypto);
    feed_close(&device->feed);
    free(device->arena);
    device->arena = NULL;
    free(device->state);
    device->state = NULL;
}
