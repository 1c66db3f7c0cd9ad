/* SOFTMAX_INT16: exponentials and the reciprocal of their sum from tables (compiler/NUMERICS.md section 8). */
#include "int16.h"
#include "softmax.h"
#include "tables_int16.h"

static const int16_t exp_table[FLEET_LUT_INT16_ENTRIES] = {FLEET_EXP_INT16};
static const int16_t reciprocal_table[FLEET_LUT_INT16_ENTRIES] = {FLEET_RECIPROCAL_INT16};

static int16_t largest(const int16_t *row, uint32_t columns)
{
    int16_t best = row[0];
    for (uint32_t i = 1; i < columns; i++) {
        best = row[i] > best ? row[i] : best;
    }
    return best;
}

static int16_t exponential(const fleet_op_softmax_int16_t *op, int32_t difference)
{
    const int32_t place = fleet_wrap_add(fleet_rescale(difference, op->multiplier, op->shift), INT16_MAX);
    return (int16_t)fleet_lookup_int16(fleet_clamp_int16(place, INT16_MIN, INT16_MAX), exp_table);
}

/* 1 / sum, Q15, of a sum whose leading bit is shifted out: the table holds 1 / (1 + x). */
static int32_t reciprocal(int32_t sum, uint32_t zeros)
{
    const int32_t fraction = (int32_t)((((int64_t)sum << (zeros - 1u)) + (1 << 13)) >> 14);
    const int32_t centred = fraction - (INT32_C(1) << 15) - (INT32_C(1) << 16);
    return fleet_lookup_int16(fleet_clamp_int16(centred, INT16_MIN, INT16_MAX), reciprocal_table);
}

/* The exponentials wait in the output: element i is read before it is written. */
static void softmax_row(const fleet_op_softmax_int16_t *op, const int16_t *row, int16_t *output)
{
    const int16_t best = largest(row, op->columns);
    int32_t sum = 0;
    for (uint32_t i = 0; i < op->columns; i++) {
        const int16_t e = exponential(op, row[i] - best);
        sum += e;
        output[i] = e;
    }
    const uint32_t zeros = fleet_leading_zeros((uint32_t)sum);
    const int32_t scale = reciprocal(sum, zeros);
    const uint32_t right = 31u - zeros;
    for (uint32_t i = 0; i < op->columns; i++) {
        const int64_t y = ((int64_t)output[i] * scale + (INT64_C(1) << (right - 1u))) >> right;
        output[i] = fleet_clamp_int16(y, 0, INT16_MAX);
    }
}

void fleet_softmax_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_softmax_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t row = 0; row < op->rows; row++) {
        softmax_row(op, input, output);
        input += op->columns;
        output += op->columns;
    }
}
