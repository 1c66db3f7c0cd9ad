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
    return (uint32_t)(sizeof(*cascade) + cascade->op_count * sizeof(fleet_image_row_link_t));
}

/* Bytes of the arena a cascade keeps its next record and its counters in. */
static inline uint32_t fleet_cascade_workspace_bytes(const fleet_image_cascade_t *cascade)
{
    return FLEET_CASCADE_RECORD_BYTES + 2u * cascade->op_count;
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
