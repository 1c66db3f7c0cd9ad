/* SUB_INT16. */
#include "broadcast_int16.h"

static int32_t combine(const fleet_op_binary_int16_t *op, int32_t a, int32_t b)
{
    const int32_t left = fleet_scale_a_int16(op, a * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT_INT16));
    const int32_t right = fleet_scale_b_int16(op, b * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT_INT16));
    const int swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u;
    const uint32_t difference = swapped ? (uint32_t)right - (uint32_t)left : (uint32_t)left - (uint32_t)right;
    return fleet_rescale((int32_t)difference, op->output_multiplier, op->output_shift);
}

void fleet_sub_int16(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast_int16(context, record, combine);
}
