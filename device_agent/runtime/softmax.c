/*
 * SOFTMAX in fixed point: compiler/NUMERICS.md section 3, whose names are used here. Qn = n integer bits, 31 - n fractional.
 * A first pass sums the exponentials, a second writes: element i is read before it is written, so rows may run in place.
 */
#include "fixed_point.h"
#include "internal.h"

#define EXP_MINUS_EIGHTH 1895147668    /* exp(-1/8), Q0 */
#define ONE_THIRD 715827883            /* 1/3, Q0 */
#define FORTY_EIGHT_17THS 1515870810   /* 48/17, Q2 */
#define MINUS_32_17THS (-1010580540)   /* -32/17, Q2 */

/* exp(-2^(i - 2)), Q0 */
static const int32_t exp_of_bit[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};

/* exp(x) for x <= 0: Q5 in, Q0 out. */
static int32_t exp_q5(int32_t x)
{
    const int32_t f = (int32_t)((uint32_t)x & 0xffffffu) - (INT32_C(1) << 24);
    const int32_t t = f * 32 + (INT32_C(1) << 28);
    const int32_t t2 = fleet_high_mul(t, t);
    const int32_t t3 = fleet_high_mul(t2, t);
    const int32_t t4 = fleet_high_mul(t2, t2);
    const int32_t p = fleet_round_shift(fleet_high_mul(fleet_round_shift(t4, 2) + t3, ONE_THIRD) + t2, 1);
    int32_t e = EXP_MINUS_EIGHTH + fleet_high_mul(EXP_MINUS_EIGHTH, t + p);
    const uint32_t k = (uint32_t)f - (uint32_t)x;
    for (uint32_t i = 0; i < 7u; i++) {
        if ((k >> (24u + i)) & 1u) {
            e = fleet_high_mul(e, exp_of_bit[i]);
        }
    }
    return x == 0 ? INT32_MAX : e;
}

static int32_t saturating_shift_left(int32_t x, uint32_t bits)
{
    if (x > (INT32_MAX >> bits)) {
        return INT32_MAX;
    }
    return x < (INT32_MIN >> bits) ? INT32_MIN : fleet_wrap_shift_left(x, bits);
}

/* 1 / (1 + a) for a >= 0, Q0, by three Newton steps. */
static int32_t reciprocal(int32_t a)
{
    const int32_t d = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = FORTY_EIGHT_17THS + fleet_high_mul(d, MINUS_32_17THS);
    for (int step = 0; step < 3; step++) {
        const int32_t error = (INT32_C(1) << 29) - fleet_high_mul(d, x);
        x = fleet_wrap_add(x, saturating_shift_left(fleet_high_mul(x, error), 2));
    }
    return saturating_shift_left(x, 1);
}

static int8_t largest(const int8_t *row, uint32_t columns)
{
    int8_t best = row[0];
    for (uint32_t i = 1; i < columns; i++) {
        best = row[i] > best ? row[i] : best;
    }
    return best;
}

static int32_t exp_of_difference(const fleet_op_softmax_t *op, int32_t difference)
{
    return exp_q5(fleet_high_mul(fleet_wrap_shift_left(difference, (uint32_t)op->left_shift), op->multiplier));
}

static uint32_t sum_of_exponentials(const fleet_op_softmax_t *op, const int8_t *row, int32_t best)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < op->columns; i++) {
        if (row[i] - best >= op->diff_min) {
            sum += (uint32_t)fleet_round_shift(exp_of_difference(op, row[i] - best), 12);
        }
    }
    return sum;
}

static uint32_t leading_zeros(uint32_t x)
{
    uint32_t count = 0;
    while (count < 31u && (x & 0x80000000u) == 0u) {
        x <<= 1;
        count++;
    }
    return count;
}

static void softmax_row(const fleet_op_softmax_t *op, const int8_t *row, int8_t *output)
{
    const int32_t best = largest(row, op->columns);
    const uint32_t sum = sum_of_exponentials(op, row, best);
    const uint32_t h = leading_zeros(sum);
    const int32_t scale = reciprocal((int32_t)((sum << h) & 0x7fffffffu));
    /* With h < 4 (the sum of 512 or more equal classes) even the largest quotient rounds to 0. */
    const uint32_t right = 35u - h;
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t difference = row[i] - best;
        int32_t y = 0;
        if (difference >= op->diff_min && right <= 31u) {
            y = fleet_round_shift(fleet_high_mul(scale, exp_of_difference(op, difference)), right);
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
