/* Golden vectors: compiler/SPEC.md section 7. */
#include "internal.h"

/* xorshift32: the same three shifts as the compiler's. */
static uint32_t next_random(uint32_t state)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* Top 24 bits as [-1, 1). Every step is exact, so that soft and hard arithmetic agree. */
static uint32_t fill_floats(uint32_t state, float *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        state = next_random(state);
        values[i] = (float)((int32_t)(state >> 8) - 0x800000) * 0x1p-23f;
    }
    return state;
}

/* Returns the generator's state after the last byte. */
static uint32_t fill_inputs(const fleet_model_t *model, uint32_t state, uint8_t *arena)
{
    for (uint32_t i = 0; i < fleet_header(model)->input_count; i++) {
        const fleet_image_io_t *io = fleet_io(model, i);
        if (io->element == FLEET_ELEMENT_FLOAT32) {
            state = fill_floats(state, (float *)(void *)(arena + io->arena_offset), io->size_bytes / 4u);
            continue;
        }
        for (uint32_t byte = 0; byte < io->size_bytes; byte++) {
            state = next_random(state);
            arena[io->arena_offset + byte] = (uint8_t)(state >> 24);
        }
    }
    return state;
}

/* The CRC goes on from `crc`. */
static fleet_status_t run_inference(const fleet_model_t *model, uint32_t *crc, void *arena, size_t arena_bytes)
{
    fleet_cursor_t cursor = {0};
    fleet_step_t step;
    while (cursor.index < fleet_header(model)->op_count) {
        const fleet_status_t status = fleet_model_step(model, &cursor, arena, arena_bytes, &step);
        if (status != FLEET_OK) {
            return status;
        }
        *crc = fleet_crc32(*crc, step.output, step.output_bytes);
    }
    return FLEET_OK;
}

/* The CRC goes on from `crc`. */
static fleet_status_t run_vector(const fleet_model_t *model, uint32_t seed, uint32_t *crc, void *arena, size_t arena_bytes)
{
    const uint32_t inferences = fleet_header(model)->state_bytes != 0u ? FLEET_IMAGE_GOLDEN_STREAM_STEPS : 1u;
    uint32_t random = seed;
    fleet_status_t status = fleet_model_reset_state(model);
    for (uint32_t i = 0; status == FLEET_OK && i < inferences; i++) {
        random = fill_inputs(model, random, arena);
        status = run_inference(model, crc, arena, arena_bytes);
    }
    return status;
}

fleet_status_t fleet_model_golden(const fleet_model_t *model, void *arena, size_t arena_bytes)
{
    if (model == NULL || arena == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint8_t *record = model->image + fleet_header(model)->golden_offset;
    const fleet_image_golden_t *golden = (const void *)record;
    const uint32_t *seeds = (const void *)(record + sizeof(*golden));
    uint32_t crc = 0;
    if (arena_bytes < fleet_header(model)->arena_bytes) {
        return FLEET_ERR_ARENA;
    }
    for (uint32_t i = 0; i < golden->vector_count; i++) {
        const fleet_status_t status = run_vector(model, seeds[i], &crc, arena, arena_bytes);
        if (status != FLEET_OK) {
            return status;
        }
    }
    const fleet_status_t status = fleet_model_reset_state(model);
    return status == FLEET_OK && crc != golden->crc32 ? FLEET_ERR_GOLDEN : status;
}
