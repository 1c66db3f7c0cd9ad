/* What SOFTMAX_F32 and LOG_SOFTMAX_F32 share. */
#ifndef FLEET_F32_SOFTMAX_H
#define FLEET_F32_SOFTMAX_H

#include "extremes.h"
#include "functions.h"

static inline float fleet_f32_largest(const float *x, uint32_t count)
{
    float best = fleet_f32_from_bits(FLEET_F32_MINUS_INFINITY_BITS);
    for (uint32_t i = 0; i < count; i++) {
        best = fleet_f32_raise(best, x[i]);
    }
    return best;
}

static inline float fleet_f32_sum_of_exp(const float *x, uint32_t count, float largest, float beta)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < count; i++) {
        sum += fleet_f32_exp(beta * (x[i] - largest));
    }
    return sum;
}

#endif
