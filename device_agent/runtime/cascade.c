#include "cascade.h"
#include "rows.h"

#include <string.h>

FLEET_LAYOUT_CHECK(row_record, sizeof(fleet_row_record_t) == FLEET_CASCADE_RECORD_BYTES);

/* In the arena, so that stacks stay small; no op of the cascade writes there. */
typedef struct {
    fleet_row_record_t record;
    uint16_t made[]; /* rows made, per op */
} workspace_t;

/* One op of a cascade, and the next row of its strip. */
typedef struct {
    const fleet_op_t *op;
    uint32_t member;
    uint32_t strip;
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

static uint32_t rows_of_a_strip(const fleet_image_cascade_t *cascade)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    uint32_t rows = 0;
    for (uint32_t i = 0; i < cascade->op_count; i++) {
        rows += links[i].rows;
    }
    return rows;
}

/* The strip that runs, counters at 0 where it begins. */
static uint32_t enter_strip(const fleet_image_cascade_t *cascade, uint16_t *made, fleet_cursor_t *cursor)
{
    const uint32_t rows = rows_of_a_strip(cascade);
    if (cursor->rows_left == 0u) {
        cursor->rows_left = rows * cascade->strips;
    }
    if (cursor->rows_left % rows == 0u) {
        memset(made, 0, cascade->op_count * sizeof(*made));
    }
    return cascade->strips - 1u - (cursor->rows_left - 1u) / rows;
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
            const fleet_rows_t rows =
                fleet_rows_of(op, link, fleet_cascade_strip(cascade, next->strip, i), made[i]);
            if (has_rows(made, link->source, rows.end) && has_rows(made, link->source_b, rows.end)) {
                next->op = op;
                next->member = i;
                next->rows = rows;
            }
        }
    }
    return next->op != NULL;
}

/* Where an input lies: bytes from its offset to the first pixel read, and from one row to the next. */
typedef struct {
    uint32_t skip;
    uint32_t pitch;
    int kept; /* the rows read are still there */
    int leads; /* the rows kept begin with the first column read */
} place_t;

static place_t find_input(const fleet_image_cascade_t *cascade, const next_t *next, const uint16_t *made,
                          uint32_t source, uint32_t width)
{
    const fleet_rows_t *rows = &next->rows;
    const fleet_image_strip_t kept = fleet_cascade_kept(cascade, next->strip, source, width);
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    const uint32_t base = source == FLEET_NO_SOURCE ? 0u : fleet_ring_base(&links[source], made[source]);
    place_t place;
    place.kept = rows->first >= base;
    place.leads = rows->left == kept.first;
    place.pitch = kept.columns * rows->pixel;
    place.skip = place.kept ? (rows->first - base) * place.pitch + (rows->left - kept.first) * rows->pixel : 0u;
    return place;
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

/* Byte of the next row from the output's offset on; the rows of a tensor that will be whole have all columns. */
static uint32_t place_output(const fleet_image_row_link_t *link, fleet_image_strip_t strip, const fleet_rows_t *rows,
                             uint32_t row)
{
    if (link->slide_rows != 0u) {
        return row * rows->out_bytes;
    }
    return (row * link->width + strip.first) * (rows->out_bytes / strip.columns);
}

/* Columns in the middle of rows that cannot be read as they lie: one row after the other behind the counters. */
static void gather(int8_t *to, const int8_t *from, const fleet_rows_t *rows, uint32_t pitch)
{
    const size_t bytes = (size_t)(rows->right - rows->left) * rows->pixel;
    for (uint32_t row = rows->first; row < rows->end; row++, to += bytes, from += pitch) {
        memmove(to, from, bytes); /* a hostile input may lie in the workspace */
    }
}

static void set_input(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade, const next_t *next,
                      const place_t *place, fleet_op_t *record)
{
    record->input += place->skip;
    if (!place->leads && next->rows.end - next->rows.first > 1u) {
        const uint32_t to = cascade->workspace + fleet_cascade_gather_at(cascade);
        gather(context->arena + to, context->arena + record->input, &next->rows, place->pitch);
        record->input = to;
    }
}

/* Makes the record of the next row in the workspace; 0 where a row it reads is gone. */
static int prepare(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade, const next_t *next,
                   workspace_t *space)
{
    const fleet_image_row_link_t *link = &fleet_cascade_links(cascade)[next->member];
    const fleet_image_strip_t strip = fleet_cascade_strip(cascade, next->strip, next->member);
    const fleet_rows_t *rows = &next->rows;
    const uint32_t row = space->made[next->member];
    const uint32_t width = fleet_rows_in_columns(next->op, link);
    const place_t place = find_input(cascade, next, space->made, link->source, width);
    const place_t place_b = find_input(cascade, next, space->made, link->source_b, width);
    const int paired = fleet_rows_paired(next->op);
    if (!place.kept || (paired && !place_b.kept)) {
        return 0;
    }
    fleet_rows_narrow(&space->record, next->op, rows, strip, row,
                      place.leads ? place.pitch / rows->pixel : rows->right - rows->left);
    const uint32_t kept = slide(link, context->arena + next->op->output, row, rows->out_bytes);
    space->record.op.output += place_output(link, strip, rows, kept);
    if (paired) {
        space->record.add.input_b += place_b.skip;
    }
    set_input(context, cascade, next, &place, &space->record.op);
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
    next.strip = enter_strip(cascade, space->made, cursor);
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
