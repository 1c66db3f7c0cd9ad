/* MINIMUM_INT16. */
#include "broadcast_int16.h"

static int32_t combine(const fleet_op_binary_int16_t *op, int32_t a, int32_t b)
{
    const int32_t left = fleet_scale_a_int16(op, a);
    const int32_t right = fleet_scale_b_int16(op, b);
    return left < right ? left : right;
}

void fleet_minimum_int16(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast_int16(context, record, combine);
}
