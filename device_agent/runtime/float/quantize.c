/* QUANTIZE: float32 to codes, rounded as a model's input is. */
#include "f32.h"

void fleet_f32_quantize(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_quantize_t *op = record;
    fleet_tensor_t tensor = {0};
    tensor.element = op->output_element;
    tensor.scale = op->scale;
    tensor.zero_point = op->zero_point;
    fleet_quantize(&tensor, fleet_f32_arena(context, op->input), op->size, context->arena + op->output);
}
