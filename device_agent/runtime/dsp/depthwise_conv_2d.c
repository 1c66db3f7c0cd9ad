/* DEPTHWISE_CONV_2D with as many outputs as inputs, four channels of a pixel at a time. */
#include "../window.h"
#include "dsp.h"

#define MAX_TAPS 32u
#define CHUNK 64u /* channels between two moves of the table of taps */

typedef struct {
    const fleet_kernel_context_t *context;
    const fleet_op_conv_t *op;
    uint32_t tap_count;
    int all_short; /* no channel has a huge bias */
    const int8_t *taps[MAX_TAPS]; /* where each tap's first channel of the chunk lies */
    int8_t padding[CHUNK];        /* the values of a padded tap */
} job_t;

/* fleet_dsp_depthwise_channels wants the middle two of every four taps changed round. */
static uint32_t place(uint32_t tap, uint32_t quads)
{
    const uint32_t in_quad = tap & 3u;
    return tap < quads && (in_quad == 1u || in_quad == 2u) ? tap ^ 3u : tap;
}

static void find_taps(job_t *job, const int8_t *input, fleet_span_t y, fleet_span_t x)
{
    const fleet_op_conv_t *op = job->op;
    const uint32_t quads = (uint32_t)op->kernel_h * op->kernel_w & ~3u;
    uint32_t tap = 0;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        const int32_t row_inside = ky >= y.begin && ky < y.end;
        const int8_t *at = input;
        if (row_inside) {
            at += ((y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin) * (int32_t)op->in_c;
        }
        for (int32_t kx = 0; kx < op->kernel_w; kx++) {
            const int32_t inside = row_inside && kx >= x.begin && kx < x.end;
            const int8_t *from = inside ? at + kx * op->dilation_w * (int32_t)op->in_c : job->padding;
            job->taps[place(tap++, quads)] = from;
        }
    }
}

/* One channel that is left over, has a huge bias or no right shift. */
static void convolve_one(const job_t *job, fleet_dsp_depthwise_t *run)
{
    uint32_t sum = (uint32_t)*run->biases++;
    for (uint32_t tap = 0; tap < run->row_bytes; tap++) {
        sum += (uint32_t)(job->taps[place(tap, run->row_bytes & ~3u)][(int32_t)run->channel] * *run->weights++);
    }
    *run->output++ = fleet_dsp_requantize_long((int32_t)sum, *run->multipliers++, *run->shifts++, run->zero_point);
    run->channel++;
}

/* `count` channels from `first` on, which lie at `offset` in the taps. */
static void convolve_chunk(const job_t *job, uint32_t first, uint32_t count, int32_t offset, int8_t *output)
{
    const int8_t *end = output + count;
    const uint32_t taps = job->tap_count;
    const uint32_t entry = job->op->channel + first;
    const fleet_kernel_context_t *context = job->context;
    fleet_dsp_depthwise_t run = {
        .taps = job->taps,
        .channel = (uint32_t)offset,
        .weights = (const int8_t *)context->image + job->op->weights + first * taps,
        .row_bytes = taps,
        .quads = taps / 4u,
        .biases = context->biases + entry,
        .multipliers = context->multipliers + entry,
        .shifts = context->shifts + entry,
        .output = output,
        .zero_point = job->op->output_zero_point,
        .rest = taps % 4u,
    };
    while (run.output < end) {
        const uint32_t left = (uint32_t)(end - run.output);
        run.steps = (job->all_short ? left : fleet_dsp_short_channels(run.biases, left)) / 4u;
        if (run.steps != 0u) {
            fleet_dsp_depthwise_channels(&run);
        }
        if (run.output < end) {
            convolve_one(job, &run);
        }
    }
}

/* Every tap `bytes` further on; padded ones stay. */
static void move_taps(job_t *job, int32_t bytes)
{
    for (uint32_t tap = 0; tap < job->tap_count; tap++) {
        if (job->taps[tap] != job->padding) {
            job->taps[tap] += bytes;
        }
    }
}

/* A pixel with padded taps, whose values are CHUNK long. The taps stand at its first channel, and there again afterwards. */
static void convolve_border(job_t *job, int8_t *output)
{
    uint32_t first = 0;
    for (; first + CHUNK < job->op->out_c; first += CHUNK) {
        convolve_chunk(job, first, CHUNK, 0, output + first);
        move_taps(job, (int32_t)CHUNK);
    }
    convolve_chunk(job, first, job->op->out_c - first, 0, output + first);
    if (first != 0u) {
        move_taps(job, -(int32_t)first);
    }
}

static int spans_are_equal(fleet_span_t a, fleet_span_t b)
{
    return a.begin == b.begin && a.end == b.end;
}

static void convolve_row(job_t *job, fleet_span_t y, int32_t column, int32_t step, int8_t *output)
{
    const fleet_op_conv_t *op = job->op;
    const int8_t *input = job->context->arena + op->input;
    const int32_t stride = step * op->stride_w * (int32_t)op->in_c;
    fleet_span_t before = {0, 0, -1};
    int32_t offset = 0;
    for (int32_t ox = column; ox >= 0 && ox < op->out_w; ox += step) {
        const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
        const int inside = y.begin == 0 && y.end == op->kernel_h && x.begin == 0 && x.end == op->kernel_w;
        if (!spans_are_equal(x, before)) {
            find_taps(job, input, y, x);
            offset = 0;
        } else if (inside) {
            offset += stride;
        } else {
            move_taps(job, stride);
        }
        before = x;
        if (inside) {
            convolve_chunk(job, 0, op->out_c, offset, output);
        } else {
            convolve_border(job, output);
        }
        fleet_dsp_clamp(output, op->out_c, op->activation_min, op->activation_max);
        output += step * (int32_t)op->out_c;
    }
}

void fleet_dsp_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    int8_t *output = context->arena + op->output + walk.offset;
    job_t job;
    if (op->packing != FLEET_PACKING_ROW_MAJOR || op->out_c != op->in_c ||
        (uint32_t)op->kernel_h * op->kernel_w > MAX_TAPS) {
        fleet_depthwise_conv_2d(context, record);
        return;
    }
    job.context = context;
    job.op = op;
    job.tap_count = (uint32_t)op->kernel_h * op->kernel_w;
    job.all_short = fleet_dsp_short_channels(context->biases + op->channel, op->out_c) == op->out_c;
    memset(job.padding, op->input_zero_point, sizeof(job.padding));
    for (int32_t oy = walk.row; oy >= 0 && oy < op->out_h; oy += walk.step) {
        const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
        convolve_row(&job, y, walk.column, walk.step, output);
        output += walk.step * (int32_t)op->out_w * (int32_t)op->out_c;
    }
}
