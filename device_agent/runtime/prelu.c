/* PRELU: element i below zero is multiplied with slope i modulo slope_count. */
#include "fixed_point.h"
#include "internal.h"

void fleet_prelu(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_prelu_t *op = record;
    const int8_t *slopes = (const int8_t *)context->image + op->slopes;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    uint32_t j = 0;
    for (uint32_t i = 0; i < op->size; i++) {
        const int32_t x = input[i] - op->input_zero_point;
        const int32_t y = x >= 0 ? fleet_rescale(x, op->multiplier, op->shift)
                                 : fleet_rescale(x * slopes[j], op->slope_multiplier, op->slope_shift);
        output[i] = fleet_to_int8(y, op->output_zero_point, op->activation_min, op->activation_max);
        j = j + 1u == op->slope_count ? 0u : j + 1u;
    }
}
