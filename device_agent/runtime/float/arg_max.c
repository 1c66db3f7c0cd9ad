/* ARG_MAX_F32: index of the first largest value, as a float. */
#include "reduce.h"

static float reduce(const fleet_op_reduce_f32_t *op, const float *first)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < op->count; k++) {
        if (first[(size_t)k * op->inner] > first[(size_t)best * op->inner]) {
            best = k;
        }
    }
    return (float)best;
}

void fleet_f32_arg_max(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_reduce(context, record, reduce);
}
