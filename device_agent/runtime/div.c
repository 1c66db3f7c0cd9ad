/* DIV: input / input_b, with SWAPPED input_b / input. A quotient by zero is the end of the range on the dividend's side. */
#include "broadcast.h"

static int32_t quotient(int32_t above, int32_t below)
{
    const uint32_t divisor = (uint32_t)(below < 0 ? -below : below);
    const uint32_t dividend = (uint32_t)(above < 0 ? -above : above) << FLEET_DIV_LEFT_SHIFT;
    const int32_t steps = (int32_t)((dividend + divisor / 2u) / divisor);
    return (above < 0) != (below < 0) ? -steps : steps;
}

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const int swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u;
    const int32_t above = swapped ? b : a;
    const int32_t below = swapped ? a : b;
    if (below == 0) {
        return above > 0 ? INT32_MAX : above < 0 ? INT32_MIN : 0;
    }
    return fleet_rescale(quotient(above, below), op->output_multiplier, op->output_shift);
}

void fleet_div(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
