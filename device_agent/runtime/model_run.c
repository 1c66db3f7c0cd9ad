#include "cascade.h"

#include <string.h>

static fleet_status_t check_arena(const fleet_model_t *model, const void *arena, size_t arena_bytes)
{
    if (model == NULL || arena == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    if (!fleet_is_aligned(arena, FLEET_IMAGE_SECTION_ALIGN)) {
        return FLEET_ERR_ALIGNMENT;
    }
    return arena_bytes < fleet_header(model)->arena_bytes ? FLEET_ERR_ARENA : FLEET_OK;
}

static fleet_status_t check_memory(const fleet_model_t *model, const void *arena, size_t arena_bytes)
{
    const fleet_status_t status = check_arena(model, arena, arena_bytes);
    return status == FLEET_OK ? fleet_state_check(model) : status;
}

static const fleet_op_t *op_at(const fleet_model_t *model, const fleet_cursor_t *cursor)
{
    return (const void *)(model->image + fleet_header(model)->ops_offset + cursor->offset);
}

static fleet_kernel_context_t make_context(const fleet_model_t *model, void *arena)
{
    const fleet_image_header_t *header = fleet_header(model);
    fleet_kernel_context_t context;
    context.image = model->image;
    context.arena = arena;
    context.state = model->state;
    context.multipliers = (const void *)(model->image + header->multipliers_offset);
    context.shifts = (const void *)(model->image + header->shifts_offset);
    context.biases = (const void *)(model->image + header->biases_offset);
    return context;
}

static void advance(fleet_cursor_t *cursor, const fleet_op_t *op)
{
    cursor->index++;
    cursor->offset += op->record_bytes;
}

fleet_status_t fleet_model_set_input(const fleet_model_t *model, uint32_t index, const void *data, size_t bytes,
                                     void *arena, size_t arena_bytes)
{
    const fleet_status_t status = check_arena(model, arena, arena_bytes);
    if (status != FLEET_OK) {
        return status;
    }
    if (data == NULL || index >= fleet_header(model)->input_count || fleet_io(model, index)->size_bytes != bytes) {
        return FLEET_ERR_ARGUMENT;
    }
    memcpy((uint8_t *)arena + fleet_io(model, index)->arena_offset, data, bytes);
    return FLEET_OK;
}

/*
 * Record of the next op, or row of a cascade, null for an illegal row. `step`, where there is one, is filled in;
 * `output_bytes` for rows only.
 */
static const void *next_record(const fleet_model_t *model, const fleet_kernel_context_t *context,
                               fleet_cursor_t *cursor, fleet_step_t *step)
{
    const fleet_image_cascade_t *cascade = fleet_cascade_at(fleet_header(model), cursor->cascade, cursor->index);
    if (cascade != NULL) {
        return fleet_cascade_next(context, cascade, cursor, step);
    }
    const fleet_op_t *op = op_at(model, cursor);
    if (step != NULL) {
        step->index = cursor->index;
        step->code = op->code;
        step->output = context->arena + op->output;
        step->output_bytes = 0;
    }
    advance(cursor, op);
    return op;
}

fleet_status_t fleet_model_step(const fleet_model_t *model, fleet_cursor_t *cursor, void *arena, size_t arena_bytes,
                                fleet_step_t *step)
{
    const fleet_status_t status = check_memory(model, arena, arena_bytes);
    if (status != FLEET_OK) {
        return status;
    }
    if (cursor->index >= fleet_header(model)->op_count || cursor->offset >= fleet_header(model)->ops_bytes) {
        return FLEET_ERR_ARGUMENT;
    }
    const fleet_kernel_context_t context = make_context(model, arena);
    const void *record = next_record(model, &context, cursor, step);
    if (record == NULL) {
        return FLEET_ERR_LAYOUT;
    }
    fleet_kernel_table[step->code](&context, record);
    if (step->output_bytes == 0u) {
        step->output_bytes = fleet_op_output_bytes(fleet_header(model), record);
    }
    return FLEET_OK;
}

fleet_status_t fleet_model_invoke(const fleet_model_t *model, void *arena, size_t arena_bytes)
{
    const fleet_status_t status = check_memory(model, arena, arena_bytes);
    if (status != FLEET_OK) {
        return status;
    }
    const fleet_kernel_context_t context = make_context(model, arena);
    fleet_cursor_t cursor = {0};
    while (cursor.index < fleet_header(model)->op_count) {
        const fleet_op_t *op = next_record(model, &context, &cursor, NULL);
        if (op == NULL) {
            return FLEET_ERR_LAYOUT;
        }
        fleet_kernel_table[op->code](&context, op);
    }
    return FLEET_OK;
}

const int8_t *fleet_model_output(const fleet_model_t *model, uint32_t index, const void *arena)
{
    const fleet_image_header_t *header = fleet_header(model);
    if (index >= header->output_count) {
        return NULL;
    }
    return (const int8_t *)arena + fleet_io(model, header->input_count + index)->arena_offset;
}

fleet_status_t fleet_model_run(const fleet_model_t *model, const void *input, size_t input_bytes, void *arena,
                               size_t arena_bytes, const int8_t **output)
{
    if (model == NULL || output == NULL || fleet_header(model)->input_count != 1u ||
        fleet_header(model)->output_count != 1u) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_status_t status = fleet_model_set_input(model, 0, input, input_bytes, arena, arena_bytes);
    if (status == FLEET_OK) {
        status = fleet_model_invoke(model, arena, arena_bytes);
    }
    if (status == FLEET_OK) {
        *output = fleet_model_output(model, 0, arena);
    }
    return status;
}
