/* DEPTHWISE_CONV_2D with as many outputs as inputs, four channels of a pixel at a time, pixels with the same taps in one go. */
#include "../window.h"
#include "mve.h"

#define NINE 9
#define BLOCKS ((FLEET_MVE_MAX_TAPS + 7u) / 8u)

typedef struct {
    const fleet_kernel_context_t *context;
    const fleet_op_conv_t *op;
    int32_t tap_count;
    int32_t inside_begin; /* columns whose windows lie inside: begin <= ox < end */
    int32_t inside_end;
    int few; /* for the kernels of at most nine taps: nothing shifts left, eight weights of the last channel can be read */
    uint32_t ninth_offset;
    int8_t padding[FLEET_MVE_CHANNELS];
    fleet_mve_taps_t taps[BLOCKS];
    fleet_mve_depthwise_t run;
} job_t;

static int32_t divide_down(int32_t a, int32_t b)
{
    return a < 0 ? -1 : a / b;
}

static void find_inside(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t reach = (op->kernel_w - 1) * op->dilation_w;
    const int32_t last = divide_down(op->in_w - 1 - reach + op->pad_left, op->stride_w);
    job->inside_begin = fleet_divide_up(op->pad_left, op->stride_w);
    job->inside_end = last < op->out_w ? last + 1 : op->out_w;
}

static void find_offsets(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t pitch = op->dilation_h * (int32_t)op->in_w * (int32_t)op->in_c;
    uint32_t tap = 0;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        for (int32_t kx = 0; kx < op->kernel_w; kx++) {
            job->taps[tap / 8u].offsets[tap % 8u] = (uint16_t)(ky * pitch + kx * op->dilation_w * (int32_t)op->in_c);
            job->taps[tap / 8u].padding[tap % 8u] = op->input_zero_point;
            tap++;
        }
    }
}

/* What the kernels of at most nine taps want to know of the first eight and the ninth. */
static void mark_nine(job_t *job, fleet_span_t y, fleet_span_t x)
{
    const fleet_op_conv_t *op = job->op;
    const uint32_t row = ((1u << 2 * x.end) - 1u) & ~((1u << 2 * x.begin) - 1u);
    uint32_t mask = 0;
    for (int32_t ky = y.begin; ky < y.end; ky++) {
        mask |= row << 2 * ky * op->kernel_w;
    }
    job->run.mask = mask & 0xffffu;
    if (job->tap_count == NINE && (mask >> 16) == 0u) {
        job->run.ninth = job->padding;
        job->run.ninth_step = 0;
        job->run.ninth_move = 0;
    }
}

static void mark_taps(job_t *job, fleet_span_t y, fleet_span_t x)
{
    const fleet_op_conv_t *op = job->op;
    uint32_t tap = 0;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        for (int32_t kx = 0; kx < op->kernel_w; kx++) {
            const int inside = ky >= y.begin && ky < y.end && kx >= x.begin && kx < x.end;
            job->taps[tap / 8u].padding[tap % 8u] = inside ? FLEET_MVE_INSIDE : op->input_zero_point;
            tap++;
        }
    }
}

static void run_kernel(job_t *job, fleet_span_t y, fleet_span_t x)
{
    const int inside = y.begin == 0 && y.end == job->op->kernel_h && x.begin == 0 && x.end == job->op->kernel_w;
    if (job->tap_count > NINE || !job->few) {
        if (inside) {
            fleet_mve_depthwise_taps_inside(&job->run);
        } else {
            mark_taps(job, y, x);
            fleet_mve_depthwise_taps(&job->run);
        }
        return;
    }
    mark_nine(job, y, x);
    if (job->tap_count < NINE) {
        (inside ? fleet_mve_depthwise_few_inside : fleet_mve_depthwise_few)(&job->run);
    } else {
        (inside ? fleet_mve_depthwise_inside : fleet_mve_depthwise_border)(&job->run);
    }
}

/* `pixels` pixels with the same taps, channels from `first` on. */
static void convolve_run(job_t *job, fleet_span_t y, fleet_span_t x, uint32_t pixels, uint32_t first, uint32_t steps,
                         int8_t *output)
{
    const fleet_op_conv_t *op = job->op;
    const uint32_t entry = op->channel + first;
    const int32_t at = (y.origin * (int32_t)op->in_w + x.origin) * (int32_t)op->in_c + (int32_t)first;
    fleet_mve_depthwise_t *run = &job->run;
    run->weights = (const int8_t *)job->context->image + op->weights + first * (uint32_t)job->tap_count;
    run->shifts = job->context->shifts + entry;
    run->output = output + first;
    run->biases = job->context->biases + entry;
    run->window = (uintptr_t)(job->context->arena + op->input) + (uintptr_t)at;
    run->multipliers = job->context->multipliers + entry;
    run->steps = steps;
    run->pixels = pixels;
    run->ninth = (const int8_t *)(run->window + job->ninth_offset);
    run->ninth_step = job->tap_count == NINE ? (int32_t)FLEET_MVE_CHANNELS : job->tap_count;
    run->ninth_move = run->window_move;
    run_kernel(job, y, x);
}

static int32_t run_length(const job_t *job, int32_t ox, int32_t step)
{
    if (ox < job->inside_begin || ox >= job->inside_end) {
        return 1;
    }
    return step > 0 ? job->inside_end - ox : ox - job->inside_begin + 1;
}

static void convolve_row(job_t *job, fleet_span_t y, int32_t column, int32_t step, int8_t *output)
{
    const fleet_op_conv_t *op = job->op;
    int32_t ox = column;
    while (ox >= 0 && ox < op->out_w) {
        const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
        int32_t pixels = run_length(job, ox, step);
        /* All channels of a pixel before the next pixel, so a rest of channels ends the run. */
        pixels = op->out_c % FLEET_MVE_CHANNELS == 0u ? pixels : 1;
        convolve_run(job, y, x, (uint32_t)pixels, 0, op->out_c / FLEET_MVE_CHANNELS, output);
        if (op->out_c % FLEET_MVE_CHANNELS != 0u) {
            convolve_run(job, y, x, 1, op->out_c - FLEET_MVE_CHANNELS, 1, output);
        }
        output += pixels * step * (int32_t)op->out_c;
        ox += pixels * step;
    }
}

static int is_taken(const fleet_op_conv_t *op)
{
    const uint64_t pitch = (uint64_t)op->dilation_h * op->in_w * op->in_c;
    const uint64_t last = (op->kernel_h - 1u) * pitch + (op->kernel_w - 1u) * (uint64_t)op->dilation_w * op->in_c;
    return op->packing == FLEET_PACKING_ROW_MAJOR && op->out_c == op->in_c && op->out_c >= FLEET_MVE_CHANNELS &&
           last <= UINT16_MAX && (uint32_t)op->kernel_h * op->kernel_w <= FLEET_MVE_MAX_TAPS;
}

static int eight_weights_are_inside(const job_t *job)
{
    const fleet_image_header_t *header = (const void *)job->context->image;
    const uint64_t last = job->op->weights + (uint64_t)(job->op->out_c - 1u) * (uint32_t)job->tap_count;
    return last + 8u <= header->image_bytes;
}

static void prepare(job_t *job, int32_t step)
{
    const fleet_op_conv_t *op = job->op;
    job->tap_count = op->kernel_h * op->kernel_w;
    job->few = !fleet_mve_any_left(job->context->shifts + op->channel, op->out_c) && eight_weights_are_inside(job);
    (void)fleet_mve_fill(job->padding, op->input_zero_point, FLEET_MVE_CHANNELS);
    (void)fleet_mve_fill((int8_t *)job->taps, 0, sizeof(job->taps));
    find_inside(job);
    find_offsets(job);
    job->ninth_offset = job->tap_count == NINE ? job->taps[1].offsets[0] : 0;
    job->run.zero_point = op->output_zero_point;
    job->run.window_move = step * op->stride_w * (int32_t)op->in_c;
    job->run.output_move = step * (int32_t)op->out_c;
    job->run.taps = job->taps;
    job->run.tap_count = (uint32_t)job->tap_count;
    job->run.low = op->activation_min;
    job->run.high = op->activation_max;
}

void fleet_mve_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    if (!is_taken(op)) {
        fleet_depthwise_conv_2d(context, record);
        return;
    }
    job_t job;
    job.context = context;
    job.op = op;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    prepare(&job, walk.step);
    int8_t *output = context->arena + op->output + walk.offset;
    for (int32_t oy = walk.row; oy >= 0 && oy < op->out_h; oy += walk.step) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        convolve_row(&job, y, walk.column, walk.step, output);
        output += walk.step * (int32_t)op->out_w * (int32_t)op->out_c;
    }
}
