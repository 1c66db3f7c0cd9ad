/* Checks of the records of operators that move bytes, for the table in check_op.c. */
#ifndef FLEET_CHECK_MOVES_H
#define FLEET_CHECK_MOVES_H

#include "check_op.h"

int fleet_check_pad(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_concat(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_strided_copy(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_gather(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_resize_bilinear(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
