/*
 * Delta firmware: reads old.bin, base.bin (first bytes of old.bin's SHA-256) and patch.bin from QEMU's working
 * directory, decodes the patch and writes new.bin and figures.json. old.bin may be empty. What a device knows from its
 * manifest, the size of the new image, is taken from the patch's head, or is that of the old one.
 * A failure is a line on the console and exit code 1.
 */
#include "bench.h"
#include "fleet_delta.h"

#include <string.h>

#define IMAGE_BYTES (4u << 20)
#define UNIT_BYTES 16u
#define BUDGET_BYTES 4096u

#define IN_PSRAM __attribute__((section(".psram"), aligned(16)))
static uint8_t old_image[IMAGE_BYTES] IN_PSRAM;
static uint8_t new_image[IMAGE_BYTES] IN_PSRAM;
static uint8_t patch[IMAGE_BYTES] IN_PSRAM;
static uint8_t unit[UNIT_BYTES];
static fleet_delta_t delta;

static int copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    memcpy(to, from, bytes);
    return 0;
}

static int read_old(void *ctx, uint32_t offset, uint8_t *data, uint32_t size)
{
    (void)ctx;
    return copy(data, old_image + offset, size);
}

static int read_new(void *ctx, uint32_t offset, uint8_t *data, uint32_t size)
{
    (void)ctx;
    return copy(data, new_image + offset, size);
}

static int write_new(void *ctx, uint32_t offset, const uint8_t *data, uint32_t size)
{
    (void)ctx;
    return size > sizeof(new_image) || offset > sizeof(new_image) - size ? 1 : copy(new_image + offset, data, size);
}

static uint32_t load(const char *name, uint8_t *data, uint32_t bytes_max)
{
    const int file = fleet_host_open(name, FLEET_HOST_READ);
    return file < 0 ? 0u : (uint32_t)fleet_host_read(file, data, bytes_max);
}

static fleet_status_t decode(const fleet_delta_config_t *config)
{
    uint32_t at = 0;
    fleet_status_t status = fleet_delta_init(&delta, config);
    while (status == FLEET_OK && !fleet_delta_done(&delta)) {
        size_t used = 0;
        status = fleet_delta_push(&delta, patch + at, config->patch_bytes - at, BUDGET_BYTES, &used);
        at += (uint32_t)used;
        if (at == config->patch_bytes && fleet_delta_wants_input(&delta)) {
            return FLEET_ERR_PATCH;
        }
    }
    return status;
}

static void write_figures(uint32_t instructions)
{
    char text[] = "{\"instructions\": 0000000000}\n";
    const int file = fleet_host_open("figures.json", FLEET_HOST_WRITE);
    char *at = text + sizeof(text) - 3u;
    do {
        *--at = (char)('0' + instructions % 10u);
        instructions /= 10u;
    } while (instructions != 0u);
    while (*--at == '0') {
        *at = ' ';
    }
    (void)fleet_host_write(file, text, sizeof(text) - 1u);
}

static uint32_t told_size(uint32_t old_bytes)
{
    const uint8_t *size = patch + FLEET_DELTA_HEADER_BYTES;
    const uint32_t last = (uint32_t)size[0] | ((uint32_t)size[1] << 8) | ((uint32_t)size[2] << 16);
    return patch[1] % 2u != 0u ? last + 1u : old_bytes;
}

int main(void)
{
    fleet_delta_config_t config = {.read_old = read_old, .read_new = read_new, .write_new = write_new, .unit = unit};
    config.unit_bytes = UNIT_BYTES;
    config.old_bytes = load("old.bin", old_image, IMAGE_BYTES);
    config.patch_bytes = load("patch.bin", patch, IMAGE_BYTES);
    (void)load("base.bin", config.base_id, sizeof(config.base_id));
    config.new_bytes = told_size(config.old_bytes);
    fleet_counter_start();
    const uint64_t before = fleet_counter_instructions();
    const fleet_status_t status = decode(&config);
    const uint64_t after = fleet_counter_instructions();
    const int file = fleet_host_open("new.bin", FLEET_HOST_WRITE);
    if (status != FLEET_OK || fleet_host_write(file, new_image, config.new_bytes) != 0) {
        fleet_host_print("fleet_delta_bench: the patch does not decode\n");
        return 1;
    }
    write_figures((uint32_t)(after - before));
    return 0;
}
