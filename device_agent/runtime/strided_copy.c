/* STRIDED_COPY: slices, depth to space and back. Elements in output order: compiler/SPEC.md section 6. */
#include "internal.h"

#include <string.h>

static int8_t *copy_run(int8_t *output, const int8_t *from, uint32_t count, int32_t stride)
{
    if (stride == 1) {
        memmove(output, from, count);
        return output + count;
    }
    for (uint32_t i = 0; i < count; i++) {
        *output++ = from[(int64_t)i * stride];
    }
    return output;
}

void fleet_strided_copy(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_strided_copy_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t i0 = 0; i0 < op->dims[0]; i0++) {
        for (uint32_t i1 = 0; i1 < op->dims[1]; i1++) {
            for (uint32_t i2 = 0; i2 < op->dims[2]; i2++) {
                const int64_t at = op->start + (int64_t)i0 * op->strides[0] + (int64_t)i1 * op->strides[1] +
                                   (int64_t)i2 * op->strides[2];
                output = copy_run(output, input + at, op->dims[3], op->strides[3]);
            }
        }
    }
}
