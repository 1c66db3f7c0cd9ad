/*
 * Building blocks of compiler/NUMERICS.md section 1. Sums and left shifts wrap as two's complement does, so that an image
 * which breaks the compiler's bounds gives wrong numbers and never undefined behaviour.
 */
#ifndef FLEET_FIXED_POINT_H
#define FLEET_FIXED_POINT_H

#include <stdint.h>

/* C99 leaves the right shift of negatives to the compiler; the formulas need it arithmetic. */
typedef char fleet_check_arithmetic_shift[((-5 >> 1) == -3) ? 1 : -1];

static inline int32_t fleet_wrap_add(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t fleet_wrap_shift_left(int32_t x, uint32_t bits)
{
    return (int32_t)((uint32_t)x << bits);
}

/* NUMERICS adds a sign-dependent nudge and truncates toward zero; (ab + 2^30) >> 31 is the same number for both signs. */
static inline int32_t fleet_high_mul(int32_t a, int32_t b)
{
    if (a == INT32_MIN && b == INT32_MIN) {
        return INT32_MAX;
    }
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 30)) >> 31);
}

/* Divide by 2^exponent, half away from zero; exponent 0 .. 31. */
static inline int32_t fleet_round_shift(int32_t x, uint32_t exponent)
{
    const uint32_t mask = (UINT32_C(1) << exponent) - 1u;
    const uint32_t remainder = (uint32_t)x & mask;
    const uint32_t threshold = (mask >> 1) + (x < 0 ? 1u : 0u);
    return (x >> exponent) + (remainder > threshold ? 1 : 0);
}

/* shift -31 .. 30, positive = left; others are taken modulo 32. */
static inline int32_t fleet_rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    const uint32_t left = shift > 0 ? (uint32_t)shift & 31u : 0u;
    const uint32_t right = shift > 0 ? 0u : (uint32_t)-shift & 31u;
    return fleet_round_shift(fleet_high_mul(fleet_wrap_shift_left(x, left), multiplier), right);
}

/* clamp(x + zero_point, low, high) without leaving int32. */
static inline int8_t fleet_to_int8(int32_t x, int32_t zero_point, int32_t low, int32_t high)
{
    if (x < low - zero_point) {
        return (int8_t)low;
    }
    return (int8_t)(x > high - zero_point ? high : x + zero_point);
}

static inline int32_t fleet_dot(int32_t accumulator, const int8_t *a, const int8_t *b, uint32_t count)
{
    uint32_t sum = (uint32_t)accumulator;
    for (uint32_t i = 0; i < count; i++) {
        sum += (uint32_t)(a[i] * b[i]);
    }
    return (int32_t)sum;
}

/* A run of padded taps: each has the value zero_point. */
static inline int32_t fleet_dot_constant(int32_t accumulator, int32_t zero_point, const int8_t *weights, uint32_t count)
{
    uint32_t sum = (uint32_t)accumulator;
    for (uint32_t i = 0; i < count; i++) {
        sum += (uint32_t)(zero_point * weights[i]);
    }
    return (int32_t)sum;
}

#endif
