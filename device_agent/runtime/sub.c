/* SUB: input - input_b, with SWAPPED input_b - input. */
#include "broadcast.h"

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const uint32_t left = (uint32_t)fleet_scale_a(op, a * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT));
    const uint32_t right = (uint32_t)fleet_scale_b(op, b * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT));
    const int swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u;
    const int32_t difference = (int32_t)(swapped ? right - left : left - right);
    return fleet_rescale(difference, op->output_multiplier, op->output_shift);
}

void fleet_sub(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
