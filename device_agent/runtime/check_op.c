/*
 * Structure of one op record: compiler/SPEC.md section 9 point 3. What is checked here is what the kernels rely on: every
 * byte they read or write, every divisor, every shift. Sizes are computed in 64 bits and compared before they are used.
 */
#include "fleet_config.h"

#include "check_elementwise.h"
#include "check_features.h"
#include "check_int16.h"
#include "check_float.h"
#include "check_moves.h"
#include "check_products.h"
#include "check_state.h"

#define SWAPPABLE (FLEET_OP_FLAG_CONSTANT_B | FLEET_OP_FLAG_SWAPPED)
#define MAX_SOFTMAX_COLUMNS 4096u     /* sum of exponentials stays inside 32 bits */

int fleet_may_overlap(const fleet_op_t *op, uint32_t input, uint64_t input_bytes, uint64_t output_bytes)
{
    const int reversed = (op->flags & FLEET_OP_FLAG_REVERSED) != 0u;
    /* Wraps only for tensors outside the arena, which are refused anyway. */
    const int32_t distance = (int32_t)(reversed ? op->output - input : input - op->output);
    return fleet_disjoint(input, input_bytes, op->output, output_bytes) || distance >= op->overlap_bytes;
}

static int scratch_is_legal(const fleet_image_header_t *header, const fleet_op_t *op, const fleet_extent_t *extent)
{
    if (op->scratch == FLEET_NO_OFFSET) {
        return op->scratch_bytes == 0u;
    }
    return fleet_inside(op->scratch, op->scratch_bytes, header->arena_bytes) &&
           fleet_disjoint(op->scratch, op->scratch_bytes, op->input, extent->input_bytes) &&
           fleet_disjoint(op->scratch, op->scratch_bytes, op->output, extent->output_bytes);
}

static int tensors_are_legal(const fleet_image_header_t *header, const fleet_op_t *op, const fleet_extent_t *extent)
{
    return extent->input_bytes != 0u && extent->output_bytes != 0u &&
           fleet_inside(op->input, extent->input_bytes, header->arena_bytes) &&
           fleet_inside(op->output, extent->output_bytes, header->arena_bytes) &&
           fleet_may_overlap(op, op->input, extent->input_bytes, extent->output_bytes) &&
           scratch_is_legal(header, op, extent);
}

int fleet_weights_are_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t rows, uint64_t row_bytes,
                            uint32_t channel)
{
    return row_bytes <= header->image_bytes && offset % FLEET_IMAGE_SECTION_ALIGN == 0u &&
           fleet_inside(offset, rows * row_bytes, header->image_bytes) &&
           fleet_inside(channel, rows, header->channel_count);
}

static uint64_t row_bytes(uint16_t code, uint64_t length)
{
    const int halves = code == FLEET_OP_CONV_2D_INT4 || code == FLEET_OP_DEPTHWISE_CONV_2D_INT4 ||
                       code == FLEET_OP_FULLY_CONNECTED_INT4;
    return halves ? (length + 1u) / 2u : length;
}

/* fleet_op_conv_t begins with the fields of fleet_op_pool_t. */
static int window_is_legal(const fleet_op_pool_t *op, fleet_extent_t *extent)
{
    extent->input_bytes = (uint64_t)op->in_h * op->in_w * op->in_c;
    extent->output_bytes = (uint64_t)op->out_h * op->out_w * op->out_c;
    return op->kernel_h && op->kernel_w && op->stride_h && op->stride_w && op->dilation_h && op->dilation_w &&
           op->groups && op->activation_min <= op->activation_max;
}

static int check_conv(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_conv_t *op = record;
    if (!window_is_legal(record, extent) || op->in_c % op->groups != 0 || op->out_c % op->groups != 0) {
        return 0;
    }
    const uint64_t row_length = (uint64_t)op->kernel_h * op->kernel_w * ((uint32_t)op->in_c / op->groups);
    const int depthwise = op->code == FLEET_OP_DEPTHWISE_CONV_2D || op->code == FLEET_OP_DEPTHWISE_CONV_2D_INT4;
    return (!depthwise || op->groups == op->in_c) &&
           fleet_weights_are_legal(header, op->weights, op->out_c, row_bytes(op->code, row_length), op->channel);
}

static int check_pool(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_pool_t *op = record;
    (void)header;
    if (!window_is_legal(op, extent) || op->in_c != op->out_c || op->groups != 1u) {
        return 0;
    }
    if (op->code == FLEET_OP_AVERAGE_POOL_2D && (op->dilation_h != 1u || op->dilation_w != 1u ||
                                                 (uint64_t)op->kernel_h * op->kernel_w > FLEET_MAX_AVERAGE_WINDOW)) {
        return 0;
    }
    return fleet_reaches_input(op->in_h, op->out_h, op->stride_h, op->pad_top, (op->kernel_h - 1) * op->dilation_h + 1) &&
           fleet_reaches_input(op->in_w, op->out_w, op->stride_w, op->pad_left, (op->kernel_w - 1) * op->dilation_w + 1);
}

static int check_fully_connected(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_fully_connected_t *op = record;
    extent->input_bytes = (uint64_t)op->rows * op->in_features;
    extent->output_bytes = (uint64_t)op->rows * op->out_features;
    return op->activation_min <= op->activation_max &&
           fleet_weights_are_legal(header, op->weights, op->out_features, row_bytes(op->code, op->in_features), op->channel);
}

static int second_operand_is_legal(const fleet_image_header_t *header, const fleet_op_add_t *op)
{
    if (op->flags & FLEET_OP_FLAG_CONSTANT_B) {
        return fleet_inside(op->input_b, op->size_b, header->image_bytes);
    }
    const int in_place = op->size_b == op->size && fleet_may_overlap((const void *)op, op->input_b, op->size_b, op->size);
    return fleet_inside(op->input_b, op->size_b, header->arena_bytes) &&
           (in_place || fleet_disjoint(op->input_b, op->size_b, op->output, op->size));
}

static int check_add(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_add_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return op->size_b != 0u && op->activation_min <= op->activation_max && second_operand_is_legal(header, op) &&
           fleet_multiplier_is_legal(op->input_multiplier, op->input_shift) &&
           fleet_multiplier_is_legal(op->input_b_multiplier, op->input_b_shift) &&
           fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}

static int check_softmax(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_softmax_t *op = record;
    (void)header;
    extent->input_bytes = (uint64_t)op->rows * op->columns;
    extent->output_bytes = extent->input_bytes;
    return op->columns <= MAX_SOFTMAX_COLUMNS && op->multiplier >= 0 && op->left_shift >= 0 && op->left_shift <= 31 &&
           op->diff_min <= 0;
}

/* fleet_op_log_softmax_t begins with the fields of fleet_op_softmax_t. */
static int check_log_softmax(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_log_softmax_t *op = record;
    return check_softmax(header, record, extent) && op->activation_min <= op->activation_max &&
           fleet_multiplier_is_legal(op->reverse_multiplier, op->reverse_shift);
}

static int check_rescale(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_rescale_t *op = record;
    (void)header;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift);
}

static int check_transpose(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_transpose_t *op = record;
    uint64_t size = 1;
    uint64_t last = 0;
    for (int axis = 0; axis < 4; axis++) {
        size *= op->dims[axis];
        if (size == 0u || size > header->arena_bytes || op->strides[axis] > header->arena_bytes) {
            return 0;
        }
        last += (uint64_t)(op->dims[axis] - 1u) * op->strides[axis];
    }
    extent->input_bytes = size;
    extent->output_bytes = size;
    return last < size;
}

typedef struct {
    uint16_t record_bytes;
    uint16_t flags; /* legal ones */
    int (*check)(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
} rule_t;

static const rule_t rules[FLEET_OP_LAST + 1u] = {
    [FLEET_OP_CONV_2D] = {sizeof(fleet_op_conv_t), FLEET_OP_FLAG_REVERSED, check_conv},
    [FLEET_OP_DEPTHWISE_CONV_2D] = {sizeof(fleet_op_conv_t), FLEET_OP_FLAG_REVERSED, check_conv},
    [FLEET_OP_FULLY_CONNECTED] = {sizeof(fleet_op_fully_connected_t), 0, check_fully_connected},
    [FLEET_OP_ADD] = {sizeof(fleet_op_add_t), FLEET_OP_FLAG_CONSTANT_B, check_add},
    [FLEET_OP_MAX_POOL_2D] = {sizeof(fleet_op_pool_t), 0, check_pool},
    [FLEET_OP_AVERAGE_POOL_2D] = {sizeof(fleet_op_pool_t), FLEET_OP_FLAG_COUNT_INCLUDE_PAD, check_pool},
    [FLEET_OP_SOFTMAX] = {sizeof(fleet_op_softmax_t), 0, check_softmax},
    [FLEET_OP_RESCALE] = {sizeof(fleet_op_rescale_t), 0, check_rescale},
    [FLEET_OP_TRANSPOSE] = {sizeof(fleet_op_transpose_t), 0, check_transpose},
    [FLEET_OP_PAD] = {sizeof(fleet_op_pad_t), 0, fleet_check_pad},
    [FLEET_OP_CONCAT] = {sizeof(fleet_op_concat_t), SWAPPABLE, fleet_check_concat},
    [FLEET_OP_STRIDED_COPY] = {sizeof(fleet_op_strided_copy_t), 0, fleet_check_strided_copy},
    [FLEET_OP_GATHER] = {sizeof(fleet_op_resample_t), FLEET_OP_FLAG_SAME_ROWS, fleet_check_gather},
    [FLEET_OP_RESIZE_BILINEAR] = {sizeof(fleet_op_resample_t), 0, fleet_check_resize_bilinear},
    [FLEET_OP_TRANSPOSE_CONV_2D] = {sizeof(fleet_op_conv_t), 0, check_conv},
    [FLEET_OP_LUT_INT8] = {sizeof(fleet_op_lut_t), 0, fleet_check_lut},
    [FLEET_OP_PRELU] = {sizeof(fleet_op_prelu_t), 0, fleet_check_prelu},
    [FLEET_OP_ADD_BROADCAST] = {sizeof(fleet_op_binary_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary},
    [FLEET_OP_SUB] = {sizeof(fleet_op_binary_t), SWAPPABLE, fleet_check_binary},
    [FLEET_OP_MUL] = {sizeof(fleet_op_binary_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary},
    [FLEET_OP_DIV] = {sizeof(fleet_op_binary_t), SWAPPABLE, fleet_check_binary},
    [FLEET_OP_MINIMUM] = {sizeof(fleet_op_binary_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary},
    [FLEET_OP_MAXIMUM] = {sizeof(fleet_op_binary_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary},
    [FLEET_OP_REDUCE_SUM] = {sizeof(fleet_op_reduce_t), 0, fleet_check_reduce},
    [FLEET_OP_REDUCE_MAX] = {sizeof(fleet_op_reduce_t), 0, fleet_check_reduce},
    [FLEET_OP_REDUCE_MIN] = {sizeof(fleet_op_reduce_t), 0, fleet_check_reduce},
    [FLEET_OP_LOG_SOFTMAX] = {sizeof(fleet_op_log_softmax_t), 0, check_log_softmax},
    [FLEET_OP_ARG_MAX] = {sizeof(fleet_op_reduce_t), 0, fleet_check_reduce},
#if FLEET_WITH_RECURRENT
    [FLEET_OP_STATE_READ] = {sizeof(fleet_op_state_t), 0, fleet_check_state},
    [FLEET_OP_STATE_WRITE] = {sizeof(fleet_op_state_t), 0, fleet_check_state},
    [FLEET_OP_SVDF] = {sizeof(fleet_op_svdf_t), 0, fleet_check_svdf},
    [FLEET_OP_LSTM] = {sizeof(fleet_op_gated_t), FLEET_OP_FLAG_GIVEN_START, fleet_check_gates},
    [FLEET_OP_GRU] = {sizeof(fleet_op_gated_t), FLEET_OP_FLAG_GIVEN_START | FLEET_OP_FLAG_RESET_FIRST, fleet_check_gates},
#endif
#if FLEET_WITH_FRONT_END
    [FLEET_OP_FEATURES] = {sizeof(fleet_op_features_t), 0, fleet_check_features},
#endif
    [FLEET_OP_BATCH_MATMUL] = {sizeof(fleet_op_matmul_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_matmul},
    [FLEET_OP_L2_NORMALIZE] = {sizeof(fleet_op_l2_normalize_t), 0, fleet_check_l2_normalize},
    [FLEET_OP_TOP_K] = {sizeof(fleet_op_top_k_t), 0, fleet_check_top_k},
    [FLEET_OP_TOP_K_INDICES] = {sizeof(fleet_op_top_k_t), 0, fleet_check_top_k},
    [FLEET_OP_NORMALIZE] = {sizeof(fleet_op_normalize_t), 0, fleet_check_normalize},
    [FLEET_OP_ARG_MIN] = {sizeof(fleet_op_reduce_t), 0, fleet_check_reduce},
    [FLEET_OP_SQUARED_DIFFERENCE] = {sizeof(fleet_op_binary_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary},
#if FLEET_WITH_INT16
    [FLEET_OP_CONV_2D_INT16] = {sizeof(fleet_op_conv_int16_t), FLEET_OP_FLAG_REVERSED, fleet_check_conv_int16},
    [FLEET_OP_DEPTHWISE_CONV_2D_INT16] = {sizeof(fleet_op_conv_int16_t), FLEET_OP_FLAG_REVERSED, fleet_check_conv_int16},
    [FLEET_OP_FULLY_CONNECTED_INT16] = {sizeof(fleet_op_fully_connected_int16_t), 0, fleet_check_fully_connected_int16},
    [FLEET_OP_TRANSPOSE_CONV_2D_INT16] = {sizeof(fleet_op_conv_int16_t), 0, fleet_check_conv_int16},
    [FLEET_OP_ADD_INT16] = {sizeof(fleet_op_binary_int16_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_int16},
    [FLEET_OP_SUB_INT16] = {sizeof(fleet_op_binary_int16_t), FLEET_OP_FLAG_CONSTANT_B | FLEET_OP_FLAG_SWAPPED,
                            fleet_check_binary_int16},
    [FLEET_OP_MUL_INT16] = {sizeof(fleet_op_binary_int16_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_int16},
    [FLEET_OP_MINIMUM_INT16] = {sizeof(fleet_op_binary_int16_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_int16},
    [FLEET_OP_MAXIMUM_INT16] = {sizeof(fleet_op_binary_int16_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_int16},
    [FLEET_OP_MAX_POOL_2D_INT16] = {sizeof(fleet_op_pool_int16_t), 0, fleet_check_pool_int16},
    [FLEET_OP_AVERAGE_POOL_2D_INT16] = {sizeof(fleet_op_pool_int16_t), FLEET_OP_FLAG_COUNT_INCLUDE_PAD,
                                        fleet_check_pool_int16},
    [FLEET_OP_SOFTMAX_INT16] = {sizeof(fleet_op_softmax_int16_t), 0, fleet_check_softmax_int16},
    [FLEET_OP_LOGISTIC_INT16] = {sizeof(fleet_op_sigmoid_int16_t), 0, fleet_check_sigmoid_int16},
    [FLEET_OP_TANH_INT16] = {sizeof(fleet_op_sigmoid_int16_t), 0, fleet_check_sigmoid_int16},
    [FLEET_OP_LEAKY_RELU_INT16] = {sizeof(fleet_op_leaky_relu_int16_t), 0, fleet_check_leaky_relu_int16},
    [FLEET_OP_LUT_INT16] = {sizeof(fleet_op_lut_int16_t), 0, fleet_check_lut_int16},
    [FLEET_OP_RESCALE_INT16] = {sizeof(fleet_op_rescale_int16_t), 0, fleet_check_rescale_int16},
    [FLEET_OP_REDUCE_SUM_INT16] = {sizeof(fleet_op_reduce_int16_t), 0, fleet_check_reduce_int16},
    [FLEET_OP_REDUCE_MAX_INT16] = {sizeof(fleet_op_reduce_int16_t), 0, fleet_check_reduce_int16},
    [FLEET_OP_REDUCE_MIN_INT16] = {sizeof(fleet_op_reduce_int16_t), 0, fleet_check_reduce_int16},
#endif
#if FLEET_WITH_INT4
    [FLEET_OP_CONV_2D_INT4] = {sizeof(fleet_op_conv_t), FLEET_OP_FLAG_REVERSED, check_conv},
    [FLEET_OP_DEPTHWISE_CONV_2D_INT4] = {sizeof(fleet_op_conv_t), FLEET_OP_FLAG_REVERSED, check_conv},
    [FLEET_OP_FULLY_CONNECTED_INT4] = {sizeof(fleet_op_fully_connected_t), 0, check_fully_connected},
#endif
#if FLEET_WITH_FLOAT32
    [FLEET_OP_CONV_2D_F32] = {sizeof(fleet_op_conv_f32_t), FLEET_OP_FLAG_REVERSED, fleet_check_conv_f32},
    [FLEET_OP_DEPTHWISE_CONV_2D_F32] = {sizeof(fleet_op_conv_f32_t), FLEET_OP_FLAG_REVERSED, fleet_check_conv_f32},
    [FLEET_OP_TRANSPOSE_CONV_2D_F32] = {sizeof(fleet_op_conv_f32_t), 0, fleet_check_conv_f32},
    [FLEET_OP_FULLY_CONNECTED_F32] = {sizeof(fleet_op_fully_connected_f32_t), 0, fleet_check_fully_connected_f32},
    [FLEET_OP_ADD_F32] = {sizeof(fleet_op_binary_f32_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_f32},
    [FLEET_OP_MUL_F32] = {sizeof(fleet_op_binary_f32_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_f32},
    [FLEET_OP_MINIMUM_F32] = {sizeof(fleet_op_binary_f32_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_f32},
    [FLEET_OP_MAXIMUM_F32] = {sizeof(fleet_op_binary_f32_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_binary_f32},
    [FLEET_OP_SUB_F32] = {sizeof(fleet_op_binary_f32_t), SWAPPABLE, fleet_check_binary_f32},
    [FLEET_OP_DIV_F32] = {sizeof(fleet_op_binary_f32_t), SWAPPABLE, fleet_check_binary_f32},
    [FLEET_OP_MAX_POOL_2D_F32] = {sizeof(fleet_op_pool_f32_t), 0, fleet_check_pool_f32},
    [FLEET_OP_AVERAGE_POOL_2D_F32] = {sizeof(fleet_op_pool_f32_t), FLEET_OP_FLAG_COUNT_INCLUDE_PAD, fleet_check_pool_f32},
    [FLEET_OP_SOFTMAX_F32] = {sizeof(fleet_op_softmax_f32_t), 0, fleet_check_softmax_f32},
    [FLEET_OP_LOG_SOFTMAX_F32] = {sizeof(fleet_op_softmax_f32_t), 0, fleet_check_softmax_f32},
    [FLEET_OP_REDUCE_SUM_F32] = {sizeof(fleet_op_reduce_f32_t), 0, fleet_check_reduce_f32},
    [FLEET_OP_REDUCE_MAX_F32] = {sizeof(fleet_op_reduce_f32_t), 0, fleet_check_reduce_f32},
    [FLEET_OP_REDUCE_MIN_F32] = {sizeof(fleet_op_reduce_f32_t), 0, fleet_check_reduce_f32},
    [FLEET_OP_ARG_MAX_F32] = {sizeof(fleet_op_reduce_f32_t), 0, fleet_check_reduce_f32},
    [FLEET_OP_RESIZE_BILINEAR_F32] = {sizeof(fleet_op_resize_f32_t), 0, fleet_check_resize_f32},
    [FLEET_OP_BATCH_MATMUL_F32] = {sizeof(fleet_op_matmul_f32_t), FLEET_OP_FLAG_CONSTANT_B, fleet_check_matmul_f32},
    [FLEET_OP_TOP_K_F32] = {sizeof(fleet_op_top_k_f32_t), 0, fleet_check_top_k_f32},
    [FLEET_OP_TOP_K_INDICES_F32] = {sizeof(fleet_op_top_k_f32_t), 0, fleet_check_top_k_f32},
    [FLEET_OP_LSTM_F32] = {sizeof(fleet_op_gated_f32_t), FLEET_OP_FLAG_GIVEN_START, fleet_check_gates_f32},
    [FLEET_OP_GRU_F32] = {sizeof(fleet_op_gated_f32_t), FLEET_OP_FLAG_GIVEN_START | FLEET_OP_FLAG_RESET_FIRST, fleet_check_gates_f32},
    [FLEET_OP_PAD_F32] = {sizeof(fleet_op_pad_f32_t), 0, fleet_check_pad_f32},
    [FLEET_OP_STRIDED_COPY_F32] = {sizeof(fleet_op_strided_copy_f32_t), 0, fleet_check_strided_copy_f32},
    [FLEET_OP_PRELU_F32] = {sizeof(fleet_op_prelu_f32_t), 0, fleet_check_prelu_f32},
    [FLEET_OP_UNARY_F32] = {sizeof(fleet_op_unary_f32_t), 0, fleet_check_unary_f32},
    [FLEET_OP_EXPONENTIAL_F32] = {sizeof(fleet_op_unary_f32_t), 0, fleet_check_unary_f32},
    [FLEET_OP_TRIGONOMETRIC_F32] = {sizeof(fleet_op_unary_f32_t), 0, fleet_check_unary_f32},
    [FLEET_OP_DEQUANTIZE] = {sizeof(fleet_op_quantize_t), 0, fleet_check_quantize},
    [FLEET_OP_QUANTIZE] = {sizeof(fleet_op_quantize_t), 0, fleet_check_quantize},
#endif
};

/* Float kernels rely on arithmetic that keeps subnormal numbers and rounds every product. */
static int core_is_fit(const fleet_op_t *op)
{
#if FLEET_WITH_FLOAT32
    return op->code < FLEET_OP_CONV_2D_F32 || op->code > FLEET_OP_QUANTIZE || fleet_float_is_ieee();
#else
    (void)op;
    return 1;
#endif
}

int fleet_record_is_whole(const fleet_op_t *op)
{
    return op->code <= FLEET_OP_LAST && rules[op->code].check != NULL && op->record_bytes == rules[op->code].record_bytes;
}

static int packing_is_known(const fleet_op_t *op)
{
    return op->packing == FLEET_PACKING_ROW_MAJOR ||
           (op->packing == FLEET_PACKING_CHANNELS_LAST && op->code == FLEET_OP_DEPTHWISE_CONV_2D);
}

fleet_status_t fleet_op_check(const fleet_image_header_t *header, const fleet_op_t *op)
{
    if (op->code > FLEET_OP_LAST || fleet_kernel_table[op->code] == NULL) {
        return FLEET_ERR_OPERATOR;
    }
    const rule_t *rule = &rules[op->code];
    fleet_extent_t extent;
    if (!core_is_fit(op)) {
        return FLEET_ERR_PLATFORM;
    }
    if (!packing_is_known(op)) {
        return FLEET_ERR_PACKING;
    }
    if (op->record_bytes != rule->record_bytes || (op->flags & ~(uint32_t)rule->flags) != 0u ||
        !rule->check(header, op, &extent) || !tensors_are_legal(header, op, &extent)) {
        return FLEET_ERR_LAYOUT;
    }
    return FLEET_OK;
}

uint32_t fleet_op_output_bytes(const fleet_image_header_t *header, const fleet_op_t *op)
{
    fleet_extent_t extent = {0, 0};
    if (op->code <= FLEET_OP_LAST && rules[op->code].check != NULL) {
        (void)rules[op->code].check(header, op, &extent);
    }
    return (uint32_t)extent.output_bytes;
}
