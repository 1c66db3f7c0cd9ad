/* DEPTHWISE_CONV_2D_INT16: output channel o reads input channel o / (out_c / in_c); padded taps are 0 and left out. */
#include "int16.h"
#include "window.h"

/* `input` points at the channel inside the first pixel, so pixels are in_c apart. */
static int64_t accumulate(const fleet_op_conv_int16_t *op, int64_t sum, const int16_t *input, fleet_span_t y,
                          fleet_span_t x, const int8_t *weights)
{
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            const int32_t value = input[(row + kx * op->dilation_w) * (int32_t)op->in_c];
            sum += value * weights[ky * op->kernel_w + kx];
        }
    }
    return sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_int16_t *op, fleet_span_t y,
                           fleet_span_t x, int16_t *output)
{
    const uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w;
    const uint32_t out_per_channel = op->out_c / (uint32_t)op->in_c;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    const int16_t *input = fleet_arena_int16(context, op->input);
    for (uint32_t o = 0; o < op->out_c; o++) {
        const int64_t bias = fleet_bias_wide(context, op->channel, op->biases_high, o);
        const int64_t sum = accumulate(op, bias, input + o / out_per_channel, y, x, weights + o * taps);
        output[o] = fleet_finish_wide(context, op->channel + o, sum, op->activation_min, op->activation_max);
    }
}

void fleet_depthwise_conv_2d_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_int16_t *op = record;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    int16_t *output = fleet_output_int16(context, op->output);
    int32_t at = walk.offset;
    for (int32_t oy = walk.row; oy >= 0 && oy < op->out_h; oy += walk.step) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = walk.column; ox >= 0 && ox < op->out_w; ox += walk.step) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
            convolve_pixel(context, op, y, x, output + at);
            at += walk.step * (int32_t)op->out_c;
        }
    }
}
