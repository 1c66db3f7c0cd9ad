/* FULLY_CONNECTED_INT16: rows in order, each as one pixel. */
#include "int16.h"

void fleet_fully_connected_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t row = 0; row < op->rows; row++) {
        const int8_t *weights = (const int8_t *)context->image + op->weights;
        for (uint32_t o = 0; o < op->out_features; o++) {
            const int64_t bias = fleet_bias_wide(context, op->channel, op->biases_high, o);
            const int64_t sum = fleet_dot_wide(bias, input, weights, op->in_features);
            *output++ = fleet_finish_wide(context, op->channel + o, sum, op->activation_min, op->activation_max);
            weights += op->in_features;
        }
        input += op->in_features;
    }
}
