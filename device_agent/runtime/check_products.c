#include "check_products.h"

#define MAX_DEPTH 32768u      /* sums of products of 9-bit differences stay inside int32 */
#define MAX_CLASSES 256u      /* an index is written as int8 */
#define MAX_NORMALIZED 65536u /* the scaled variance stays below 2^48 */
#define MAX_EPSILON (1u << 30)

/* Bytes a strided walk reaches over; 0 when a size is 0 or a size, a step or the reach passes the limit. */
static uint64_t reach(const uint32_t sizes[4], const uint32_t steps[4], uint64_t limit)
{
    uint64_t last = 0;
    for (int axis = 0; axis < 4; axis++) {
        if (sizes[axis] == 0u || sizes[axis] > limit || steps[axis] > limit) {
            return 0;
        }
        last += (uint64_t)(sizes[axis] - 1u) * steps[axis];
    }
    return last < limit ? last + 1u : 0u;
}

static int output_is_dense(const fleet_op_matmul_t *op, uint64_t limit, fleet_extent_t *extent)
{
    const uint32_t sizes[4] = {op->dims[0], op->dims[1], op->dims[2], op->dims[3]};
    extent->output_bytes = (uint64_t)sizes[0] * sizes[1] * sizes[2] * sizes[3];
    return extent->output_bytes <= limit && reach(sizes, op->output_steps, limit) == extent->output_bytes;
}

int fleet_check_matmul(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_matmul_t *op = record;
    const uint64_t arena = header->arena_bytes;
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const uint32_t a[4] = {op->dims[0], op->dims[1], op->dims[2], op->depth};
    const uint32_t b[4] = {op->dims[0], op->dims[1], op->dims[3], op->depth};
    const uint32_t limit_b = constant ? header->image_bytes : header->arena_bytes;
    const uint64_t bytes_b = reach(b, op->steps_b, limit_b);
    extent->input_bytes = reach(a, op->steps, arena);
    return op->depth <= MAX_DEPTH && output_is_dense(op, arena, extent) && bytes_b != 0u &&
           fleet_inside(op->input_b, bytes_b, limit_b) &&
           (constant || fleet_disjoint(op->input_b, bytes_b, op->output, extent->output_bytes)) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift);
}

int fleet_check_top_k(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_top_k_t *op = record;
    (void)header;
    extent->input_bytes = (uint64_t)op->rows * op->columns;
    extent->output_bytes = (uint64_t)op->rows * op->k;
    return op->k <= op->columns && op->smallest <= 1u &&
           (op->code == FLEET_OP_TOP_K || op->columns <= MAX_CLASSES);
}

int fleet_check_normalize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_normalize_t *op = record;
    const uint64_t limit = header->arena_bytes;
    const uint64_t normalized = (uint64_t)op->count * op->run;
    const uint64_t factors = (uint64_t)op->groups * op->run;
    if (op->outer > limit || op->count > MAX_NORMALIZED || op->run > MAX_NORMALIZED || normalized > MAX_NORMALIZED ||
        op->groups > limit || factors > limit) {
        return 0;
    }
    extent->input_bytes = factors * op->count > limit ? 0u : factors * op->count * op->outer;
    extent->output_bytes = extent->input_bytes;
    return op->table % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(op->table, factors * 8u, header->image_bytes) &&
           op->centred <= 1u && op->epsilon[1] < MAX_EPSILON && op->activation_min <= op->activation_max &&
           fleet_multiplier_is_legal(op->multiplier, op->shift);
}

int fleet_check_l2_normalize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_l2_normalize_t *op = record;
    (void)header;
    extent->input_bytes = (uint64_t)op->rows * op->columns;
    extent->output_bytes = extent->input_bytes;
    return op->columns <= FLEET_MOST_SQUARES && op->activation_min <= op->activation_max;
}
