/* The walk of operators over two operands: output elements in order, an operand may repeat along axes. */
#ifndef FLEET_BROADCAST_H
#define FLEET_BROADCAST_H

#include "fixed_point.h"
#include "internal.h"

/* a, b: values less their zero points, -255 .. 255; the result has no zero point yet. */
typedef int32_t (*fleet_combine_t)(const fleet_op_binary_t *op, int32_t a, int32_t b);

static inline int32_t fleet_scale_a(const fleet_op_binary_t *op, int32_t a)
{
    return fleet_rescale(a, op->input_multiplier, op->input_shift);
}

static inline int32_t fleet_scale_b(const fleet_op_binary_t *op, int32_t b)
{
    return fleet_rescale(b, op->input_b_multiplier, op->input_b_shift);
}

/* Step of an operand per output axis: 0 where it repeats. */
static inline void fleet_operand_strides(const fleet_op_binary_t *op, uint32_t repeats, uint32_t strides[3])
{
    uint32_t step = 1;
    for (uint32_t axis = 3; axis-- > 0u;) {
        const int repeated = ((repeats >> axis) & 1u) != 0u;
        strides[axis] = repeated ? 0u : step;
        step *= repeated ? 1u : op->dims[axis];
    }
}

static inline void fleet_broadcast(const fleet_kernel_context_t *context, const fleet_op_binary_t *op,
                                   fleet_combine_t combine)
{
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *a = context->arena + op->input;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    int8_t *output = context->arena + op->output;
    uint32_t strides[3];
    uint32_t strides_b[3];
    fleet_operand_strides(op, op->repeats, strides);
    fleet_operand_strides(op, op->repeats_b, strides_b);
    for (uint32_t i = 0; i < op->dims[0]; i++) {
        for (uint32_t j = 0; j < op->dims[1]; j++) {
            const int8_t *row_a = a + i * strides[0] + j * strides[1];
            const int8_t *row_b = b + i * strides_b[0] + j * strides_b[1];
            for (uint32_t k = 0; k < op->dims[2]; k++) {
                const int32_t y = combine(op, row_a[k * strides[2]] - op->input_zero_point,
                                          row_b[k * strides_b[2]] - op->input_b_zero_point);
                *output++ = fleet_to_int8(y, op->output_zero_point, op->activation_min, op->activation_max);
            }
        }
    }
}

#endif
