/* SQUARED_DIFFERENCE: (input - input_b)^2. */
#include "broadcast.h"

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const uint32_t left = (uint32_t)fleet_scale_a(op, a * (INT32_C(1) << FLEET_SQUARED_DIFFERENCE_LEFT_SHIFT));
    const uint32_t right = (uint32_t)fleet_scale_b(op, b * (INT32_C(1) << FLEET_SQUARED_DIFFERENCE_LEFT_SHIFT));
    const uint32_t difference = left - right;
    return fleet_rescale((int32_t)(difference * difference), op->output_multiplier, op->output_shift);
}

void fleet_squared_difference(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
