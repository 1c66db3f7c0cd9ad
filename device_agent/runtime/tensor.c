#include "fleet_runtime.h"

/* Half away from zero. Beyond 2^23 a float has no fraction, and the caller has clamped to int8's neighbourhood before. */
static int32_t round_half_away(float value)
{
    const int32_t whole = (int32_t)value;
    const float fraction = value - (float)whole;
    return whole + (fraction >= 0.5f ? 1 : fraction <= -0.5f ? -1 : 0);
}

static int8_t quantize_one(const fleet_tensor_t *tensor, float real)
{
    const float low = (float)(INT8_MIN - tensor->zero_point);
    const float high = (float)(INT8_MAX - tensor->zero_point);
    const float steps = real / tensor->scale;
    if (steps != steps) {
        return (int8_t)tensor->zero_point;
    }
    if (steps <= low) {
        return INT8_MIN;
    }
    return steps >= high ? INT8_MAX : (int8_t)(round_half_away(steps) + tensor->zero_point);
}

void fleet_quantize(const fleet_tensor_t *tensor, const float *real, size_t count, int8_t *quantized)
{
    for (size_t i = 0; i < count; i++) {
        quantized[i] = quantize_one(tensor, real[i]);
    }
}

void fleet_dequantize(const fleet_tensor_t *tensor, const int8_t *quantized, size_t count, float *real)
{
    for (size_t i = 0; i < count; i++) {
        real[i] = (float)(quantized[i] - tensor->zero_point) * tensor->scale;
    }
}

fleet_top1_t fleet_top1(const fleet_tensor_t *tensor, const int8_t *output)
{
    fleet_top1_t best = {0, 0.0f};
    float real;
    for (uint32_t i = 1; i < tensor->size_bytes; i++) {
        if (output[i] > output[best.index]) {
            best.index = i;
        }
    }
    fleet_dequantize(tensor, &output[best.index], 1, &real);
    best.confidence = real < 0.0f ? 0.0f : real > 1.0f ? 1.0f : real;
    return best;
}
