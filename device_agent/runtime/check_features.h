#ifndef FLEET_CHECK_FEATURES_H
#define FLEET_CHECK_FEATURES_H

#include "check_op.h"

int fleet_check_features(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent);

#endif
