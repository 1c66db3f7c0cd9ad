/* AVERAGE_POOL_2D_F32; padded taps count only with COUNT_INCLUDE_PAD. Dilation is 1. */
#include "f32.h"

#include "../window.h"

static float window_sum(const fleet_op_pool_f32_t *op, const float *channel, fleet_span_t y, fleet_span_t x)
{
    float sum = 0.0f;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const float *row = channel + ((y.origin + ky) * (int32_t)op->in_w + x.origin) * (int32_t)op->in_c;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            sum += row[kx * (int32_t)op->in_c];
        }
    }
    return sum;
}

void fleet_f32_average_pool_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_f32_t *op = record;
    const int include_pad = (op->flags & FLEET_OP_FLAG_COUNT_INCLUDE_PAD) != 0u;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, 1, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, 1, op->kernel_w, op->in_w);
            const int32_t inside = (y.end - y.begin) * (x.end - x.begin);
            const float count = (float)(include_pad ? op->kernel_h * op->kernel_w : inside);
            for (uint32_t c = 0; c < op->out_c; c++) {
                const float mean = window_sum(op, input + c, y, x) / count;
                *output++ = fleet_f32_clamp(mean, op->activation_min, op->activation_max);
            }
        }
    }
}
