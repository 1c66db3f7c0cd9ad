/* CONV_2D_F32, any number of groups. Padded taps add nothing: the sum starts at +0 and cannot become -0. */
#include "f32.h"

#include "../window.h"

static float sum_row(const fleet_op_conv_f32_t *op, float sum, const float *row, fleet_span_t x, const float *weights,
                     uint32_t channels)
{
    weights += (uint32_t)x.begin * channels;
    if (x.begin < x.end && channels == op->in_c && op->dilation_w == 1u) {
        const float *first = row + (x.origin + x.begin) * (int32_t)op->in_c;
        return fleet_f32_dot(sum, first, weights, (uint32_t)(x.end - x.begin) * channels);
    }
    for (int32_t tap = x.begin; tap < x.end; tap++) {
        sum = fleet_f32_dot(sum, row + (x.origin + tap * op->dilation_w) * (int32_t)op->in_c, weights, channels);
        weights += channels;
    }
    return sum;
}

static float sum_window(const fleet_op_conv_f32_t *op, const float *input, fleet_span_t y, fleet_span_t x,
                        const float *weights, uint32_t channels)
{
    float sum = 0.0f;
    for (int32_t tap = y.begin; tap < y.end; tap++) {
        const float *row = input + (y.origin + tap * op->dilation_h) * (int32_t)op->in_w * op->in_c;
        sum = sum_row(op, sum, row, x, weights + (uint32_t)tap * op->kernel_w * channels, channels);
    }
    return sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_f32_t *op, fleet_span_t y,
                           fleet_span_t x, float *output)
{
    const uint32_t channels = op->in_c / (uint32_t)op->groups;
    const uint32_t out_per_group = op->out_c / (uint32_t)op->groups;
    const uint32_t row_length = (uint32_t)op->kernel_h * op->kernel_w * channels;
    const float *row = fleet_f32_image(context, op->weights);
    const float *input = fleet_f32_arena(context, op->input);
    uint32_t in_group = 0;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const float sum = sum_window(op, input, y, x, row + 1, channels) + row[0];
        output[o] = fleet_f32_clamp(sum, op->activation_min, op->activation_max);
        row += row_length + 1u;
        if (++in_group == out_per_group) {
            in_group = 0;
            input += channels;
        }
    }
}

void fleet_f32_conv_2d(const fleet_kernel_context_t *context, const void *record)
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
