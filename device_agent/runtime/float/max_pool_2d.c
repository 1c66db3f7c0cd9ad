/* MAX_POOL_2D_F32 over the taps inside the input; a not-a-number stays. */
#include "extremes.h"

#include "../window.h"

static float window_max(const fleet_op_pool_f32_t *op, const float *channel, fleet_span_t y, fleet_span_t x)
{
    float best = fleet_f32_from_bits(FLEET_F32_MINUS_INFINITY_BITS);
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            best = fleet_f32_raise(best, channel[(row + kx * op->dilation_w) * (int32_t)op->in_c]);
        }
    }
    return best;
}

void fleet_f32_max_pool_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_f32_t *op = record;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
            for (uint32_t c = 0; c < op->out_c; c++) {
                const float best = window_max(op, input + c, y, x);
                *output++ = fleet_f32_clamp(best, op->activation_min, op->activation_max);
            }
        }
    }
}
