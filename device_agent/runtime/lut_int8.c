/* LUT_INT8: every function of one element, by a table of 256 outputs in the image. */
#include "internal.h"

void fleet_lut_int8(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_lut_t *op = record;
    const int8_t *table = (const int8_t *)context->image + op->table;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t i = 0; i < op->size; i++) {
        output[i] = table[input[i] + 128];
    }
}
