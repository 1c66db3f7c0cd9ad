/* MAX_POOL_2D over the taps inside the input. */
#include "fixed_point.h"
#include "internal.h"
#include "window.h"

static int8_t window_max(const fleet_op_pool_t *op, const int8_t *channel, fleet_span_t y, fleet_span_t x)
{
    int8_t best = INT8_MIN;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int32_t row = (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            const int8_t value = channel[(row + kx * op->dilation_w) * (int32_t)op->in_c];
            best = value > best ? value : best;
        }
    }
    return best;
}

void fleet_max_pool_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
            for (uint32_t c = 0; c < op->out_c; c++) {
                const int8_t best = window_max(op, input + c, y, x);
                *output++ = fleet_to_int8(best, 0, op->activation_min, op->activation_max);
            }
        }
    }
}
