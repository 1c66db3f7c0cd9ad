/* DEPTHWISE_CONV_2D through arm_depthwise_conv_wrapper_s8: weights packed CHANNELS_LAST. */
#include "cmsis_nn.h"

/* Its kernel for windows of 3 x 3 asks whether the first and the third column are inside, not the second. */
static int second_column_is_inside(const fleet_op_conv_t *op)
{
    return (op->out_w - 1) * op->stride_w - op->pad_left + 2 <= op->in_w;
}

static int is_taken(const fleet_op_conv_t *op)
{
    const int three = op->kernel_h == 3u && op->kernel_w == 3u;
    return op->packing == FLEET_PACKING_CHANNELS_LAST && op->out_c % op->in_c == 0 &&
           (!three || second_column_is_inside(op)) && fleet_cmsis_nn_takes(op);
}

void fleet_cmsis_nn_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    fleet_cmsis_nn_shapes_t shapes;
    fleet_cmsis_nn_layer_t layer;
    cmsis_nn_dw_conv_params params = {
        .output_offset = op->output_zero_point,
        .ch_mult = op->out_c / op->in_c,
        .stride = {op->stride_w, op->stride_h},
        .padding = {op->pad_left, op->pad_top},
        .dilation = {op->dilation_w, op->dilation_h},
        .activation = {op->activation_min, op->activation_max},
    };
    fleet_cmsis_nn_shapes(op, &shapes);
    const int32_t bytes =
        arm_depthwise_conv_wrapper_s8_get_buffer_size(&params, &shapes.input, &shapes.filter, &shapes.output);
    if (!is_taken(op) || !fleet_cmsis_nn_begin_conv(&layer, context, op, (uint32_t)bytes)) {
        fleet_dsp_depthwise_conv_2d(context, record);
        return;
    }
    params.input_offset = layer.input_offset;
    (void)arm_depthwise_conv_wrapper_s8(&layer.buffer, &params, &layer.channels, &shapes.input,
                                        context->arena + op->input, &shapes.filter,
                                        (const int8_t *)context->image + op->weights, &shapes.bias, layer.biases,
                                        &shapes.output, context->arena + op->output);
}
