/* REDUCE_SUM_F32: sums and means, in order. */
#include "reduce.h"

static float reduce(const fleet_op_reduce_f32_t *op, const float *first)
{
    float sum = 0.0f;
    for (uint32_t k = 0; k < op->count; k++) {
        sum += first[(size_t)k * op->inner];
    }
    return sum / op->divisor;
}

void fleet_f32_reduce_sum(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_reduce(context, record, reduce);
}
