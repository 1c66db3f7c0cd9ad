/* UNARY_F32: functions of one element that need arithmetic and a square root alone; IDENTITY is a lone clamp. */
#include "elements.h"
#include "functions.h"

#include <math.h> /* sqrtf: one instruction, or an exactly rounded call */

#define WHOLE 0x1p23f /* from here on a float has no fraction */

static float identity(const fleet_op_unary_f32_t *op, float x) { (void)op; return x; }
static float absolute(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_abs(x); }
static float negate(const fleet_op_unary_f32_t *op, float x) { (void)op; return -x; }
static float square_root(const fleet_op_unary_f32_t *op, float x) { (void)op; return sqrtf(x < 0.0f ? 0.0f : x); }
static float leaky_relu(const fleet_op_unary_f32_t *op, float x) { return x < 0.0f ? op->alpha * x : x; }
static float unit(float x) { return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }
static float hard_sigmoid(const fleet_op_unary_f32_t *op, float x) { return unit(op->alpha * x + op->beta); }
static float hard_swish(const fleet_op_unary_f32_t *op, float x) { (void)op; return x * unit(x / 6.0f + 0.5f); }
static float reciprocal(const fleet_op_unary_f32_t *op, float x) { (void)op; return 1.0f / x; }
static float softsign(const fleet_op_unary_f32_t *op, float x) { (void)op; return x / (1.0f + fleet_f32_abs(x)); }

static float thresholded_relu(const fleet_op_unary_f32_t *op, float x)
{
    return x > op->alpha || fleet_f32_is_nan(x) ? x : 0.0f;
}

static float sign(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}

/* `value` with the sign of x: a result of zero keeps it. */
static float signed_as(float value, float x)
{
    return fleet_f32_from_bits((fleet_f32_bits(value) & 0x7fffffff) | (fleet_f32_bits(x) & (-0x7fffffff - 1)));
}

static int has_fraction(float x)
{
    return fleet_f32_abs(x) < WHOLE;
}

static float floor_of(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    if (!has_fraction(x)) {
        return x;
    }
    const float whole = (float)(int32_t)x;
    return signed_as(whole > x ? whole - 1.0f : whole, x);
}

static float ceil_of(const fleet_op_unary_f32_t *op, float x)
{
    return -floor_of(op, -x);
}

/* Halves to even: adding 2^23 leaves no room for a fraction. */
static float round_of(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    if (!has_fraction(x)) {
        return x;
    }
    const float shifted = fleet_f32_abs(x) + WHOLE;
    return signed_as(shifted - WHOLE, x);
}

static float whole_power(const fleet_op_unary_f32_t *op, float x)
{
    float y = 1.0f;
    for (int32_t i = (int32_t)op->alpha; i > 0; i--) {
        y = y * x;
    }
    return y;
}

static const fleet_f32_function_t functions[FLEET_FUNCTION_WHOLE_POWER + 1u] = {
    [FLEET_FUNCTION_IDENTITY] = identity,
    [FLEET_FUNCTION_ABS] = absolute,
    [FLEET_FUNCTION_NEGATE] = negate,
    [FLEET_FUNCTION_SIGN] = sign,
    [FLEET_FUNCTION_FLOOR] = floor_of,
    [FLEET_FUNCTION_CEIL] = ceil_of,
    [FLEET_FUNCTION_ROUND] = round_of,
    [FLEET_FUNCTION_SQRT] = square_root,
    [FLEET_FUNCTION_LEAKY_RELU] = leaky_relu,
    [FLEET_FUNCTION_HARD_SIGMOID] = hard_sigmoid,
    [FLEET_FUNCTION_HARD_SWISH] = hard_swish,
    [FLEET_FUNCTION_SOFTSIGN] = softsign,
    [FLEET_FUNCTION_RECIPROCAL] = reciprocal,
    [FLEET_FUNCTION_THRESHOLDED_RELU] = thresholded_relu,
    [FLEET_FUNCTION_WHOLE_POWER] = whole_power,
};

void fleet_f32_unary(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_unary_f32_t *op = record;
    fleet_f32_each(context, op, functions[op->function]);
}
