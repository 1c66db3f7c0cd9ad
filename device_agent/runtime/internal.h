/* What the runtime's own files share. Not for users. */
#ifndef FLEET_RUNTIME_INTERNAL_H
#define FLEET_RUNTIME_INTERNAL_H

#include "fleet_config.h"
#include "fleet_image.h"
#include "fleet_runtime.h"

/* Images are read in place. A compiler that does not say its byte order is found out by fleet_model_open. */
#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "the runtime needs a little-endian core: images are little-endian and are not converted"
#endif

/* Where a kernel finds everything its record points to. */
typedef struct {
    const uint8_t *image;
    int8_t *arena;
    uint8_t *state; /* kept between inferences; null where the model has none */
    const int32_t *multipliers;
    const int8_t *shifts;
    const int32_t *biases;
} fleet_kernel_context_t;

/* `op` is the whole record of the kernel's operator, checked by fleet_op_check. */
typedef void (*fleet_kernel_t)(const fleet_kernel_context_t *context, const void *op);

/* Indexed by operator code; null = not linked. An integrator may link a table of their own in place of kernel_table.c. */
extern const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u];

void fleet_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_fully_connected(const fleet_kernel_context_t *context, const void *op);
void fleet_add(const fleet_kernel_context_t *context, const void *op);
void fleet_max_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_average_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_softmax(const fleet_kernel_context_t *context, const void *op);
void fleet_rescale_s8(const fleet_kernel_context_t *context, const void *op);
void fleet_transpose(const fleet_kernel_context_t *context, const void *op);
void fleet_pad(const fleet_kernel_context_t *context, const void *op);
void fleet_concat(const fleet_kernel_context_t *context, const void *op);
void fleet_strided_copy(const fleet_kernel_context_t *context, const void *op);
void fleet_gather(const fleet_kernel_context_t *context, const void *op);
void fleet_resize_bilinear(const fleet_kernel_context_t *context, const void *op);
void fleet_transpose_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_lut_int8(const fleet_kernel_context_t *context, const void *op);
void fleet_prelu(const fleet_kernel_context_t *context, const void *op);
void fleet_add_broadcast(const fleet_kernel_context_t *context, const void *op);
void fleet_sub(const fleet_kernel_context_t *context, const void *op);
void fleet_mul(const fleet_kernel_context_t *context, const void *op);
void fleet_div(const fleet_kernel_context_t *context, const void *op);
void fleet_minimum(const fleet_kernel_context_t *context, const void *op);
void fleet_maximum(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_sum(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_max(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_min(const fleet_kernel_context_t *context, const void *op);
void fleet_arg_max(const fleet_kernel_context_t *context, const void *op);
void fleet_state_read(const fleet_kernel_context_t *context, const void *op);
void fleet_state_write(const fleet_kernel_context_t *context, const void *op);
void fleet_svdf(const fleet_kernel_context_t *context, const void *op);
void fleet_lstm(const fleet_kernel_context_t *context, const void *op);
void fleet_gru(const fleet_kernel_context_t *context, const void *op);
void fleet_features(const fleet_kernel_context_t *context, const void *op);
void fleet_log_softmax(const fleet_kernel_context_t *context, const void *op);
void fleet_batch_matmul(const fleet_kernel_context_t *context, const void *op);
void fleet_top_k(const fleet_kernel_context_t *context, const void *op);
void fleet_top_k_indices(const fleet_kernel_context_t *context, const void *op);
void fleet_normalize(const fleet_kernel_context_t *context, const void *op);
void fleet_arg_min(const fleet_kernel_context_t *context, const void *op);
void fleet_squared_difference(const fleet_kernel_context_t *context, const void *op);
void fleet_l2_normalize(const fleet_kernel_context_t *context, const void *op);

/* Operators on int16 tensors, and with int4 weights; FLEET_WITH_INT16 and FLEET_WITH_INT4 leave them out. */
void fleet_conv_2d_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_depthwise_conv_2d_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_fully_connected_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_transpose_conv_2d_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_add_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_sub_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_mul_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_minimum_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_maximum_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_max_pool_2d_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_average_pool_2d_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_softmax_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_logistic_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_tanh_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_lut_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_leaky_relu_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_rescale_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_sum_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_max_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_reduce_min_int16(const fleet_kernel_context_t *context, const void *op);
void fleet_conv_2d_int4(const fleet_kernel_context_t *context, const void *op);
void fleet_depthwise_conv_2d_int4(const fleet_kernel_context_t *context, const void *op);
void fleet_fully_connected_int4(const fleet_kernel_context_t *context, const void *op);
/* float/: float32 tensors, and the operators between them and codes. */
void fleet_f32_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_transpose_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_fully_connected(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_add(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_sub(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_mul(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_div(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_minimum(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_maximum(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_max_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_average_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_softmax(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_batch_matmul(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_top_k(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_top_k_indices(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_lstm(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_gru(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_log_softmax(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_reduce_sum(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_reduce_max(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_reduce_min(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_arg_max(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_resize_bilinear(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_pad(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_strided_copy(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_prelu(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_unary(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_exponential(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_trigonometric(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_dequantize(const fleet_kernel_context_t *context, const void *op);
void fleet_f32_quantize(const fleet_kernel_context_t *context, const void *op);

/* dsp/: the same bytes on cores with the DSP extension; see FLEET_KERNELS in CMakeLists.txt. */
void fleet_dsp_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_dsp_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_dsp_fully_connected(const fleet_kernel_context_t *context, const void *op);
void fleet_dsp_add(const fleet_kernel_context_t *context, const void *op);

/* mve/: the same bytes on cores with Helium. */
void fleet_mve_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_fully_connected(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_add(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_max_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_average_pool_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_mve_rescale_s8(const fleet_kernel_context_t *context, const void *op);

/* vendor/cmsis_nn/: CMSIS-NN behind our records, the same bytes; see README.md, "Vendor kernels". */
void fleet_cmsis_nn_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_cmsis_nn_depthwise_conv_2d(const fleet_kernel_context_t *context, const void *op);
void fleet_cmsis_nn_fully_connected(const fleet_kernel_context_t *context, const void *op);

/* SPEC section 9 point 3, for one record whose `record_bytes` bytes are readable. */
fleet_status_t fleet_op_check(const fleet_image_header_t *header, const fleet_op_t *op);

/* The state table of an image whose header is checked: SPEC section 9 point 4. */
int fleet_states_are_legal(const fleet_image_header_t *header, const uint8_t *image);

/* FLEET_OK where the model needs no state or has it attached. */
fleet_status_t fleet_state_check(const fleet_model_t *model);

/* Bytes the op writes; 0 for an unknown code. Only for checked records. */
uint32_t fleet_op_output_bytes(const fleet_image_header_t *header, const fleet_op_t *op);

/* bytes [offset, offset + size) lie in [0, limit) */
static inline int fleet_inside(uint32_t offset, uint64_t size, uint32_t limit)
{
    return size <= limit && offset <= limit - (uint32_t)size;
}

static inline const fleet_image_header_t *fleet_header(const fleet_model_t *model)
{
    return (const void *)model->image;
}

static inline const fleet_image_io_t *fleet_io(const fleet_model_t *model, uint32_t index)
{
    return (const fleet_image_io_t *)(const void *)(model->image + fleet_header(model)->io_offset) + index;
}

static inline int fleet_is_aligned(const void *pointer, uintptr_t bytes)
{
    return ((uintptr_t)pointer & (bytes - 1u)) == 0u;
}

#endif
