/*
 * fleet_delta_apply OLD PATCH NEW NEW_BYTES BASE_ID: apply a patch with the agent's own decoder.
 * NEW_BYTES is the size the release manifest would declare, BASE_ID the first 8 bytes of OLD's SHA-256 in hexadecimal.
 * Exit code 1 with one line on stderr when the patch is refused. A host program: it uses the heap and files.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fleet_delta.h"

#define UNIT_BYTES 256u
#define BUDGET_BYTES 4096u

typedef struct {
    uint8_t *old;
    uint32_t old_bytes;
    FILE *output;
} files_t;

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "fleet_delta_apply: %s: %s\n", what, why);
    return 1;
}

static int read_old(void *ctx, uint32_t offset, uint8_t *data, uint32_t size)
{
    const files_t *files = ctx;
    if (offset > files->old_bytes || size > files->old_bytes - offset) {
        return 1;
    }
    memcpy(data, files->old + offset, size);
    return 0;
}

static int read_new(void *ctx, uint32_t offset, uint8_t *data, uint32_t size)
{
    const files_t *files = ctx;
    const int failed = fseek(files->output, (long)offset, SEEK_SET) != 0 || fread(data, 1, size, files->output) != size;
    return fseek(files->output, 0, SEEK_END) != 0 || failed;
}

static int write_new(void *ctx, uint32_t offset, const uint8_t *data, uint32_t size)
{
    const files_t *files = ctx;
    (void)offset;
    return fwrite(data, 1, size, files->output) != size;
}

static int read_file(const char *path, uint8_t **data, uint32_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return complain(path, strerror(errno));
    }
    long size = -1;
    if (fseek(file, 0, SEEK_END) == 0) {
        size = ftell(file);
    }
    rewind(file);
    *data = size < 0 ? NULL : malloc((size_t)size + 1u);
    *bytes = size < 0 ? 0u : (uint32_t)size;
    const int failed = *data == NULL || fread(*data, 1, *bytes, file) != *bytes;
    fclose(file);
    return failed ? complain(path, "cannot be read") : 0;
}

static int parse_base_id(const char *text, uint8_t *id)
{
    for (size_t i = 0; i < FLEET_DELTA_BASE_ID_BYTES; i++) {
        unsigned int byte;
        if (strlen(text) != 2u * FLEET_DELTA_BASE_ID_BYTES || sscanf(text + 2u * i, "%2x", &byte) != 1) {
            return complain(text, "BASE_ID is 16 hexadecimal digits");
        }
        id[i] = (uint8_t)byte;
    }
    return 0;
}

static int decode(const fleet_delta_config_t *config, const uint8_t *patch)
{
    static fleet_delta_t delta; /* a host program may: it is 2 KB */
    fleet_status_t status = fleet_delta_init(&delta, config);
    uint32_t at = 0;
    while (status == FLEET_OK && !fleet_delta_done(&delta)) {
        size_t used = 0;
        status = fleet_delta_push(&delta, patch + at, config->patch_bytes - at, BUDGET_BYTES, &used);
        at += (uint32_t)used;
        if (status == FLEET_OK && at == config->patch_bytes && fleet_delta_wants_input(&delta)) {
            return complain("patch", "ends too early: transfer it again");
        }
    }
    return status == FLEET_OK ? 0 : complain("patch", fleet_status_text(status));
}

static int apply(char **argv, files_t *files, uint8_t **patch)
{
    uint8_t unit[UNIT_BYTES];
    fleet_delta_config_t config;
    memset(&config, 0, sizeof(config));
    if (read_file(argv[1], &files->old, &files->old_bytes) || read_file(argv[2], patch, &config.patch_bytes) ||
        parse_base_id(argv[5], config.base_id)) {
        return 1;
    }
    files->output = fopen(argv[3], "w+b");
    if (files->output == NULL) {
        return complain(argv[3], strerror(errno));
    }
    config.old_bytes = files->old_bytes;
    config.new_bytes = (uint32_t)strtoul(argv[4], NULL, 10);
    config.read_old = read_old;
    config.read_new = read_new;
    config.write_new = write_new;
    config.ctx = files;
    config.unit = unit;
    config.unit_bytes = UNIT_BYTES;
    const int failed = decode(&config, *patch);
    return fclose(files->output) != 0 && !failed ? complain(argv[3], strerror(errno)) : failed;
}

int main(int argc, char **argv)
{
    files_t files = {NULL, 0, NULL};
    uint8_t *patch = NULL;
    if (argc != 6) {
        return complain("usage", "fleet_delta_apply OLD PATCH NEW NEW_BYTES BASE_ID");
    }
    const int failed = apply(argv, &files, &patch);
    free(files.old);
    free(patch);
    return failed;
}
