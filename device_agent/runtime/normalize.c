/*
 * NORMALIZE: every group less its mean, divided by the root of its variance; compiler/NUMERICS.md section 4, whose names are
 * used here. A group is read twice before it is written, element i before element i, so that one may run in place.
 */
#include "fixed_point.h"
#include "internal.h"

#define REAL_BITS 16u   /* fraction of the normalised value */
#define FACTOR_BITS 15u /* of a factor */

typedef struct {
    uint32_t inverse; /* 1 / sqrt(w) = inverse x 2^(-46 - e) */
    int32_t e;
} root_t;

static uint32_t integer_root(uint64_t value)
{
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 62; bit != 0u; bit >>= 2) {
        const int fits = value >= root + bit;
        value -= fits ? root + bit : 0u;
        root = (root >> 1) + (fits ? bit : 0u);
    }
    return (uint32_t)root;
}

/* floor(2^62 / divisor) for a divisor of 2^31 or more, bit by bit: no 64-bit division is linked for it. */
static uint32_t divide_two_to_the_62(uint32_t divisor)
{
    uint64_t rest = UINT64_C(1) << 30;
    uint32_t quotient = 0;
    for (int bit = 0; bit < 32; bit++) {
        rest <<= 1;
        quotient <<= 1;
        if (rest >= divisor) {
            rest -= divisor;
            quotient |= 1u;
        }
    }
    return quotient;
}

static root_t inverse_root(uint64_t w)
{
    root_t root = {0, 0};
    w = w == 0u ? 1u : w;
    for (; w >> 32 != 0u; root.e++) {
        w >>= 2;
    }
    for (; w >> 30 == 0u; root.e--) {
        w <<= 2;
    }
    root.inverse = divide_two_to_the_62(integer_root(w << 32));
    return root;
}

/* Sums over a group, whose rows begin `step` bytes apart. */
static root_t measure(const fleet_op_normalize_t *op, const int8_t *group, uint32_t step, int32_t *total)
{
    int32_t sum = 0;
    uint64_t squares = 0;
    for (uint32_t row = 0; row < op->count; row++, group += step) {
        for (uint32_t j = 0; j < op->run; j++) {
            const int32_t x = group[j] - op->input_zero_point;
            sum += x;
            squares += (uint32_t)(x * x);
        }
    }
    *total = op->centred != 0u ? sum : 0;
    const uint64_t w = squares * ((uint64_t)op->count * op->run) - (uint64_t)((int64_t)*total * *total);
    return inverse_root(w + ((uint64_t)op->epsilon[1] << 32 | op->epsilon[0]));
}

static int8_t scaled(const fleet_op_normalize_t *op, root_t root, int32_t difference, const int32_t *factor)
{
    const uint32_t right = 46u - REAL_BITS + (uint32_t)root.e;
    const int64_t real = ((int64_t)difference * root.inverse + (INT64_C(1) << (right - 1u))) >> right;
    const int64_t product = (real * factor[0] + (INT64_C(1) << (FACTOR_BITS - 1u))) >> FACTOR_BITS;
    const int32_t sum = fleet_wrap_add((int32_t)product, factor[(size_t)op->groups * op->run]);
    return fleet_to_int8(fleet_rescale(sum, op->multiplier, op->shift), op->output_zero_point, op->activation_min,
                         op->activation_max);
}

static void normalize_group(const fleet_op_normalize_t *op, const int8_t *group, int8_t *output, const int32_t *factors)
{
    const uint32_t step = op->groups * op->run;
    const int32_t n = (int32_t)(op->count * op->run);
    int32_t total;
    const root_t root = measure(op, group, step, &total);
    for (uint32_t row = 0; row < op->count; row++, group += step, output += step) {
        for (uint32_t j = 0; j < op->run; j++) {
            output[j] = scaled(op, root, n * (group[j] - op->input_zero_point) - total, factors + j);
        }
    }
}

void fleet_normalize(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_normalize_t *op = record;
    const int32_t *factors = (const void *)(context->image + op->table);
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    const uint32_t block = op->count * op->groups * op->run;
    for (uint32_t o = 0; o < op->outer; o++, input += block, output += block) {
        for (uint32_t g = 0; g < op->groups; g++) {
            const uint32_t at = g * op->run;
            normalize_group(op, input + at, output + at, factors + at);
        }
    }
}
