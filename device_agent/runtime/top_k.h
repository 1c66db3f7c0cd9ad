/* The walk of TOP_K and TOP_K_INDICES: the columns of the first k values, in order. Row r is read until its last value is written. */
#ifndef FLEET_TOP_K_H
#define FLEET_TOP_K_H

#include "internal.h"

/* Whether column a comes before column b: the larger value, or the smaller one with op->smallest; else the first. */
static inline int fleet_comes_before(const fleet_op_top_k_t *op, const int8_t *row, uint32_t a, uint32_t b)
{
    if (row[a] == row[b]) {
        return a < b;
    }
    return (row[a] > row[b]) != (op->smallest != 0u);
}

/*
 * The column that follows `last` in order; `last` = op->columns asks for the first. `last` again where none follows: only a
 * hostile overlap, which changes the row between two columns, does that.
 */
static inline uint32_t fleet_next_column(const fleet_op_top_k_t *op, const int8_t *row, uint32_t last)
{
    uint32_t best = op->columns;
    for (uint32_t c = 0; c < op->columns; c++) {
        const int left = last == op->columns || fleet_comes_before(op, row, last, c);
        if (left && (best == op->columns || fleet_comes_before(op, row, c, best))) {
            best = c;
        }
    }
    return best < op->columns ? best : last;
}

static inline void fleet_first_columns(const fleet_kernel_context_t *context, const fleet_op_top_k_t *op,
                                       int8_t (*result)(const int8_t *row, uint32_t column))
{
    const int8_t *row = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t r = 0; r < op->rows; r++, row += op->columns) {
        uint32_t column = op->columns;
        for (uint32_t k = 0; k < op->k; k++) {
            column = fleet_next_column(op, row, column);
            *output++ = result(row, column);
        }
    }
}

#endif
