/* The error function: a polynomial below 1, 1 - exp(ln erfc) below 4, 1 from there. */
#include "functions.h"

static const float near_terms[] = FLEET_F32_ERF;
static const float far_terms[] = FLEET_F32_LOG_ERFC;

float fleet_f32_erf(float x)
{
    const float size = fleet_f32_abs(x);
    if (size < 1.0f) {
        return x * fleet_f32_polynomial(x * x, near_terms, FLEET_F32_COUNT(near_terms));
    }
    if (fleet_f32_is_nan(x)) {
        return x;
    }
    float y = 1.0f;
    if (size < 4.0f) {
        y -= fleet_f32_exp(fleet_f32_polynomial(size - 2.5f, far_terms, FLEET_F32_COUNT(far_terms)));
    }
    return x < 0.0f ? -y : y;
}
