/* TOP_K_F32: the first k values of every row, in order. */
#include "top_k.h"

static float result(const float *row, uint32_t column)
{
    return row[column];
}

void fleet_f32_top_k(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_first_columns(context, record, result);
}
