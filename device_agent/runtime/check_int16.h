/* Checks of the records of operators on int16 tensors, for the table in check_op.c. */
#ifndef FLEET_CHECK_INT16_H
#define FLEET_CHECK_INT16_H

#include "check_op.h"

int fleet_check_conv_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_fully_connected_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_pool_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_binary_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_softmax_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_sigmoid_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_leaky_relu_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_lut_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_rescale_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_reduce_int16(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
