/* TRANSPOSE_CONV_2D_INT16: every output pixel gathers the input pixels whose stamp covers it, as the int8 kernel does. */
#include "int16.h"
#include "stamp.h"

static int64_t gather(const fleet_op_conv_int16_t *op, int64_t sum, const int16_t *input, const int8_t *weights,
                      const fleet_hits_t *y, const fleet_hits_t *x)
{
    const uint32_t per_group = (uint32_t)op->in_c / op->groups;
    for (int32_t i = 0; i < y->count; i++) {
        const int16_t *row = input + (y->index - i * y->index_step) * (int32_t)op->in_w * op->in_c;
        const int8_t *taps = weights + (y->tap + i * y->tap_step) * (int32_t)op->kernel_w * (int32_t)per_group;
        for (int32_t j = 0; j < x->count; j++) {
            sum = fleet_dot_wide(sum, row + (x->index - j * x->index_step) * (int32_t)op->in_c,
                                 taps + (x->tap + j * x->tap_step) * (int32_t)per_group, per_group);
        }
    }
    return sum;
}

static void write_pixel(const fleet_kernel_context_t *context, const fleet_op_conv_int16_t *op, const fleet_hits_t *y,
                        const fleet_hits_t *x, int16_t *output)
{
    const uint32_t per_group = (uint32_t)op->in_c / op->groups;
    const uint32_t out_per_group = (uint32_t)op->out_c / op->groups;
    const size_t row_length = (size_t)op->kernel_h * op->kernel_w * per_group;
    const int8_t *weights = (const int8_t *)context->image + op->weights;
    for (uint32_t o = 0; o < op->out_c; o++) {
        const int64_t bias = fleet_bias_wide(context, op->channel, op->biases_high, o);
        const int16_t *input = fleet_arena_int16(context, op->input) + o / out_per_group * per_group;
        const int64_t sum = gather(op, bias, input, weights, y, x);
        output[o] = fleet_finish_wide(context, op->channel + o, sum, op->activation_min, op->activation_max);
        weights += row_length;
    }
}

void fleet_transpose_conv_2d_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_int16_t *op = record;
    int16_t *output = fleet_output_int16(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_hits_t y = fleet_find_hits(oy + op->pad_top, op->stride_h, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_hits_t x = fleet_find_hits(ox + op->pad_left, op->stride_w, op->dilation_w, op->kernel_w, op->in_w);
            write_pixel(context, op, &y, &x, output);
            output += op->out_c;
        }
    }
}
