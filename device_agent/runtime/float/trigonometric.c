/* TRIGONOMETRIC_F32: sine and cosine, x reduced by quarter turns in three parts. */
#include "elements.h"
#include "functions.h"

static const float two_over_pi = FLEET_F32_TWO_OVER_PI;
static const float half_pi[] = FLEET_F32_HALF_PI;
static const float sine_terms[] = FLEET_F32_SIN;
static const float cosine_terms[] = FLEET_F32_COS;
static const float most_angle = FLEET_F32_MOST_ANGLE;

static float wave(const fleet_op_unary_f32_t *op, float x)
{
    if (!(fleet_f32_abs(x) <= most_angle)) {
        return fleet_f32_from_bits(FLEET_F32_NAN_BITS);
    }
    const int32_t n = fleet_f32_nearest(x * two_over_pi);
    const uint32_t quarter = (uint32_t)n + (op->function == FLEET_FUNCTION_COS ? 1u : 0u);
    float r = x;
    for (uint32_t i = 0; i < FLEET_F32_COUNT(half_pi); i++) {
        r = r - (float)n * half_pi[i];
    }
    const float z = r * r;
    float y = r * z * fleet_f32_polynomial(z, sine_terms, FLEET_F32_COUNT(sine_terms)) + r;
    if ((quarter & 1u) != 0u) {
        y = (z * z * fleet_f32_polynomial(z, cosine_terms, FLEET_F32_COUNT(cosine_terms)) - 0.5f * z) + 1.0f;
    }
    return (quarter & 2u) != 0u ? -y : y;
}

void fleet_f32_trigonometric(const fleet_kernel_context_t *context, const void *record)
{
    fleet_f32_each(context, record, wave);
}
