/* The walk of int16 operators over two operands: output elements in order, an operand may repeat along axes. */
#ifndef FLEET_BROADCAST_INT16_H
#define FLEET_BROADCAST_INT16_H

#include "int16.h"

typedef int32_t (*fleet_combine_int16_t)(const fleet_op_binary_int16_t *op, int32_t a, int32_t b);

static inline int32_t fleet_scale_a_int16(const fleet_op_binary_int16_t *op, int32_t a)
{
    return fleet_rescale(a, op->input_multiplier, op->input_shift);
}

static inline int32_t fleet_scale_b_int16(const fleet_op_binary_int16_t *op, int32_t b)
{
    return fleet_rescale(b, op->input_b_multiplier, op->input_b_shift);
}

/* Step of an operand per output axis: 0 where it repeats. */
static inline void fleet_strides_int16(const fleet_op_binary_int16_t *op, uint32_t repeats, uint32_t strides[3])
{
    uint32_t step = 1;
    for (uint32_t axis = 3; axis-- > 0u;) {
        const int repeated = ((repeats >> axis) & 1u) != 0u;
        strides[axis] = repeated ? 0u : step;
        step *= repeated ? 1u : op->dims[axis];
    }
}

static inline void fleet_broadcast_int16(const fleet_kernel_context_t *context, const fleet_op_binary_int16_t *op,
                                         fleet_combine_int16_t combine)
{
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int16_t *a = fleet_arena_int16(context, op->input);
    const int16_t *b = constant ? fleet_image_int16(context, op->input_b) : fleet_arena_int16(context, op->input_b);
    int16_t *output = fleet_output_int16(context, op->output);
    uint32_t strides[3];
    uint32_t strides_b[3];
    fleet_strides_int16(op, op->repeats, strides);
    fleet_strides_int16(op, op->repeats_b, strides_b);
    for (uint32_t i = 0; i < op->dims[0]; i++) {
        for (uint32_t j = 0; j < op->dims[1]; j++) {
            const int16_t *row_a = a + i * strides[0] + j * strides[1];
            const int16_t *row_b = b + i * strides_b[0] + j * strides_b[1];
            for (uint32_t k = 0; k < op->dims[2]; k++) {
                const int32_t y = combine(op, row_a[k * strides[2]], row_b[k * strides_b[2]]);
                *output++ = fleet_clamp_int16(y, op->activation_min, op->activation_max);
            }
        }
    }
}

#endif
