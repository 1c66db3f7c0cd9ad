/* TRANSPOSE of up to four axes: a gather in output order. */
#include "internal.h"

void fleet_transpose(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_transpose_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t i0 = 0; i0 < op->dims[0]; i0++) {
        for (uint32_t i1 = 0; i1 < op->dims[1]; i1++) {
            for (uint32_t i2 = 0; i2 < op->dims[2]; i2++) {
                const int8_t *from = input + i0 * op->strides[0] + i1 * op->strides[1] + i2 * op->strides[2];
                for (uint32_t i3 = 0; i3 < op->dims[3]; i3++) {
                    *output++ = from[i3 * op->strides[3]];
                }
            }
        }
    }
}
