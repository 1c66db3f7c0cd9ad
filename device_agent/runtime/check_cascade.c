/* Structure of cascades: compiler/SPEC.md section 9 point 5. Every row a kernel may be given lies in the arena. */
#include "cascade.h"
#include "check_op.h"
#include "rows.h"

int fleet_cascade_is_legal(const fleet_image_header_t *header, const fleet_image_cascade_t *cascade, uint32_t left,
                           uint32_t behind)
{
    return left >= sizeof(*cascade) && cascade->op_count >= 2u && cascade->op_count <= FLEET_MAX_CASCADE_OPS &&
           fleet_cascade_bytes(cascade) <= left && cascade->first_op >= behind &&
           fleet_inside(cascade->first_op, cascade->op_count, header->op_count) && cascade->workspace % 4u == 0u &&
           fleet_inside(cascade->workspace, fleet_cascade_workspace_bytes(cascade), header->arena_bytes);
}

static int ring_is_legal(const fleet_image_row_link_t *link)
{
    return link->reserved == 0u && link->slide_rows != 0u && link->slide_rows <= link->ring_rows &&
           link->ring_rows <= link->rows;
}

/* The first and the last window reach the input, so all do. */
static int window_has_rows(const fleet_op_pool_t *op, const fleet_image_row_link_t *link)
{
    const int32_t reach = (op->kernel_h - 1) * op->dilation_h + 1;
    return link->rows == op->out_h && op->pad_top < reach && (op->out_h - 1) * op->stride_h - op->pad_top < op->in_h;
}

/* Rows of equal length, and a constant that is the same for each. */
static int flat_has_rows(const fleet_op_t *op, const fleet_image_row_link_t *link)
{
    const uint32_t size = fleet_rows_size(op);
    const uint32_t row = size / link->rows;
    uint32_t period = 1;
    if (fleet_rows_paired(op)) {
        period = ((const fleet_op_add_t *)(const void *)op)->size_b == size ? 1u : 0u;
    } else if (op->code == FLEET_OP_ADD) {
        period = ((const fleet_op_add_t *)(const void *)op)->size_b;
    } else if (op->code == FLEET_OP_PRELU) {
        period = ((const fleet_op_prelu_t *)(const void *)op)->slope_count;
    }
    return row != 0u && row * link->rows == size && period != 0u && row % period == 0u;
}

/* The rows of an input, whole or in the ring of `source`, lie in the arena. */
static int source_is_legal(const fleet_image_header_t *header, const fleet_image_row_link_t *links, uint32_t member,
                           uint32_t source, uint32_t offset, uint32_t in_rows, uint32_t row_bytes)
{
    uint64_t kept = in_rows;
    if (source != FLEET_NO_SOURCE) {
        if (source >= member || links[source].rows != in_rows) {
            return 0;
        }
        kept = links[source].ring_rows;
    }
    return fleet_inside(offset, kept * row_bytes, header->arena_bytes);
}

/* Nothing the op writes lies in the workspace, which holds its own record. */
static int workspace_is_safe(const fleet_image_cascade_t *cascade, const fleet_op_t *op, uint64_t ring_bytes)
{
    const uint32_t bytes = fleet_cascade_workspace_bytes(cascade);
    return fleet_disjoint(cascade->workspace, bytes, op->output, ring_bytes) &&
           (op->scratch_bytes == 0u || fleet_disjoint(cascade->workspace, bytes, op->scratch, op->scratch_bytes));
}

static int places_are_legal(const fleet_image_header_t *header, const fleet_op_t *op,
                            const fleet_image_cascade_t *cascade, uint32_t member, const fleet_rows_t *rows)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    const fleet_image_row_link_t *link = &links[member];
    const int windowed = fleet_rows_windowed(op->code);
    const uint32_t in_rows = windowed ? ((const fleet_op_pool_t *)(const void *)op)->in_h : link->rows;
    const uint32_t input_b = fleet_rows_paired(op) ? ((const fleet_op_add_t *)(const void *)op)->input_b : 0u;
    const int second = fleet_rows_paired(op) ? source_is_legal(header, links, member, link->source_b, input_b, in_rows,
                                                               rows->in_bytes)
                                             : link->source_b == FLEET_NO_SOURCE;
    const uint64_t ring_bytes = (uint64_t)link->ring_rows * rows->out_bytes;
    return second && source_is_legal(header, links, member, link->source, op->input, in_rows, rows->in_bytes) &&
           fleet_inside(op->output, ring_bytes, header->arena_bytes) && workspace_is_safe(cascade, op, ring_bytes);
}

fleet_status_t fleet_cascade_op_check(const fleet_image_header_t *header, const fleet_op_t *op,
                                      const fleet_image_cascade_t *cascade, uint32_t member)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    const fleet_image_row_link_t *link = &links[member];
    fleet_row_record_t record;
    if (!fleet_rows_possible(op->code) || !fleet_record_is_whole(op) || !ring_is_legal(link) ||
        (op->flags & FLEET_OP_FLAG_REVERSED) != 0u) {
        return FLEET_ERR_LAYOUT;
    }
    if (fleet_rows_windowed(op->code) ? !window_has_rows((const void *)op, link) : !flat_has_rows(op, link)) {
        return FLEET_ERR_LAYOUT;
    }
    const fleet_rows_t rows = fleet_rows_of(op, link->rows, 0);
    if (!places_are_legal(header, op, cascade, member, &rows)) {
        return FLEET_ERR_LAYOUT;
    }
    /* The rest is that of any record; neighbours may lie at any distance, the cascade's order is what matters. */
    fleet_rows_narrow(&record, op, &rows, 0);
    record.op.overlap_bytes = INT32_MIN;
    return fleet_op_check(header, &record.op);
}
