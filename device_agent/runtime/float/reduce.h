/* The walk of float32 reductions: (outer, count, inner) in, (outer, inner) out; values are read before a result is written. */
#ifndef FLEET_F32_REDUCE_H
#define FLEET_F32_REDUCE_H

#include "extremes.h"

/* `first` is the first of op->count values, op->inner apart. */
typedef float (*fleet_f32_reducer_t)(const fleet_op_reduce_f32_t *op, const float *first);

static inline void fleet_f32_reduce(const fleet_kernel_context_t *context, const fleet_op_reduce_f32_t *op,
                                    fleet_f32_reducer_t reducer)
{
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t o = 0; o < op->outer; o++) {
        for (uint32_t i = 0; i < op->inner; i++) {
            *output++ = fleet_f32_clamp(reducer(op, input + i), op->activation_min, op->activation_max);
        }
        input += (size_t)op->count * op->inner;
    }
}

#endif
