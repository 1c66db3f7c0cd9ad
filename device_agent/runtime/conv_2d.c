/* CONV_2D, any number of groups, dilation and padding. Order and overlap: compiler/SPEC.md section 6. */
#include "fixed_point.h"
#include "internal.h"
#include "window.h"

/* One row of taps: padded taps left of the input, taps inside, padded taps right of it. */
static int32_t accumulate_row(const fleet_op_conv_t *op, int32_t accumulator, const int8_t *row, fleet_span_t x,
                              const int8_t *weights, uint32_t channels)
{
    const int32_t zero_point = op->input_zero_point;
    const uint32_t left = (uint32_t)x.begin * channels;
    const uint32_t right = (uint32_t)x.end * channels;
    accumulator = fleet_dot_constant(accumulator, zero_point, weights, left);
    if (left < right && channels == op->in_c && op->dilation_w == 1) {
        const int8_t *first = row + (x.origin + x.begin) * (int32_t)op->in_c;
        accumulator = fleet_dot(accumulator, first, weights + left, right - left);
    } else {
        for (int32_t tap = x.begin; tap < x.end; tap++) {
            const int8_t *pixel = row + (x.origin + tap * op->dilation_w) * (int32_t)op->in_c;
            accumulator = fleet_dot(accumulator, pixel, weights + (uint32_t)tap * channels, channels);
        }
    }
    return fleet_dot_constant(accumulator, zero_point, weights + right, op->kernel_w * channels - right);
}

static int32_t accumulate(const fleet_op_conv_t *op, int32_t accumulator, const int8_t *input, fleet_span_t y,
                          fleet_span_t x, const int8_t *weights, uint32_t channels)
{
    const uint32_t row_weights = op->kernel_w * channels;
    accumulator = fleet_dot_constant(accumulator, op->input_zero_point, weights, (uint32_t)y.begin * row_weights);
    for (int32_t tap = y.begin; tap < y.end; tap++) {
        const int8_t *row = input + (y.origin + tap * op->dilation_h) * (int32_t)op->in_w * op->in_c;
        accumulator = accumulate_row(op, accumulator, row, x, weights + (uint32_t)tap * row_weights, channels);
    }
    return fleet_dot_constant(accumulator, op->input_zero_point, weights + (uint32_t)y.end * row_weights,
                              (op->kernel_h - (uint32_t)y.end) * row_weights);
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_t *op, fleet_span_t y,
                           fleet_span_t x, int8_t *output)
{
    const uint32_t channels = op->in_c / (uint32_t)op->groups;
    const uint32_t out_per_group = op->out_c / (uint32_t)op->groups;
    const uint32_t row_length = (uint32_t)op->kernel_h * op->kernel_w * channels;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    const int8_t *input = context->arena + op->input;
    uint32_t in_group = 0;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const uint32_t entry = op->channel + o;
        const int32_t sum = accumulate(op, context->biases[entry], input, y, x, weights, channels);
        output[o] = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                  op->output_zero_point, op->activation_min, op->activation_max);
        weights += row_length;
        if (++in_group == out_per_group) {
            in_group = 0;
            input += channels;
        }
    }
}

void fleet_conv_2d(const fleet_kernel_context_t *context, const void *record)
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
