/*
 * CONV_2D, two output pixels and two channels at a time. The windows of both pixels are widened into columns first: on the
 * stack where they are short, in the op's scratch where the compiler gave one. So nothing of a pixel is read after the first
 * of the pair is written, and the order of compiler/SPEC.md section 6 holds.
 */
#include "../window.h"
#include "dsp.h"

/* Longest row on the stack; compiler/tinyfleet_compiler/build_ops.py gives scratch above it. */
#define STACK_ROW 96u
#define COLUMN_WORDS(row) ((row) / 4u * 4u)
/* Longest row whose taps are no whole groups: it passes through bytes. */
#define ODD_ROW 64u

/* Pixel `pixel`'s two words of a group of four values. */
static void widen_word(uint32_t *group, uint32_t bytes)
{
    group[0] = fleet_dsp_even(bytes);
    group[1] = fleet_dsp_odd(bytes);
}

static uint32_t *widen(uint32_t *group, const int8_t *values, uint32_t count)
{
    for (const int8_t *end = values + count; values < end; values += 4) {
        widen_word(group, fleet_dsp_word(values));
        group += 4;
    }
    return group;
}

static uint32_t *widen_constant(uint32_t *group, int32_t value, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += 4u) {
        widen_word(group, (uint32_t)(uint8_t)value * 0x01010101u);
        group += 4;
    }
    return group;
}

/* Windows whose rows of taps are whole groups: channels are a multiple of four. */
static void fill_column(const fleet_op_conv_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x, uint32_t *group)
{
    const int32_t channels = op->in_c;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        if (ky < y.begin || ky >= y.end) {
            group = widen_constant(group, op->input_zero_point, (uint32_t)op->kernel_w * op->in_c);
            continue;
        }
        const int8_t *row = input + ((y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin) * channels;
        group = widen_constant(group, op->input_zero_point, (uint32_t)(x.begin * channels));
        if (op->dilation_w == 1u) {
            group = widen(group, row + x.begin * channels, (uint32_t)((x.end - x.begin) * channels));
        } else {
            for (int32_t kx = x.begin; kx < x.end; kx++) {
                group = widen(group, row + kx * op->dilation_w * channels, op->in_c);
            }
        }
        group = widen_constant(group, op->input_zero_point, (uint32_t)((op->kernel_w - x.end) * channels));
    }
}

static int8_t *gather(int8_t *to, const int8_t *from, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        *to++ = from[i];
    }
    return to;
}

static int8_t *gather_constant(int8_t *to, int8_t value, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        *to++ = value;
    }
    return to;
}

/* Any other window goes through bytes; row at most ODD_ROW. */
static void fill_odd_column(const fleet_op_conv_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x,
                            uint32_t row_values, uint32_t *group)
{
    int8_t bytes[ODD_ROW];
    int8_t *to = bytes;
    const int32_t channels = op->in_c;
    for (int32_t ky = 0; ky < op->kernel_h; ky++) {
        const int32_t inside = ky >= y.begin && ky < y.end;
        const int32_t begin = inside ? x.begin : op->kernel_w;
        const int32_t end = inside ? x.end : op->kernel_w;
        const int32_t at = inside ? (y.origin + ky * op->dilation_h) * (int32_t)op->in_w + x.origin : 0;
        to = gather_constant(to, op->input_zero_point, begin * channels);
        if (op->dilation_w == 1u) {
            to = gather(to, input + (at + begin) * channels, (end - begin) * channels);
        } else {
            for (int32_t kx = begin; kx < end; kx++) {
                to = gather(to, input + (at + kx * op->dilation_w) * channels, channels);
            }
        }
        to = gather_constant(to, op->input_zero_point, (op->kernel_w - end) * channels);
    }
    (void)gather_constant(to, 0, (int32_t)(bytes + row_values - to));
    (void)widen(group, bytes, row_values);
}

typedef struct {
    const fleet_kernel_context_t *context;
    const fleet_op_conv_t *op;
    uint32_t *columns;
    uint32_t row_bytes;
    uint32_t groups; /* of four values in a row, the last one filled up with zeros */
    int pointwise;   /* one tap, always inside, of whole groups */
} job_t;

static void fill_pixel(const job_t *job, int32_t pixel, uint32_t *group)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t oy = pixel / op->out_w;
    const int32_t ox = pixel % op->out_w;
    if (job->pointwise) {
        const int32_t at = oy * op->stride_h * op->in_w + ox * op->stride_w;
        (void)widen(group, job->context->arena + op->input + at * (int32_t)op->in_c, op->in_c);
        return;
    }
    const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
    const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
    if (op->in_c % 4u == 0u) {
        fill_column(op, job->context->arena + op->input, y, x, group);
    } else {
        fill_odd_column(op, job->context->arena + op->input, y, x, job->groups * 4u, group);
    }
}

static int32_t dot_column(const job_t *job, int32_t sum, const uint32_t *column, const int8_t *weights)
{
    for (uint32_t group = 0; group < job->groups; group++) {
        const uint32_t word = fleet_dsp_word(weights + 4u * group);
        sum = fleet_dsp_mac2(column[4u * group], fleet_dsp_even(word), sum);
        sum = fleet_dsp_mac2(column[4u * group + 1u], fleet_dsp_odd(word), sum);
    }
    return sum;
}

/* The outputs of one channel the long way. */
static void finish_one(fleet_dsp_conv_t *run, int32_t first, int32_t second)
{
    *run->first++ = fleet_dsp_requantize_long(first, *run->multipliers, *run->shifts, run->zero_point);
    *run->second++ = fleet_dsp_requantize_long(second, *run->multipliers, *run->shifts, run->zero_point);
    run->weights += run->row_bytes;
    run->multipliers++;
    run->shifts++;
}

static void multiply(const job_t *job, int8_t *first, int8_t *second)
{
    const fleet_op_conv_t *op = job->op;
    const fleet_kernel_context_t *context = job->context;
    fleet_dsp_conv_t run = {
        .columns = job->columns,
        .weights = (const int8_t *)context->image + op->weights,
        .row_bytes = job->row_bytes,
        .groups = job->groups,
        .biases = context->biases + op->channel,
        .multipliers = context->multipliers + op->channel,
        .shifts = context->shifts + op->channel,
        .first = first,
        .second = second,
        .zero_point = op->output_zero_point,
        .steps = op->out_c / 2u,
    };
    while (run.steps != 0u) {
        fleet_dsp_conv_channels(&run);
        if (run.steps != 0u) {
            finish_one(&run, run.sums[0], run.sums[1]);
            finish_one(&run, run.sums[2], run.sums[3]);
            run.steps--;
        }
    }
    if (op->out_c % 2u != 0u) {
        finish_one(&run, dot_column(job, *run.biases, run.columns, run.weights),
                   dot_column(job, *run.biases, run.columns + 2, run.weights));
    }
}

static void convolve(const job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t pixels = (int32_t)op->out_h * op->out_w;
    const int32_t reversed = (op->flags & FLEET_OP_FLAG_REVERSED) != 0u;
    int8_t *outputs = job->context->arena + op->output;
    for (int32_t done = 0; done < pixels; done += 2) {
        const int32_t other = pixels - done > 1 ? done + 1 : done; /* a lone last pixel is computed twice */
        const int32_t pixel[2] = {reversed ? pixels - 1 - done : done, reversed ? pixels - 1 - other : other};
        int8_t *first = outputs + pixel[0] * (int32_t)op->out_c;
        int8_t *second = outputs + pixel[1] * (int32_t)op->out_c;
        fill_pixel(job, pixel[0], job->columns);
        fill_pixel(job, pixel[1], job->columns + 2);
        multiply(job, first, second);
        fleet_dsp_clamp(first, op->out_c, op->activation_min, op->activation_max);
        fleet_dsp_clamp(second, op->out_c, op->activation_min, op->activation_max);
    }
}

static void convolve_on_stack(job_t *job)
{
    uint32_t columns[COLUMN_WORDS(STACK_ROW)];
    job->columns = columns;
    convolve(job);
}

/* The last group of the last row is read as a whole word. */
static int words_are_inside(const fleet_op_conv_t *op, const job_t *job)
{
    const fleet_image_header_t *header = (const void *)job->context->image;
    const uint64_t end = op->weights + (uint64_t)(op->out_c - 1u) * job->row_bytes + job->groups * 4u;
    return end <= header->image_bytes;
}

static int is_pointwise(const fleet_op_conv_t *op)
{
    return op->kernel_h == 1u && op->kernel_w == 1u && op->pad_top == 0u && op->pad_left == 0u && op->in_c % 4u == 0u &&
           (op->out_h - 1) * op->stride_h < op->in_h && (op->out_w - 1) * op->stride_w < op->in_w;
}

static job_t make_job(const fleet_kernel_context_t *context, const fleet_op_conv_t *op)
{
    job_t job;
    job.context = context;
    job.op = op;
    job.row_bytes = (uint32_t)op->kernel_h * op->kernel_w * op->in_c;
    job.groups = (job.row_bytes + 3u) / 4u;
    job.pointwise = is_pointwise(op);
    job.columns = (uint32_t *)(void *)(context->arena + op->scratch);
    return job;
}

static int has_scratch(const fleet_op_conv_t *op, uint32_t row)
{
    return op->scratch != FLEET_NO_OFFSET && op->scratch % 4u == 0u && op->scratch_bytes >= row * 4u;
}

/* Whether there is room for the columns of a row. */
static int has_room(const fleet_op_conv_t *op, uint64_t row)
{
    if (op->in_c % 4u != 0u) {
        return row <= ODD_ROW;
    }
    return row <= STACK_ROW || (row <= FLEET_DSP_MAX_ROW && has_scratch(op, (uint32_t)row));
}

void fleet_dsp_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    const uint64_t row = (uint64_t)op->kernel_h * op->kernel_w * op->in_c;
    if (op->groups != 1u || !has_room(op, row)) {
        fleet_conv_2d(context, record);
        return;
    }
    job_t job = make_job(context, op);
    if (!words_are_inside(op, &job)) {
        fleet_conv_2d(context, record);
    } else if (row <= STACK_ROW) {
        convolve_on_stack(&job);
    } else {
        convolve(&job);
    }
}
