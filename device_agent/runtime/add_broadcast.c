/* ADD_BROADCAST: ADD's numbers for operands of different shapes. */
#include "broadcast.h"

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const int32_t left = fleet_scale_a(op, a * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT));
    const int32_t right = fleet_scale_b(op, b * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT));
    return fleet_rescale(fleet_wrap_add(left, right), op->output_multiplier, op->output_shift);
}

void fleet_add_broadcast(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
