/* The kernel table of the runtime, with a softmax that misbehaves after it answered. */
#include "fault.h"
#include "internal.h"

static void faulty_softmax(const fleet_kernel_context_t *context, const void *op);
#define fleet_softmax faulty_softmax
#include "kernel_table.c"
#undef fleet_softmax

#define NOWHERE ((volatile uint32_t *)0x70000000u) /* no memory and no device of this board */

static void faulty_softmax(const fleet_kernel_context_t *context, const void *op) {
    fleet_softmax(context, op);
    if (context->image != fault_now.image) {
        return;
    }
    for (volatile uint32_t turns = 0; fault_now.kind == FAULT_HANGS; turns++) {
    }
    if (fault_now.kind == FAULT_WRITES_WILDLY) {
        *NOWHERE = 1;
    }
}
