/* Structure of the records that move bytes (PAD .. RESIZE_BILINEAR): compiler/SPEC.md section 9 point 3. */
#include "check_moves.h"

int fleet_check_pad(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_pad_t *op = record;
    uint64_t inner[4];
    uint64_t outer[4];
    for (int axis = 0; axis < 4; axis++) {
        inner[axis] = op->dims[axis];
        outer[axis] = (uint64_t)op->before[axis] + op->dims[axis] + op->after[axis];
    }
    extent->input_bytes = fleet_bounded_product(inner, header->arena_bytes);
    extent->output_bytes = fleet_bounded_product(outer, header->arena_bytes);
    return extent->input_bytes != 0u && extent->output_bytes != 0u;
}

static int run_is_legal(const fleet_image_header_t *header, const fleet_op_concat_t *op, uint32_t index, uint64_t written)
{
    const uint64_t bytes = (uint64_t)op->outer * op->lengths[index];
    const uint32_t at = index == 0u ? op->input : op->inputs_more[index - 1u];
    if (index != 0u && (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u) {
        return fleet_inside(at, bytes, header->image_bytes);
    }
    return fleet_inside(at, bytes, header->arena_bytes) && fleet_disjoint(at, bytes, op->output, written);
}

int fleet_check_concat(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_concat_t *op = record;
    uint64_t run = 0;
    uint32_t count = 0;
    while (count < 4u && op->lengths[count] != 0u) {
        run += op->lengths[count++];
    }
    extent->input_bytes = (uint64_t)op->outer * op->lengths[0];
    extent->output_bytes = 0;
    if (count < 2u || (count > 2u && op->flags != 0u) || op->outer == 0u || run > header->arena_bytes || op->outer > header->arena_bytes) {
        return 0;
    }
    extent->output_bytes = op->outer * run;
    for (uint32_t index = 0; index < 4u; index++) {
        if (index < count ? !run_is_legal(header, op, index, extent->output_bytes) : op->lengths[index] != 0u) {
            return 0;
        }
    }
    return 1;
}

int fleet_check_strided_copy(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_strided_copy_t *op = record;
    uint64_t sizes[4];
    for (int axis = 0; axis < 4; axis++) {
        sizes[axis] = op->dims[axis];
    }
    extent->output_bytes = fleet_bounded_product(sizes, header->arena_bytes);
    if (extent->output_bytes == 0u || op->start >= header->arena_bytes) {
        return 0;
    }
    int64_t lowest = op->start;
    int64_t highest = op->start;
    for (int axis = 0; axis < 4; axis++) {
        const int64_t reach = (int64_t)(op->dims[axis] - 1u) * op->strides[axis]; /* below 2^62 */
        if (reach > (int64_t)header->arena_bytes || reach < -(int64_t)header->arena_bytes) {
            return 0;
        }
        lowest += reach < 0 ? reach : 0;
        highest += reach > 0 ? reach : 0;
    }
    extent->input_bytes = (uint64_t)highest + 1u;
    return lowest >= 0;
}

static int sizes_are_legal(const fleet_image_header_t *header, const fleet_op_resample_t *op, fleet_extent_t *extent)
{
    const uint64_t inner[4] = {1, op->in_h, op->in_w, op->in_c};
    const uint64_t outer[4] = {1, op->out_h, op->out_w, op->in_c};
    extent->input_bytes = fleet_bounded_product(inner, header->arena_bytes);
    extent->output_bytes = fleet_bounded_product(outer, header->arena_bytes);
    return extent->input_bytes != 0u && extent->output_bytes != 0u;
}

/* `count` entries of one or two numbers: place, and 1 / 2048ths towards the next one. */
static int places_are_legal(const int16_t *places, uint32_t count, uint32_t width, uint32_t size)
{
    for (uint32_t i = 0; i < count; i++) {
        const int32_t place = places[i * width];
        const int32_t fraction = width == 2u ? places[i * width + 1u] : 0;
        if (place < 0 || fraction < 0 || fraction >= (1 << FLEET_RESIZE_FRACTION_BITS) ||
            (uint32_t)place + (fraction > 0 ? 1u : 0u) >= size) {
            return 0;
        }
    }
    return 1;
}

static int table_is_legal(const fleet_image_header_t *header, const fleet_op_resample_t *op, uint32_t rows, uint32_t width)
{
    const uint64_t bytes = ((uint64_t)rows + op->out_w) * width * sizeof(int16_t);
    if (op->table % FLEET_IMAGE_SECTION_ALIGN != 0u || !fleet_inside(op->table, bytes, header->image_bytes)) {
        return 0;
    }
    /* The header is the first byte of the image. */
    const int16_t *table = (const void *)((const uint8_t *)header + op->table);
    return places_are_legal(table, rows, width, op->in_h) &&
           places_are_legal(table + (size_t)rows * width, op->out_w, width, op->in_w);
}

int fleet_check_gather(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_resample_t *op = record;
    const int same = (op->flags & FLEET_OP_FLAG_SAME_ROWS) != 0u;
    return sizes_are_legal(header, op, extent) && (!same || op->out_h == op->in_h) &&
           table_is_legal(header, op, same ? 0u : op->out_h, 1u);
}

int fleet_check_resize_bilinear(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_resample_t *op = record;
    return sizes_are_legal(header, op, extent) && table_is_legal(header, op, op->out_h, 2u);
}
