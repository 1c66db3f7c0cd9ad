/* What the checks of op records share. A check fills in the extent even where it then refuses the record. */
#ifndef FLEET_CHECK_OP_H
#define FLEET_CHECK_OP_H

#include "internal.h"

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

/* The first and the last window along one axis reach the input, so all do. */
int fleet_reaches_input(int32_t in, int32_t out, int32_t stride, int32_t pad, int32_t extent);

static inline int fleet_disjoint(uint32_t a, uint64_t a_bytes, uint32_t b, uint64_t b_bytes)
{
    return b >= a ? b - a >= a_bytes : a - b >= b_bytes;
}

static inline int fleet_multiplier_is_legal(int32_t multiplier, int32_t shift)
{
    return multiplier >= 0 && shift >= -31 && shift <= 30;
}

#endif
