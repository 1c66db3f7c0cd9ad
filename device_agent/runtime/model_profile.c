/* One inference op by op, with a counter read between two of them: compiler and port say what it counts. */
#include "fleet_runtime.h"

#include <string.h>

fleet_status_t fleet_model_profile(const fleet_model_t *model, void *arena, size_t arena_bytes, fleet_counter_t counter,
                                   void *context, uint32_t *counts, uint32_t capacity)
{
    fleet_model_info_t info;
    if (model == NULL || counter == NULL || counts == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_model_info(model, &info);
    if (capacity < info.op_count) {
        return FLEET_ERR_ARGUMENT;
    }
    memset(counts, 0, info.op_count * sizeof(*counts));
    fleet_cursor_t cursor = {0};
    fleet_step_t step;
    uint32_t before = counter(context);
    while (cursor.index < info.op_count) {
        const fleet_status_t status = fleet_model_step(model, &cursor, arena, arena_bytes, &step);
        if (status != FLEET_OK) {
            return status;
        }
        const uint32_t after = counter(context);
        counts[step.index] += after - before; /* right where the counter wraps, too; a cascade steps row by row */
        before = after;
    }
    return FLEET_OK;
}
