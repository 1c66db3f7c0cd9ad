/* STATE_READ: a state variable becomes a tensor. */
#include "internal.h"

#include <string.h>

void fleet_state_read(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_state_t *op = record;
    memcpy(context->arena + op->output, context->state + op->state, op->size);
}
