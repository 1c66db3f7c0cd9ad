#include "check_elementwise.h"

int fleet_check_lut(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_lut_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return fleet_inside(op->table, FLEET_LUT_ENTRIES, header->image_bytes);
}

int fleet_check_prelu(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_prelu_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return op->slope_count != 0u && fleet_inside(op->slopes, op->slope_count, header->image_bytes) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift) &&
           fleet_multiplier_is_legal(op->slope_multiplier, op->slope_shift);
}

/* Only an operand that repeats nowhere is read in the order of the output. */
static int may_be_in_place(const fleet_op_binary_t *op, uint32_t input, uint64_t bytes, uint32_t repeats, uint64_t size)
{
    const void *record = op;
    return fleet_disjoint(input, bytes, op->output, size) ||
           (repeats == 0u && fleet_may_overlap(record, input, bytes, size));
}

static int second_is_legal(const fleet_image_header_t *header, const fleet_op_binary_t *op, uint64_t size)
{
    const uint64_t bytes = fleet_walk_elements(op->dims, op->repeats_b, header->arena_bytes);
    if (op->flags & FLEET_OP_FLAG_CONSTANT_B) {
        return fleet_inside(op->input_b, bytes, header->image_bytes);
    }
    return fleet_inside(op->input_b, bytes, header->arena_bytes) &&
           may_be_in_place(op, op->input_b, bytes, op->repeats_b, size);
}

int fleet_check_binary(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_binary_t *op = record;
    extent->output_bytes = fleet_walk_elements(op->dims, 0, header->arena_bytes);
    extent->input_bytes = fleet_walk_elements(op->dims, op->repeats, header->arena_bytes);
    return extent->output_bytes != 0u && op->repeats < 8u && op->repeats_b < 8u && op->reserved == 0u &&
           may_be_in_place(op, op->input, extent->input_bytes, op->repeats, extent->output_bytes) &&
           second_is_legal(header, op, extent->output_bytes) && op->activation_min <= op->activation_max &&
           fleet_multiplier_is_legal(op->input_multiplier, op->input_shift) &&
           fleet_multiplier_is_legal(op->input_b_multiplier, op->input_b_shift) &&
           fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}
