/* MAX_POOL_2D_INT16 over the taps inside the input. */
#include "int16.h"
#include "window.h"

static int16_t window_max(const fleet_op_pool_int16_t *op, const int16_t *channel, fleet_span_t y, fleet_span_t x)
{
    int16_t best = INT16_MIN;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            const int16_t value = channel[(row + kx * op->dilation_w) * (int32_t)op->in_c];
            best = value > best ? value : best;
        }
    }
    return best;
}

void fleet_max_pool_2d_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
            for (uint32_t c = 0; c < op->out_c; c++) {
                const int16_t best = window_max(op, input + c, y, x);
                *output++ = fleet_clamp_int16(best, op->activation_min, op->activation_max);
            }
        }
    }
}
