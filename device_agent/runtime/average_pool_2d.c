/* AVERAGE_POOL_2D; padded taps count only with COUNT_INCLUDE_PAD, as real zero. Dilation is 1. */
#include "fixed_point.h"
#include "internal.h"
#include "window.h"

static int32_t window_sum(const fleet_op_pool_t *op, const int8_t *channel, fleet_span_t y, fleet_span_t x)
{
    int32_t sum = 0;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        const int8_t *row = channel + ((y.origin + ky) * (int32_t)op->in_w + x.origin) * (int32_t)op->in_c;
        for (int32_t kx = x.begin; kx < x.end; kx++) {
            sum += row[kx * (int32_t)op->in_c];
        }
    }
    return sum;
}

static int32_t divide_half_away(int32_t sum, int32_t count)
{
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

static void average_pixel(const fleet_op_pool_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x, int8_t *output)
{
    const int32_t inside = (y.end - y.begin) * (x.end - x.begin);
    const int32_t window = op->kernel_h * op->kernel_w;
    const int include_pad = (op->flags & FLEET_OP_FLAG_COUNT_INCLUDE_PAD) != 0u;
    const int32_t count = include_pad ? window : inside;
    const int32_t padding = include_pad ? op->input_zero_point * (window - inside) : 0;
    for (uint32_t c = 0; c < op->out_c; c++) {
        const int32_t mean = divide_half_away(window_sum(op, input + c, y, x) + padding, count);
        output[c] = fleet_to_int8(mean, 0, op->activation_min, op->activation_max);
    }
}

void fleet_average_pool_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, 1, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, 1, op->kernel_w, op->in_w);
            average_pixel(op, input, y, x, output);
            output += op->out_c;
        }
    }
}
