/*
 * Elementary functions in float32 arithmetic alone: no libm, so that every machine gives the same bits. The same steps in
 * the same order as compiler/tinyfleet_compiler/float_math.py; accuracy: compiler/NUMERICS.md section 7.
 */
#ifndef FLEET_F32_FUNCTIONS_H
#define FLEET_F32_FUNCTIONS_H

#include "constants.h"
#include "f32.h"

#define FLEET_F32_COUNT(table) ((uint32_t)(sizeof(table) / sizeof((table)[0])))

/* Horner's rule, highest coefficient first. */
static inline float fleet_f32_polynomial(float x, const float *coefficients, uint32_t count)
{
    float total = coefficients[count - 1u];
    for (uint32_t i = count - 1u; i-- > 0u;) {
        total = total * x + coefficients[i];
    }
    return total;
}

static inline float fleet_f32_abs(float x)
{
    return fleet_f32_from_bits(fleet_f32_bits(x) & 0x7fffffff);
}

/* Nearest integer, halves away from zero; |x| below 2^22. */
static inline int32_t fleet_f32_nearest(float x)
{
    return (int32_t)(x + (x < 0.0f ? -0.5f : 0.5f));
}

float fleet_f32_exp(float x);
float fleet_f32_expm1(float x);
float fleet_f32_log(float x);
float fleet_f32_erf(float x);

/* 1 / (1 + e^-x) without overflow. */
static inline float fleet_f32_sigmoid(float x)
{
    const float e = fleet_f32_exp(-fleet_f32_abs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* Through e^2|x| - 1; 1 from 10 on. */
static inline float fleet_f32_tanh(float x)
{
    const float size = fleet_f32_abs(x);
    float y = fleet_f32_is_nan(x) ? x : 1.0f;
    if (size < 10.0f) {
        const float t = fleet_f32_expm1(2.0f * size);
        y = t / (t + 2.0f);
    }
    return x < 0.0f ? -y : y;
}

#endif
