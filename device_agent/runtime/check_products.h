/* Structure of BATCH_MATMUL, TOP_K, TOP_K_INDICES and NORMALIZE records. */
#ifndef FLEET_CHECK_PRODUCTS_H
#define FLEET_CHECK_PRODUCTS_H

#include "check_op.h"

int fleet_check_matmul(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_l2_normalize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_top_k(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);
int fleet_check_normalize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
