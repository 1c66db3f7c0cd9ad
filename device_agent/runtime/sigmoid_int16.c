/* LOGISTIC_INT16 and TANH_INT16 from one table: tanh(x) = 2 sigmoid(2x) - 1 (compiler/NUMERICS.md section 8). */
#include "int16.h"
#include "tables_int16.h"

static const uint16_t sigmoid_table[FLEET_SIGMOID_ENTRIES] = {FLEET_SIGMOID_UINT16};

/* 3 x input x 2^12, as the table's places count. */
static int32_t place(const fleet_op_sigmoid_int16_t *op, int32_t code)
{
    const int64_t half = (INT64_C(1) << op->right_shift) >> 1;
    return (int32_t)(((int64_t)code * op->multiplier + half) >> op->right_shift);
}

/* sigmoid at a magnitude in steps of the table / 2^bits, Q(16 + bits); `beyond` past its end. */
static int32_t between(uint32_t magnitude, uint32_t bits, int32_t beyond)
{
    const uint32_t index = magnitude >> bits;
    if (index >= FLEET_SIGMOID_ENTRIES - 1u) {
        return beyond;
    }
    const uint32_t low = sigmoid_table[index];
    const uint32_t step = sigmoid_table[index + 1u] - low;
    return (int32_t)((low << bits) + (magnitude & ((1u << bits) - 1u)) * step);
}

static uint32_t magnitude_of(int32_t x)
{
    return x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
}

void fleet_logistic_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_sigmoid_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        const int32_t x = place(op, input[i]);
        const int32_t y = between(magnitude_of(x), 9, INT16_MAX << 10);
        output[i] = (int16_t)((x >= 0 ? y + (1 << 9) : (1 << 25) - y + (1 << 9) - 1) >> 10);
    }
}

void fleet_tanh_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_sigmoid_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        const int32_t x = place(op, input[i]);
        const int32_t y = between(magnitude_of(x), 8, 0xffff << 8) - (1 << 23);
        output[i] = (int16_t)((x >= 0 ? y + (1 << 7) : (1 << 7) - 1 - y) >> 8);
    }
}
