/* What the checks of op records share. A check fills in the extent even where it then refuses the record. */
#ifndef FLEET_CHECK_OP_H
#define FLEET_CHECK_OP_H

#include "internal.h"

#define FLEET_MAX_AVERAGE_WINDOW (1u << 23) /* sums of int8 over the window stay inside int32 */

/* Bytes of an op's first input and of its output. */
typedef struct {
    uint64_t input_bytes;
    uint64_t output_bytes;
} fleet_extent_t;

/* True when `input` shares no byte with the output, or lies at a distance the record's own overlap rule allows. */
int fleet_may_overlap(const fleet_op_t *op, uint32_t input, uint64_t input_bytes, uint64_t output_bytes);

/* True for a known operator's record of the right size: its fields may be read. */
int fleet_record_is_whole(const fleet_op_t *op);

/* Whether `rows` rows of weights lie in the image, and as many entries of the channel arrays from `channel` on. */
int fleet_weights_are_legal(const fleet_image_header_t *header, uint32_t offset, uint64_t rows, uint64_t row_bytes,
                            uint32_t channel);

static inline int fleet_disjoint(uint32_t a, uint64_t a_bytes, uint32_t b, uint64_t b_bytes)
{
    return b >= a ? b - a >= a_bytes : a - b >= b_bytes;
}

/* Product of four sizes; 0 when one is 0 or the product passes the limit (below 2^31), so no step overflows. */
static inline uint64_t fleet_bounded_product(const uint64_t *sizes, uint64_t limit)
{
    uint64_t product = 1;
    for (int axis = 0; axis < 4; axis++) {
        if (sizes[axis] == 0u || sizes[axis] > limit) {
            return 0;
        }
        product *= sizes[axis];
        if (product > limit) {
            return 0;
        }
    }
    return product;
}

/* Product of the dimensions that `repeats` leaves; 0 when one is 0 or the product larger than the limit. */
static inline uint64_t fleet_walk_elements(const uint32_t dims[3], uint32_t repeats, uint64_t limit)
{
    uint64_t elements = 1;
    for (uint32_t axis = 0; axis < 3u; axis++) {
        elements *= ((repeats >> axis) & 1u) != 0u ? 1u : dims[axis];
        if (elements > limit) {
            return 0;
        }
    }
    return elements;
}

/* The first and the last window along one axis reach the input, so all do. */
static inline int fleet_reaches_input(int32_t in, int32_t out, int32_t stride, int32_t pad, int32_t extent)
{
    return pad < extent && (out - 1) * stride - pad < in;
}

static inline int fleet_multiplier_is_legal(int32_t multiplier, int32_t shift)
{
    return multiplier >= 0 && shift >= -31 && shift <= 30;
}

#endif
