/* RESCALE_INT16: a change of scale or type, a lone Relu or Clip. Element i is read before element i is written. */
#include "int16.h"

static int32_t rescaled(const fleet_kernel_context_t *context, const fleet_op_rescale_int16_t *op, uint32_t i)
{
    const int wide = op->input_element == FLEET_ELEMENT_INT16;
    const int32_t code = wide ? fleet_arena_int16(context, op->input)[i] : (context->arena + op->input)[i];
    return fleet_wrap_add(fleet_rescale(code - op->input_zero_point, op->multiplier, op->shift), op->output_zero_point);
}

void fleet_rescale_int16(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_rescale_int16_t *op = record;
    for (uint32_t i = 0; i < op->size; i++) {
        const int16_t y = fleet_clamp_int16(rescaled(context, op, i), op->activation_min, op->activation_max);
        if (op->output_element == FLEET_ELEMENT_INT16) {
            fleet_output_int16(context, op->output)[i] = y;
        } else {
            (context->arena + op->output)[i] = (int8_t)y;
        }
    }
}
