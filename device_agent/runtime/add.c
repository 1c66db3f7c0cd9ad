/* ADD: element i of the input meets element i modulo size_b of input_b, which may be a constant of the image. */
#include "fixed_point.h"
#include "internal.h"

void fleet_add(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_add_t *op = record;
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *a = context->arena + op->input;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    int8_t *output = context->arena + op->output;
    uint32_t j = 0;
    for (uint32_t i = 0; i < op->size; i++) {
        const int32_t left = (a[i] - op->input_zero_point) * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT);
        const int32_t right = (b[j] - op->input_b_zero_point) * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT);
        const int32_t sum = fleet_wrap_add(fleet_rescale(left, op->input_multiplier, op->input_shift),
                                           fleet_rescale(right, op->input_b_multiplier, op->input_b_shift));
        output[i] = fleet_to_int8(fleet_rescale(sum, op->output_multiplier, op->output_shift), op->output_zero_point,
                                  op->activation_min, op->activation_max);
        j = j + 1u == op->size_b ? 0u : j + 1u;
    }
}
