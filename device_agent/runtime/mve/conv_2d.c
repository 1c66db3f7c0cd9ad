/*
 * CONV_2D, three output pixels and four channels at a time. Windows of the three pixels are read where they lie, if each is one
 * whole pixel of an input that the output does not touch; else they are gathered into columns first: on the stack where they
 * are short, in the op's scratch where the compiler gave one. So nothing of a pixel is read after the first of its group is
 * written, and the order of compiler/SPEC.md section 6 holds.
 */
#include "../window.h"
#include "mve.h"

/* Longest row on the stack; compiler/tinyfleet_compiler/kernel_scratch.py gives scratch above it. */
#define STACK_ROW 96u

typedef struct {
    const fleet_kernel_context_t *context;
    const fleet_op_conv_t *op;
    int8_t *columns;
    int direct;           /* windows are read where they lie */
    int32_t row;          /* of the next pixel, as all below */
    int32_t column;
    int8_t *output;
    int32_t left;         /* pixels */
    fleet_walk_t walk;
    fleet_span_t y;
    int32_t inside_begin; /* columns whose windows lie inside: begin <= column < end */
    int32_t inside_end;
    fleet_mve_conv_t run;
} job_t;

/* `rows` rows of `bytes` bytes, `pitch` bytes apart, one after the other. */
static void copy_rows(int8_t *to, const int8_t *from, int32_t rows, int32_t bytes, int32_t pitch)
{
    const int8_t *source;
    int8_t *target;
    __asm__ volatile("1: mov %[source], %[from]           \n"
                     "   mov %[target], %[to]             \n"
                     "   dlstp.8 lr, %[bytes]             \n"
                     "2: vldrb.8 q0, [%[source]], #16     \n"
                     "   vstrb.8 q0, [%[target]], #16     \n"
                     "   letp lr, 2b                      \n"
                     "   add %[from], %[from], %[pitch]   \n"
                     "   add %[to], %[to], %[bytes]       \n"
                     "   subs %[rows], %[rows], #1        \n"
                     "   bne 1b                           \n"
                     : [to] "+r"(to), [from] "+r"(from), [rows] "+r"(rows), [source] "=&r"(source), [target] "=&r"(target)
                     : [bytes] "r"(bytes), [pitch] "r"(pitch)
                     : "lr", "q0", "memory", "cc");
}

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

static const int8_t *find_column(const job_t *job, int8_t *to)
{
    const fleet_op_conv_t *op = job->op;
    const int8_t *input = job->context->arena + op->input;
    const int32_t pitch = (int32_t)op->in_w * op->in_c;
    const int32_t left = job->column * op->stride_w - op->pad_left;
    const int8_t *first = input + job->y.origin * pitch + left * (int32_t)op->in_c;
    if (job->direct) {
        return first;
    }
    if (job->column >= job->inside_begin && job->column < job->inside_end && job->y.begin == 0 &&
        job->y.end == op->kernel_h) {
        copy_rows(to, first, op->kernel_h, (int32_t)op->kernel_w * op->in_c, op->dilation_h * pitch);
    } else {
        gather_window(op, input, job->y,
                      fleet_span(job->column, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w), to);
    }
    return to;
}

static void enter_row(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    job->y = fleet_span(job->row, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h);
}

static void step_pixel(job_t *job)
{
    job->left--;
    job->output += job->walk.step * (int32_t)job->op->out_c;
    job->column += job->walk.step;
    if (job->column < 0 || job->column >= job->op->out_w) {
        job->column = job->walk.column;
        job->row += job->walk.step;
        enter_row(job);
    }
}

static void skip_pixels(job_t *job, int32_t count)
{
    const fleet_op_conv_t *op = job->op;
    job->left -= count;
    job->output += job->walk.step * count * (int32_t)op->out_c;
    job->row += job->walk.step * (count / op->out_w);
    job->column += job->walk.step * (count % op->out_w);
}

/* Channels `first` on of the kernel's next groups of pixels. */
static void start(job_t *job, uint32_t first, uint32_t steps)
{
    const fleet_op_conv_t *op = job->op;
    const uint32_t entry = op->channel + first;
    fleet_mve_channels_t *channels = &job->run.start;
    job->run.weights = (const int8_t *)job->context->image + op->weights + first * job->run.row_bytes;
    channels->biases = job->context->biases + entry;
    channels->multipliers = job->context->multipliers + entry;
    channels->shifts = job->context->shifts + entry;
    channels->steps = steps;
}

/* The last channels where they are no multiple of four: four again, some of them for the second time. */
static void multiply_rest(job_t *job, int8_t *const outputs[])
{
    const uint32_t first = job->op->out_c - FLEET_MVE_CHANNELS;
    start(job, first, 1);
    for (uint32_t i = 0; i < FLEET_MVE_PIXELS; i++) {
        job->run.start.outputs[i] = outputs[i] + first;
    }
    job->run.groups = 1;
    fleet_mve_conv_channels(&job->run);
    start(job, 0, job->op->out_c / FLEET_MVE_CHANNELS);
}

/* Three pixels; the last ones are filled up with the group's first. */
static void convolve_group(job_t *job)
{
    const int8_t *columns[FLEET_MVE_PIXELS];
    int8_t *outputs[FLEET_MVE_PIXELS];
    for (uint32_t i = 0; i < FLEET_MVE_PIXELS; i++) {
        if (job->left > 0) {
            columns[i] = find_column(job, job->columns + i * job->run.row_bytes);
            outputs[i] = job->output;
            step_pixel(job);
        } else {
            columns[i] = columns[0];
            outputs[i] = outputs[0];
        }
        job->run.start.outputs[i] = outputs[i];
    }
    job->run.column_0 = columns[0];
    job->run.column_1 = columns[1];
    job->run.column_2 = columns[2];
    job->run.groups = 1;
    fleet_mve_conv_channels(&job->run);
    if (job->op->out_c % FLEET_MVE_CHANNELS != 0u) {
        multiply_rest(job, outputs);
    }
}

/* Windows that are the input's pixels one after the other, three at a time from the walk's first pixel on. */
static void convolve_plane(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t bytes = (int32_t)FLEET_MVE_PIXELS * op->in_c;
    const int32_t groups = job->left / (int32_t)FLEET_MVE_PIXELS;
    const int32_t first = job->walk.step > 0 ? 0 : job->left - (int32_t)FLEET_MVE_PIXELS;
    const int8_t *input = job->context->arena + op->input + first * (int32_t)op->in_c;
    const int8_t *columns = job->direct ? input : job->columns;
    int8_t *output = job->context->arena + op->output + first * (int32_t)op->out_c;
    fleet_mve_conv_t *run = &job->run;
    run->column_0 = columns;
    run->column_1 = columns + op->in_c;
    run->column_2 = columns + 2 * op->in_c;
    run->start.outputs[0] = output;
    run->start.outputs[1] = output + op->out_c;
    run->start.outputs[2] = output + 2 * op->out_c;
    run->output_move = job->walk.step * (int32_t)FLEET_MVE_PIXELS * op->out_c;
    if (job->direct) {
        run->groups = (uint32_t)groups;
        run->column_move = job->walk.step * bytes;
        fleet_mve_conv_channels(run);
    } else {
        for (int32_t group = 0; group < groups; group++) {
            copy_rows(job->columns, input, 1, bytes, 0);
            input += job->walk.step * bytes;
            run->groups = 1;
            fleet_mve_conv_channels(run);
        }
    }
    skip_pixels(job, groups * (int32_t)FLEET_MVE_PIXELS);
}

/* One tap, on each pixel of the input. */
static int is_plane(const fleet_op_conv_t *op)
{
    return op->kernel_h == 1u && op->kernel_w == 1u && op->pad_top == 0u && op->pad_left == 0u && op->stride_h == 1u &&
           op->stride_w == 1u && op->out_w == op->in_w && op->out_h <= op->in_h;
}

static void convolve(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    job->run.column_move = 0;
    job->run.output_move = 0;
    if (is_plane(op) && op->out_c % FLEET_MVE_CHANNELS == 0u && job->left >= (int32_t)FLEET_MVE_PIXELS) {
        convolve_plane(job);
    }
    enter_row(job);
    while (job->left > 0) {
        convolve_group(job);
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

static void find_inside(job_t *job)
{
    const fleet_op_conv_t *op = job->op;
    const int32_t last = op->in_w - 1 - (op->kernel_w - 1) * op->dilation_w + op->pad_left;
    job->inside_begin = fleet_divide_up(op->pad_left, op->stride_w);
    job->inside_end = op->dilation_w != 1u || last < 0 ? 0 : last / op->stride_w + 1;
}

static void prepare(job_t *job, uint32_t row_bytes)
{
    const fleet_op_conv_t *op = job->op;
    fleet_mve_conv_t *run = &job->run;
    run->zero_a[0] = run->zero_a[1] = run->zero_a[2] = run->zero_b = run->zero_c = run->zero_d = 0;
    run->row_bytes = row_bytes;
    run->low = op->activation_min;
    run->high = op->activation_max;
    run->start.zero_point = op->output_zero_point;
    run->start.lefts = fleet_mve_any_left(job->context->shifts + op->channel, op->out_c);
    start(job, 0, op->out_c / FLEET_MVE_CHANNELS);
    job->walk = fleet_walk(op->flags, op->out_h, op->out_w, op->out_c);
    job->row = job->walk.row;
    job->column = job->walk.column;
    job->output = job->context->arena + op->output + job->walk.offset;
    job->left = (int32_t)op->out_h * op->out_w;
    find_inside(job);
}

void fleet_mve_conv_2d(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_conv_t *op = record;
    const uint64_t row = (uint64_t)op->kernel_h * op->kernel_w * op->in_c;
    job_t job;
    job.context = context;
    job.op = op;
    job.direct = is_direct(op);
    if (op->groups != 1u || op->out_c < FLEET_MVE_CHANNELS || !(job.direct || row <= STACK_ROW || has_scratch(op, row))) {
        fleet_conv_2d(context, record);
        return;
    }
    prepare(&job, (uint32_t)row);
    if (!job.direct && row <= STACK_ROW) {
        convolve_on_stack(&job);
    } else {
        job.columns = job.direct ? context->arena : context->arena + op->scratch;
        convolve(&job);
    }
}
