/* CONV_2D_INT16: padded taps are 0 and left out. Order and overlap: compiler/SPEC.md section 6. */
#include "int16.h"
#include "window.h"

/* The taps inside the input of one window and one output channel. */
static int64_t accumulate(const fleet_op_conv_int16_t *op, int64_t sum, const int16_t *input, fleet_span_t y,
                          fleet_span_t x, const int8_t *weights, uint32_t channels)
{
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            const int16_t *pixel = input + (row + kx * op->dilation_w) * (int32_t)op->in_c;
            sum = fleet_dot_wide(sum, pixel, weights + (uint32_t)(ky * op->kernel_w + kx) * channels, channels);
        }
    }
    return sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_int16_t *op, fleet_span_t y,
                           fleet_span_t x, int16_t *output)
{
    const uint32_t channels = op->in_c / (uint32_t)op->groups;
    const uint32_t out_per_group = op->out_c / (uint32_t)op->groups;
    const size_t row_length = (size_t)op->kernel_h * op->kernel_w * channels;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    const int16_t *input = fleet_arena_int16(context, op->input);
    for (uint32_t o = 0; o < op->out_c; o++) {
        const int64_t bias = fleet_bias_wide(context, op->channel, op->biases_high, o);
        const int64_t sum = accumulate(op, bias, input + o / out_per_group * channels, y, x, weights, channels);
        output[o] = fleet_finish_wide(context, op->channel + o, sum, op->activation_min, op->activation_max);
        weights += row_length;
    }
}

void fleet_conv_2d_int16(const fleet_kernel_context_t *context, const void *record)
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
