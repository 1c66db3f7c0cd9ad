/* FULLY_CONNECTED, four outputs at a time; the last four begin early where outputs are no multiple of four. */
#include "mve.h"

static void connect_few(const fleet_kernel_context_t *context, const fleet_op_fully_connected_t *op, const int8_t *input,
                        int8_t *output)
{
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    for (uint32_t o = 0; o < op->out_features; o++) {
        const uint32_t entry = op->channel + o;
        const int32_t sum = fleet_mve_dot(context->biases[entry], input, weights, op->in_features);
        output[o] = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                  op->output_zero_point, op->activation_min, op->activation_max);
        weights += op->in_features;
    }
}

static void connect(const fleet_kernel_context_t *context, const fleet_op_fully_connected_t *op, const int8_t *input,
                    uint32_t first, uint32_t steps, int8_t *output)
{
    fleet_mve_rows_t job = {
        .input = input,
        .weights = (const int8_t *)context->image + op->weights + first * op->in_features,
        .row_bytes = op->in_features,
        .biases = context->biases + op->channel + first,
        .multipliers = context->multipliers + op->channel + first,
        .shifts = context->shifts + op->channel + first,
        .output = output + first,
        .zero_point = op->output_zero_point,
        .steps = steps,
        .low = op->activation_min,
        .high = op->activation_max,
    };
    fleet_mve_dot_rows(&job);
}

void fleet_mve_fully_connected(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t row = 0; row < op->rows; row++) {
        if (op->out_features < FLEET_MVE_CHANNELS) {
            connect_few(context, op, input, output);
        } else {
            connect(context, op, input, 0, op->out_features / FLEET_MVE_CHANNELS, output);
        }
        if (op->out_features > FLEET_MVE_CHANNELS && op->out_features % FLEET_MVE_CHANNELS != 0u) {
            connect(context, op, input, op->out_features - FLEET_MVE_CHANNELS, 1, output);
        }
        input += op->in_features;
        output += op->out_features;
    }
}
