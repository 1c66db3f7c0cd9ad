#include "check_elementwise.h"

int fleet_check_lut(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_lut_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return fleet_inside(op->table, FLEET_LUT_ENTRIES, header->image_bytes);
}

int fleet_check_prelu(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_prelu_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return op->slope_count != 0u && fleet_inside(op->slopes, op->slope_count, header->image_bytes) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift) &&
           fleet_multiplier_is_legal(op->slope_multiplier, op->slope_shift);
}
