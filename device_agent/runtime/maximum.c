/* MAXIMUM: both operands at the output's scale first. */
#include "broadcast.h"

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const int32_t left = fleet_scale_a(op, a);
    const int32_t right = fleet_scale_b(op, b);
    return left > right ? left : right;
}

void fleet_maximum(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
