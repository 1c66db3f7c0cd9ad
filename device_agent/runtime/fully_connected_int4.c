/* FULLY_CONNECTED_INT4: rows in order, each as one pixel; weights are unpacked as they are multiplied. */
#include "int4.h"
#include "internal.h"

void fleet_fully_connected_int4(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t row = 0; row < op->rows; row++) {
        const int8_t *weights = (const int8_t *)context->image + op->weights;
        for (uint32_t o = 0; o < op->out_features; o++) {
            const uint32_t entry = op->channel + o;
            const int32_t sum = fleet_dot_int4(context->biases[entry], input, weights, 0, op->in_features);
            *output++ = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                      op->output_zero_point, op->activation_min, op->activation_max);
            weights += fleet_int4_row_bytes(op->in_features);
        }
        input += op->in_features;
    }
}
