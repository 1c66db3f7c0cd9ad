/* Which taps of a sliding window lie inside the input: what convolutions and pools share. */
#ifndef FLEET_WINDOW_H
#define FLEET_WINDOW_H

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

#endif
