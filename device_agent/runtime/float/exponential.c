/* EXPONENTIAL_F32: functions of one element that are made of exponentials and logarithms. */
#include "elements.h"
#include "functions.h"

#define FIRST FLEET_FUNCTION_EXP

static const float gelu_terms[] = FLEET_F32_GELU;

static float exp_of(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_exp(x); }
static float log_of(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_log(x); }
static float erf_of(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_erf(x); }
static float sigmoid(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_sigmoid(x); }
static float tanh_of(const fleet_op_unary_f32_t *op, float x) { (void)op; return fleet_f32_tanh(x); }

static float elu(const fleet_op_unary_f32_t *op, float x)
{
    return op->beta * (x > 0.0f ? x : op->alpha * fleet_f32_expm1(x));
}

static float celu(const fleet_op_unary_f32_t *op, float x)
{
    return x > 0.0f ? x : op->alpha * fleet_f32_expm1(x / op->alpha);
}

static float softplus(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    if (fleet_f32_is_nan(x)) {
        return x;
    }
    const float u = fleet_f32_exp(-fleet_f32_abs(x));
    const float w = 1.0f + u;
    return (x > 0.0f ? x : 0.0f) + (fleet_f32_log(w) - ((w - 1.0f) - u) / w);
}

static float mish(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    if (x > 20.0f) {
        return x;
    }
    if (x < -104.0f) {
        return 0.0f;
    }
    const float e = fleet_f32_exp(x);
    const float n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

static float gelu(const fleet_op_unary_f32_t *op, float x)
{
    (void)op;
    return 0.5f * x * (1.0f + fleet_f32_erf(x * gelu_terms[2]));
}

static float gelu_tanh(const fleet_op_unary_f32_t *op, float x)
{
    const float cube = gelu_terms[1] * (x * x * x);
    return 0.5f * x * (1.0f + tanh_of(op, gelu_terms[0] * (x + cube)));
}

static float power(const fleet_op_unary_f32_t *op, float x)
{
    if (!(x > 0.0f)) {
        return fleet_f32_is_nan(x) ? x : 0.0f;
    }
    return fleet_f32_exp(op->alpha * fleet_f32_log(x));
}

static const fleet_f32_function_t functions[FLEET_FUNCTION_POWER - FIRST + 1u] = {
    [FLEET_FUNCTION_EXP - FIRST] = exp_of,
    [FLEET_FUNCTION_LOG - FIRST] = log_of,
    [FLEET_FUNCTION_SIGMOID - FIRST] = sigmoid,
    [FLEET_FUNCTION_TANH - FIRST] = tanh_of,
    [FLEET_FUNCTION_ELU - FIRST] = elu,
    [FLEET_FUNCTION_CELU - FIRST] = celu,
    [FLEET_FUNCTION_SOFTPLUS - FIRST] = softplus,
    [FLEET_FUNCTION_MISH - FIRST] = mish,
    [FLEET_FUNCTION_ERF - FIRST] = erf_of,
    [FLEET_FUNCTION_GELU - FIRST] = gelu,
    [FLEET_FUNCTION_GELU_TANH - FIRST] = gelu_tanh,
    [FLEET_FUNCTION_POWER - FIRST] = power,
};

void fleet_f32_exponential(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_unary_f32_t *op = record;
    fleet_f32_each(context, op, functions[op->function - FIRST]);
}
