#include "powercut_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig_mcuboot.h"

enum { LOG_OPERATIONS = 16384, SEEN = 1 << 20, SETTLED_BOOTS = 3, MEMO = 256, ARENA_BYTES = 1024 };

/* Signatures seen before, so that a boot costs no curve arithmetic: same key, message and signature, same answer. */
typedef struct {
    uint8_t digest[32];
    bool known;
    bool valid;
} memo_t;

/* One device on a flash of its own, over and over again. */
typedef struct {
    const powercut_world_t *world;
    rig_flash_t *flash;
    rig_t *rig;
    rig_broker_t broker;
    fleet_crypto_t real;
    memo_t memo[MEMO];
    uint64_t random;
    uint64_t now_ms;
    uint64_t *arena;
    fleet_agent_info_t least; /* what must never go back */
    powercut_result_t *result;
    const char *why;
} device_t;

/* ---- crypto ---- */

static bool verify_once(void *ctx, const uint8_t public_key[32], const uint8_t *message, size_t bytes, const uint8_t signature[64]) {
    device_t *device = ctx;
    fleet_crypto_t *real = &device->real;
    fleet_sha256_t state;
    uint8_t digest[32];
    real->sha256_init(real->ctx, &state);
    real->sha256_update(real->ctx, &state, public_key, 32);
    real->sha256_update(real->ctx, &state, signature, 64);
    real->sha256_update(real->ctx, &state, message, bytes);
    real->sha256_final(real->ctx, &state, digest);
    memo_t *memo = &device->memo[digest[0] % MEMO];
    if (!memo->known || memcmp(memo->digest, digest, sizeof digest) != 0) {
        memcpy(memo->digest, digest, sizeof digest);
        memo->known = true;
        memo->valid = real->ed25519_verify(real->ctx, public_key, message, bytes, signature);
    }
    return memo->valid;
}

static fleet_status_t seeded_random(void *ctx, void *data, size_t bytes) {
    device_t *device = ctx;
    for (size_t i = 0; i < bytes; i++) {
        device->random = device->random * UINT64_C(6364136223846793005) + 1442695040888963407U;
        ((uint8_t *)data)[i] = (uint8_t)(device->random >> 56);
    }
    return FLEET_OK;
}

static void mcuboot_turn(rig_flash_t *flash) {
    const powercut_world_t *world = flash->reset_ctx;
    (void)rig_mcuboot(flash, world->primary, world->secondary, world->firmware_bytes);
}

static void device_open(device_t *device, const powercut_world_t *world, powercut_result_t *result) {
    const fleet_flash_t *port = &world->flash->port;
    memset(device, 0, sizeof *device);
    device->world = world;
    device->result = result;
    device->flash = rig_flash_new(world->flash->profile, port->size, port->erase_bytes, port->program_bytes);
    device->rig = rig_new(device->flash);
    device->arena = calloc(ARENA_BYTES / 8 + 2, 8);
    device->broker = world->broker;
    device->real = device->rig->crypto;
    device->rig->crypto.ed25519_verify = verify_once;
    device->rig->crypto.random = seeded_random;
    device->rig->crypto.ctx = device;
    device->rig->transport = rig_broker_transport(&device->broker);
    if (world->primary != 0) {
        device->flash->on_reset = mcuboot_turn;
        device->flash->reset_ctx = world;
        rig_firmware(device->rig, world->primary, world->secondary, world->firmware_bytes);
    }
}

static void device_close(device_t *device) {
    rig_free(device->rig);
    rig_flash_free(device->flash);
    free(device->arena);
}

/* ---- one run ---- */

static void look(const device_t *device, fleet_agent_info_t *info) {
    rig_component_info(device->rig, device->world->component, info);
}


static bool broken(device_t *device, const char *why) {
    device->why = device->why != NULL ? device->why : why;
    return false;
}

static const uint8_t *answering(const fleet_agent_info_t *info) {
    static const uint8_t none[16];
    return info->answering == FLEET_NO_SLOT ? none : info->slots[info->answering].image;
}

static bool answer_is_valid(const device_t *device, const fleet_agent_info_t *info) {
    for (uint32_t i = 0; i < device->world->valid_count; i++) {
        if (memcmp(answering(info), device->world->valid[i], 16) == 0) {
            return true;
        }
    }
    return false;
}

static bool goes_back(const fleet_agent_info_t *before, const fleet_agent_info_t *now) {
    return now->sequence < before->sequence || now->director_epoch < before->director_epoch || now->root < before->root ||
           now->floor < before->floor || now->boot <= before->boot;
}

/* Two looks at a unit that flickers may see different things: then bootloader and agent may choose differently. */
static bool reads_steadily(const rig_flash_t *flash) {
    for (uint32_t i = 0; i < flash->port.size / flash->port.program_bytes; i++) {
        if (flash->units[i] == UNIT_FLICKERS) {
            return false;
        }
    }
    return true;
}

static bool boot(device_t *device) {
    const powercut_world_t *world = device->world;
    fleet_agent_info_t info;
    rig_flash_power_on(device->flash);
    rig_flash_reset(device->flash);
    device->broker.closed = true;
    device->rig->resets = 0;
    device->result->boots++;
    if (world->primary != 0 && !rig_mcuboot_valid(device->flash, world->primary, world->firmware_bytes)) {
        return broken(device, "no firmware that boots");
    }
    uint8_t *arena = (uint8_t *)(((uintptr_t)device->arena + 15U) / 16U * 16U);
    uint8_t selected = FLEET_NO_SLOT;
    const bool steady = reads_steadily(device->flash);
    (void)rig_boot_select(device->rig, world->slot_bytes, &selected);
    if (rig_boot(device->rig, "m4-7", "cortex-m4", world->root, world->root_bytes, arena, ARENA_BYTES, world->slot_bytes, 60) != FLEET_OK) {
        return broken(device, "does not boot");
    }
    look(device, &info);
    if (!answer_is_valid(device, &info)) {
        return broken(device, "boots an image that is not valid");
    }
    if (steady && world->component == 0 && selected != info.answering) {
        return broken(device, "a bootloader would choose otherwise than the agent");
    }
    if (device->least.boot != 0 && goes_back(&device->least, &info)) {
        return broken(device, "forgets what an earlier boot relied on");
    }
    device->least = info;
    return true;
}

/* Too many power cuts while the candidate ran: REJECTED, and what ran before runs. */
static bool is_dropped(const device_t *device, const fleet_agent_info_t *info) {
    const fleet_slot_info_t *other = &info->slots[info->active == 0 ? 1 : 0];
    return info->answering == info->active && memcmp(answering(info), device->world->keep, 16) == 0 &&
           other->state == FLEET_SLOT_STATE_REJECTED &&
           (other->reason == FLEET_REASON_ATTEMPTS_EXHAUSTED || other->reason == FLEET_REASON_FIRMWARE_REVERTED) &&
           memcmp(other->image, device->world->goal, 16) == 0;
}

static bool is_finished(const device_t *device, const fleet_agent_info_t *info) {
    static const uint8_t none[16];
    const powercut_world_t *world = device->world;
    const fleet_slot_info_t *other = &info->slots[info->active == 0 ? 1 : 0];
    const bool rejected = memcmp(world->rejected, none, 16) == 0 ||
                          (other->state == FLEET_SLOT_STATE_REJECTED && memcmp(other->image, world->rejected, 16) == 0);
    return info->answering == info->active && memcmp(answering(info), world->goal, 16) == 0 &&
           (info->active == FLEET_NO_SLOT || info->slots[info->active].state == FLEET_SLOT_STATE_CONFIRMED) && rejected &&
           info->root == world->goal_root;
}

static bool at_end(const device_t *device, const fleet_agent_info_t *info) {
    return is_finished(device, info) || is_dropped(device, info);
}

/* Steps to the end of the update, with live input; false when it does not come. */
static bool drive(device_t *device) {
    enum { STEPS_MAX = 20000 };
    fleet_agent_info_t info;
    uint8_t output[64];
    uint32_t top;
    uint32_t id;
    for (uint32_t i = 0; i < STEPS_MAX; i++) {
        look(device, &info);
        if (!answer_is_valid(device, &info)) {
            return broken(device, "an image that is not valid answers");
        }
        if (at_end(device, &info)) {
            device->least = info;
            return true;
        }
        if (device->rig->resets > 0 && !boot(device)) {
            return false;
        }
        const uint64_t due = rig_step(device->rig, device->now_ms);
        const uint64_t wait = device->broker.out_bytes > 0 ? 1 : 1000;
        const uint64_t soon = due < device->now_ms + wait ? due : device->now_ms + wait;
        device->now_ms = soon > device->now_ms ? soon : device->now_ms + 1;
        (void)rig_infer(device->rig, 0, device->world->input, device->world->input_bytes, 0, output, &top, &id);
    }
    return broken(device, "the update does not end");
}

/* What answers lies in flash in units that will read the same tomorrow. */
static bool answer_is_solid(device_t *device) {
    const powercut_world_t *world = device->world;
    const uint32_t unit = device->flash->port.program_bytes;
    fleet_agent_info_t info;
    look(device, &info);
    if (info.active == FLEET_NO_SLOT) {
        return true;
    }
    const uint32_t start = world->primary != 0 ? world->primary : rig_slot_offset(device->rig, info.active);
    for (uint32_t at = 0; at < info.slots[info.active].image_bytes; at += unit) {
        if (device->flash->units[(start + at) / unit] != UNIT_WRITTEN) {
            return broken(device, "relies on a unit in doubt");
        }
    }
    device->result->dropped += is_finished(device, &info) ? 0U : 1U;
    return !is_finished(device, &info) || memcmp(device->flash->data + start, world->goal_image, world->goal_bytes) == 0 ||
           broken(device, "flash holds another image");
}

/* From the flash as it is: two boots to the end, then some more boots that must find the same. */
static bool recover(device_t *device, rig_log_t *log) {
    device->why = NULL;
    memset(&device->least, 0, sizeof device->least);
    device->flash->violations = 0;
    if (log != NULL) {
        log->count = 0;
    }
    device->flash->log = log;
    bool good = boot(device) && boot(device) && drive(device); /* the first boot ends before it does anything */
    device->flash->log = NULL;
    good = good && answer_is_solid(device);
    for (uint32_t i = 0; good && i < SETTLED_BOOTS; i++) {
        fleet_agent_info_t info;
        good = boot(device);
        look(device, &info);
        good = good && (at_end(device, &info) || broken(device, "another boot finds something else"));
    }
    return good && (device->flash->violations == 0 || broken(device, "breaks a rule of flash"));
}

/* ---- the sweep ---- */

typedef struct {
    uint64_t *hashes; /* open addressing; 0 = free */
    uint32_t used;
} seen_t;

static bool is_new(seen_t *seen, uint64_t hash) {
    hash = hash == 0 ? 1 : hash;
    uint32_t at = (uint32_t)(hash % SEEN);
    while (seen->hashes[at] != 0 && seen->hashes[at] != hash) {
        at = (at + 1U) % SEEN;
    }
    if (seen->hashes[at] == hash || seen->used >= SEEN / 2U) {
        return false;
    }
    seen->hashes[at] = hash;
    seen->used++;
    return true;
}

static void note(const device_t *device, bool good, uint32_t operation, int variant, uint32_t second, int second_variant) {
    powercut_result_t *result = device->result;
    result->cuts++;
    if (good) {
        return;
    }
    if (result->lost == 0) {
        result->lost_operation = operation;
        result->lost_variant = variant;
        result->lost_second = second;
        result->lost_second_variant = second_variant;
        (void)snprintf(result->why, sizeof result->why, "%s", device->why);
    }
    result->lost++;
}

typedef struct {
    device_t device;
    rig_flash_t *whole; /* all operations before the first cut */
    rig_flash_t *torn;  /* after the first cut */
    rig_log_t run;
    rig_log_t recovery;
    seen_t seen;
    uint64_t random;
} sweep_t;

static void cut_recovery(sweep_t *sweep, uint32_t operation, int variant, uint32_t seconds) {
    device_t *device = &sweep->device;
    for (uint32_t i = 0; i < seconds && sweep->recovery.count > 0; i++) {
        uint64_t drawn;
        sweep->random = sweep->random * UINT64_C(6364136223846793005) + 1442695040888963407U;
        drawn = sweep->random >> 24;
        const uint32_t second = (uint32_t)(drawn % sweep->recovery.count);
        const int second_variant = (int)(drawn / sweep->recovery.count % CUT_VARIANTS);
        rig_flash_copy(device->flash, sweep->torn);
        for (uint32_t k = 0; k < second; k++) {
            rig_flash_apply(device->flash, &sweep->recovery.operations[k]);
        }
        rig_flash_tear(device->flash, &sweep->recovery.operations[second], second_variant);
        if (is_new(&sweep->seen, rig_flash_hash(device->flash))) {
            note(device, recover(device, NULL), operation, variant, second, second_variant);
            device->result->second++;
        }
    }
}

static void cut_once(sweep_t *sweep, uint32_t operation, int variant, uint32_t seconds) {
    device_t *device = &sweep->device;
    rig_flash_copy(sweep->torn, sweep->whole);
    rig_flash_tear(sweep->torn, &sweep->run.operations[operation], variant);
    if (!is_new(&sweep->seen, rig_flash_hash(sweep->torn))) {
        return;
    }
    rig_flash_copy(device->flash, sweep->torn);
    const bool good = recover(device, &sweep->recovery);
    note(device, good, operation, variant, UINT32_MAX, 0);
    if (good) {
        cut_recovery(sweep, operation, variant, seconds);
    }
}

static rig_log_t log_new(void) {
    rig_log_t log = {malloc(LOG_OPERATIONS * sizeof(rig_operation_t)), 0, LOG_OPERATIONS};
    if (log.operations == NULL) {
        abort();
    }
    return log;
}

static rig_flash_t *twin_of(const rig_flash_t *flash, const device_t *device) {
    rig_flash_t *twin = rig_flash_new(flash->profile, flash->port.size, flash->port.erase_bytes, flash->port.program_bytes);
    rig_flash_copy(twin, flash);
    twin->on_reset = device->flash->on_reset;
    twin->reset_ctx = device->flash->reset_ctx;
    return twin;
}

bool powercut_sweep(const powercut_world_t *world, uint32_t first, uint32_t stride, uint32_t seconds, uint64_t seed,
                    powercut_result_t *result) {
    sweep_t *sweep = calloc(1, sizeof *sweep);
    memset(result, 0, sizeof *result);
    device_open(&sweep->device, world, result);
    sweep->device.random = seed;
    sweep->device.flash->random += seed;
    sweep->random = seed;
    sweep->whole = twin_of(world->flash, &sweep->device);
    sweep->torn = twin_of(world->flash, &sweep->device);
    sweep->run = log_new();
    sweep->recovery = log_new();
    sweep->seen.hashes = calloc(SEEN, sizeof *sweep->seen.hashes);
    rig_flash_copy(sweep->device.flash, world->flash);
    const bool runs = recover(&sweep->device, &sweep->run);
    result->operations = sweep->run.count;
    if (!runs) {
        (void)snprintf(result->why, sizeof result->why, "%s", sweep->device.why);
    }
    for (uint32_t k = 0; runs && k < sweep->run.count; k++) {
        for (int variant = 0; k % stride == first && variant < CUT_VARIANTS; variant++) {
            cut_once(sweep, k, variant, seconds);
        }
        rig_flash_apply(sweep->whole, &sweep->run.operations[k]);
    }
    device_close(&sweep->device);
    rig_flash_free(sweep->whole);
    rig_flash_free(sweep->torn);
    free(sweep->run.operations);
    free(sweep->recovery.operations);
    free(sweep->seen.hashes);
    free(sweep);
    return runs;
}

powercut_world_t *powercut_world_new(rig_flash_t *flash) {
    powercut_world_t *world = calloc(1, sizeof *world);
    if (world == NULL) {
        abort();
    }
    world->flash = flash;
    world->goal_root = 1;
    return world;
}

void powercut_world_free(powercut_world_t *world) {
    free(world);
}

void powercut_firmware(powercut_world_t *world, uint32_t primary, uint32_t secondary, uint32_t slot_bytes) {
    world->component = FLEET_FIRMWARE;
    world->primary = primary;
    world->secondary = secondary;
    world->firmware_bytes = slot_bytes;
}

void powercut_retain(powercut_world_t *world, const char *topic, const uint8_t *payload, uint32_t bytes) {
    if (world->broker.count == BROKER_MESSAGES) {
        abort();
    }
    world->broker.retained[world->broker.count++] = (rig_message_t){topic, payload, bytes};
}

void powercut_start(powercut_world_t *world, const uint8_t *root, uint32_t root_bytes, uint32_t slot_bytes, const uint8_t *input,
                    uint32_t input_bytes) {
    world->root = root;
    world->root_bytes = root_bytes;
    world->slot_bytes = slot_bytes;
    world->input = input;
    world->input_bytes = input_bytes;
}

bool powercut_allow(powercut_world_t *world, const uint8_t id[16]) {
    if (world->valid_count == WORLD_VALID_MAX) {
        return false;
    }
    memcpy(world->valid[world->valid_count++], id, 16);
    return true;
}

void powercut_goal(powercut_world_t *world, const uint8_t id[16], const uint8_t *image, uint32_t image_bytes, uint32_t root) {
    memcpy(world->goal, id, 16);
    world->goal_image = image;
    world->goal_bytes = image_bytes;
    world->goal_root = root;
}

void powercut_otherwise(powercut_world_t *world, const uint8_t rejected[16], const uint8_t keep[16]) {
    memcpy(world->rejected, rejected, 16);
    memcpy(world->keep, keep, 16);
}
