/* DEQUANTIZE: codes to float32, ascending. */
#include "f32.h"

void fleet_f32_dequantize(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_quantize_t *op = record;
    fleet_tensor_t tensor = {0};
    tensor.element = op->input_element;
    tensor.scale = op->scale;
    tensor.zero_point = op->zero_point;
    fleet_dequantize(&tensor, context->arena + op->input, op->size, fleet_f32_arena(context, op->output));
}
