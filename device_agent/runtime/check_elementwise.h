/* Checks of the records of element-wise operators and reductions, for the table in check_op.c. */
#ifndef FLEET_CHECK_ELEMENTWISE_H
#define FLEET_CHECK_ELEMENTWISE_H

#include "check_op.h"

/* Product of the dimensions that `repeats` leaves; 0 when one is 0 or the product larger than the limit. */
uint64_t fleet_walk_elements(const uint32_t dims[3], uint32_t repeats, uint64_t limit);

int fleet_check_lut(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_binary(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_reduce(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_prelu(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
