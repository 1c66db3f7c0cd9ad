/* FULLY_CONNECTED_F32: rows in order, each as one pixel. */
#include "f32.h"

void fleet_f32_fully_connected(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_fully_connected_f32_t *op = record;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t r = 0; r < op->rows; r++) {
        const float *row = fleet_f32_image(context, op->weights);
        for (uint32_t o = 0; o < op->out_features; o++) {
            const float sum = fleet_f32_dot(0.0f, input, row + 1, op->in_features) + row[0];
            *output++ = fleet_f32_clamp(sum, op->activation_min, op->activation_max);
            row += op->in_features + 1u;
        }
        input += op->in_features;
    }
}
