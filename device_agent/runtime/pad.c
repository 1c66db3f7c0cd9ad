/* PAD: the input inside, one value around it. Elements in output order: compiler/SPEC.md section 6. */
#include "internal.h"

#include <string.h>

/* `rows` rows of `row_bytes` filled; returns the place behind them. */
static int8_t *fill(int8_t *output, const fleet_op_pad_t *op, uint32_t rows, uint32_t row_bytes)
{
    memset(output, op->input_zero_point, (size_t)rows * row_bytes);
    return output + (size_t)rows * row_bytes;
}

static int8_t *copy_row(int8_t *output, const fleet_op_pad_t *op, const int8_t *input)
{
    output = fill(output, op, op->before[3], 1u);
    memmove(output, input, op->dims[3]);
    return fill(output + op->dims[3], op, op->after[3], 1u);
}

void fleet_pad(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pad_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    uint32_t bytes[4]; /* of one index step along each output axis */
    bytes[3] = 1u;
    for (uint32_t axis = 3; axis > 0u; axis--) {
        bytes[axis - 1u] = bytes[axis] * (op->before[axis] + op->dims[axis] + op->after[axis]);
    }
    output = fill(output, op, op->before[0], bytes[0]);
    for (uint32_t i0 = 0; i0 < op->dims[0]; i0++) {
        output = fill(output, op, op->before[1], bytes[1]);
        for (uint32_t i1 = 0; i1 < op->dims[1]; i1++) {
            output = fill(output, op, op->before[2], bytes[2]);
            for (uint32_t i2 = 0; i2 < op->dims[2]; i2++) {
                output = copy_row(output, op, input);
                input += op->dims[3];
            }
            output = fill(output, op, op->after[2], bytes[2]);
        }
        output = fill(output, op, op->after[1], bytes[1]);
    }
    (void)fill(output, op, op->after[0], bytes[0]);
}
