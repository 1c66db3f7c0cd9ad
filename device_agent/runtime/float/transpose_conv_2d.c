/* TRANSPOSE_CONV_2D_F32: every output pixel gathers the input pixels whose stamp covers it, taps ascending. */
#include "f32.h"

#include "../stamp.h"

static uint32_t channels_of(const fleet_op_conv_f32_t *op)
{
    return (uint32_t)op->in_c / op->groups;
}

/* `input` begins at the first channel of the output's group. */
static float gather(const fleet_op_conv_f32_t *op, const float *input, const float *weights, const fleet_hits_t *y,
                    const fleet_hits_t *x)
{
    const uint32_t channels = channels_of(op);
    float sum = 0.0f;
    for (int32_t i = 0; i < y->count; i++) {
        const float *row = input + (y->index - i * y->index_step) * (int32_t)op->in_w * op->in_c;
        const float *taps = weights + (y->tap + i * y->tap_step) * (int32_t)(op->kernel_w * channels);
        for (int32_t j = 0; j < x->count; j++) {
            sum = fleet_f32_dot(sum, row + (x->index - j * x->index_step) * (int32_t)op->in_c,
                                taps + (x->tap + j * x->tap_step) * (int32_t)channels, channels);
        }
    }
    return sum;
}

void fleet_f32_transpose_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_f32_t *op = record;
    const size_t row_length = (size_t)op->kernel_h * op->kernel_w * channels_of(op) + 1u;
    const uint32_t group = (uint32_t)op->out_c / op->groups;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_hits_t y = fleet_find_hits(oy + op->pad_top, op->stride_h, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_hits_t x = fleet_find_hits(ox + op->pad_left, op->stride_w, op->dilation_w, op->kernel_w, op->in_w);
            const float *row = fleet_f32_image(context, op->weights);
            for (uint32_t o = 0; o < op->out_c; o++) {
                const float sum = gather(op, input + o / group * channels_of(op), row + 1, &y, &x) + row[0];
                *output++ = fleet_f32_clamp(sum, op->activation_min, op->activation_max);
                row += row_length;
            }
        }
    }
}
