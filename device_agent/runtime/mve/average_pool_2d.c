/* AVERAGE_POOL_2D, the sums of four channels at a time. */
#include "../window.h"
#include "mve.h"

/* Sums over a window of rows x columns pixels of `channels` (at most four) channels; no reads beyond them. */
static void sum_window(const int8_t *first, int32_t rows, int32_t columns, int32_t row_bytes, int32_t pixel_bytes,
                       int32_t channels, int32_t sums[FLEET_MVE_CHANNELS])
{
    const int8_t *at;
    __asm__ volatile("   vctp.32 %[channels]              \n"
                     "   vmov.i32 q0, #0                  \n"
                     "1: mov %[at], %[first]              \n"
                     "   dls lr, %[columns]               \n"
                     "2: vpst                             \n"
                     "   vldrbt.s32 q1, [%[at]]           \n"
                     "   add %[at], %[at], %[pixel_bytes] \n"
                     "   vadd.i32 q0, q0, q1              \n"
                     "   le lr, 2b                        \n"
                     "   add %[first], %[first], %[row_bytes] \n"
                     "   subs %[rows], %[rows], #1        \n"
                     "   bne 1b                           \n"
                     "   vstrw.32 q0, [%[sums]]           \n"
                     : [first] "+r"(first), [rows] "+r"(rows), [at] "=&l"(at)
                     : [columns] "r"(columns), [row_bytes] "r"(row_bytes), [pixel_bytes] "r"(pixel_bytes),
                       [channels] "r"(channels), [sums] "r"(sums)
                     : "lr", "q0", "q1", "memory", "cc");
}

static int32_t divide_half_away(int32_t sum, int32_t count)
{
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

static void average_pixel(const fleet_op_pool_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x, int8_t *output)
{
    const int32_t channels = op->in_c;
    const int32_t rows = y.end - y.begin;
    const int32_t columns = x.end - x.begin;
    const int32_t window = op->kernel_h * op->kernel_w;
    const int include_pad = (op->flags & FLEET_OP_FLAG_COUNT_INCLUDE_PAD) != 0u;
    const int32_t count = include_pad ? window : rows * columns;
    const int32_t padding = include_pad ? op->input_zero_point * (window - rows * columns) : 0;
    input += ((y.origin + y.begin) * (int32_t)op->in_w + x.origin + x.begin) * channels;
    for (int32_t c = 0; c < channels; c += (int32_t)FLEET_MVE_CHANNELS) {
        int32_t sums[FLEET_MVE_CHANNELS];
        const int32_t left = channels - c;
        sum_window(input + c, rows, columns, (int32_t)op->in_w * channels, channels, left, sums);
        for (int32_t i = 0; i < left && i < (int32_t)FLEET_MVE_CHANNELS; i++) {
            const int32_t mean = divide_half_away(sums[i] + padding, count);
            output[c + i] = fleet_to_int8(mean, 0, op->activation_min, op->activation_max);
        }
    }
}

void fleet_mve_average_pool_2d(const fleet_kernel_context_t *context, const void *record)
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
