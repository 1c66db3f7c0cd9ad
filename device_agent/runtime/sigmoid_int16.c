/* LOGISTIC_INT16 and TANH_INT16 (compiler/NUMERICS.md section 8). */
#include "sigmoid.h"
#include "int16.h"

/* 3 x input x 2^12, as the table's places count. */
static int32_t place(const fleet_op_sigmoid_int16_t *op, int32_t code)
{
    const int64_t half = (INT64_C(1) << op->right_shift) >> 1;
    return (int32_t)(((int64_t)code * op->multiplier + half) >> op->right_shift);
}

void fleet_logistic_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_sigmoid_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        output[i] = fleet_sigmoid_at(place(op, input[i]));
    }
}

void fleet_tanh_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_sigmoid_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        output[i] = fleet_tanh_at(place(op, input[i]));
    }
}
