/* STATE_WRITE: a tensor becomes what the next inference finds in a state variable. */
#include "internal.h"

#include <string.h>

void fleet_state_write(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_state_t *op = record;
    memcpy(context->state + op->state, context->arena + op->input, op->size);
}
