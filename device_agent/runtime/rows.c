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

static fleet_rows_t window_rows(const fleet_op_pool_t *op, uint32_t row)
{
    const int32_t start = (int32_t)(row * op->stride_h) - op->pad_top;
    const int32_t end = start + (op->kernel_h - 1) * op->dilation_h + 1;
    fleet_rows_t rows;
    rows.first = start > 0 ? (uint32_t)start : 0u;
    rows.end = (uint32_t)(end < op->in_h ? end : op->in_h);
    rows.in_bytes = (uint32_t)op->in_w * op->in_c;
    rows.out_bytes = (uint32_t)op->out_w * op->out_c;
    return rows;
}

fleet_rows_t fleet_rows_of(const fleet_op_t *op, uint32_t rows, uint32_t row)
{
    if (fleet_rows_windowed(op->code)) {
        return window_rows((const void *)op, row);
    }
    const uint32_t bytes = fleet_rows_size(op) / rows;
    const fleet_rows_t found = {row, row + 1u, bytes, bytes};
    return found;
}

void fleet_rows_narrow(fleet_row_record_t *record, const fleet_op_t *op, const fleet_rows_t *rows, uint32_t row)
{
    memcpy(record, op, op->record_bytes);
    if (fleet_rows_windowed(op->code)) {
        fleet_op_pool_t *window = &record->pool; /* fleet_op_conv_t begins with its fields */
        window->pad_top = (uint8_t)(rows->first + window->pad_top - row * window->stride_h);
        window->in_h = (uint16_t)(rows->end - rows->first);
        window->out_h = 1;
        return;
    }
    *size_of(record) = rows->out_bytes;
    if (fleet_rows_paired(op)) {
        record->add.size_b = rows->out_bytes;
    }
}
