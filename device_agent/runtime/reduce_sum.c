/* REDUCE_SUM: sums, and means, whose 1/count is in the multiplier. */
#include "reduce.h"

static int8_t reducer(const fleet_op_reduce_t *op, const int8_t *first)
{
    int32_t sum = 0;
    for (uint32_t k = 0; k < op->count; k++) {
        sum += first[k * op->inner] - op->input_zero_point;
    }
    return fleet_to_int8(fleet_rescale(sum, op->multiplier, op->shift), op->output_zero_point, op->activation_min,
                         op->activation_max);
}

void fleet_reduce_sum(const fleet_kernel_context_t *context, const void *record)
{
    fleet_reduce(context, record, reducer);
}
