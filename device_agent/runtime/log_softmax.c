/*
 * LOG_SOFTMAX: q - max - log(sum of exponentials), compiler/NUMERICS.md section 3, whose names are used here. Element i is
 * read before it is written, so rows may run in place.
 */
#include "softmax.h"

#define LN_2 1488522236        /* Q0, like all below */
#define HALF_ROOT 1518500250   /* sqrt(1/2) */
#define FOURTH_ROOT 1805811301 /* sqrt(sqrt(1/2)) */
#define QUARTER_Q6 8388608
#define ALPHA_N 117049297
#define ALPHA_D 127690142
#define ALPHA_I 1057819769
#define ALPHA_F 638450708
#define SUM_BITS 12
#define LOG_STEPS 22u /* from Q5 to steps of 1/16 */

/* The mean, half away from zero. */
static int32_t mean(int32_t a, int32_t b)
{
    const int64_t sum = (int64_t)a + b;
    return (int32_t)((sum + (sum >= 0 ? 1 : -1)) / 2);
}

/* log(r x 2^(1/4)) around 1, in Q6: a quotient of polynomials. */
static int32_t log_of_rest(int32_t r)
{
    const int32_t p = mean(r, FOURTH_ROOT);
    const int32_t q = 2 * (r - FOURTH_ROOT);
    const int32_t q2 = fleet_high_mul(q, q);
    const int32_t above = fleet_high_mul(q, r) + fleet_high_mul(fleet_high_mul(q, q2), ALPHA_N);
    const int32_t below = fleet_high_mul(p, ALPHA_I + q + fleet_high_mul(ALPHA_D, q2)) + fleet_high_mul(ALPHA_F, q);
    return fleet_high_mul(fleet_round_shift(above, 6), fleet_reciprocal(below));
}

/* log(sum) for a sum of at least 1 in Q12; Q5 out. Of two powers of two near the sum the one that leaves more is taken. */
static int32_t log_of_sum(int32_t sum)
{
    const uint32_t zeros_a = fleet_leading_zeros((uint32_t)sum);
    const uint32_t zeros_b = fleet_leading_zeros((uint32_t)fleet_high_mul(sum, HALF_ROOT)) - 1u;
    const int32_t r_a = fleet_shift_left_saturating(fleet_high_mul(fleet_wrap_shift_left(sum, zeros_a - 1u), HALF_ROOT), 1);
    const int32_t r_b = fleet_shift_left_saturating(sum, zeros_b);
    const int32_t power_a = (SUM_BITS - (int32_t)zeros_a) * (INT32_C(1) << 25) + QUARTER_Q6;
    const int32_t power_b = (SUM_BITS - (int32_t)zeros_b) * (INT32_C(1) << 25) - QUARTER_Q6;
    const int32_t power = power_a > power_b ? power_a : power_b;
    const int32_t whole = fleet_high_mul(power, LN_2) + log_of_rest(r_a < r_b ? r_a : r_b);
    return fleet_shift_left_saturating(whole, 1);
}

/* Differences up to this one give the least output: what comes of them would leave Q5. */
static int32_t last_difference(const fleet_op_log_softmax_t *op, int32_t logarithm)
{
    const int32_t least = fleet_rescale(logarithm + INT32_MIN, op->reverse_multiplier, op->reverse_shift);
    return least >= op->diff_min ? least : op->diff_min - 1;
}

static void log_softmax_row(const fleet_op_log_softmax_t *op, const int8_t *row, int8_t *output)
{
    const void *record = op;
    const int32_t best = fleet_largest(row, op->columns);
    const uint32_t sum = fleet_sum_of_exponentials(record, row, best);
    const int32_t logarithm = log_of_sum(sum > INT32_MAX ? INT32_MAX : (int32_t)sum);
    const int32_t last = last_difference(op, logarithm);
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t difference = row[i] - best;
        int32_t y = INT8_MIN - INT8_MAX;
        if (difference > last) {
            const int32_t x = fleet_high_mul(fleet_wrap_shift_left(difference, (uint32_t)op->left_shift), op->multiplier);
            y = fleet_round_shift(fleet_wrap_add(x, -logarithm), LOG_STEPS);
        }
        output[i] = fleet_to_int8(y, INT8_MAX, op->activation_min, op->activation_max);
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
