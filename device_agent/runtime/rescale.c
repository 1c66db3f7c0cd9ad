/* RESCALE: a lone Relu, Clip or change of scale. */
#include "fixed_point.h"
#include "internal.h"

void fleet_rescale_s8(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_rescale_t *op = record;
    const int8_t *input = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    for (uint32_t i = 0; i < op->size; i++) {
        const int32_t value = fleet_rescale(input[i] - op->input_zero_point, op->multiplier, op->shift);
        output[i] = fleet_to_int8(value, op->output_zero_point, op->activation_min, op->activation_max);
    }
}
