/* CONV_2D through arm_convolve_wrapper_s8: one group, rows of at most 65,535 weights. */
#include "cmsis_nn.h"

/* Its kernel for windows of one pixel and stride 1 answers with as many pixels as the input has. */
static int cuts_the_input(const fleet_op_conv_t *op)
{
    const int one_pixel = op->kernel_h == 1u && op->kernel_w == 1u && op->stride_h == 1u && op->stride_w == 1u;
    return one_pixel && (op->out_h != op->in_h || op->out_w != op->in_w);
}

static int is_taken(const fleet_op_conv_t *op)
{
    return op->groups == 1u && (uint64_t)op->kernel_h * op->kernel_w * op->in_c <= UINT16_MAX && !cuts_the_input(op) &&
           fleet_cmsis_nn_takes(op);
}

void fleet_cmsis_nn_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    fleet_cmsis_nn_shapes_t shapes;
    fleet_cmsis_nn_layer_t layer;
    cmsis_nn_conv_params params = {
        .output_offset = op->output_zero_point,
        .stride = {op->stride_w, op->stride_h},
        .padding = {op->pad_left, op->pad_top},
        .dilation = {op->dilation_w, op->dilation_h},
        .activation = {op->activation_min, op->activation_max},
    };
    fleet_cmsis_nn_shapes(op, &shapes);
    const int32_t bytes = arm_convolve_wrapper_s8_get_buffer_size(&params, &shapes.input, &shapes.filter, &shapes.output);
    if (!is_taken(op) || !fleet_cmsis_nn_begin_conv(&layer, context, op, (uint32_t)bytes)) {
        fleet_dsp_conv_2d(context, record);
        return;
    }
    params.input_offset = layer.input_offset;
    (void)arm_convolve_wrapper_s8(&layer.buffer, &params, &layer.channels, &shapes.input, context->arena + op->input,
                                  &shapes.filter, (const int8_t *)context->image + op->weights, &shapes.bias, layer.biases,
                                  &shapes.output, context->arena + op->output);
}
