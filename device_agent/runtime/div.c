/* DIV: input / input_b, with SWAPPED input_b / input. A quotient by zero is the end of the range on the dividend's side. */
#include "broadcast.h"
#include "newton.h"

/* Bits that x can be shifted left without leaving int32. */
static uint32_t headroom_of(int32_t x)
{
    const uint32_t bits = (uint32_t)(x < 0 ? ~x : x);
    return bits == 0u ? 31u : fleet_leading_zeros(bits) - 1u;
}

static int32_t quotient(const fleet_op_binary_t *op, int32_t above, uint32_t below)
{
    const uint32_t zeros = fleet_leading_zeros(below);
    const uint32_t headroom = headroom_of(above);
    const int32_t inverse = fleet_reciprocal((int32_t)((below << zeros) & 0x7fffffffu));
    const int32_t scaled = fleet_high_mul(fleet_high_mul(fleet_wrap_shift_left(above, headroom), inverse), op->output_multiplier);
    const uint32_t right = 31u - zeros + headroom + (uint32_t)-op->output_shift;
    return right > 31u ? 0 : fleet_round_shift(scaled, right);
}

static int32_t combine(const fleet_op_binary_t *op, int32_t a, int32_t b)
{
    const int swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u;
    const int32_t above = swapped ? b : a;
    const int32_t below = swapped ? a : b;
    if (below == 0) {
        return above > 0 ? INT32_MAX : above < 0 ? INT32_MIN : 0;
    }
    return below < 0 ? quotient(op, -above, (uint32_t)-below) : quotient(op, above, (uint32_t)below);
}

void fleet_div(const fleet_kernel_context_t *context, const void *record)
{
    fleet_broadcast(context, record, combine);
}
