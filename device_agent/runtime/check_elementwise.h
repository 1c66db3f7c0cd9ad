/* Checks of the records of element-wise operators and reductions, for the table in check_op.c. */
#ifndef FLEET_CHECK_ELEMENTWISE_H
#define FLEET_CHECK_ELEMENTWISE_H

#include "check_op.h"

int fleet_check_lut(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_binary(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_reduce(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_prelu(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
