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

typedef struct {
    uint64_t bytes; /* from the operand's first to its last element */
    int full;       /* it has every element of the output, in order */
} operand_t;

static operand_t operand(const uint32_t dims[4], const uint32_t strides[4])
{
    operand_t found = {1, 1};
    uint64_t whole = 1;
    for (int axis = 3; axis >= 0; axis--) {
        if (dims[axis] != 1u) {
            found.full = found.full && strides[axis] == whole;
        }
        found.bytes += (uint64_t)(dims[axis] - 1u) * strides[axis];
        whole *= dims[axis];
    }
    return found;
}

/* 0 when an axis is empty or the output larger than the arena; then no product below leaves 64 bits. */
static uint64_t walk_size(const fleet_image_header_t *header, const uint32_t dims[4])
{
    uint64_t size = 1;
    for (int axis = 0; axis < 4; axis++) {
        size *= dims[axis];
        if (size > header->arena_bytes) {
            return 0;
        }
    }
    return size;
}

static int operands_are_legal(const fleet_image_header_t *header, const fleet_op_binary_t *op, operand_t a, operand_t b,
                              uint64_t size)
{
    const void *record = op;
    if (!a.full && !fleet_disjoint(op->input, a.bytes, op->output, size)) {
        return 0;
    }
    if (op->flags & FLEET_OP_FLAG_CONSTANT_B) {
        return fleet_inside(op->input_b, b.bytes, header->image_bytes);
    }
    return fleet_inside(op->input_b, b.bytes, header->arena_bytes) &&
           (fleet_disjoint(op->input_b, b.bytes, op->output, size) ||
            (b.full && fleet_may_overlap(record, op->input_b, b.bytes, size)));
}

int fleet_check_binary(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_binary_t *op = record;
    const uint64_t size = walk_size(header, op->dims);
    if (size == 0u) {
        return 0;
    }
    const operand_t a = operand(op->dims, op->strides);
    const operand_t b = operand(op->dims, op->strides_b);
    extent->input_bytes = a.bytes;
    extent->output_bytes = size;
    return op->activation_min <= op->activation_max && operands_are_legal(header, op, a, b, size) &&
           fleet_multiplier_is_legal(op->input_multiplier, op->input_shift) &&
           fleet_multiplier_is_legal(op->input_b_multiplier, op->input_b_shift) &&
           fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}
