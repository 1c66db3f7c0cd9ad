/* LUT_INT16: any function of one element, interpolated between the entries of the image's table. */
#include "int16.h"

void fleet_lut_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_lut_int16_t *op = record;
    const int16_t *table = fleet_image_int16(context, op->table);
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        output[i] = fleet_clamp_int16(fleet_lookup_int16(input[i], table), op->activation_min, op->activation_max);
    }
}
