/*
 * SOFTMAX in fixed point: compiler/NUMERICS.md section 3, whose names are used here. Qn = n integer bits, 31 - n fractional.
 * A first pass sums the exponentials, a second writes: element i is read before it is written, so rows may run in place.
 */
#include "softmax.h"

static void softmax_row(const fleet_op_softmax_t *op, const int8_t *row, int8_t *output)
{
    const int32_t best = fleet_largest(row, op->columns);
    const uint32_t sum = fleet_sum_of_exponentials(op, row, best);
    const uint32_t h = fleet_leading_zeros(sum);
    const int32_t scale = fleet_reciprocal((int32_t)((sum << h) & 0x7fffffffu));
    /* With h < 4 (the sum of 512 or more equal classes) even the largest quotient rounds to 0. */
    const uint32_t right = 35u - h;
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t difference = row[i] - best;
        int32_t y = 0;
        if (difference >= op->diff_min && right <= 31u) {
            y = fleet_round_shift(fleet_high_mul(scale, fleet_exp_of_difference(op, difference)), right);
        }
        output[i] = fleet_to_int8(y, -128, INT8_MIN, INT8_MAX);
    }
}

void fleet_softmax(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_softmax_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t row = 0; row < op->rows; row++) {
        softmax_row(op, input, output);
        input += op->columns;
        output += op->columns;
    }
}
