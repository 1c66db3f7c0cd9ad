/* Rows of the ops of a cascade: compiler/SPEC.md section 11. */
#ifndef FLEET_ROWS_H
#define FLEET_ROWS_H

#include "internal.h"

/* Rows [first, end) and columns [left, right) that one row of a strip reads, bytes of an input pixel and of the output. */
typedef struct {
    uint32_t first;
    uint32_t end;
    uint32_t left;
    uint32_t right;
    uint32_t pixel;
    uint32_t out_bytes;
} fleet_rows_t;

/* Any record that can run by rows. */
typedef union {
    fleet_op_t op;
    fleet_op_conv_t conv;
    fleet_op_pool_t pool;
    fleet_op_add_t add;
    fleet_op_rescale_t rescale;
    fleet_op_lut_t lut;
    fleet_op_prelu_t prelu;
} fleet_row_record_t;

/* Whether an operator can run by rows, and whether it does so through a window. */
int fleet_rows_possible(uint32_t code);
int fleet_rows_windowed(uint32_t code);

/* Whether the op has two inputs in the arena. */
int fleet_rows_paired(const fleet_op_t *op);

/* Elements of a record without a window. */
uint32_t fleet_rows_size(const fleet_op_t *op);

/* Rows and columns of an op's whole input. */
uint32_t fleet_rows_in_rows(const fleet_op_t *op, const fleet_image_row_link_t *link);
uint32_t fleet_rows_in_columns(const fleet_op_t *op, const fleet_image_row_link_t *link);

/* What row `row` of the columns `strip` of an op's output reads. */
fleet_rows_t fleet_rows_of(const fleet_op_t *op, const fleet_image_row_link_t *link, fleet_image_strip_t strip,
                           uint32_t row);

/* Copy of a record that makes this row from an input of `in_columns`; its offsets are still those of the whole record. */
void fleet_rows_narrow(fleet_row_record_t *record, const fleet_op_t *op, const fleet_rows_t *rows,
                       fleet_image_strip_t strip, uint32_t row, uint32_t in_columns);

/* First row that a ring keeps when `made` rows have been made. */
static inline uint32_t fleet_ring_base(const fleet_image_row_link_t *link, uint32_t made)
{
    return made <= link->ring_rows
               ? 0u
               : (made - link->ring_rows + link->slide_rows - 1u) / link->slide_rows * link->slide_rows;
}

#endif
