/* CONV_2D_INT4: CONV_2D whose weights are unpacked as they are multiplied. Order and overlap: compiler/SPEC.md section 6. */
#include "int4.h"
#include "internal.h"
#include "window.h"

static int32_t accumulate(const fleet_op_conv_t *op, int32_t sum, const int8_t *input, fleet_span_t y, fleet_span_t x,
                          const int8_t *row, uint32_t channels)
{
    uint32_t first = 0;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        const int inside = ky >= y.begin && ky < y.end;
        const int32_t line = inside ? (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin : 0;
        for (int32_t kx = 0; kx < op->kernel_w; kx++, first += channels) {
            if (inside && kx >= x.begin && kx < x.end) {
                const int8_t *pixel = input + (line + kx * op->dilation_w) * (int32_t)op->in_c;
                sum = fleet_dot_int4(sum, pixel, row, first, channels);
            } else {
                sum = fleet_dot_constant_int4(sum, op->input_zero_point, row, first, channels);
            }
        }
    }
    return sum;
}

static void convolve_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_t *op, fleet_span_t y,
                           fleet_span_t x, int8_t *output)
{
    const uint32_t channels = op->in_c / (uint32_t)op->groups;
    const uint32_t out_per_group = op->out_c / (uint32_t)op->groups;
    const uint32_t row_bytes = fleet_int4_row_bytes((uint32_t)op->kernel_h * op->kernel_w * channels);
    const int8_t *row = (const int8_t *)context->image + op->weights;
    const int8_t *input = context->arena + op->input;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const uint32_t entry = op->channel + o;
        const int8_t *group = input + o / out_per_group * channels;
        const int32_t sum = accumulate(op, context->biases[entry], group, y, x, row, channels);
        output[o] = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                  op->output_zero_point, op->activation_min, op->activation_max);
        row += row_bytes;
    }
}

void fleet_conv_2d_int4(const fleet_kernel_context_t *context, const void *record)
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
