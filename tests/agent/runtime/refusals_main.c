/* What the runtime says to images and arenas it must not touch, on a core that faults or reads wrongly there: a line each. */
#include "bench.h"
#include "model.h"

#include <string.h>

static uint8_t arena[MODEL_ARENA_BYTES + 16u] __attribute__((aligned(16)));
/* The whole image in flash 1, 2, 4 and 8 bytes behind a boundary of 16. */
extern const uint8_t misplaced_images[4][MODEL_IMAGE_BYTES + 16u];
static uint8_t copy[MODEL_IMAGE_BYTES] __attribute__((aligned(16)));

static void say(const char *what, fleet_status_t status)
{
    fleet_host_print(what);
    fleet_host_print(": ");
    fleet_host_print(fleet_status_text(status));
    fleet_host_print("\n");
}

static fleet_status_t open_at(const uint8_t *image)
{
    fleet_model_t other;
    return fleet_model_open(&other, image, MODEL_IMAGE_BYTES);
}

static void swap_words(uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i + 4u <= count; i += 4u) {
        const uint8_t first = bytes[i], second = bytes[i + 1u];
        bytes[i] = bytes[i + 3u];
        bytes[i + 1u] = bytes[i + 2u];
        bytes[i + 2u] = second;
        bytes[i + 3u] = first;
    }
}

int main(void)
{
    fleet_model_t model;
    fleet_cursor_t cursor = {0};
    fleet_step_t step;
    const int8_t *output = 0;
    say("image", fleet_model_open(&model, model_image, sizeof(model_image)));
    for (uint32_t i = 0; i < 4u; i++) {
        say("image in flash", open_at(misplaced_images[i] + (1u << i)));
    }
    memcpy(copy, model_image, sizeof(copy));
    swap_words(copy, sizeof(copy));
    say("big-endian image", open_at(copy));
    for (uint32_t shift = 1; shift < 16u; shift *= 2u) {
        int8_t *const off = (int8_t *)arena + shift;
        say("set input", fleet_model_set_input(&model, 0, copy, MODEL_INPUT_BYTES, off, MODEL_ARENA_BYTES));
        say("run", fleet_model_run(&model, (const int8_t *)copy, MODEL_INPUT_BYTES, off, MODEL_ARENA_BYTES, &output));
        say("invoke", fleet_model_invoke(&model, off, MODEL_ARENA_BYTES));
        say("step", fleet_model_step(&model, &cursor, off, MODEL_ARENA_BYTES, &step));
        say("golden", fleet_model_golden(&model, off, MODEL_ARENA_BYTES));
    }
    say("aligned arena", fleet_model_golden(&model, arena, MODEL_ARENA_BYTES));
    return 0;
}
