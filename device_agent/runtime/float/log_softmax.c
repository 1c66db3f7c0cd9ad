/* LOG_SOFTMAX_F32 over the last axis. */
#include "softmax.h"

static void write_row(const fleet_op_softmax_f32_t *op, const float *x, float *output)
{
    const float largest = fleet_f32_largest(x, op->columns);
    const float logarithm = fleet_f32_log(fleet_f32_sum_of_exp(x, op->columns, largest, op->beta));
    for (uint32_t i = 0; i < op->columns; i++) {
        const float y = op->beta * (x[i] - largest) - logarithm;
        output[i] = fleet_f32_clamp(y, op->activation_min, op->activation_max);
    }
}

void fleet_f32_log_softmax(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_softmax_f32_t *op = record;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t row = 0; row < op->rows; row++) {
        write_row(op, input, output);
        input += op->columns;
        output += op->columns;
    }
}
