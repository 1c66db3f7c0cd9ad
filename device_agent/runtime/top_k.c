/* TOP_K: the first k values of every row, in order. */
#include "top_k.h"

static int8_t value(const int8_t *row, uint32_t column)
{
    return row[column];
}

void fleet_top_k(const fleet_kernel_context_t *context, const void *record)
{
    fleet_first_columns(context, record, value);
}
