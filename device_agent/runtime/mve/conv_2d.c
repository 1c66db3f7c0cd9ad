/*
 * CONV_2D, three output pixels and four channels at a time. Windows of the three pixels are read where they lie, if each is one
 * whole pixel of an input that the output does not touch; else they are gathered into columns first: on the stack where they
 * are short, in the op's scratch where the compiler gave one. So nothing of a pixel is read after the first of its group is
 * written, and the order of compiler/SPEC.md section 6 holds.
 */
#include "../window.h"
#include "mve.h"

/* Longest row on the stack; compiler/tinyfleet_compiler/kernel_scratch.py gives scratch above it. */
#define STACK_ROW 144u

typedef struct {
    const fleet_kernel_context_t *context;
    const fleet_op_conv_t *op;
    int8_t *columns;
    uint32_t row_bytes;
    int32_t lefts;
    int direct; /* windows are read where they lie */
} job_t;

static int8_t *gather_row(const fleet_op_conv_t *op, const int8_t *row, fleet_span_t x, int8_t *to)
{
    const int32_t channels = op->in_c;
    if (x.begin > 0) {
        to = fleet_mve_fill(to, op->input_zero_point, x.begin * channels);
    }
    if (op->dilation_w == 1u) {
        to = fleet_mve_copy(to, row + (x.origin + x.begin) * channels, (x.end - x.begin) * channels);
    } else {
        for (int32_t tap = x.begin; tap < x.end; tap++) {
            to = fleet_mve_copy(to, row + (x.origin + tap * op->dilation_w) * channels, channels);
        }
    }
    if (x.end < op->kernel_w) {
        to = fleet_mve_fill(to, op->input_zero_point, (op->kernel_w - x.end) * channels);
    }
    return to;
}

static void gather_window(const fleet_op_conv_t *op, const int8_t *input, fleet_span_t y, fleet_span_t x, int8_t *to)
{
    const int32_t row_values = (int32_t)op->kernel_w * op->in_c;
    const int32_t pitch = (int32_t)op->in_w * op->in_c;
    if (y.begin > 0) {
        to = fleet_mve_fill(to, op->input_zero_point, y.begin * row_values);
    }
    for (int32_t tap = y.begin; tap < y.end; tap++) {
        to = gather_row(op, input + (y.origin + tap * op->dilation_h) * pitch, x, to);
    }
    if (y.end < op->kernel_h) {
        (void)fleet_mve_fill(to, op->input_zero_point, (op->kernel_h - y.end) * row_values);
    }
}

static const int8_t *column(const job_t *job, int32_t oy, int32_t ox, uint32_t slot)
{
    const fleet_op_conv_t *op = job->op;
    const int8_t *input = job->context->arena + op->input;
    if (job->direct) {
        return input + (oy * op->stride_h * op->in_w + ox * op->stride_w) * (int32_t)op->in_c;
    }
    const fleet_span_t y = fleet_span(oy, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
    const fleet_span_t x = fleet_span(ox, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w);
    int8_t *to = job->columns + slot * job->row_bytes;
    gather_window(op, input, y, x, to);
    return to;
}

static void multiply(const job_t *job, const int8_t *const columns[], int8_t *const outputs[], uint32_t first,
                     uint32_t steps)
{
    const fleet_op_conv_t *op = job->op;
    const fleet_kernel_context_t *context = job->context;
    fleet_mve_conv_t run = {
        .column_0 = columns[0],
        .column_1 = columns[1],
        .column_2 = columns[2],
        .row_bytes = job->row_bytes,
        .biases = context->biases + op->channel + first,
        .multipliers = context->multipliers + op->channel + first,
        .shifts = context->shifts + op->channel + first,
        .output_0 = outputs[0] + first,
        .output_1 = outputs[1] + first,
        .output_2 = outputs[2] + first,
        .steps = steps,
        .zero_point = op->output_zero_point,
        .lefts = job->lefts,
        .weights = (const int8_t *)context->image + op->weights + first * job->row_bytes,
        .low = op->activation_min,
        .high = op->activation_max,
    };
    fleet_mve_conv_channels(&run);
}

static void convolve(const job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const fleet_walk_t walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    int8_t *output = job->context->arena + op->output + walk.offset;
    int32_t left = (int32_t)op->out_h * op->out_w;
    int32_t oy = walk.row;
    int32_t ox = walk.column;
    while (left > 0) {
        const int8_t *columns[FLEET_MVE_PIXELS];
        int8_t *outputs[FLEET_MVE_PIXELS];
        for (uint32_t i = 0; i < FLEET_MVE_PIXELS; i++) {
            if (left > 0) {
                columns[i] = column(job, oy, ox, i);
                outputs[i] = output;
                output += walk.step * (int32_t)op->out_c;
                ox += walk.step;
                if (ox < 0 || ox >= op->out_w) {
                    ox = walk.column;
                    oy += walk.step;
                }
                left--;
            } else { /* the last group is filled up with its first pixel */
                columns[i] = columns[0];
                outputs[i] = outputs[0];
            }
        }
        multiply(job, columns, outputs, 0, op->out_c / FLEET_MVE_CHANNELS);
        if (op->out_c % FLEET_MVE_CHANNELS != 0u) {
            multiply(job, columns, outputs, op->out_c - FLEET_MVE_CHANNELS, 1);
        }
    }
}

static void convolve_on_stack(job_t *job)
{
    int8_t columns[FLEET_MVE_PIXELS * STACK_ROW];
    job->columns = columns;
    convolve(job);
}

/* Every window is one pixel, and no output byte lies in the input. */
static int is_direct(const fleet_op_conv_t *op)
{
    const uint32_t in_end = op->input + (uint32_t)op->in_h * op->in_w * op->in_c;
    const uint32_t out_end = op->output + (uint32_t)op->out_h * op->out_w * op->out_c;
    return op->kernel_h == 1u && op->kernel_w == 1u && op->pad_top == 0u && op->pad_left == 0u &&
           (op->out_h - 1) * op->stride_h < op->in_h && (op->out_w - 1) * op->stride_w < op->in_w &&
           (out_end <= op->input || in_end <= op->output);
}

static int has_scratch(const fleet_op_conv_t *op, uint64_t row)
{
    return op->scratch != FLEET_NO_OFFSET && op->scratch_bytes >= row * FLEET_MVE_PIXELS;
}

void fleet_mve_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    const uint64_t row = (uint64_t)op->kernel_h * op->kernel_w * op->in_c;
    job_t job = {context, op, 0, (uint32_t)row, 0, is_direct(op)};
    if (op->groups != 1u || op->out_c < FLEET_MVE_CHANNELS || !(job.direct || row <= STACK_ROW || has_scratch(op, row))) {
        fleet_conv_2d(context, record);
        return;
    }
    job.lefts = fleet_mve_any_left(context->shifts + op->channel, op->out_c);
    if (!job.direct && row <= STACK_ROW) {
        convolve_on_stack(&job);
    } else {
        job.columns = job.direct ? 0 : context->arena + op->scratch;
        convolve(&job);
    }
}
