/* GATHER: output pixel (y, x) is input pixel (rows[y], columns[x]); nearest Resize, and Gather along any axis. */
#include "internal.h"

#include <string.h>

void fleet_gather(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_resample_t *op = record;
    const int same_rows = (op->flags & FLEET_OP_FLAG_SAME_ROWS) != 0u;
    const uint16_t *rows = (const void *)(context->image + op->table); /* int16, checked to be no negatives */
    const uint16_t *columns = same_rows ? rows : rows + op->out_h;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t y = 0; y < op->out_h; y++) {
        const uint32_t row = same_rows ? y : rows[y];
        for (uint32_t x = 0; x < op->out_w; x++) {
            memmove(output, input + (row * op->in_w + columns[x]) * op->in_c, op->in_c);
            output += op->in_c;
        }
    }
}
