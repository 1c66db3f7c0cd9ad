/* The walk of reductions: (outer, count, inner) in, (outer, inner) out; a result is written after its values are read. */
#ifndef FLEET_REDUCE_H
#define FLEET_REDUCE_H

#include "fixed_point.h"
#include "internal.h"

/* `first` is the first of op->count values, op->inner bytes apart. */
typedef int8_t (*fleet_reducer_t)(const fleet_op_reduce_t *op, const int8_t *first);

static inline void fleet_reduce(const fleet_kernel_context_t *context, const fleet_op_reduce_t *op,
                                fleet_reducer_t reducer)
{
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t o = 0; o < op->outer; o++) {
        for (uint32_t i = 0; i < op->inner; i++) {
            *output++ = reducer(op, input + i);
        }
        input += op->count * op->inner;
    }
}

static inline int8_t fleet_clamp_int8(const fleet_op_reduce_t *op, int32_t value)
{
    return fleet_to_int8(value, 0, op->activation_min, op->activation_max);
}

#endif
