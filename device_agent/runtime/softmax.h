/* Exponentials and their sum, for SOFTMAX and LOG_SOFTMAX: compiler/NUMERICS.md section 3, whose names are used here. */
#ifndef FLEET_SOFTMAX_H
#define FLEET_SOFTMAX_H

#include "fixed_point.h"
#include "internal.h"
#include "newton.h"

#define FLEET_EXP_MINUS_EIGHTH 1895147668    /* exp(-1/8), Q0 */
#define FLEET_ONE_THIRD 715827883            /* 1/3, Q0 */

/* exp(-2^(i - 2)), Q0 */
static const int32_t fleet_exp_of_bit[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};

/* exp(x) for x <= 0: Q5 in, Q0 out. */
static inline int32_t fleet_exp_q5(int32_t x)
{
    const int32_t f = (int32_t)((uint32_t)x & 0xffffffu) - (INT32_C(1) << 24);
    const int32_t t = f * 32 + (INT32_C(1) << 28);
    const int32_t t2 = fleet_high_mul(t, t);
    const int32_t t3 = fleet_high_mul(t2, t);
    const int32_t t4 = fleet_high_mul(t2, t2);
    const int32_t p = fleet_round_shift(fleet_high_mul(fleet_round_shift(t4, 2) + t3, FLEET_ONE_THIRD) + t2, 1);
    int32_t e = FLEET_EXP_MINUS_EIGHTH + fleet_high_mul(FLEET_EXP_MINUS_EIGHTH, t + p);
    const uint32_t k = (uint32_t)f - (uint32_t)x;
    for (uint32_t i = 0; i < 7u; i++) {
        if ((k >> (24u + i)) & 1u) {
            e = fleet_high_mul(e, fleet_exp_of_bit[i]);
        }
    }
    return x == 0 ? INT32_MAX : e;
}

static inline int8_t fleet_largest(const int8_t *row, uint32_t columns)
{
    int8_t best = row[0];
    for (uint32_t i = 1; i < columns; i++) {
        best = row[i] > best ? row[i] : best;
    }
    return best;
}

static inline int32_t fleet_exp_of_difference(const fleet_op_softmax_t *op, int32_t difference)
{
    return fleet_exp_q5(fleet_high_mul(fleet_wrap_shift_left(difference, (uint32_t)op->left_shift), op->multiplier));
}

static inline uint32_t fleet_sum_of_exponentials(const fleet_op_softmax_t *op, const int8_t *row, int32_t best)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < op->columns; i++) {
        if (row[i] - best >= op->diff_min) {
            sum += (uint32_t)fleet_round_shift(fleet_exp_of_difference(op, row[i] - best), 12);
        }
    }
    return sum;
}

#endif
