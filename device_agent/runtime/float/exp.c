/* e^x and e^x - 1: x = r + n ln 2, a polynomial in r, times 2^n in two steps so that subnormal results come out. */
#include "functions.h"

static const float log2_e = FLEET_F32_LOG2_E;
static const float ln_2[] = FLEET_F32_LN_2;
static const float terms[] = FLEET_F32_EXP;
static const float limits[] = FLEET_F32_EXP_LIMITS;

static float power_of_two(int32_t n)
{
    return fleet_f32_from_bits((n + 127) * 0x00800000);
}

static float reduce(float x, int32_t n)
{
    const float wide = (float)n;
    return (x - wide * ln_2[0]) - wide * ln_2[1];
}

static float near_zero(float r)
{
    return r * r * fleet_f32_polynomial(r, terms, FLEET_F32_COUNT(terms)) + r;
}

float fleet_f32_exp(float x)
{
    if (!(x > limits[0] && x < limits[1])) {
        return x >= limits[1] ? fleet_f32_from_bits(0x7f800000) : x <= limits[0] ? 0.0f : x;
    }
    const int32_t n = fleet_f32_nearest(x * log2_e);
    const int32_t half = n >> 1;
    return (near_zero(reduce(x, n)) + 1.0f) * power_of_two(half) * power_of_two(n - half);
}

float fleet_f32_expm1(float x)
{
    if (x > limits[0] && x < limits[1] && fleet_f32_nearest(x * log2_e) == 0) {
        return near_zero(reduce(x, 0));
    }
    return fleet_f32_exp(x) - 1.0f;
}
