/* MAX_POOL_2D, sixteen channels at a time. */
#include "../window.h"
#include "mve.h"

#define LANES 16

typedef struct {
    int32_t rows;
    int32_t columns;
    int32_t row_bytes;   /* between taps of neighbouring rows */
    int32_t pixel_bytes; /* between taps of neighbouring columns */
    int32_t low;
    int32_t high;
} window_t;

/* The largest values of `channels` channels, at most sixteen; no reads beyond them. */
static void largest_of_window(const window_t *window, const int8_t *first, int32_t channels, int8_t *output)
{
    int32_t rows = window->rows;
    const int8_t *at;
    __asm__ volatile("   vctp.8 %[channels]               \n"
                     "   vdup.8 q0, %[low]                \n"
                     "   cmp %[rows], #0                  \n"
                     "   ble 3f                           \n"
                     "1: mov %[at], %[first]              \n"
                     "   dls lr, %[columns]               \n"
                     "2: vpst                             \n"
                     "   vldrbt.8 q1, [%[at]]             \n"
                     "   add %[at], %[at], %[pixel_bytes] \n"
                     "   vmax.s8 q0, q0, q1               \n"
                     "   le lr, 2b                        \n"
                     "   add %[first], %[first], %[row_bytes] \n"
                     "   subs %[rows], %[rows], #1        \n"
                     "   bne 1b                           \n"
                     "3: vdup.8 q1, %[high]               \n"
                     "   vmin.s8 q0, q0, q1               \n"
                     "   vpst                             \n"
                     "   vstrbt.8 q0, [%[output]]         \n"
                     : [first] "+r"(first), [rows] "+r"(rows), [at] "=&r"(at)
                     : [columns] "r"(window->columns), [row_bytes] "r"(window->row_bytes),
                       [pixel_bytes] "r"(window->pixel_bytes), [channels] "r"(channels), [output] "r"(output),
                       [low] "r"(window->low), [high] "r"(window->high)
                     : "lr", "q0", "q1", "memory", "cc");
}

static void pool_pixel(const fleet_op_pool_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x, int8_t *output)
{
    const int32_t channels = op->in_c;
    const int32_t pitch = (int32_t)op->in_w * channels;
    const window_t window = {
        .rows = x.end > x.begin ? y.end - y.begin : 0, /* a hostile image may have windows without taps */
        .columns = x.end - x.begin,
        .row_bytes = op->dilation_h * pitch,
        .pixel_bytes = op->dilation_w * channels,
        .low = op->activation_min,
        .high = op->activation_max,
    };
    input += (y.origin + y.begin * op->dilation_h) * pitch + (x.origin + x.begin * op->dilation_w) * channels;
    for (int32_t c = 0; c < channels; c += LANES) {
        largest_of_window(&window, input + c, channels - c, output + c);
    }
}

void fleet_mve_max_pool_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pool_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (int32_t oy = 0; oy < op->out_h; oy++) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        for (int32_t ox = 0; ox < op->out_w; ox++) {
            const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
            pool_pixel(op, input, y, x, output);
            output += op->out_c;
        }
    }
}
