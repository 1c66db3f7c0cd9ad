/* The tables of a FEATURES record (compiler/SPEC.md section 5). Not features.h: the C library has a header of that name. */
#ifndef FLEET_FEATURES_TABLES_H
#define FLEET_FEATURES_TABLES_H

#include "internal.h"

typedef struct {
    const int64_t *bias;
    const int32_t *sine;
    const int32_t *window;
    const int16_t *spans; /* first bin and count of every filter */
    const int16_t *weights;
    const int16_t *matrix;
    const int16_t *shifts;
    const int16_t *end;
} fleet_features_tables_t;

static inline fleet_features_tables_t fleet_features_tables(const uint8_t *image, const fleet_op_features_t *op)
{
    const uint32_t rows = (op->form & FLEET_FEATURES_DIAGONAL) != 0u ? 1u : op->coefficients;
    fleet_features_tables_t tables;
    tables.bias = (const void *)(image + op->table);
    tables.sine = (const void *)(tables.bias + op->coefficients);
    tables.window = (const void *)(tables.sine + (UINT32_C(1) << op->fft_log2) / 4u + 1u);
    tables.spans = (const void *)(tables.window + op->frame);
    tables.weights = tables.spans + 2u * op->mels;
    tables.matrix = tables.weights + op->mel_weights;
    tables.shifts = tables.matrix + rows * op->mels;
    tables.end = tables.shifts + op->coefficients;
    return tables;
}

#endif
