/* DEPTHWISE_CONV_2D: output channel o reads input channel o / (out_c / in_c). Order and overlap: compiler/SPEC.md section 6. */
#include "fixed_point.h"
#include "internal.h"
#include "window.h"

/* `input` points at the channel inside the first pixel, so pixels are in_c apart. */
static int32_t accumulate(const fleet_op_conv_t *op, int32_t accumulator, const int8_t *input, fleet_span_t y,
                          fleet_span_t x, const int8_t *weights, uint32_t tap_step)
{
    uint32_t sum = (uint32_t)accumulator;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        const int32_t row_inside = ky >= y.begin && ky < y.end;
        const int32_t row = row_inside ? (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin : 0;
        for (int32_t kx = 0; kx < op->kernel_w; kx++) {
            const int32_t inside = row_inside && kx >= x.begin && kx < x.end;
            const int32_t value = inside ? input[(row + kx * op->dilation_w) * (int32_t)op->in_c] : op->input_zero_point;
            sum += (uint32_t)(value * *weights);
            weights += tap_step;
        }
    }
    return (int32_t)sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_t *op, fleet_span_t y,
                           fleet_span_t x, int8_t *output)
{
    const uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w;
    const uint32_t out_per_channel = op->out_c / (uint32_t)op->in_c;
    const int channels_last = op->packing == FLEET_PACKING_CHANNELS_LAST;
    const uint32_t tap_step = channels_last ? op->out_c : 1u;
    const uint32_t channel_step = channels_last ? 1u : taps;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    const int8_t *input = context->arena + op->input;
    uint32_t of_channel = 0;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const uint32_t entry = op->channel + o;
        const int32_t sum = accumulate(op, context->biases[entry], input, y, x, weights, tap_step);
        output[o] = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                  op->output_zero_point, op->activation_min, op->activation_max);
        weights += channel_step;
        if (++of_channel == out_per_channel) {
            of_channel = 0;
            input++;
        }
    }
}

void fleet_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    int8_t *output = context->arena + op->output;
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
