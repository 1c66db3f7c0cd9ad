#include "rows.h"

#include <string.h>

int fleet_rows_windowed(uint32_t code)
{
    return code == FLEET_OP_CONV_2D || code == FLEET_OP_DEPTHWISE_CONV_2D || code == FLEET_OP_MAX_POOL_2D ||
           code == FLEET_OP_AVERAGE_POOL_2D;
}

int fleet_rows_possible(uint32_t code)
{
    return fleet_rows_windowed(code) || code == FLEET_OP_ADD || code == FLEET_OP_RESCALE ||
           code == FLEET_OP_LUT_INT8 || code == FLEET_OP_PRELU;
}

int fleet_rows_paired(const fleet_op_t *op)
{
    return op->code == FLEET_OP_ADD && (op->flags & FLEET_OP_FLAG_CONSTANT_B) == 0u;
}

/* Where a record without a window keeps its elements. */
static uint32_t *size_of(fleet_row_record_t *record)
{
    switch (record->op.code) {
    case FLEET_OP_ADD:
        return &record->add.size;
    case FLEET_OP_RESCALE:
        return &record->rescale.size;
    case FLEET_OP_LUT_INT8:
        return &record->lut.size;
    default:
        return &record->prelu.size;
    }
}

uint32_t fleet_rows_size(const fleet_op_t *op)
{
    fleet_row_record_t copy;
    memcpy(&copy, op, op->record_bytes);
    return *size_of(&copy);
}

uint32_t fleet_rows_in_rows(const fleet_op_t *op, const fleet_image_row_link_t *link)
{
    return fleet_rows_windowed(op->code) ? ((const fleet_op_pool_t *)(const void *)op)->in_h : link->rows;
}

uint32_t fleet_rows_in_columns(const fleet_op_t *op, const fleet_image_row_link_t *link)
{
    return fleet_rows_windowed(op->code) ? ((const fleet_op_pool_t *)(const void *)op)->in_w : link->width;
}

static uint32_t not_below_zero(int32_t place)
{
    return place > 0 ? (uint32_t)place : 0u;
}

static uint32_t not_above(int32_t place, int32_t most)
{
    return (uint32_t)(place < most ? place : most);
}

static fleet_rows_t window_rows(const fleet_op_pool_t *op, fleet_image_strip_t strip, uint32_t row)
{
    const int32_t top = (int32_t)(row * op->stride_h) - op->pad_top;
    const int32_t left = (int32_t)((uint32_t)strip.first * op->stride_w) - op->pad_left;
    const int32_t last = left + (int32_t)((strip.columns - 1u) * op->stride_w);
    fleet_rows_t rows;
    rows.first = not_below_zero(top);
    rows.end = not_above(top + (op->kernel_h - 1) * op->dilation_h + 1, op->in_h);
    rows.left = not_below_zero(left);
    rows.right = not_above(last + (op->kernel_w - 1) * op->dilation_w + 1, op->in_w);
    rows.pixel = op->in_c;
    rows.out_bytes = (uint32_t)strip.columns * op->out_c;
    return rows;
}

fleet_rows_t fleet_rows_of(const fleet_op_t *op, const fleet_image_row_link_t *link, fleet_image_strip_t strip,
                           uint32_t row)
{
    if (fleet_rows_windowed(op->code)) {
        return window_rows((const void *)op, strip, row);
    }
    const uint32_t pixel = fleet_rows_size(op) / link->rows / link->width;
    const fleet_rows_t found = {row,   row + 1u, strip.first, (uint32_t)strip.first + strip.columns,
                                pixel, strip.columns * pixel};
    return found;
}

void fleet_rows_narrow(fleet_row_record_t *record, const fleet_op_t *op, const fleet_rows_t *rows,
                       fleet_image_strip_t strip, uint32_t row, uint32_t in_columns)
{
    memcpy(record, op, op->record_bytes);
    if (fleet_rows_windowed(op->code)) {
        fleet_op_pool_t *window = &record->pool; /* fleet_op_conv_t begins with its fields */
        window->pad_top = (uint8_t)(rows->first + window->pad_top - row * window->stride_h);
        window->pad_left = (uint8_t)(rows->left + window->pad_left - (uint32_t)strip.first * window->stride_w);
        window->in_h = (uint16_t)(rows->end - rows->first);
        window->in_w = (uint16_t)in_columns;
        window->out_h = 1;
        window->out_w = strip.columns;
        return;
    }
    *size_of(record) = rows->out_bytes;
    if (fleet_rows_paired(op)) {
        record->add.size_b = rows->out_bytes;
    }
}
