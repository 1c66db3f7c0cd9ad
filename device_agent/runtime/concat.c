/* CONCAT of two to four inputs: runs of each in turn, so that any axis is one loop. */
#include "internal.h"

#include <string.h>

void fleet_concat(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_concat_t *op = record;
    int8_t *output = context->arena + op->output;
    for (uint32_t i = 0; i < op->outer; i++) {
        for (uint32_t k = 0; k < 4u; k++) {
            const uint32_t input = k == 0u ? op->input : op->inputs_more[k - 1u];
            if (op->lengths[k] != 0u) {
                memcpy(output, context->arena + input + (size_t)i * op->lengths[k], op->lengths[k]);
                output += op->lengths[k];
            }
        }
    }
}
