/* Structure of cascades: compiler/SPEC.md section 9 point 5. Every row a kernel may be given lies in the arena. */
#include "cascade.h"
#include "check_op.h"
#include "rows.h"

int fleet_cascade_is_legal(const fleet_image_header_t *header, const fleet_image_cascade_t *cascade, uint32_t left,
                           uint32_t behind)
{
    return left >= sizeof(*cascade) && cascade->op_count >= 2u && cascade->op_count <= FLEET_MAX_CASCADE_OPS &&
           cascade->strips >= 1u && cascade->strips <= FLEET_MAX_STRIPS && cascade->gather_bytes % 4u == 0u &&
           fleet_cascade_bytes(cascade) <= left && cascade->first_op >= behind &&
           fleet_inside(cascade->first_op, cascade->op_count, header->op_count) && cascade->workspace % 4u == 0u &&
           fleet_inside(cascade->workspace, fleet_cascade_workspace_bytes(cascade), header->arena_bytes);
}

static int ring_is_legal(const fleet_image_row_link_t *link)
{
    const int whole = link->slide_rows == 0u && link->ring_rows == link->rows;
    const int ring = link->slide_rows != 0u && link->slide_rows <= link->ring_rows;
    return link->width != 0u && link->ring_rows != 0u && link->ring_rows <= link->rows && (whole || ring);
}

/* The first and the last window reach the input, so all do. */
static int windows_reach(int32_t outputs, int32_t stride, int32_t pad, int32_t reach, int32_t inputs)
{
    return pad < reach && (outputs - 1) * stride - pad < inputs;
}

static int window_has_rows(const fleet_op_pool_t *op, const fleet_image_row_link_t *link, int strips)
{
    const int32_t down = (op->kernel_h - 1) * op->dilation_h + 1;
    const int32_t across = (op->kernel_w - 1) * op->dilation_w + 1;
    return link->rows == op->out_h && link->width == op->out_w &&
           windows_reach(op->out_h, op->stride_h, op->pad_top, down, op->in_h) &&
           (!strips || windows_reach(op->out_w, op->stride_w, op->pad_left, across, op->in_w));
}

/* Elements after which a constant operand repeats; `unit` of a second tensor, 0 of one of another size. */
static uint32_t period_of(const fleet_op_t *op, uint32_t size, uint32_t unit)
{
    if (fleet_rows_paired(op)) {
        return ((const fleet_op_add_t *)(const void *)op)->size_b == size ? unit : 0u;
    }
    if (op->code == FLEET_OP_ADD) {
        return ((const fleet_op_add_t *)(const void *)op)->size_b;
    }
    return op->code == FLEET_OP_PRELU ? ((const fleet_op_prelu_t *)(const void *)op)->slope_count : 1u;
}

/* Rows and columns of equal length, and a constant that is the same for each row, in strips for each pixel. */
static int flat_has_rows(const fleet_op_t *op, const fleet_image_row_link_t *link, int strips)
{
    const uint32_t size = fleet_rows_size(op);
    const uint32_t row = size / link->rows;
    const uint32_t unit = strips ? row / link->width : row;
    const uint32_t period = period_of(op, size, unit);
    return row != 0u && row * link->rows == size && row % link->width == 0u && period != 0u && unit % period == 0u;
}

static int has_rows(const fleet_op_t *op, const fleet_image_row_link_t *link, int strips)
{
    return fleet_rows_windowed(op->code) ? window_has_rows((const void *)op, link, strips)
                                         : flat_has_rows(op, link, strips);
}

/* An earlier op with as many rows and columns as the input. */
static int source_fits(const fleet_op_t *op, const fleet_image_row_link_t *links, uint32_t member, uint32_t source)
{
    const fleet_image_row_link_t *link = &links[member];
    return source == FLEET_NO_SOURCE ||
           (source < member && links[source].rows == fleet_rows_in_rows(op, link) &&
            links[source].width == fleet_rows_in_columns(op, link));
}

static int sources_fit(const fleet_op_t *op, const fleet_image_row_link_t *links, uint32_t member)
{
    const fleet_image_row_link_t *link = &links[member];
    return source_fits(op, links, member, link->source) &&
           (fleet_rows_paired(op) ? source_fits(op, links, member, link->source_b)
                                  : link->source_b == FLEET_NO_SOURCE);
}

/* What is checked: one op of a cascade in one of its strips. */
typedef struct {
    const fleet_image_header_t *header;
    const fleet_image_cascade_t *cascade;
    const fleet_op_t *op;
    uint32_t member;
    uint32_t strip;
    fleet_rows_t rows;
} part_t;

static const fleet_image_row_link_t *link_of(const part_t *part)
{
    return &fleet_cascade_links(part->cascade)[part->member];
}

static fleet_image_strip_t kept_of(const part_t *part, uint32_t source)
{
    return fleet_cascade_kept(part->cascade, part->strip, source, fleet_rows_in_columns(part->op, link_of(part)));
}

/* Whether a source makes the columns read; without strips all are there. */
static int makes_columns(const part_t *part, uint32_t source)
{
    if (source == FLEET_NO_SOURCE || part->cascade->strips == 1u) {
        return 1;
    }
    const fleet_image_strip_t made = fleet_cascade_strip(part->cascade, part->strip, source);
    return made.first <= part->rows.left && part->rows.left < part->rows.right &&
           part->rows.right <= (uint32_t)made.first + made.columns;
}

/* Whether what a row gathers at most has room. */
static int gather_fits(const part_t *part, fleet_image_strip_t kept)
{
    if (kept.first == part->rows.left || !fleet_rows_windowed(part->op->code)) {
        return 1;
    }
    const fleet_op_pool_t *window = (const void *)part->op;
    const uint32_t reach = (uint32_t)(window->kernel_h - 1) * window->dilation_h + 1u;
    const uint64_t rows = reach < window->in_h ? reach : window->in_h;
    return rows == 1u || rows * (part->rows.right - part->rows.left) * part->rows.pixel <= part->cascade->gather_bytes;
}

/* The rows of an input, whole or in the ring of `source`, lie in the arena. */
static int source_is_legal(const part_t *part, uint32_t source, uint32_t offset)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(part->cascade);
    const fleet_image_strip_t kept = kept_of(part, source);
    const uint64_t rows =
        source == FLEET_NO_SOURCE ? fleet_rows_in_rows(part->op, link_of(part)) : links[source].ring_rows;
    return makes_columns(part, source) && gather_fits(part, kept) &&
           fleet_inside(offset, rows * kept.columns * part->rows.pixel, part->header->arena_bytes);
}

static int sources_are_legal(const part_t *part)
{
    const fleet_image_row_link_t *link = link_of(part);
    if (fleet_rows_paired(part->op) &&
        !source_is_legal(part, link->source_b, ((const fleet_op_add_t *)(const void *)part->op)->input_b)) {
        return 0;
    }
    return source_is_legal(part, link->source, part->op->input);
}

/* What the op writes lies in the arena, and not in the workspace, which holds its own record. */
static int output_is_legal(const part_t *part, fleet_image_strip_t strip)
{
    const fleet_image_row_link_t *link = link_of(part);
    const fleet_op_t *op = part->op;
    const uint64_t columns = link->slide_rows == 0u ? link->width : strip.columns;
    const uint64_t bytes = columns * link->ring_rows * (part->rows.out_bytes / strip.columns);
    const uint32_t at = part->cascade->workspace;
    const uint64_t size = fleet_cascade_workspace_bytes(part->cascade);
    return fleet_inside(op->output, bytes, part->header->arena_bytes) && fleet_disjoint(at, size, op->output, bytes) &&
           (op->scratch_bytes == 0u || fleet_disjoint(at, size, op->scratch, op->scratch_bytes));
}

/* The rest is that of any record; neighbours may lie at any distance, the cascade's order is what matters. */
static fleet_status_t record_check(const part_t *part, fleet_image_strip_t strip)
{
    const fleet_image_strip_t kept = kept_of(part, link_of(part)->source);
    fleet_row_record_t record;
    fleet_rows_narrow(&record, part->op, &part->rows, strip, 0,
                      kept.first == part->rows.left ? kept.columns : part->rows.right - part->rows.left);
    record.op.overlap_bytes = INT32_MIN;
    return fleet_op_check(part->header, &record.op);
}

static fleet_status_t strip_check(part_t *part)
{
    const fleet_image_strip_t strip = fleet_cascade_strip(part->cascade, part->strip, part->member);
    if (strip.columns == 0u || (uint32_t)strip.first + strip.columns > link_of(part)->width) {
        return FLEET_ERR_LAYOUT;
    }
    part->rows = fleet_rows_of(part->op, link_of(part), strip, 0);
    return sources_are_legal(part) && output_is_legal(part, strip) ? record_check(part, strip) : FLEET_ERR_LAYOUT;
}

fleet_status_t fleet_cascade_op_check(const fleet_image_header_t *header, const fleet_op_t *op,
                                      const fleet_image_cascade_t *cascade, uint32_t member)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    part_t part = {header, cascade, op, member, 0, {0, 0, 0, 0, 0, 0}};
    if (!fleet_rows_possible(op->code) || !fleet_record_is_whole(op) || !ring_is_legal(&links[member]) ||
        (op->flags & FLEET_OP_FLAG_REVERSED) != 0u) {
        return FLEET_ERR_LAYOUT;
    }
    if (!has_rows(op, &links[member], cascade->strips > 1u) || !sources_fit(op, links, member)) {
        return FLEET_ERR_LAYOUT;
    }
    fleet_status_t status = FLEET_OK;
    for (; status == FLEET_OK && part.strip < cascade->strips; part.strip++) {
        status = strip_check(&part);
    }
    return status;
}
