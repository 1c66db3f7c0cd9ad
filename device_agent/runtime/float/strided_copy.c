/* STRIDED_COPY_F32: slices, transpositions and rearrangements of four-byte elements, in output order. */
#include "f32.h"

void fleet_f32_strided_copy(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_strided_copy_f32_t *op = record;
    const int32_t *input = (const int32_t *)(const void *)(context->arena + op->input);
    int32_t *output = (int32_t *)(void *)(context->arena + op->output);
    for (uint32_t i0 = 0; i0 < op->dims[0]; i0++) {
        for (uint32_t i1 = 0; i1 < op->dims[1]; i1++) {
            for (uint32_t i2 = 0; i2 < op->dims[2]; i2++) {
                const int64_t at = op->start + (int64_t)i0 * op->strides[0] + (int64_t)i1 * op->strides[1] +
                                   (int64_t)i2 * op->strides[2];
                for (uint32_t i3 = 0; i3 < op->dims[3]; i3++) {
                    *output++ = input[at + (int64_t)i3 * op->strides[3]];
                }
            }
        }
    }
}
