/* REDUCE_SUM_INT16: sums, and means, whose 1/count is in the multiplier. */
#include "reduce_int16.h"

static int32_t reducer(const fleet_op_reduce_int16_t *op, const int16_t *first)
{
    int32_t sum = 0;
    for (uint32_t k = 0; k < op->count; k++) {
        sum += first[k * op->inner];
    }
    return fleet_rescale(sum, op->multiplier, op->shift);
}

void fleet_reduce_sum_int16(const fleet_kernel_context_t *context, const void *record)
{
    fleet_reduce_int16(context, record, reducer);
}
