/* AVERAGE_POOL_2D_INT16; padded taps count only with COUNT_INCLUDE_PAD. Dilation is 1. */
#include "int16.h"
#include "window.h"

static int32_t window_sum(const fleet_op_pool_int16_t *op, const int16_t *channel, fleet_span_t y, fleet_span_t x)
{
    int32_t sum = 0;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int16_t *row = channel + ((y.origin + ky) * (int32_t)op->in_w + x.origin) * (int32_t)op->in_c;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            sum += row[kx * (int32_t)op->in_c];
        }
    }
    return sum;
}

static void average_pixel(const fleet_op_pool_int16_t *op, const int16_t *input, fleet_span_t y, fleet_span_t x,
                          int16_t *output)
{
    const int include_pad = (op->flags & FLEET_OP_FLAG_COUNT_INCLUDE_PAD) != 0u;
    const int32_t inside = (y.end - y.begin) * (x.end - x.begin);
    const int32_t count = include_pad ? op->kernel_h * op->kernel_w : inside;
    for (uint32_t c = 0; c < op->out_c; c++) {
        const int32_t sum = window_sum(op, input + c, y, x);
        const int32_t mean = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
        output[c] = fleet_clamp_int16(mean, op->activation_min, op->activation_max);
    }
}

void fleet_average_pool_2d_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, 1, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, 1, op->kernel_w, op->in_w);
            average_pixel(op, input, y, x, output);
            output += op->out_c;
        }
    }
}
