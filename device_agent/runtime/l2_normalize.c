/*
 * L2_NORMALIZE: x / sqrt(sum of x^2) in steps of 1/128, compiler/NUMERICS.md section 3. Element i of a row is read for the
 * last time before it is written, so rows may run in place.
 */
#include "internal.h"
#include "newton.h"

#define ONE_Q3 (INT32_C(1) << 28)
#define HALF_ROOT 1518500250 /* sqrt(1/2), Q0 */
#define OUTPUT_BITS 7
#define NEWTON_STEPS 5

typedef struct {
    int32_t multiplier;
    int32_t shift;
} inverse_t;

/* 1 / sqrt(2 x) for x in [1/4, 1], both Q3. */
static int32_t newton(int32_t x)
{
    const int32_t half = fleet_round_shift(x, 1);
    int32_t y = ONE_Q3;
    for (int step = 0; step < NEWTON_STEPS; step++) {
        const int32_t cube = fleet_shift_left_saturating(fleet_high_mul(fleet_high_mul(y, y), y), 6);
        y = fleet_shift_left_saturating(fleet_high_mul(ONE_Q3 + ONE_Q3 / 2, y) - fleet_high_mul(half, cube), 3);
    }
    return fleet_high_mul(y, HALF_ROOT);
}

/* 1 / sqrt(x); 0 counts as 1. */
static inverse_t inverse_root(uint32_t x)
{
    int32_t right = 11;
    if (x <= 1u) {
        return (inverse_t){INT32_MAX, 0};
    }
    while (x >= (UINT32_C(1) << 29)) {
        x /= 4u;
        right++;
    }
    const uint32_t pairs = (fleet_leading_zeros(x) - 1u) / 2u - 1u;
    const int32_t root = newton((int32_t)((x << (2u * pairs)) >> 1));
    right -= (int32_t)pairs;
    return right < 0 ? (inverse_t){fleet_wrap_shift_left(root, (uint32_t)-right), 0} : (inverse_t){root, -right};
}

static void normalize_row(const fleet_op_l2_normalize_t *op, const int8_t *row, int8_t *output)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t x = row[i] - op->input_zero_point;
        sum += (uint32_t)(x * x);
    }
    const inverse_t inverse = inverse_root(sum);
    for (uint32_t i = 0; i < op->columns; i++) {
        const int32_t y = fleet_rescale(row[i] - op->input_zero_point, inverse.multiplier, inverse.shift + OUTPUT_BITS);
        output[i] = fleet_to_int8(y, op->output_zero_point, op->activation_min, op->activation_max);
    }
}

void fleet_l2_normalize(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_l2_normalize_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t row = 0; row < op->rows; row++) {
        normalize_row(op, input, output);
        input += op->columns;
        output += op->columns;
    }
}
