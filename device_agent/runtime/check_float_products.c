/* Structure of float32 records of products, selections and recurrent layers: compiler/SPEC.md section 9 points 3 and 4. */
#include "check_float.h"

#define BYTES 4u

static int is_aligned(uint32_t offset)
{
    return offset % BYTES == 0u;
}

static int tensors_are_aligned(const void *record)
{
    const fleet_op_t *op = record;
    return is_aligned(op->input) && is_aligned(op->output);
}

/* Elements a strided walk reaches over; 0 when a size is 0 or anything passes the limit. */
static uint64_t reach(const uint32_t sizes[4], const uint32_t steps[4], uint64_t limit)
{
    uint64_t last = 0;
    for (int axis = 0; axis < 4; axis++) {
        if (sizes[axis] == 0u || sizes[axis] > limit || steps[axis] > limit) {
            return 0;
        }
        last += (uint64_t)(sizes[axis] - 1u) * steps[axis];
    }
    return last < limit ? last + 1u : 0u;
}

static int output_is_dense(const fleet_op_matmul_f32_t *op, uint64_t limit, fleet_extent_t *extent)
{
    const uint32_t sizes[4] = {op->dims[0], op->dims[1], op->dims[2], op->dims[3]};
    const uint64_t elements = (uint64_t)sizes[0] * sizes[1] * sizes[2] * sizes[3];
    extent->output_bytes = elements * BYTES;
    return elements <= limit && reach(sizes, op->output_steps, limit) == elements;
}

int fleet_check_matmul_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_matmul_f32_t *op = record;
    const uint64_t arena = header->arena_bytes;
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const uint32_t a[4] = {op->dims[0], op->dims[1], op->dims[2], op->depth};
    const uint32_t b[4] = {op->dims[0], op->dims[1], op->dims[3], op->depth};
    const uint32_t limit_b = constant ? header->image_bytes : header->arena_bytes;
    const uint64_t bytes_b = BYTES * reach(b, op->steps_b, limit_b);
    extent->input_bytes = BYTES * reach(a, op->steps, arena);
    return tensors_are_aligned(op) && is_aligned(op->input_b) && output_is_dense(op, arena, extent) &&
           bytes_b != 0u && fleet_inside(op->input_b, bytes_b, limit_b) &&
           (constant || fleet_disjoint(op->input_b, bytes_b, op->output, extent->output_bytes)) &&
           op->activation_min <= op->activation_max;
}

int fleet_check_top_k_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_top_k_f32_t *op = record;
    if (op->rows > header->arena_bytes || op->columns > header->arena_bytes || op->k > op->columns) {
        return 0;
    }
    extent->input_bytes = BYTES * (uint64_t)op->rows * op->columns;
    extent->output_bytes = BYTES * (uint64_t)op->rows * op->k;
    return tensors_are_aligned(op) && op->smallest <= 1u && op->activation_min <= op->activation_max;
}

static int state_is_inside(const fleet_image_header_t *header, uint32_t offset, uint64_t bytes)
{
    return is_aligned(offset) && fleet_inside(offset, bytes, header->state_bytes);
}

/* In scratch: what has no place in the state, and reset hidden states. */
static int gates_have_room(const fleet_image_header_t *header, const fleet_op_gated_f32_t *op, uint32_t parts)
{
    const int anew = op->hidden == FLEET_NO_OFFSET;
    const uint64_t bytes = BYTES * (uint64_t)op->units;
    const uint64_t scratch = bytes * ((anew ? parts : 0u) + ((op->flags & FLEET_OP_FLAG_RESET_FIRST) != 0u ? 1u : 0u));
    if (scratch != 0u && (op->scratch == FLEET_NO_OFFSET || !is_aligned(op->scratch) || op->scratch_bytes < scratch)) {
        return 0;
    }
    if (anew || parts == 1u) {
        return op->cell == FLEET_NO_OFFSET && (anew || state_is_inside(header, op->hidden, bytes)) &&
               (anew || (op->flags & FLEET_OP_FLAG_GIVEN_START) == 0u);
    }
    return (op->flags & FLEET_OP_FLAG_GIVEN_START) == 0u && state_is_inside(header, op->hidden, bytes) &&
           state_is_inside(header, op->cell, bytes);
}

int fleet_check_gates_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_gated_f32_t *op = record;
    const uint32_t parts = op->code == FLEET_OP_GRU_F32 ? 1u : 2u;
    extent->input_bytes = BYTES * (uint64_t)op->steps * op->features;
    extent->output_bytes = BYTES * (uint64_t)op->steps * op->units;
    if (op->steps == 0u || op->units == 0u || op->features > header->image_bytes) {
        return 0;
    }
    const uint64_t start = (op->flags & FLEET_OP_FLAG_GIVEN_START) != 0u ? parts * (uint64_t)op->units : 0u;
    const uint64_t rows = (uint64_t)(parts == 1u ? FLEET_GATES - 1u : FLEET_GATES) * op->units;
    const uint64_t table = BYTES * (rows * (2u + (uint64_t)op->features + op->units) + start);
    return tensors_are_aligned(op) && gates_have_room(header, op, parts) &&
           op->table % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(op->table, table, header->image_bytes) &&
           op->activation_min <= op->activation_max;
}
