/* SUB_F32 of two tensors, or of a tensor and a constant. */
#include "broadcast.h"

static float combine(float a, float b)
{
    return a - b;
}

void fleet_f32_sub(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_broadcast(context, record, combine);
}
