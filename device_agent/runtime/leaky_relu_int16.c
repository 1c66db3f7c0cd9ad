/* LEAKY_RELU_INT16: one slope below zero, without the steps of a table. */
#include "fixed_point.h"
#include "int16.h"

void fleet_leaky_relu_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_leaky_relu_int16_t *op = record;
    const int16_t *input = fleet_arena_int16(context, op->input);
    int16_t *output = fleet_output_int16(context, op->output);
    for (uint32_t i = 0; i < op->size; i++) {
        const int below = input[i] < 0;
        const int32_t y = fleet_rescale(input[i], below ? op->slope_multiplier : op->multiplier, below ? op->slope_shift : op->shift);
        output[i] = fleet_clamp_int16(y, op->activation_min, op->activation_max);
    }
}
