#include "rig_fault.h"

#include "internal.h"

/* The kernel table of the runtime, with two kernels of ours around the real ones. */
static void faulty_softmax(const fleet_kernel_context_t *context, const void *op);
static void faulty_state_write(const fleet_kernel_context_t *context, const void *op);
#define fleet_softmax faulty_softmax
#define fleet_state_write faulty_state_write
#include "kernel_table.c"
#undef fleet_softmax
#undef fleet_state_write

jmp_buf rig_reset_point;
rig_fault_t rig_fault_now;

static void misbehave(const fleet_kernel_context_t *context) {
    if (context->image != rig_fault_now.image) {
        return;
    }
    if (rig_fault_now.kind == RIG_FAULT_STOPS) {
        longjmp(rig_reset_point, 1);
    }
    const fleet_image_header_t *header = (const void *)context->image;
    context->arena[header->arena_bytes + (rig_fault_now.kind == RIG_FAULT_STRIDE ? 239u : 0u)] = 0;
}

static void faulty_softmax(const fleet_kernel_context_t *context, const void *op) {
    fleet_softmax(context, op);
    misbehave(context);
}

static void faulty_state_write(const fleet_kernel_context_t *context, const void *op) {
    fleet_state_write(context, op);
    misbehave(context);
}
