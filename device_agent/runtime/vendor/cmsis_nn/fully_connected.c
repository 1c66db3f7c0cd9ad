/* FULLY_CONNECTED through arm_fully_connected_s8, or, where rows have scales of their own, as a convolution of 1 x 1. */
#include "../../check_op.h"
#include "cmsis_nn.h"

static int has_one_scale(const fleet_kernel_context_t *context, const fleet_op_fully_connected_t *op)
{
    const int32_t *multipliers = context->multipliers + op->channel;
    const int8_t *shifts = context->shifts + op->channel;
    for (uint32_t o = 1; o < op->out_features; o++) {
        if (multipliers[o] != multipliers[0] || shifts[o] != shifts[0]) {
            return 0;
        }
    }
    return 1;
}

/* The rows are a picture of `rows` pixels; no tap is padded, so that the biases stay as they are. */
static void connect(const fleet_kernel_context_t *context, const fleet_op_fully_connected_t *op)
{
    const cmsis_nn_dims input = {(int32_t)op->rows, 1, 1, (int32_t)op->in_features};
    const cmsis_nn_dims filter = {(int32_t)op->in_features, 1, 1, (int32_t)op->out_features};
    const cmsis_nn_dims bias = {1, 1, 1, (int32_t)op->out_features};
    const cmsis_nn_dims output = {(int32_t)op->rows, 1, 1, (int32_t)op->out_features};
    const cmsis_nn_context none = {NULL, 0};
    const cmsis_nn_per_tensor_quant_params scale = {context->multipliers[op->channel], context->shifts[op->channel]};
    const cmsis_nn_fc_params params = {0, 0, op->output_zero_point, {op->activation_min, op->activation_max}};
    (void)arm_fully_connected_s8(&none, &params, &scale, &input, context->arena + op->input, &filter,
                                 (const int8_t *)context->image + op->weights, &bias, context->biases + op->channel,
                                 &output, context->arena + op->output);
}

static void convolve(const fleet_kernel_context_t *context, const fleet_op_fully_connected_t *op,
                     const fleet_cmsis_nn_layer_t *layer)
{
    const cmsis_nn_dims input = {1, 1, (int32_t)op->rows, (int32_t)op->in_features};
    const cmsis_nn_dims filter = {(int32_t)op->out_features, 1, 1, (int32_t)op->in_features};
    const cmsis_nn_dims bias = {1, 1, 1, (int32_t)op->out_features};
    const cmsis_nn_dims output = {1, 1, (int32_t)op->rows, (int32_t)op->out_features};
    const cmsis_nn_conv_params params = {
        0, op->output_zero_point, {1, 1}, {0, 0}, {1, 1}, {op->activation_min, op->activation_max}};
    (void)arm_convolve_1x1_s8_fast(&layer->buffer, &params, &layer->channels, &input, context->arena + op->input, &filter,
                                   (const int8_t *)context->image + op->weights, &bias, layer->biases, &output,
                                   context->arena + op->output);
}

static int is_taken(const fleet_op_fully_connected_t *op)
{
    return fleet_disjoint(op->input, (uint64_t)op->rows * op->in_features, op->output,
                          (uint64_t)op->rows * op->out_features);
}

void fleet_cmsis_nn_fully_connected(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_t *op = record;
    fleet_cmsis_nn_layer_t layer;
    if (!is_taken(op)) {
        fleet_dsp_fully_connected(context, record);
    } else if (has_one_scale(context, op)) {
        connect(context, op);
    } else if (fleet_cmsis_nn_begin(&layer, context, record, op->channel, op->out_features, 0)) {
        convolve(context, op, &layer);
    } else {
        fleet_dsp_fully_connected(context, record);
    }
}
