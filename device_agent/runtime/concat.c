/* CONCAT of two to four inputs: runs of each in turn, so that any axis is one loop. */
#include "internal.h"

#include <string.h>

static const int8_t *input_of(const fleet_kernel_context_t *context, const fleet_op_concat_t *op, uint32_t index)
{
    if (index == 0u) {
        return context->arena + op->input;
    }
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    return (constant ? (const int8_t *)context->image : context->arena) + op->inputs_more[index - 1u];
}

void fleet_concat(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_concat_t *op = record;
    const uint32_t swapped = (op->flags & FLEET_OP_FLAG_SWAPPED) != 0u ? 1u : 0u; /* of two: the second comes first */
    int8_t *output = context->arena + op->output;
    for (uint32_t i = 0; i < op->outer; i++) {
        for (uint32_t k = 0; k < 4u; k++) {
            const uint32_t index = k ^ swapped;
            const uint32_t length = op->lengths[index];
            if (length != 0u) {
                memcpy(output, input_of(context, op, index) + (size_t)i * length, length);
                output += length;
            }
        }
    }
}
