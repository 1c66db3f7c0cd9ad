/* Checks of records that keep something between inferences; the extent is filled in as check_op.h says. */
#ifndef FLEET_CHECK_STATE_H
#define FLEET_CHECK_STATE_H

#include "check_op.h"

int fleet_check_state(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

int fleet_check_gates(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

int fleet_check_svdf(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
