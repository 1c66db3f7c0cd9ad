/* Codes of a model's inputs and outputs to real values and back. */
#include "fleet_image.h"
#include "fleet_runtime.h"

#include <string.h>

/* Half away from zero. Beyond 2^23 a float has no fraction, and the caller has clamped to the codes' neighbourhood. */
static int32_t round_half_away(float value)
{
    const int32_t whole = (int32_t)value;
    const float fraction = value - (float)whole;
    return whole + (fraction >= 0.5f ? 1 : fraction <= -0.5f ? -1 : 0);
}

static int32_t quantize_one(const fleet_tensor_t *tensor, float real, int32_t lowest, int32_t highest)
{
    const float low = (float)(lowest - tensor->zero_point);
    const float high = (float)(highest - tensor->zero_point);
    const float steps = real / tensor->scale;
    if (steps != steps) {
        return tensor->zero_point;
    }
    if (steps <= low) {
        return lowest;
    }
    return steps >= high ? highest : round_half_away(steps) + tensor->zero_point;
}

static int is_wide(const fleet_tensor_t *tensor)
{
    return tensor->element == FLEET_ELEMENT_INT16;
}

static int is_widest(const fleet_tensor_t *tensor)
{
    return tensor->element == FLEET_ELEMENT_INT32;
}

static int is_real(const fleet_tensor_t *tensor)
{
    return tensor->element == FLEET_ELEMENT_FLOAT32;
}

uint32_t fleet_tensor_elements(const fleet_tensor_t *tensor)
{
    return tensor->size_bytes / (is_real(tensor) || is_widest(tensor) ? 4u : is_wide(tensor) ? 2u : 1u);
}

static int32_t code_at(const fleet_tensor_t *tensor, const void *codes, size_t index)
{
    if (is_widest(tensor)) {
        return ((const int32_t *)codes)[index];
    }
    return is_wide(tensor) ? ((const int16_t *)codes)[index] : ((const int8_t *)codes)[index];
}

static float real_at(const fleet_tensor_t *tensor, const void *values, size_t index)
{
    if (is_real(tensor)) {
        return ((const float *)values)[index];
    }
    return (float)(code_at(tensor, values, index) - tensor->zero_point) * tensor->scale;
}

/* Codes are compared as integers: cores without an FPU call this too. */
static int is_above(const fleet_tensor_t *tensor, const void *values, size_t a, size_t b)
{
    return is_real(tensor) ? real_at(tensor, values, a) > real_at(tensor, values, b)
                           : code_at(tensor, values, a) > code_at(tensor, values, b);
}

void fleet_quantize(const fleet_tensor_t *tensor, const float *real, size_t count, void *quantized)
{
    if (is_real(tensor)) {
        memmove(quantized, real, count * sizeof(float));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (is_widest(tensor)) {
            ((int32_t *)quantized)[i] = quantize_one(tensor, real[i], INT32_MIN, INT32_MAX);
        } else if (is_wide(tensor)) {
            ((int16_t *)quantized)[i] = (int16_t)quantize_one(tensor, real[i], INT16_MIN, INT16_MAX);
        } else {
            ((int8_t *)quantized)[i] = (int8_t)quantize_one(tensor, real[i], INT8_MIN, INT8_MAX);
        }
    }
}

void fleet_dequantize(const fleet_tensor_t *tensor, const void *quantized, size_t count, float *real)
{
    for (size_t i = 0; i < count; i++) {
        real[i] = real_at(tensor, quantized, i);
    }
}

fleet_top1_t fleet_top1(const fleet_tensor_t *tensor, const void *output)
{
    const uint32_t count = fleet_tensor_elements(tensor);
    fleet_top1_t best = {0, 0.0f};
    for (uint32_t i = 1; i < count; i++) {
        if (is_above(tensor, output, i, best.index)) {
            best.index = i;
        }
    }
    const float real = real_at(tensor, output, best.index);
    best.confidence = !(real > 0.0f) ? 0.0f : real > 1.0f ? 1.0f : real;
    return best;
}
