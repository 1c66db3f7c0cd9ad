#include "fleet_config.h"
#include "internal.h"

/* Operators with kernels of their own for cores with the DSP extension (FAST) or Helium; these call the portable one where they must. */
#if defined(FLEET_KERNELS_MVE)
#define FAST(name) fleet_mve_##name
#define HELIUM(name) fleet_mve_##name
#elif defined(FLEET_KERNELS_DSP)
#define FAST(name) fleet_dsp_##name
#define HELIUM(name) fleet_##name
#else
#define FAST(name) fleet_##name
#define HELIUM(name) fleet_##name
#endif

const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u] = {
    [FLEET_OP_CONV_2D] = FAST(conv_2d),
    [FLEET_OP_DEPTHWISE_CONV_2D] = FAST(depthwise_conv_2d),
    [FLEET_OP_FULLY_CONNECTED] = FAST(fully_connected),
    [FLEET_OP_ADD] = FAST(add),
    [FLEET_OP_MAX_POOL_2D] = HELIUM(max_pool_2d),
    [FLEET_OP_AVERAGE_POOL_2D] = HELIUM(average_pool_2d),
    [FLEET_OP_SOFTMAX] = fleet_softmax,
    [FLEET_OP_RESCALE] = HELIUM(rescale_s8),
    [FLEET_OP_TRANSPOSE] = fleet_transpose,
    [FLEET_OP_PAD] = fleet_pad,
    [FLEET_OP_CONCAT] = fleet_concat,
    [FLEET_OP_STRIDED_COPY] = fleet_strided_copy,
    [FLEET_OP_GATHER] = fleet_gather,
    [FLEET_OP_RESIZE_BILINEAR] = fleet_resize_bilinear,
    [FLEET_OP_TRANSPOSE_CONV_2D] = fleet_transpose_conv_2d,
    [FLEET_OP_LUT_INT8] = fleet_lut_int8,
    [FLEET_OP_PRELU] = fleet_prelu,
    [FLEET_OP_ADD_BROADCAST] = fleet_add_broadcast,
    [FLEET_OP_SUB] = fleet_sub,
    [FLEET_OP_MUL] = fleet_mul,
    [FLEET_OP_DIV] = fleet_div,
    [FLEET_OP_MINIMUM] = fleet_minimum,
    [FLEET_OP_MAXIMUM] = fleet_maximum,
    [FLEET_OP_REDUCE_SUM] = fleet_reduce_sum,
    [FLEET_OP_REDUCE_MAX] = fleet_reduce_max,
    [FLEET_OP_REDUCE_MIN] = fleet_reduce_min,
    [FLEET_OP_ARG_MAX] = fleet_arg_max,
    [FLEET_OP_LOG_SOFTMAX] = fleet_log_softmax,
#if FLEET_WITH_RECURRENT
    [FLEET_OP_STATE_READ] = fleet_state_read,
    [FLEET_OP_STATE_WRITE] = fleet_state_write,
    [FLEET_OP_SVDF] = fleet_svdf,
    [FLEET_OP_LSTM] = fleet_lstm,
    [FLEET_OP_GRU] = fleet_gru,
#endif
#if FLEET_WITH_FRONT_END
    [FLEET_OP_FEATURES] = fleet_features,
#endif
    [FLEET_OP_BATCH_MATMUL] = fleet_batch_matmul,
    [FLEET_OP_TOP_K] = fleet_top_k,
    [FLEET_OP_TOP_K_INDICES] = fleet_top_k_indices,
    [FLEET_OP_NORMALIZE] = fleet_normalize,
    [FLEET_OP_ARG_MIN] = fleet_arg_min,
    [FLEET_OP_SQUARED_DIFFERENCE] = fleet_squared_difference,
    [FLEET_OP_L2_NORMALIZE] = fleet_l2_normalize,
#if FLEET_WITH_INT16
    [FLEET_OP_CONV_2D_INT16] = fleet_conv_2d_int16,
    [FLEET_OP_DEPTHWISE_CONV_2D_INT16] = fleet_depthwise_conv_2d_int16,
    [FLEET_OP_FULLY_CONNECTED_INT16] = fleet_fully_connected_int16,
    [FLEET_OP_TRANSPOSE_CONV_2D_INT16] = fleet_transpose_conv_2d_int16,
    [FLEET_OP_ADD_INT16] = fleet_add_int16,
    [FLEET_OP_SUB_INT16] = fleet_sub_int16,
    [FLEET_OP_MUL_INT16] = fleet_mul_int16,
    [FLEET_OP_MINIMUM_INT16] = fleet_minimum_int16,
    [FLEET_OP_MAXIMUM_INT16] = fleet_maximum_int16,
    [FLEET_OP_MAX_POOL_2D_INT16] = fleet_max_pool_2d_int16,
    [FLEET_OP_AVERAGE_POOL_2D_INT16] = fleet_average_pool_2d_int16,
    [FLEET_OP_SOFTMAX_INT16] = fleet_softmax_int16,
    [FLEET_OP_LOGISTIC_INT16] = fleet_logistic_int16,
    [FLEET_OP_TANH_INT16] = fleet_tanh_int16,
    [FLEET_OP_LUT_INT16] = fleet_lut_int16,
    [FLEET_OP_LEAKY_RELU_INT16] = fleet_leaky_relu_int16,
    [FLEET_OP_RESCALE_INT16] = fleet_rescale_int16,
    [FLEET_OP_REDUCE_SUM_INT16] = fleet_reduce_sum_int16,
    [FLEET_OP_REDUCE_MAX_INT16] = fleet_reduce_max_int16,
    [FLEET_OP_REDUCE_MIN_INT16] = fleet_reduce_min_int16,
#endif
#if FLEET_WITH_INT4
    [FLEET_OP_CONV_2D_INT4] = fleet_conv_2d_int4,
    [FLEET_OP_DEPTHWISE_CONV_2D_INT4] = fleet_depthwise_conv_2d_int4,
    [FLEET_OP_FULLY_CONNECTED_INT4] = fleet_fully_connected_int4,
#endif
#if FLEET_WITH_FLOAT32
    [FLEET_OP_CONV_2D_F32] = fleet_f32_conv_2d,
    [FLEET_OP_DEPTHWISE_CONV_2D_F32] = fleet_f32_depthwise_conv_2d,
    [FLEET_OP_TRANSPOSE_CONV_2D_F32] = fleet_f32_transpose_conv_2d,
    [FLEET_OP_FULLY_CONNECTED_F32] = fleet_f32_fully_connected,
    [FLEET_OP_ADD_F32] = fleet_f32_add,
    [FLEET_OP_SUB_F32] = fleet_f32_sub,
    [FLEET_OP_MUL_F32] = fleet_f32_mul,
    [FLEET_OP_DIV_F32] = fleet_f32_div,
    [FLEET_OP_MINIMUM_F32] = fleet_f32_minimum,
    [FLEET_OP_MAXIMUM_F32] = fleet_f32_maximum,
    [FLEET_OP_MAX_POOL_2D_F32] = fleet_f32_max_pool_2d,
    [FLEET_OP_AVERAGE_POOL_2D_F32] = fleet_f32_average_pool_2d,
    [FLEET_OP_SOFTMAX_F32] = fleet_f32_softmax,
    [FLEET_OP_LOG_SOFTMAX_F32] = fleet_f32_log_softmax,
    [FLEET_OP_REDUCE_SUM_F32] = fleet_f32_reduce_sum,
    [FLEET_OP_REDUCE_MAX_F32] = fleet_f32_reduce_max,
    [FLEET_OP_REDUCE_MIN_F32] = fleet_f32_reduce_min,
    [FLEET_OP_ARG_MAX_F32] = fleet_f32_arg_max,
    [FLEET_OP_RESIZE_BILINEAR_F32] = fleet_f32_resize_bilinear,
    [FLEET_OP_BATCH_MATMUL_F32] = fleet_f32_batch_matmul,
    [FLEET_OP_TOP_K_F32] = fleet_f32_top_k,
    [FLEET_OP_TOP_K_INDICES_F32] = fleet_f32_top_k_indices,
    [FLEET_OP_LSTM_F32] = fleet_f32_lstm,
    [FLEET_OP_GRU_F32] = fleet_f32_gru,
    [FLEET_OP_PAD_F32] = fleet_f32_pad,
    [FLEET_OP_STRIDED_COPY_F32] = fleet_f32_strided_copy,
    [FLEET_OP_PRELU_F32] = fleet_f32_prelu,
    [FLEET_OP_UNARY_F32] = fleet_f32_unary,
    [FLEET_OP_EXPONENTIAL_F32] = fleet_f32_exponential,
    [FLEET_OP_TRIGONOMETRIC_F32] = fleet_f32_trigonometric,
    [FLEET_OP_DEQUANTIZE] = fleet_f32_dequantize,
    [FLEET_OP_QUANTIZE] = fleet_f32_quantize,
#endif
};
