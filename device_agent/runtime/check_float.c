/* Structure of the records of float32 operators: compiler/SPEC.md section 9 point 3. The sizes of a record count elements. */
#include "check_float.h"

#define BYTES 4u
#define MAX_POWER 64.0f

static int is_aligned(uint32_t offset)
{
    return offset % BYTES == 0u;
}

static int is_finite(float x)
{
    return x > -0x1p127f * 2.0f && x < 0x1p127f * 2.0f;
}

/* Elements so far in the extent, bytes from here on. False where a tensor is misaligned. */
static int in_bytes(const void *record, fleet_extent_t *extent)
{
    const fleet_op_t *op = record;
    extent->input_bytes *= BYTES;
    extent->output_bytes *= BYTES;
    return is_aligned(op->input) && is_aligned(op->output);
}

static int constant_is_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t rows, uint64_t row_length)
{
    return row_length <= header->image_bytes && rows <= header->image_bytes && is_aligned(offset) &&
           fleet_inside(offset, rows * row_length * BYTES, header->image_bytes);
}

/* fleet_op_conv_f32_t begins with the fields of fleet_op_pool_f32_t. */
static int window_is_legal(const fleet_op_pool_f32_t *op, fleet_extent_t *extent)
{
    extent->input_bytes = (uint64_t)op->in_h * op->in_w * op->in_c;
    extent->output_bytes = (uint64_t)op->out_h * op->out_w * op->out_c;
    return in_bytes(op, extent) && op->kernel_h && op->kernel_w && op->stride_h && op->stride_w && op->dilation_h &&
           op->dilation_w && op->groups && op->activation_min <= op->activation_max;
}

int fleet_check_conv_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_conv_f32_t *op = record;
    if (!window_is_legal(record, extent) || op->in_c % op->groups != 0 || op->out_c % op->groups != 0) {
        return 0;
    }
    const uint64_t row_length = (uint64_t)op->kernel_h * op->kernel_w * ((uint32_t)op->in_c / op->groups) + 1u;
    return (op->code != FLEET_OP_DEPTHWISE_CONV_2D_F32 || op->groups == op->in_c) &&
           constant_is_legal(header, op->weights, op->out_c, row_length);
}

int fleet_check_pool_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_pool_f32_t *op = record;
    (void)header;
    if (!window_is_legal(op, extent) || op->in_c != op->out_c || op->groups != 1u) {
        return 0;
    }
    if (op->code == FLEET_OP_AVERAGE_POOL_2D_F32 && (op->dilation_h != 1u || op->dilation_w != 1u ||
                                                     (uint64_t)op->kernel_h * op->kernel_w > FLEET_MAX_AVERAGE_WINDOW)) {
        return 0;
    }
    return fleet_reaches_input(op->in_h, op->out_h, op->stride_h, op->pad_top, (op->kernel_h - 1) * op->dilation_h + 1) &&
           fleet_reaches_input(op->in_w, op->out_w, op->stride_w, op->pad_left, (op->kernel_w - 1) * op->dilation_w + 1);
}

int fleet_check_fully_connected_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_fully_connected_f32_t *op = record;
    const uint64_t limit = header->arena_bytes;
    if (op->rows > limit || op->in_features > limit || op->out_features > limit) {
        return 0;
    }
    extent->input_bytes = (uint64_t)op->rows * op->in_features;
    extent->output_bytes = (uint64_t)op->rows * op->out_features;
    return in_bytes(op, extent) && op->activation_min <= op->activation_max &&
           constant_is_legal(header, op->weights, op->out_features, (uint64_t)op->in_features + 1u);
}

/* Only an operand that repeats nowhere is read in the order of the output. */
static int may_be_in_place(const fleet_op_binary_f32_t *op, uint32_t input, uint64_t bytes, uint32_t repeats, uint64_t size)
{
    const void *record = op;
    return fleet_disjoint(input, bytes, op->output, size) ||
           (repeats == 0u && fleet_may_overlap(record, input, bytes, size));
}

static int second_is_legal(const fleet_image_header_t *header, const fleet_op_binary_f32_t *op, uint64_t size)
{
    const uint64_t bytes = fleet_walk_elements(op->dims, op->repeats_b, header->arena_bytes) * BYTES;
    if (!is_aligned(op->input_b)) {
        return 0;
    }
    if (op->flags & FLEET_OP_FLAG_CONSTANT_B) {
        return fleet_inside(op->input_b, bytes, header->image_bytes);
    }
    return fleet_inside(op->input_b, bytes, header->arena_bytes) &&
           may_be_in_place(op, op->input_b, bytes, op->repeats_b, size);
}

int fleet_check_binary_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_binary_f32_t *op = record;
    extent->output_bytes = fleet_walk_elements(op->dims, 0, header->arena_bytes);
    extent->input_bytes = fleet_walk_elements(op->dims, op->repeats, header->arena_bytes);
    return in_bytes(op, extent) && extent->output_bytes != 0u && op->repeats < 8u && op->repeats_b < 8u &&
           op->reserved == 0u && op->activation_min <= op->activation_max &&
           may_be_in_place(op, op->input, extent->input_bytes, op->repeats, extent->output_bytes) &&
           second_is_legal(header, op, extent->output_bytes);
}

int fleet_check_softmax_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_softmax_f32_t *op = record;
    if (op->rows > header->arena_bytes || op->columns > header->arena_bytes) {
        return 0;
    }
    extent->input_bytes = (uint64_t)op->rows * op->columns;
    extent->output_bytes = extent->input_bytes;
    return in_bytes(op, extent) && is_finite(op->beta) && op->activation_min <= op->activation_max;
}

int fleet_check_reduce_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_reduce_f32_t *op = record;
    const uint64_t sizes[4] = {1, op->outer, op->count, op->inner};
    extent->input_bytes = fleet_bounded_product(sizes, header->arena_bytes);
    extent->output_bytes = extent->input_bytes == 0u ? 0u : (uint64_t)op->outer * op->inner;
    return in_bytes(op, extent) && is_finite(op->divisor) && (op->divisor < 0.0f || op->divisor > 0.0f) &&
           op->activation_min <= op->activation_max;
}

int fleet_check_prelu_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_prelu_f32_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return in_bytes(op, extent) && op->slope_count != 0u && constant_is_legal(header, op->slopes, op->slope_count, 1u) &&
           op->activation_min <= op->activation_max;
}

static int function_is_legal(const fleet_op_unary_f32_t *op)
{
    if (op->code == FLEET_OP_EXPONENTIAL_F32) {
        return op->function >= FLEET_FUNCTION_EXP && op->function <= FLEET_FUNCTION_POWER;
    }
    if (op->code == FLEET_OP_TRIGONOMETRIC_F32) {
        return op->function == FLEET_FUNCTION_SIN || op->function == FLEET_FUNCTION_COS;
    }
    const int bounded = op->alpha >= 0.0f && op->alpha <= MAX_POWER && (float)(int32_t)op->alpha >= op->alpha;
    return op->function < FLEET_FUNCTION_WHOLE_POWER || (op->function == FLEET_FUNCTION_WHOLE_POWER && bounded);
}

int fleet_check_unary_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_unary_f32_t *op = record;
    (void)header;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return in_bytes(op, extent) && is_finite(op->alpha) && is_finite(op->beta) && function_is_legal(op) &&
           op->activation_min <= op->activation_max;
}
