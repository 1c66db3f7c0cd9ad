/* libFuzzer target: any bytes as an image; what opens must verify, describe itself and run without leaving its memory. */
#define _POSIX_C_SOURCE 200112L
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fleet_runtime.h"

#define MAX_ARENA (1u << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not a byte more than the image says, so that reads of one byte behind it are seen. */
static size_t at_least_one(size_t bytes)
{
    return bytes != 0 ? bytes : 1u;
}

static void exercise(fleet_model_t *model)
{
    fleet_model_info_t info;
    fleet_tensor_t tensor;
    fleet_model_info(model, &info);
    (void)fleet_model_verify(model);
    for (uint32_t i = 0; i < 64u && i < info.label_count; i++) {
        const char *label = fleet_model_label(model, i);
        (void)(label != NULL && strlen(label) == 0u);
    }
    void *arena = NULL;
    void *state = NULL;
    if (info.arena_bytes > MAX_ARENA || info.state_bytes > MAX_ARENA) {
        return;
    }
    if (posix_memalign(&arena, 16, at_least_one(info.arena_bytes)) != 0 ||
        posix_memalign(&state, 16, at_least_one(info.state_bytes)) != 0) {
        abort();
    }
    memset(arena, 1, info.arena_bytes);
    if (fleet_model_attach_state(model, state, info.state_bytes) != FLEET_OK) {
        abort();
    }
    if (fleet_model_golden(model, arena, info.arena_bytes) == FLEET_ERR_ARENA) {
        abort();
    }
    for (uint32_t i = 0; fleet_model_output_info(model, i, &tensor) == FLEET_OK && i < 64u; i++) {
        (void)fleet_top1(&tensor, fleet_model_output(model, i, arena));
    }
    free(state);
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fleet_model_t model;
    void *image = NULL;
    if (posix_memalign(&image, 16, at_least_one(size)) != 0) {
        return 0;
    }
    memcpy(image, data, size);
    if (fleet_model_open(&model, image, size) == FLEET_OK) {
        exercise(&model);
    }
    free(image);
    return 0;
}
