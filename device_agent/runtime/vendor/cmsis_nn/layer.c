/* Our records and arrays in CMSIS-NN's form. */
#include "../../check_op.h"
#include "cmsis_nn.h"

static int leaves(int32_t in, int32_t out, int32_t stride, int32_t pad, int32_t extent)
{
    return pad != 0 || (out - 1) * stride + extent > in;
}

static int32_t extent_of(uint32_t kernel, uint32_t dilation)
{
    return (int32_t)((kernel - 1u) * dilation + 1u);
}

static int is_padded(const fleet_op_conv_t *op)
{
    return leaves(op->in_h, op->out_h, op->stride_h, op->pad_top, extent_of(op->kernel_h, op->dilation_h)) ||
           leaves(op->in_w, op->out_w, op->stride_w, op->pad_left, extent_of(op->kernel_w, op->dilation_w));
}

/* biases + zero_point * the sum of each channel's weights */
static void restore_biases(const fleet_kernel_context_t *context, const fleet_op_conv_t *op, int32_t *biases)
{
    const int channels_last = op->packing == FLEET_PACKING_CHANNELS_LAST;
    const uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w * (op->in_c / (uint32_t)op->groups);
    const uint32_t tap_step = channels_last ? op->out_c : 1u;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const int8_t *at = weights + (channels_last ? o : o * taps);
        int32_t sum = 0;
        for (uint32_t tap = 0; tap < taps; tap++) {
            sum += *at;
            at += tap_step;
        }
        biases[o] = (int32_t)((uint32_t)context->biases[op->channel + o] + (uint32_t)(op->input_zero_point * sum));
    }
}

int fleet_cmsis_nn_begin(fleet_cmsis_nn_layer_t *layer, const fleet_kernel_context_t *context, const fleet_op_t *op,
                         uint32_t channel, uint32_t count, uint32_t buffer_bytes)
{
    const uint32_t head = count * (uint32_t)sizeof(int32_t);
    if (op->scratch == FLEET_NO_OFFSET || op->scratch_bytes < (uint64_t)head + buffer_bytes ||
        !fleet_is_aligned(context->arena + op->scratch, sizeof(int32_t))) {
        return 0;
    }
    int32_t *shifts = (void *)(context->arena + op->scratch);
    for (uint32_t i = 0; i < count; i++) {
        shifts[i] = context->shifts[channel + i];
    }
    /* CMSIS-NN only reads the multipliers; its struct does not say so. */
    layer->channels.multiplier = (int32_t *)(uintptr_t)(context->multipliers + channel);
    layer->channels.shift = shifts;
    layer->biases = context->biases + channel;
    layer->input_offset = 0;
    layer->buffer.buf = shifts + count;
    layer->buffer.size = (int32_t)buffer_bytes;
    return 1;
}

int fleet_cmsis_nn_begin_conv(fleet_cmsis_nn_layer_t *layer, const fleet_kernel_context_t *context, const fleet_op_conv_t *op,
                              uint32_t buffer_bytes)
{
    const int padded = is_padded(op);
    const uint32_t biases_bytes = padded ? op->out_c * (uint32_t)sizeof(int32_t) : 0u;
    if (!fleet_cmsis_nn_begin(layer, context, (const void *)op, op->channel, op->out_c, biases_bytes + buffer_bytes)) {
        return 0;
    }
    if (padded) {
        int32_t *biases = layer->buffer.buf;
        restore_biases(context, op, biases);
        layer->biases = biases;
        layer->input_offset = -op->input_zero_point;
        layer->buffer.buf = biases + op->out_c;
        layer->buffer.size = (int32_t)buffer_bytes;
    }
    return 1;
}

void fleet_cmsis_nn_shapes(const fleet_op_conv_t *op, fleet_cmsis_nn_shapes_t *shapes)
{
    const int depthwise = op->code == FLEET_OP_DEPTHWISE_CONV_2D;
    shapes->input = (cmsis_nn_dims){1, op->in_h, op->in_w, op->in_c};
    shapes->filter = (cmsis_nn_dims){depthwise ? 1 : op->out_c, op->kernel_h, op->kernel_w, depthwise ? op->out_c : op->in_c};
    shapes->bias = (cmsis_nn_dims){1, 1, 1, op->out_c};
    shapes->output = (cmsis_nn_dims){1, op->out_h, op->out_w, op->out_c};
}

int fleet_cmsis_nn_takes(const fleet_op_conv_t *op)
{
    const uint64_t in_bytes = (uint64_t)op->in_h * op->in_w * op->in_c;
    const uint64_t out_bytes = (uint64_t)op->out_h * op->out_w * op->out_c;
    return fleet_disjoint(op->input, in_bytes, op->output, out_bytes) &&
           fleet_reaches_input(op->in_h, op->out_h, op->stride_h, op->pad_top, extent_of(op->kernel_h, op->dilation_h)) &&
           fleet_reaches_input(op->in_w, op->out_w, op->stride_w, op->pad_left, extent_of(op->kernel_w, op->dilation_w));
}
