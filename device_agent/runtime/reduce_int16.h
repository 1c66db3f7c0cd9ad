/* The walk of int16 reductions: (outer, count, inner) in, (outer, inner) out; a result is written after its values are read. */
#ifndef FLEET_REDUCE_INT16_H
#define FLEET_REDUCE_INT16_H

#include "int16.h"

/* `first` is the first of op->count values, op->inner elements apart. */
typedef int32_t (*fleet_reducer_int16_t)(const fleet_op_reduce_int16_t *op, const int16_t *first);

static inline void fleet_reduce_int16(const fleet_kernel_context_t *context, const fleet_op_reduce_int16_t *op,
                                      fleet_reducer_int16_t reducer)
{
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t o = 0; o < op->outer; o++) {
        for (uint32_t i = 0; i < op->inner; i++) {
            *output++ = fleet_clamp_int16(reducer(op, input + i), op->activation_min, op->activation_max);
        }
        input += op->count * op->inner;
    }
}

#endif
