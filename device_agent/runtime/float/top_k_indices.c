/* TOP_K_INDICES_F32: where the first k values of every row stood, as floats. */
#include "top_k.h"

static float result(const float *row, uint32_t column)
{
    (void)row;
    return (float)column;
}

void fleet_f32_top_k_indices(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_first_columns(context, record, result);
}
