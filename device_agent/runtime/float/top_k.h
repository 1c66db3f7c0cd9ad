/* The walk of TOP_K_F32 and TOP_K_INDICES_F32: as the int8 ones, not-a-numbers after all others. */
#ifndef FLEET_F32_TOP_K_H
#define FLEET_F32_TOP_K_H

#include "f32.h"

/* Whether column a comes before column b: the larger value, or the smaller one with op->smallest; else the first. */
static inline int fleet_f32_comes_before(const fleet_op_top_k_f32_t *op, const float *row, uint32_t a, uint32_t b)
{
    const float x = row[a];
    const float y = row[b];
    if (x > y || x < y) {
        return (x > y) != (op->smallest != 0u);
    }
    const int x_is_nan = fleet_f32_is_nan(x);
    const int y_is_nan = fleet_f32_is_nan(y);
    return x_is_nan == y_is_nan ? a < b : y_is_nan;
}

/*
 * The column that follows `last` in order; `last` = op->columns asks for the first. `last` again where none follows: only a
 * hostile overlap, which changes the row between two columns, does that.
 */
static inline uint32_t fleet_f32_next_column(const fleet_op_top_k_f32_t *op, const float *row, uint32_t last)
{
    uint32_t best = op->columns;
    for (uint32_t c = 0; c < op->columns; c++) {
        const int left = last == op->columns || fleet_f32_comes_before(op, row, last, c);
        if (left && (best == op->columns || fleet_f32_comes_before(op, row, c, best))) {
            best = c;
        }
    }
    return best < op->columns ? best : last;
}

static inline void fleet_f32_first_columns(const fleet_kernel_context_t *context, const fleet_op_top_k_f32_t *op,
                                           float (*result)(const float *row, uint32_t column))
{
    const float *row = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t r = 0; r < op->rows; r++, row += op->columns) {
        uint32_t column = op->columns;
        for (uint32_t k = 0; k < op->k; k++) {
            column = fleet_f32_next_column(op, row, column);
            *output++ = fleet_f32_clamp(result(row, column), op->activation_min, op->activation_max);
        }
    }
}

#endif
