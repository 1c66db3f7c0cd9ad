/* The walk of float32 operators over two operands: output elements in order, an operand may repeat along axes. */
#ifndef FLEET_F32_BROADCAST_H
#define FLEET_F32_BROADCAST_H

#include "f32.h"

typedef float (*fleet_f32_combine_t)(float a, float b);

/* Step of an operand per output axis: 0 where it repeats. */
static inline void fleet_f32_strides(const uint32_t dims[3], uint32_t repeats, uint32_t strides[3])
{
    uint32_t step = 1;
    for (uint32_t axis = 3; axis-- > 0u;) {
        const int repeated = ((repeats >> axis) & 1u) != 0u;
        strides[axis] = repeated ? 0u : step;
        step *= repeated ? 1u : dims[axis];
    }
}

static inline void fleet_f32_broadcast(const fleet_kernel_context_t *context, const fleet_op_binary_f32_t *op,
                                       fleet_f32_combine_t combine)
{
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u;
    const float *a = fleet_f32_arena(context, op->input);
    const float *b = constant ? fleet_f32_image(context, op->input_b) : fleet_f32_arena(context, op->input_b);
    float *output = fleet_f32_arena(context, op->output);
    uint32_t strides[3];
    uint32_t strides_b[3];
    fleet_f32_strides(op->dims, op->repeats, strides);
    fleet_f32_strides(op->dims, op->repeats_b, strides_b);
    for (uint32_t i = 0; i < op->dims[0]; i++) {
        for (uint32_t j = 0; j < op->dims[1]; j++) {
            const float *row_a = a + i * strides[0] + j * strides[1];
            const float *row_b = b + i * strides_b[0] + j * strides_b[1];
            for (uint32_t k = 0; k < op->dims[2]; k++) {
                const float left = row_a[k * strides[2]];
                const float right = row_b[k * strides_b[2]];
                const float y = swapped ? combine(right, left) : combine(left, right);
                *output++ = fleet_f32_clamp(y, op->activation_min, op->activation_max);
            }
        }
    }
}

#endif
