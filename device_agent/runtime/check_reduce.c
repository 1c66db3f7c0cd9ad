#include "check_elementwise.h"

#define MAX_COUNT (1u << 23)  /* sums of differences of int8 stay inside int32 */
#define MAX_CLASSES 256u      /* an index is written as int8 */

int fleet_check_reduce(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_reduce_t *op = record;
    const uint64_t limit = header->arena_bytes;
    if (op->outer == 0u || op->count == 0u || op->inner == 0u || op->outer > limit || op->inner > limit ||
        op->count > (op->code == FLEET_OP_ARG_MAX || op->code == FLEET_OP_ARG_MIN ? MAX_CLASSES : MAX_COUNT)) {
        return 0;
    }
    extent->output_bytes = (uint64_t)op->outer * op->inner;
    extent->input_bytes = extent->output_bytes > limit ? 0u : extent->output_bytes * op->count;
    return op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift);
}
