/* Building blocks of compiler/NUMERICS.md section 8: int16 tensors have zero point 0, layers sum in 64 bits. */
#ifndef FLEET_INT16_H
#define FLEET_INT16_H

#include "fixed_point.h"
#include "internal.h"

static inline const int16_t *fleet_arena_int16(const fleet_kernel_context_t *context, uint32_t offset)
{
    return (const int16_t *)(const void *)(context->arena + offset);
}

static inline int16_t *fleet_output_int16(const fleet_kernel_context_t *context, uint32_t offset)
{
    return (int16_t *)(void *)(context->arena + offset);
}

static inline const int16_t *fleet_image_int16(const fleet_kernel_context_t *context, uint32_t offset)
{
    return (const int16_t *)(const void *)(context->image + offset);
}

static inline int16_t fleet_clamp_int16(int64_t x, int32_t low, int32_t high)
{
    return (int16_t)(x < low ? low : x > high ? high : x);
}

/* Rounds once, half up, with the multiplier cut to 15 bits. Shifts -31 .. FLEET_MOST_SHIFT_INT16; others give wrong numbers. */
static inline int64_t fleet_rescale_wide(int64_t x, int32_t multiplier, int32_t shift)
{
    const int32_t reduced = multiplier < 0x7fff0000 ? (multiplier + (1 << 15)) >> 16 : 0x7fff;
    const uint32_t right = shift <= FLEET_MOST_SHIFT_INT16 ? (uint32_t)(15 - shift) & 63u : 15u - FLEET_MOST_SHIFT_INT16;
    const uint64_t product = (uint64_t)x * (uint64_t)reduced + ((UINT64_C(1) << right) >> 1);
    return (int64_t)product >> right;
}

/* Bias of channel `index` of a layer: 48 bits, the high 16 apart. */
static inline int64_t fleet_bias_wide(const fleet_kernel_context_t *context, uint32_t channel, uint32_t high, uint32_t index)
{
    const int32_t low = context->biases[channel + index];
    if (high == FLEET_NO_OFFSET) {
        return low;
    }
    return (int64_t)fleet_image_int16(context, high)[index] * (INT64_C(1) << 32) + (uint32_t)low;
}

/* The last step of a layer. */
static inline int16_t fleet_finish_wide(const fleet_kernel_context_t *context, uint32_t entry, int64_t sum, int32_t low,
                                        int32_t high)
{
    return fleet_clamp_int16(fleet_rescale_wide(sum, context->multipliers[entry], context->shifts[entry]), low, high);
}

static inline int64_t fleet_dot_wide(int64_t sum, const int16_t *a, const int8_t *b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        sum += (int32_t)a[i] * b[i];
    }
    return sum;
}

/* A table whose entries lie 2^FLEET_LUT_INT16_STEP_BITS codes apart, interpolated. */
static inline int32_t fleet_lookup_int16(int32_t code, const int16_t *table)
{
    const int32_t index = 256 + (code >> FLEET_LUT_INT16_STEP_BITS);
    const int32_t offset = code & ((1 << FLEET_LUT_INT16_STEP_BITS) - 1);
    const int32_t step = table[index + 1] - table[index];
    return table[index] + ((step * offset + 64) >> FLEET_LUT_INT16_STEP_BITS);
}

#endif
