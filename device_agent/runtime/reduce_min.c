/* REDUCE_MIN. */
#include "reduce.h"

static int8_t reducer(const fleet_op_reduce_t *op, const int8_t *first)
{
    int8_t best = first[0];
    for (uint32_t k = 1; k < op->count; k++) {
        const int8_t value = first[k * op->inner];
        best = value < best ? value : best;
    }
    return fleet_clamp_int8(op, best);
}

void fleet_reduce_min(const fleet_kernel_context_t *context, const void *record)
{
    fleet_reduce(context, record, reducer);
}
