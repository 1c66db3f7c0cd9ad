/* MUL_INT16. */
#include "broadcast_int16.h"

static int32_t combine(const fleet_op_binary_int16_t *op, int32_t a, int32_t b)
{
    return fleet_rescale(a * b, op->output_multiplier, op->output_shift);
}

void fleet_mul_int16(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast_int16(context, record, combine);
}
