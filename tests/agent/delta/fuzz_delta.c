/*
 * libFuzzer target of the patch decoder. Input: spacing (1 byte, as in a header), unit (1), piece (1), new bytes (2), then the
 * body of a patch against a fixed base. The header is made here, valid, so that the fuzzer reaches what lies behind it.
 */
#include "fleet_delta.h"

#include <stdlib.h>
#include <string.h>

enum { OLD_BYTES = 3000, PATCH_BYTES_MAX = 4096, SETTINGS = 5, CHECKED_BYTES = 2, KNOWN_BYTES = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    uint32_t written, new_bytes;
    uint8_t image[1u << 16];
} device_t;

static uint8_t old_byte_at(uint32_t offset) {
    return (uint8_t)((offset * 2654435761u) >> 24);
}

static int read_old(void *ctx, uint32_t offset, uint8_t *data, uint32_t size) {
    (void)ctx;
    if (size == 0u || offset > OLD_BYTES || size > OLD_BYTES - offset) {
        abort();
    }
    for (uint32_t i = 0; i < size; i++) {
        data[i] = old_byte_at(offset + i);
    }
    return 0;
}

static int read_new(void *ctx, uint32_t offset, uint8_t *data, uint32_t size) {
    const device_t *device = ctx;
    if (size == 0u || offset > device->written || size > device->written - offset) {
        abort();
    }
    for (uint32_t i = 0; i < size; i++) {
        data[i] = device->image[offset + i];
    }
    return 0;
}

static int write_new(void *ctx, uint32_t offset, const uint8_t *data, uint32_t size) {
    device_t *device = ctx;
    if (offset != device->written || size == 0u || size > device->new_bytes - offset || data == NULL) {
        abort();
    }
    memcpy(device->image + offset, data, size);
    device->written += size;
    return 0;
}

static void put_bytes(uint8_t *at, uint32_t value, int count) {
    for (int i = 0; i < count; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t crc32(uint32_t before, const void *data, size_t size) {
    uint32_t crc = ~before;
    for (size_t i = 0; i < size; i++) {
        crc ^= ((const uint8_t *)data)[i];
        for (int k = 0; k < 8; k++) {
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < SETTINGS || size - SETTINGS > PATCH_BYTES_MAX - FLEET_DELTA_HEADER_BYTES) {
        return 0;
    }
    uint8_t unit[256], patch[PATCH_BYTES_MAX] = {FLEET_DELTA_START, data[0] % (2u * FLEET_DELTA_SPACING_MAX + 2u)};
    static device_t device;
    device.written = 0;
    device.new_bytes = 1u + data[3] + 256u * data[4];
    const size_t body = size - SETTINGS;
    const fleet_delta_config_t config = {.old_bytes = OLD_BYTES,
                                         .new_bytes = device.new_bytes,
                                         .patch_bytes = (uint32_t)(FLEET_DELTA_HEADER_BYTES + body),
                                         .read_old = read_old,
                                         .read_new = read_new,
                                         .write_new = write_new,
                                         .ctx = &device,
                                         .unit = unit,
                                         .unit_bytes = 1u << (data[1] % 9u)};
    /* The configuration begins with the sizes and the base, as what is checked does. */
    put_bytes(patch + CHECKED_BYTES, crc32(crc32(0, &config, KNOWN_BYTES), patch, CHECKED_BYTES), 2);
    memcpy(patch + FLEET_DELTA_HEADER_BYTES, data + SETTINGS, body);

    fleet_delta_t delta;
    if (fleet_delta_init(&delta, &config) != FLEET_OK) {
        abort();
    }
    const size_t piece = 1u + data[2];
    size_t at = 0;
    fleet_status_t status = FLEET_OK;
    for (uint32_t calls = 0; status == FLEET_OK && !fleet_delta_done(&delta); calls++) {
        const size_t left = config.patch_bytes - at;
        size_t used = 0;
        status = fleet_delta_push(&delta, patch + at, left < piece ? left : piece, 64, &used);
        at += used;
        if ((at == config.patch_bytes && fleet_delta_wants_input(&delta)) || calls > config.patch_bytes + 2u * config.new_bytes + 2u) {
            abort(); /* the decoder must end by itself once the whole patch is there, and in bounded calls */
        }
    }
    if (fleet_delta_done(&delta) && device.written != device.new_bytes) {
        abort();
    }
    return 0;
}
