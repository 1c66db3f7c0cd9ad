/* Checks of the records of float32 operators, for the table in check_op.c. */
#ifndef FLEET_CHECK_FLOAT_H
#define FLEET_CHECK_FLOAT_H

#include "check_op.h"

/* True where subnormal results are kept, as IEEE 754 asks: float32 images are refused elsewhere. */
int fleet_float_is_ieee(void);

int fleet_check_conv_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_pool_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_fully_connected_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_binary_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_softmax_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_reduce_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_resize_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_pad_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_strided_copy_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_prelu_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_unary_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_quantize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_matmul_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_top_k_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_gates_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
