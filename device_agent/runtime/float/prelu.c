/* PRELU_F32: x, or x times its channel's slope below zero. */
#include "f32.h"

void fleet_f32_prelu(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_prelu_f32_t *op = record;
    const float *slopes = fleet_f32_image(context, op->slopes);
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    uint32_t channel = 0;
    for (uint32_t i = 0; i < op->size; i++) {
        const float x = input[i];
        output[i] = fleet_f32_clamp(x < 0.0f ? x * slopes[channel] : x, op->activation_min, op->activation_max);
        channel = channel + 1u == op->slope_count ? 0u : channel + 1u;
    }
}
