/* REDUCE_MIN_INT16. */
#include "reduce_int16.h"

static int32_t reducer(const fleet_op_reduce_int16_t *op, const int16_t *first)
{
    int32_t best = first[0];
    for (uint32_t k = 1; k < op->count; k++) {
        const int32_t value = first[k * op->inner];
        best = value < best ? value : best;
    }
    return best;
}

void fleet_reduce_min_int16(const fleet_kernel_context_t *context, const void *record)
{
    fleet_reduce_int16(context, record, reducer);
}
