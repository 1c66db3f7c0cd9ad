/* ARG_MIN: index of the first smallest value, less 128. */
#include "reduce.h"

static int8_t reducer(const fleet_op_reduce_t *op, const int8_t *first)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < op->count; k++) {
        if (first[k * op->inner] < first[best * op->inner]) {
            best = k;
        }
    }
    return fleet_clamp_int8(op, (int32_t)best - 128);
}

void fleet_arg_min(const fleet_kernel_context_t *context, const void *record)
{
    fleet_reduce(context, record, reducer);
}
