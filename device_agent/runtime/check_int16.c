/* Checks of the records of operators on int16 tensors, for the table in check_op.c. Extents are bytes. */
#include "check_int16.h"
#include "check_elementwise.h"

#define MOST_SUMMED (1u << 15) /* sums of so many int16 values stay inside int32 */
#define MOST_COLUMNS 4096u
#define MOST_RIGHT_SHIFT 31u

/* Whole int16 elements in the arena. */
static int is_wide(const fleet_op_t *op)
{
    return op->input % 2u == 0u && op->output % 2u == 0u;
}

static void extend(fleet_extent_t *extent, uint64_t input_elements, uint64_t output_elements)
{
    extent->input_bytes = 2u * input_elements;
    extent->output_bytes = 2u * output_elements;
}

static int biases_are_legal(const fleet_image_header_t *header, uint32_t high, uint64_t channels)
{
    return high == FLEET_NO_OFFSET ||
           (high % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(high, 2u * channels, header->image_bytes));
}

/* fleet_op_conv_int16_t begins with the fields of fleet_op_pool_int16_t. */
static int window_is_legal(const fleet_op_pool_int16_t *op, fleet_extent_t *extent)
{
    extend(extent, (uint64_t)op->in_h * op->in_w * op->in_c, (uint64_t)op->out_h * op->out_w * op->out_c);
    return is_wide((const void *)op) && op->kernel_h && op->kernel_w && op->stride_h && op->stride_w && op->dilation_h &&
           op->dilation_w && op->groups && op->activation_min <= op->activation_max;
}

int fleet_check_conv_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_conv_int16_t *op = record;
    if (!window_is_legal(record, extent) || op->in_c % op->groups != 0 || op->out_c % op->groups != 0) {
        return 0;
    }
    const uint64_t row_length = (uint64_t)op->kernel_h * op->kernel_w * ((uint32_t)op->in_c / op->groups);
    return (op->code != FLEET_OP_DEPTHWISE_CONV_2D_INT16 || op->groups == op->in_c) &&
           fleet_weights_are_legal(header, op->weights, op->out_c, row_length, op->channel) &&
           biases_are_legal(header, op->biases_high, op->out_c);
}

int fleet_check_fully_connected_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_fully_connected_int16_t *op = record;
    extend(extent, (uint64_t)op->rows * op->in_features, (uint64_t)op->rows * op->out_features);
    return is_wide(record) && op->activation_min <= op->activation_max &&
           fleet_weights_are_legal(header, op->weights, op->out_features, op->in_features, op->channel) &&
           biases_are_legal(header, op->biases_high, op->out_features);
}

int fleet_check_pool_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_pool_int16_t *op = record;
    (void)header;
    if (!window_is_legal(op, extent) || op->in_c != op->out_c || op->groups != 1u) {
        return 0;
    }
    if (op->code == FLEET_OP_AVERAGE_POOL_2D_INT16 && (op->dilation_h != 1u || op->dilation_w != 1u ||
                                                       (uint64_t)op->kernel_h * op->kernel_w > MOST_SUMMED)) {
        return 0;
    }
    return fleet_reaches_input(op->in_h, op->out_h, op->stride_h, op->pad_top, (op->kernel_h - 1) * op->dilation_h + 1) &&
           fleet_reaches_input(op->in_w, op->out_w, op->stride_w, op->pad_left, (op->kernel_w - 1) * op->dilation_w + 1);
}

static int operand_is_legal(const fleet_op_binary_int16_t *op, uint32_t input, uint64_t bytes, uint32_t repeats, uint64_t size)
{
    return fleet_disjoint(input, bytes, op->output, size) ||
           (repeats == 0u && fleet_may_overlap((const void *)op, input, bytes, size));
}

static int second_is_legal(const fleet_image_header_t *header, const fleet_op_binary_int16_t *op, uint64_t size)
{
    const uint64_t bytes = 2u * fleet_walk_elements(op->dims, op->repeats_b, header->arena_bytes);
    if (op->input_b % 2u != 0u) {
        return 0;
    }
    if (op->flags & FLEET_OP_FLAG_CONSTANT_B) {
        return fleet_inside(op->input_b, bytes, header->image_bytes);
    }
    return fleet_inside(op->input_b, bytes, header->arena_bytes) &&
           operand_is_legal(op, op->input_b, bytes, op->repeats_b, size);
}

int fleet_check_binary_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_binary_int16_t *op = record;
    extend(extent, fleet_walk_elements(op->dims, op->repeats, header->arena_bytes),
           fleet_walk_elements(op->dims, 0, header->arena_bytes));
    return is_wide(record) && extent->output_bytes != 0u && op->repeats < 8u && op->repeats_b < 8u && op->reserved == 0u &&
           operand_is_legal(op, op->input, extent->input_bytes, op->repeats, extent->output_bytes) &&
           second_is_legal(header, op, extent->output_bytes) && op->activation_min <= op->activation_max &&
           fleet_multiplier_is_legal(op->input_multiplier, op->input_shift) &&
           fleet_multiplier_is_legal(op->input_b_multiplier, op->input_b_shift) &&
           fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}

int fleet_check_softmax_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_softmax_int16_t *op = record;
    (void)header;
    extend(extent, (uint64_t)op->rows * op->columns, (uint64_t)op->rows * op->columns);
    return is_wide(record) && op->columns <= MOST_COLUMNS && fleet_multiplier_is_legal(op->multiplier, op->shift);
}

int fleet_check_sigmoid_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_sigmoid_int16_t *op = record;
    (void)header;
    extend(extent, op->size, op->size);
    return is_wide(record) && op->right_shift <= MOST_RIGHT_SHIFT && op->multiplier <= INT16_MAX;
}

int fleet_check_leaky_relu_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_leaky_relu_int16_t *op = record;
    (void)header;
    extend(extent, op->size, op->size);
    return is_wide(record) && op->activation_min <= op->activation_max &&
           fleet_multiplier_is_legal(op->multiplier, op->shift) &&
           fleet_multiplier_is_legal(op->slope_multiplier, op->slope_shift);
}

int fleet_check_lut_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_lut_int16_t *op = record;
    extend(extent, op->size, op->size);
    return is_wide(record) && op->table % 2u == 0u && op->activation_min <= op->activation_max &&
           fleet_inside(op->table, 2u * FLEET_LUT_INT16_ENTRIES, header->image_bytes);
}

static int element_is_legal(uint16_t element, uint32_t offset)
{
    return element == FLEET_ELEMENT_INT8 || (element == FLEET_ELEMENT_INT16 && offset % 2u == 0u);
}

int fleet_check_rescale_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_rescale_int16_t *op = record;
    (void)header;
    extent->input_bytes = (uint64_t)op->size * (op->input_element == FLEET_ELEMENT_INT16 ? 2u : 1u);
    extent->output_bytes = (uint64_t)op->size * (op->output_element == FLEET_ELEMENT_INT16 ? 2u : 1u);
    return element_is_legal(op->input_element, op->input) && element_is_legal(op->output_element, op->output) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift);
}

int fleet_check_reduce_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_reduce_int16_t *op = record;
    const uint64_t results = (uint64_t)op->outer * op->inner;
    const uint64_t most = header->arena_bytes;
    const int fits = results <= most && op->count <= most && results * op->count <= most;
    extend(extent, fits ? results * op->count : 0u, fits ? results : 0u);
    return is_wide(record) && fits && op->count != 0u && (op->code != FLEET_OP_REDUCE_SUM_INT16 || op->count <= MOST_SUMMED) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift);
}
