/* REDUCE_MIN_F32. */
#include "reduce.h"

static float reduce(const fleet_op_reduce_f32_t *op, const float *first)
{
    float best = fleet_f32_from_bits(FLEET_F32_INFINITY_BITS);
    for (uint32_t k = 0; k < op->count; k++) {
        best = fleet_f32_lower(best, first[(size_t)k * op->inner]);
    }
    return best;
}

void fleet_f32_reduce_min(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_reduce(context, record, reduce);
}
