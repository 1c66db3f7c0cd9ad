/* The walk of operators over two operands: output elements in order, an operand repeats along axes of stride 0. */
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

static inline int8_t *fleet_broadcast_row(const fleet_op_binary_t *op, const int8_t *a, const int8_t *b, int8_t *output,
                                          fleet_combine_t combine)
{
    for (uint32_t i = 0; i < op->dims[3]; i++) {
        const int32_t y = combine(op, *a - op->input_zero_point, *b - op->input_b_zero_point);
        *output++ = fleet_to_int8(y, op->output_zero_point, op->activation_min, op->activation_max);
        if (i + 1u < op->dims[3]) { /* no pointer ever leaves its tensor */
            a += op->strides[3];
            b += op->strides_b[3];
        }
    }
    return output;
}

static inline void fleet_broadcast(const fleet_kernel_context_t *context, const fleet_op_binary_t *op,
                                   fleet_combine_t combine)
{
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *a = context->arena + op->input;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    int8_t *output = context->arena + op->output;
    for (uint32_t i = 0; i < op->dims[0]; i++) {
        for (uint32_t j = 0; j < op->dims[1]; j++) {
            for (uint32_t k = 0; k < op->dims[2]; k++) {
                const uint32_t at_a = i * op->strides[0] + j * op->strides[1] + k * op->strides[2];
                const uint32_t at_b = i * op->strides_b[0] + j * op->strides_b[1] + k * op->strides_b[2];
                output = fleet_broadcast_row(op, a + at_a, b + at_b, output, combine);
            }
        }
    }
}

#endif
