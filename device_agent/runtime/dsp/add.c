/* ADD where all three scales go down, which they do unless the image says otherwise. */
#include "dsp.h"

/* rescale for shifts -31 .. 0 and |x| < 2^30; a shift of 0 takes nothing off negatives. */
typedef struct {
    int32_t multiplier;
    int32_t nudge;
    int32_t negative;
    uint32_t exponent;
} scale_t;

static scale_t make_scale(int32_t multiplier, int32_t shift)
{
    scale_t scale;
    scale.multiplier = multiplier;
    scale.exponent = (uint32_t)-shift;
    scale.nudge = (int32_t)((UINT32_C(1) << scale.exponent) >> 1);
    scale.negative = shift < 0 ? -1 : 0;
    return scale;
}

static inline int32_t apply(int32_t x, const scale_t *scale)
{
    const int32_t high = fleet_dsp_high_mul(x, scale->multiplier);
    return (high + ((high >> 31) & scale->negative) + scale->nudge) >> scale->exponent;
}

static void add(const fleet_op_add_t *op, const int8_t *a, const int8_t *b, uint32_t count, int8_t *output)
{
    const scale_t scale_a = make_scale(op->input_multiplier, op->input_shift);
    const scale_t scale_b = make_scale(op->input_b_multiplier, op->input_b_shift);
    const scale_t scale_y = make_scale(op->output_multiplier, op->output_shift);
    const int32_t zero_a = op->input_zero_point;
    const int32_t zero_b = op->input_b_zero_point;
    const int32_t zero_y = op->output_zero_point;
    for (uint32_t i = 0; i < count; i++) {
        const int32_t left = apply((a[i] - zero_a) * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT), &scale_a);
        const int32_t right = apply((b[i] - zero_b) * (INT32_C(1) << FLEET_ADD_LEFT_SHIFT), &scale_b);
        output[i] = (int8_t)fleet_dsp_saturate8(apply(left + right, &scale_y) + zero_y);
    }
}

void fleet_dsp_add(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_add_t *op = record;
    if (op->input_shift > 0 || op->input_b_shift > 0 || op->output_shift > 0 || op->size % op->size_b != 0u) {
        fleet_add(context, record);
        return;
    }
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    int8_t *output = context->arena + op->output;
    const int8_t *a = context->arena + op->input;
    for (uint32_t done = 0; done < op->size; done += op->size_b) {
        add(op, a + done, b, op->size_b, output + done);
        fleet_dsp_clamp(output + done, op->size_b, op->activation_min, op->activation_max);
    }
}
