/*
 * What every float32 kernel shares: its operands, the last step, and what the machine must promise. Sums grow one product
 * at a time in the order compiler/NUMERICS.md section 7 names, so that every engine gives the same bits.
 */
#ifndef FLEET_F32_H
#define FLEET_F32_H

#include "../internal.h"
#include "fleet_config.h"

#include <float.h>

#if FLEET_WITH_FLOAT32 && defined(__FAST_MATH__)
#error "float32 kernels need IEEE arithmetic: compile without -ffast-math, or with FLEET_WITH_FLOAT32=0"
#endif
#if FLEET_WITH_FLOAT32 && (!defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD != 0)
#error "float32 kernels need float expressions in float (on x86: -mfpmath=sse), or FLEET_WITH_FLOAT32=0"
#endif
/* Helium's vector arithmetic flushes subnormal numbers to zero, its scalar arithmetic does not. */
#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize")
#endif

#define FLEET_F32_NAN_BITS 0x7fc00000

static inline float fleet_f32_from_bits(int32_t bits)
{
    union {
        int32_t bits;
        float value;
    } both;
    both.bits = bits;
    return both.value;
}

static inline int32_t fleet_f32_bits(float value)
{
    union {
        int32_t bits;
        float value;
    } both;
    both.value = value;
    return both.bits;
}

static inline int fleet_f32_is_nan(float x)
{
    return !(x <= 0.0f) && !(x > 0.0f);
}

/* The last step of a kernel. Machines differ in the bits of their not-a-number: it leaves with one form only. */
static inline float fleet_f32_clamp(float x, float low, float high)
{
    const float y = x < low ? low : x > high ? high : x;
    return fleet_f32_is_nan(y) ? fleet_f32_from_bits(FLEET_F32_NAN_BITS) : y;
}

static inline float *fleet_f32_arena(const fleet_kernel_context_t *context, uint32_t offset)
{
    return (float *)(void *)(context->arena + offset);
}

static inline const float *fleet_f32_image(const fleet_kernel_context_t *context, uint32_t offset)
{
    return (const float *)(const void *)(context->image + offset);
}

/* sum + a[0] b[0] + a[1] b[1] + .. in this order */
static inline float fleet_f32_dot(float sum, const float *a, const float *b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

#endif
