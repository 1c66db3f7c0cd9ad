/*
 * LOG_SOFTMAX: q - max - log(sum of exponentials) in steps of the output x 2^10, rounded once at the end. Element i is
 * read before it is written, so rows may run in place.
 */
#include "softmax.h"

#define LOG_BITS 16u
#define ONE_Q12 19u /* the sum holds exp(0) as 2^19, so log2 of it is at least 19 */

/* log2(sum / 2^19) x 2^16, bit by bit: squaring doubles a logarithm. */
static int32_t log2_of_sum(uint32_t sum)
{
    const uint32_t h = fleet_leading_zeros(sum);
    uint64_t x = (uint64_t)sum << h;
    uint32_t fraction = 0;
    for (uint32_t bit = 0; bit < LOG_BITS; bit++) {
        x = (x * x) >> 31;
        const uint32_t carry = (uint32_t)(x >> 32) & 1u;
        x >>= carry;
        fraction = fraction * 2u + carry;
    }
    return (int32_t)((31u - h - ONE_Q12) << LOG_BITS | fraction);
}

static void log_softmax_row(const fleet_op_log_softmax_t *op, const int8_t *row, int8_t *output)
{
    const void *record = op;
    const int32_t best = fleet_largest(row, op->columns);
    const int32_t logarithm = log2_of_sum(fleet_sum_of_exponentials(record, row, best));
    const int32_t scaled = fleet_rescale(logarithm, op->log_multiplier, op->log_shift);
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t d = (row[i] - best) * (INT32_C(1) << LOG_BITS);
        const uint32_t linear = (uint32_t)fleet_rescale(d, op->input_multiplier, op->input_shift);
        const int32_t y = fleet_round_shift((int32_t)(linear - (uint32_t)scaled), FLEET_LOG_SOFTMAX_FRACTION_BITS);
        output[i] = fleet_to_int8(y, op->output_zero_point, op->activation_min, op->activation_max);
    }
}

void fleet_log_softmax(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_log_softmax_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t row = 0; row < op->rows; row++) {
        log_softmax_row(op, input, output);
        input += op->columns;
        output += op->columns;
    }
}
