/* ln x: x = 2^k (1 + f), 1 + f between 1 / sqrt 2 and sqrt 2, then the series of the inverse hyperbolic tangent. */
#include "functions.h"

#define HALF_ROOT_BITS 0x3f3504f3 /* 1 / sqrt 2 */

static const float ln_2[] = FLEET_F32_LN_2;
static const float terms[] = FLEET_F32_LOG;

static float log_of_normal(float x, int32_t k)
{
    const int32_t bits = fleet_f32_bits(x) - HALF_ROOT_BITS;
    const float wide = (float)(k + (bits >> 23));
    const float f = fleet_f32_from_bits((bits & 0x007fffff) + HALF_ROOT_BITS) - 1.0f;
    const float s = f / (2.0f + f);
    const float z = s * s;
    const float square = 0.5f * f * f;
    const float tail = s * (square + z * fleet_f32_polynomial(z, terms, FLEET_F32_COUNT(terms))) + wide * ln_2[1];
    return ((tail - square) + f) + wide * ln_2[0];
}

float fleet_f32_log(float x)
{
    if (!(x > 0.0f)) {
        return fleet_f32_from_bits(x < 0.0f || fleet_f32_is_nan(x) ? FLEET_F32_NAN_BITS : -0x00800000);
    }
    if (fleet_f32_bits(x) >= 0x7f800000) {
        return x;
    }
    return x < 0x1p-126f ? log_of_normal(x * 0x1p23f, -23) : log_of_normal(x, 0);
}
