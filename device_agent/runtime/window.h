/* Which taps of a sliding window lie inside the input: what convolutions and pools share. */
#ifndef FLEET_WINDOW_H
#define FLEET_WINDOW_H

#include "fleet_image.h"

#include <stdint.h>

/* One axis: taps begin <= tap < end are inside; tap t reads position origin + t * dilation. */
typedef struct {
    int32_t origin;
    int32_t begin;
    int32_t end;
} fleet_span_t;

static inline int32_t fleet_divide_up(int32_t a, int32_t b)
{
    return a <= 0 ? 0 : (a - 1) / b + 1;
}

static inline fleet_span_t fleet_span(int32_t out, int32_t stride, int32_t pad, int32_t dilation, int32_t taps, int32_t size)
{
    fleet_span_t span;
    span.origin = out * stride - pad;
    span.begin = fleet_divide_up(-span.origin, dilation);
    span.end = fleet_divide_up(size - span.origin, dilation);
    span.end = span.end < taps ? span.end : taps;
    span.begin = span.begin < span.end ? span.begin : span.end;
    return span;
}

/* Order of the output pixels: first one, its byte offset in the output, and the step to the next row and column. */
typedef struct {
    int32_t row;
    int32_t column;
    int32_t offset;
    int32_t step;
} fleet_walk_t;

static inline fleet_walk_t fleet_walk(uint32_t flags, int32_t rows, int32_t columns, int32_t channels)
{
    const fleet_walk_t forward = {0, 0, 0, 1};
    const fleet_walk_t reversed = {rows - 1, columns - 1, (rows * columns - 1) * channels, -1};
    return (flags & FLEET_OP_FLAG_REVERSED) != 0u ? reversed : forward;
}

#endif
