/*
 * TRANSPOSE_CONV_2D: every output pixel gathers the input pixels whose stamp covers it, so that it is written once and
 * needs no accumulators in memory. Formula: compiler/NUMERICS.md.
 */
#include "fixed_point.h"
#include "internal.h"
#include "stamp.h"

static int32_t accumulate(int32_t accumulator, const int8_t *pixel, const int8_t *weights, uint32_t channels,
                          int32_t zero_point)
{
    uint32_t sum = (uint32_t)accumulator;
    for (uint32_t c = 0; c < channels; c++) {
        sum += (uint32_t)((pixel[c] - zero_point) * weights[c]);
    }
    return (int32_t)sum;
}

static int32_t gather(const fleet_op_conv_t *op, int32_t accumulator, const int8_t *input, const int8_t *weights,
                      const fleet_hits_t *y, const fleet_hits_t *x)
{
    const int32_t per_group = op->in_c / op->groups;
    for (int32_t i = 0; i < y->count; i++) {
        const int8_t *row = input + (y->index - i * y->index_step) * (int32_t)op->in_w * op->in_c;
        const int8_t *taps = weights + (y->tap + i * y->tap_step) * (int32_t)op->kernel_w * per_group;
        for (int32_t j = 0; j < x->count; j++) {
            accumulator = accumulate(accumulator, row + (x->index - j * x->index_step) * (int32_t)op->in_c,
                                     taps + (x->tap + j * x->tap_step) * per_group, (uint32_t)per_group,
                                     op->input_zero_point);
        }
    }
    return accumulator;
}

static void write_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_t *op, const fleet_hits_t *y,
                        const fleet_hits_t *x, int8_t *output)
{
    const uint32_t per_group = (uint32_t)op->in_c / op->groups;
    const uint32_t out_per_group = (uint32_t)op->out_c / op->groups;
    const size_t row_length = (size_t)op->kernel_h * op->kernel_w * per_group;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const uint32_t entry = op->channel + o;
        const int8_t *input = context->arena + op->input + o / out_per_group * per_group;
        const int32_t sum = gather(op, context->biases[entry], input, weights, y, x);
        output[o] = fleet_to_int8(fleet_rescale(sum, context->multipliers[entry], context->shifts[entry]),
                                  op->output_zero_point, op->activation_min, op->activation_max);
        weights += row_length;
    }
}

void fleet_transpose_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    int8_t *output = context->arena + op->output;
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_hits_t y = fleet_find_hits(oy + op->pad_top, op->stride_h, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_hits_t x = fleet_find_hits(ox + op->pad_left, op->stride_w, op->dilation_w, op->kernel_w, op->in_w);
            write_pixel(context, op, &y, &x, output);
            output += op->out_c;
        }
    }
}
