/* Cascades: ops that run row by row, each keeping few rows of its output. compiler/SPEC.md section 11. */
#ifndef FLEET_CASCADE_H
#define FLEET_CASCADE_H

#include "internal.h"

/* The cascade that begins at op `index`, null where none does; `offset` is that of the next cascade, bytes. */
const fleet_image_cascade_t *fleet_cascade_at(const fleet_image_header_t *header, uint32_t offset, uint32_t index);

static inline const fleet_image_row_link_t *fleet_cascade_links(const fleet_image_cascade_t *cascade)
{
    return (const void *)(cascade + 1);
}

static inline uint32_t fleet_cascade_bytes(const fleet_image_cascade_t *cascade)
{
    const uint32_t strips = cascade->strips > 1u ? cascade->strips : 0u;
    return (uint32_t)(sizeof(*cascade) + cascade->op_count * sizeof(fleet_image_row_link_t) +
                      strips * cascade->op_count * sizeof(fleet_image_strip_t));
}

/* The columns that op `member` makes in a strip. */
static inline fleet_image_strip_t fleet_cascade_strip(const fleet_image_cascade_t *cascade, uint32_t strip,
                                                      uint32_t member)
{
    const fleet_image_row_link_t *links = fleet_cascade_links(cascade);
    const fleet_image_strip_t *table = (const void *)(links + cascade->op_count);
    const fleet_image_strip_t all = {0, links[member].width};
    return cascade->strips > 1u ? table[strip * cascade->op_count + member] : all;
}

/* Columns of an input that lie in memory; `source` makes it, of a tensor that is whole or will be there are `width`. */
static inline fleet_image_strip_t fleet_cascade_kept(const fleet_image_cascade_t *cascade, uint32_t strip,
                                                     uint32_t source, uint32_t width)
{
    const fleet_image_strip_t all = {0, (uint16_t)width};
    return source == FLEET_NO_SOURCE || fleet_cascade_links(cascade)[source].slide_rows == 0u
               ? all
               : fleet_cascade_strip(cascade, strip, source);
}

/* Where gathered columns lie behind the start of the workspace, and the bytes of it all. */
static inline uint32_t fleet_cascade_gather_at(const fleet_image_cascade_t *cascade)
{
    return (FLEET_CASCADE_RECORD_BYTES + 2u * cascade->op_count + 3u) & ~3u;
}

static inline uint64_t fleet_cascade_workspace_bytes(const fleet_image_cascade_t *cascade)
{
    return (uint64_t)fleet_cascade_gather_at(cascade) + cascade->gather_bytes;
}

/* Bounds of a cascade's entry, `left` readable bytes of which begin at `cascade`; `behind`: op after the cascade before. */
int fleet_cascade_is_legal(const fleet_image_header_t *header, const fleet_image_cascade_t *cascade, uint32_t left,
                           uint32_t behind);

/* fleet_op_check for op `member` of a legal cascade. */
fleet_status_t fleet_cascade_op_check(const fleet_image_header_t *header, const fleet_op_t *op,
                                      const fleet_image_cascade_t *cascade, uint32_t member);

/*
 * The record of the next row, for its kernel to run before anything else happens; the cursor moves on, `step` (may be
 * null) says what the row is. The record lies in the arena, so that no stack is taken while the kernel runs. Null where a
 * row is gone or never comes.
 */
const void *fleet_cascade_next(const fleet_kernel_context_t *context, const fleet_image_cascade_t *cascade,
                               fleet_cursor_t *cursor, fleet_step_t *step);

#endif
