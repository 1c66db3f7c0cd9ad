/* Which taps of a transposed convolution reach an output position: what its kernels share. */
#ifndef FLEET_STAMP_H
#define FLEET_STAMP_H

#include <stdint.h>

/* The taps of one axis that reach one output position: tap, tap + tap_step .. read index, index - index_step .. */
typedef struct {
    int32_t tap;
    int32_t tap_step;
    int32_t index;
    int32_t index_step;
    int32_t count;
} fleet_hits_t;

static inline fleet_hits_t fleet_find_hits(int32_t position, int32_t stride, int32_t dilation, int32_t taps, int32_t size)
{
    fleet_hits_t hits = {0, 0, 0, 0, 0};
    for (int32_t tap = 0; tap < taps && position >= 0; tap++, position -= dilation) {
        const int32_t index = position / stride;
        if (position % stride != 0 || index >= size) {
            continue;
        }
        if (hits.count == 0) {
            hits.tap = tap;
            hits.index = index;
        } else if (hits.count == 1) {
            hits.tap_step = tap - hits.tap;
            hits.index_step = hits.index - index;
        }
        hits.count++;
    }
    return hits;
}

#endif
