#define _POSIX_C_SOURCE 200809L
#include "rig_flash.h"

#include <stdlib.h>
#include <string.h>

typedef enum { GO_ON, POWER_FAILS, REFUSED } fate_t;

static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return x * UINT64_C(0x2545F4914F6CDD1D) >> 8;
}

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

/* ---- what an operation leaves ---- */

static uint32_t bytes_of(const rig_flash_t *flash, const rig_operation_t *operation) {
    return operation->erase ? flash->port.erase_bytes : flash->port.program_bytes;
}

void rig_flash_reset(rig_flash_t *flash) {
    if (flash->on_reset == NULL) {
        return;
    }
    if (flash->log != NULL && flash->log->count < flash->log->size) {
        flash->log->operations[flash->log->count++] = (rig_operation_t){.reset = true, .random = flash->random};
    }
    flash->on_reset(flash);
}

void rig_flash_apply(rig_flash_t *flash, const rig_operation_t *operation) {
    if (operation->reset) { /* units that flicker read as they did then, or the bootloader might do something else */
        flash->random = operation->random;
        flash->on_reset(flash);
        return;
    }
    const uint32_t bytes = bytes_of(flash, operation);
    const uint32_t unit = flash->port.program_bytes;
    if (operation->erase) {
        memset(flash->data + operation->offset, 0xFF, bytes);
    } else {
        memcpy(flash->data + operation->offset, operation->data, bytes);
    }
    memset(flash->units + operation->offset / unit, operation->erase ? UNIT_BLANK : UNIT_WRITTEN, bytes / unit);
}

/* Byte `at` of the block or unit after the cut: which of its bits have changed already. */
static uint8_t torn_byte(uint8_t old, uint8_t meant, uint32_t at, uint32_t bytes, int variant, uint64_t *seed) {
    switch (variant) {
        case CUT_PREFIX: return at < bytes / 2U ? meant : old;
        case CUT_SUFFIX: return at < bytes / 2U ? old : meant;
        default: return (uint8_t)(old ^ ((old ^ meant) & (uint8_t)next_random(seed)));
    }
}

/* ECC: an erase reaches whole units, and a program never ends in a good one. */
static uint8_t torn_state(const rig_flash_t *flash, const rig_operation_t *operation, uint32_t at, uint32_t bytes, int variant,
                          uint64_t *seed) {
    if (variant == CUT_METASTABLE) {
        return UNIT_FLICKERS;
    }
    if (flash->profile == PROFILE_NOR) {
        return UNIT_WRITTEN;
    }
    const bool reached = variant == CUT_PREFIX ? at < bytes / 2U : variant == CUT_SUFFIX ? at >= bytes / 2U : next_random(seed) % 3U != 0;
    return !operation->erase || reached ? UNIT_UNREADABLE : UNIT_WRITTEN;
}

static bool all_ones(const uint8_t *data, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) {
        if (data[i] != 0xFFU) {
            return false;
        }
    }
    return true;
}

void rig_flash_tear(rig_flash_t *flash, const rig_operation_t *operation, int variant) {
    const uint32_t bytes = bytes_of(flash, operation);
    const uint32_t unit = flash->port.program_bytes;
    uint8_t *data = flash->data + operation->offset;
    uint8_t *units = flash->units + operation->offset / unit;
    uint64_t seed = UINT64_C(0x9E3779B97F4A7C15) * (uint64_t)(variant + 1);
    if (variant == CUT_NOTHING) {
        return;
    }
    if (variant == CUT_AFTER || operation->reset) {
        rig_flash_apply(flash, operation);
        return;
    }
    memcpy(flash->before + operation->offset, data, bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        const uint8_t meant = operation->erase ? 0xFFU : operation->data[i];
        data[i] = variant == CUT_METASTABLE ? meant : torn_byte(data[i], meant, i, bytes, variant, &seed);
    }
    for (uint32_t i = 0; i < bytes / unit; i++) {
        if (operation->erase && units[i] == UNIT_BLANK && variant != CUT_METASTABLE) {
            continue; /* was erased before and still is */
        }
        const uint8_t state = torn_state(flash, operation, i * unit, bytes, variant, &seed);
        units[i] = state != UNIT_WRITTEN || units[i] == UNIT_BLANK ? state : units[i];
    }
    if (!operation->erase && flash->profile == PROFILE_NOR && all_ones(data, unit)) {
        units[0] = UNIT_BLANK; /* not a bit has changed */
    }
}

/* ---- the port ---- */

static void flicker(rig_flash_t *flash, uint8_t *data, uint32_t offset, uint32_t bytes, uint64_t turn) {
    for (uint32_t i = 0; i < bytes; i++) {
        const uint8_t before = flash->before[offset + i];
        const uint8_t meant = flash->data[offset + i];
        const uint8_t mixed = (uint8_t)(meant ^ ((before ^ meant) & (uint8_t)next_random(&flash->random)));
        data[i] = turn == 0 ? before : turn == 1 ? meant : mixed;
    }
}

static fleet_status_t read_unit(rig_flash_t *flash, uint8_t *data, uint32_t offset, uint32_t bytes) {
    switch (flash->units[offset / flash->port.program_bytes]) {
        case UNIT_UNREADABLE: return FLEET_ERR_STORAGE;
        case UNIT_FLICKERS: {
            const uint64_t turn = next_random(&flash->random) % 3U;
            flicker(flash, data, offset, bytes, turn);
            return flash->profile == PROFILE_ECC && turn == 2 ? FLEET_ERR_STORAGE : FLEET_OK;
        }
        default: memcpy(data, flash->data + offset, bytes); return FLEET_OK;
    }
}

static fleet_status_t flash_read(void *ctx, uint32_t offset, void *data, uint32_t bytes) {
    rig_flash_t *flash = ctx;
    uint8_t *to = data;
    if (flash->busy > 0 || offset > flash->port.size || bytes > flash->port.size - offset) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    if (flash->dead) {
        return FLEET_ERR_STORAGE;
    }
    while (bytes > 0) {
        const uint32_t left = flash->port.program_bytes - offset % flash->port.program_bytes;
        const uint32_t count = bytes < left ? bytes : left;
        if (read_unit(flash, to, offset, count) != FLEET_OK) {
            return FLEET_ERR_STORAGE;
        }
        to += count;
        offset += count;
        bytes -= count;
    }
    return FLEET_OK;
}

static fleet_status_t finish(rig_flash_t *flash, const rig_operation_t *operation) {
    const fate_t fate = next_operation(flash);
    if (fate == POWER_FAILS) {
        rig_flash_tear(flash, operation, flash->cut_variant);
    }
    if (fate != GO_ON) {
        return FLEET_ERR_STORAGE;
    }
    if (flash->log != NULL && flash->log->count < flash->log->size) {
        flash->log->operations[flash->log->count++] = *operation;
    }
    rig_flash_apply(flash, operation);
    return FLEET_OK;
}

static fleet_status_t flash_prog(void *ctx, uint32_t offset, const void *data, uint32_t bytes) {
    rig_flash_t *flash = ctx;
    const uint32_t unit = flash->port.program_bytes;
    if (flash->busy > 0 || bytes != unit || offset % unit != 0 || offset + bytes > flash->port.size ||
        (!flash->dead && flash->units[offset / unit] != UNIT_BLANK)) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    rig_operation_t operation = {.offset = offset};
    memcpy(operation.data, data, bytes);
    return finish(flash, &operation);
}

static fleet_status_t flash_erase_start(void *ctx, uint32_t offset) {
    rig_flash_t *flash = ctx;
    if (flash->busy > 0 || offset % flash->port.erase_bytes != 0 || offset >= flash->port.size) {
        flash->violations++;
        return FLEET_ERR_STORAGE;
    }
    const rig_operation_t operation = {.offset = offset, .erase = true};
    const fleet_status_t status = finish(flash, &operation);
    flash->busy = status == FLEET_OK ? flash->busy_polls : 0;
    return status;
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

/* ---- handling ---- */

rig_flash_t *rig_flash_new(int profile, uint32_t size, uint32_t erase_bytes, uint32_t program_bytes) {
    rig_flash_t *flash = calloc(1, sizeof *flash);
    void *data = NULL;
    if (flash == NULL || posix_memalign(&data, 16, size) != 0) {
        abort();
    }
    flash->data = data;
    flash->before = malloc(size);
    flash->units = calloc(size / program_bytes, 1);
    if (flash->before == NULL || flash->units == NULL) {
        abort();
    }
    flash->profile = profile;
    flash->random = 88172645463325252U;
    memset(flash->data, 0xFF, size);
    memset(flash->before, 0xFF, size);
    flash->port = (fleet_flash_t){flash_read, flash_prog, flash_erase_start, flash_erase_busy, flash->data, size, erase_bytes, program_bytes, flash};
    return flash;
}

void rig_flash_free(rig_flash_t *flash) {
    free(flash->data);
    free(flash->before);
    free(flash->units);
    free(flash);
}

void rig_flash_copy(rig_flash_t *to, const rig_flash_t *from) {
    memcpy(to->data, from->data, from->port.size);
    memcpy(to->before, from->before, from->port.size);
    memcpy(to->units, from->units, from->port.size / from->port.program_bytes);
}

/* Two flashes with the same hash behave alike; bytes that cannot be read do not count. */
uint64_t rig_flash_hash(const rig_flash_t *flash) {
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    const uint32_t unit = flash->port.program_bytes;
    for (uint32_t u = 0; u < flash->port.size / unit; u++) {
        hash = (hash ^ flash->units[u]) * UINT64_C(0x100000001B3);
        for (uint32_t i = u * unit; flash->units[u] != UNIT_UNREADABLE && i < (u + 1U) * unit; i++) {
            const uint32_t value = flash->data[i] | (flash->units[u] == UNIT_FLICKERS ? (uint32_t)flash->before[i] << 8 : 0U);
            hash = (hash ^ value) * UINT64_C(0x100000001B3);
        }
    }
    return hash;
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

uint8_t *rig_flash_units(rig_flash_t *flash) {
    return flash->units;
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
