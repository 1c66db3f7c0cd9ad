#include "cascade.h"
#include "rows.h"

#include <string.h>

FLEET_LAYOUT_CHECK(row_record, sizeof(fleet_row_record_t) == FLEET_CASCADE_RECORD_BYTES);

/* In the arena, so that stacks stay small; no op of the cascade writes there. */
typedef struct {
    fleet_row_record_t record;
    uint16_t made[]; /* rows made, per op */
} workspace_t;

/* One op of a cascade, and its next row. */
typedef struct {
    const fleet_op_t *op;
    uint32_t member;
    fleet_rows_t rows;
} next_t;

const fleet_image_cascade_t *fleet_cascade_at(const fleet_image_header_t *header, uint32_t offset, uint32_t index)
{
    if (offset >= header->cascades_bytes) {
        return NULL;
    }
    const fleet_image_cascade_t *cascade =
        (const void *)((const uint8_t *)header + header->cascades_offset + offset);
    return cascade->first_op == index ? cascade : NULL;
}

static const fleet_op_t *first_op(const fleet_kernel_context_t *context, const fleet_cursor_t *cursor)
{
    const fleet_image_header_t *header = (const void *)context->image;
    return (const void *)(context->image + header->ops_offset + cursor->offset);
}

static const fleet_op_t *behind(const fleet_op_t *op)
{
    return (const void *)((const uint8_t *)op + op->record_bytes);
}

static workspace_t *workspace(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade)
{
    return (void *)(context->arena + cascade->workspace);
}

static void begin(const fleet_image_cascade_t *cascade, uint16_t *made, fleet_cursor_t *cursor)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    for (uint32_t i = 0; i < cascade->op_count; i++) {
        made[i] = 0;
        cursor->rows_left += links[i].rows;
    }
}

static int has_rows(const uint16_t *made, uint32_t source, uint32_t end)
{
    return source == FLEET_NO_SOURCE || made[source] >= end;
}

/* The last op with a row left whose input rows are all there. */
static int find_next(const fleet_image_cascade_t *cascade, const fleet_op_t *op, const uint16_t *made, next_t *next)
{
    const fleet_image_row_link_t *link = fleet_cascade_links(cascade);
    next->op = NULL;
    for (uint32_t i = 0; i < cascade->op_count; i++, link++, op = behind(op)) {
        if (made[i] < link->rows) {
            const fleet_rows_t rows = fleet_rows_of(op, link->rows, made[i]);
            if (has_rows(made, link->source, rows.end) && has_rows(made, link->source_b, rows.end)) {
                next->op = op;
                next->member = i;
                next->rows = rows;
            }
        }
    }
    return next->op != NULL;
}

/* First input row that is still kept. */
static uint32_t source_base(const fleet_image_row_link_t *links, const uint16_t *made, uint32_t source)
{
    return source == FLEET_NO_SOURCE ? 0u : fleet_ring_base(&links[source], made[source]);
}

/* Make place for the next row where the ring is full; returns its place in the ring, in rows. */
static uint32_t slide(const fleet_image_row_link_t *link, int8_t *ring, uint32_t made, uint32_t row_bytes)
{
    const uint32_t before = fleet_ring_base(link, made);
    const uint32_t base = fleet_ring_base(link, made + 1u);
    if (base != before) {
        memmove(ring, ring + (size_t)(base - before) * row_bytes, (size_t)(made - base) * row_bytes);
    }
    return made - base;
}

/* Makes the record of the next row in the workspace; 0 where a row it reads is gone. */
static int prepare(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade, const next_t *next,
                   workspace_t *space)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    const fleet_image_row_link_t *link = &links[next->member];
    const fleet_rows_t *rows = &next->rows;
    const uint32_t row = space->made[next->member];
    const uint32_t base = source_base(links, space->made, link->source);
    const uint32_t base_b = source_base(links, space->made, link->source_b);
    if (rows->first < base || rows->first < base_b) {
        return 0;
    }
    fleet_rows_narrow(&space->record, next->op, rows, row);
    space->record.op.input += (rows->first - base) * rows->in_bytes;
    if (fleet_rows_paired(next->op)) {
        space->record.add.input_b += (rows->first - base_b) * rows->in_bytes;
    }
    space->record.op.output += slide(link, context->arena + next->op->output, row, rows->out_bytes) * rows->out_bytes;
    return 1;
}

static void leave(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade, fleet_cursor_t *cursor)
{
    const fleet_op_t *first = first_op(context, cursor);
    const fleet_op_t *op = first;
    for (uint32_t i = 0; i < cascade->op_count; i++) {
        op = behind(op);
    }
    cursor->index += cascade->op_count;
    cursor->offset += (uint32_t)((const uint8_t *)op - (const uint8_t *)first);
    cursor->cascade += fleet_cascade_bytes(cascade);
}

const void *fleet_cascade_next(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade,
                               fleet_cursor_t *cursor, fleet_step_t *step)
{
    workspace_t *space = workspace(context, cascade);
    next_t next;
    if (cursor->rows_left == 0u) {
        begin(cascade, space->made, cursor);
    }
    if (!find_next(cascade, first_op(context, cursor), space->made, &next) ||
        !prepare(context, cascade, &next, space)) {
        return NULL;
    }
    if (step != NULL) {
        step->index = cascade->first_op + next.member;
        step->code = space->record.op.code;
        step->output = context->arena + space->record.op.output;
        step->output_bytes = next.rows.out_bytes;
    }
    space->made[next.member]++;
    if (--cursor->rows_left == 0u) {
        leave(context, cascade, cursor);
    }
    return &space->record;
}
