/* DEPTHWISE_CONV_2D_F32: output channel o reads input channel o / (out_c / in_c). */
#include "f32.h"

#include "../window.h"

/* `input` points at the channel inside the first pixel, so pixels are in_c apart. */
static float sum_window(const fleet_op_conv_f32_t *op, const float *input, fleet_span_t y, fleet_span_t x,
                        const float *weights)
{
    float sum = 0.0f;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            sum += input[(row + kx * op->dilation_w) * (int32_t)op->in_c] * weights[ky * op->kernel_w + kx];
        }
    }
    return sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_f32_t *op, fleet_span_t y,
                           fleet_span_t x, float *output)
{
    const uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w;
    const uint32_t out_per_channel = op->out_c / (uint32_t)op->in_c;
    const float *row = fleet_f32_image(context, op->weights);
    const float *input = fleet_f32_arena(context, op->input);
    uint32_t of_channel = 0;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const float sum = sum_window(op, input, y, x, row + 1) + row[0];
        output[o] = fleet_f32_clamp(sum, op->activation_min, op->activation_max);
        row += taps + 1u;
        if (++of_channel == out_per_channel) {
            of_channel = 0;
            input++;
        }
    }
}

void fleet_f32_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_f32_t *op = record;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    float *output = fleet_f32_arena(context, op->output);
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
