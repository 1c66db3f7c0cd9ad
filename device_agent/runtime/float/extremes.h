/* Running extremes: the first among equals stays, and so does a not-a-number. */
#ifndef FLEET_F32_EXTREMES_H
#define FLEET_F32_EXTREMES_H

#include "f32.h"

#define FLEET_F32_INFINITY_BITS 0x7f800000
#define FLEET_F32_MINUS_INFINITY_BITS (-0x00800000)

static inline float fleet_f32_raise(float best, float value)
{
    return value > best || fleet_f32_is_nan(value) ? value : best;
}

static inline float fleet_f32_lower(float best, float value)
{
    return value < best || fleet_f32_is_nan(value) ? value : best;
}

#endif
