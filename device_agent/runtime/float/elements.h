/* The walk of a function of one element. */
#ifndef FLEET_F32_ELEMENTS_H
#define FLEET_F32_ELEMENTS_H

#include "f32.h"

typedef float (*fleet_f32_function_t)(const fleet_op_unary_f32_t *op, float x);

static inline void fleet_f32_each(const fleet_kernel_context_t *context, const fleet_op_unary_f32_t *op,
                                  fleet_f32_function_t function)
{
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        output[i] = fleet_f32_clamp(function(op, input[i]), op->activation_min, op->activation_max);
    }
}

#endif
