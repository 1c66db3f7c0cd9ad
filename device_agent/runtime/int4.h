/* Int4 weights: two in a byte, the low half first, every row beginning with a byte (compiler/SPEC.md section 5). */
#ifndef FLEET_INT4_H
#define FLEET_INT4_H

#include "fixed_point.h"

static inline int32_t fleet_int4_low(int8_t pair)
{
    return (int8_t)((uint8_t)pair << 4) >> 4;
}

/* Weight `index` of a row. */
static inline int32_t fleet_int4_at(const int8_t *row, uint32_t index)
{
    const int8_t pair = row[index / 2u];
    return index % 2u != 0u ? pair >> 4 : fleet_int4_low(pair);
}

static inline uint32_t fleet_int4_row_bytes(uint32_t length)
{
    return (length + 1u) / 2u;
}

/* Adds a[i] x weight first + i; pairs that share a byte are taken together. */
static inline int32_t fleet_dot_int4(int32_t accumulator, const int8_t *a, const int8_t *row, uint32_t first, uint32_t count)
{
    uint32_t sum = (uint32_t)accumulator;
    uint32_t i = 0;
    if (first % 2u != 0u && count != 0u) {
        sum += (uint32_t)(a[i++] * fleet_int4_at(row, first));
    }
    for (const int8_t *pair = row + (first + i) / 2u; i + 1u < count; i += 2u, pair++) {
        sum += (uint32_t)(a[i] * fleet_int4_low(*pair) + a[i + 1u] * (*pair >> 4));
    }
    if (i < count) {
        sum += (uint32_t)(a[i] * fleet_int4_at(row, first + i));
    }
    return (int32_t)sum;
}

/* A run of padded taps: each has the value zero_point. */
static inline int32_t fleet_dot_constant_int4(int32_t accumulator, int32_t zero_point, const int8_t *row, uint32_t first,
                                              uint32_t count)
{
    uint32_t sum = (uint32_t)accumulator;
    for (uint32_t i = 0; i < count; i++) {
        sum += (uint32_t)(zero_point * fleet_int4_at(row, first + i));
    }
    return (int32_t)sum;
}

#endif
