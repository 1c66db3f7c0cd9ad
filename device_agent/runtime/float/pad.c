/* PAD_F32: the input inside, one value around it. Elements in output order: compiler/SPEC.md section 6. */
#include "f32.h"

static float *fill(float *output, float value, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        *output++ = value;
    }
    return output;
}

static float *copy(float *output, const float *input, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        *output++ = input[i];
    }
    return output;
}

void fleet_f32_pad(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_pad_f32_t *op = record;
    const float *input = fleet_f32_arena(context, op->input);
    float *output = fleet_f32_arena(context, op->output);
    uint32_t sizes[4]; /* elements of one index step along each output axis */
    sizes[3] = 1u;
    for (uint32_t axis = 3; axis > 0u; axis--) {
        sizes[axis - 1u] = sizes[axis] * (op->before[axis] + op->dims[axis] + op->after[axis]);
    }
    output = fill(output, op->value, op->before[0] * sizes[0]);
    for (uint32_t i0 = 0; i0 < op->dims[0]; i0++) {
        output = fill(output, op->value, op->before[1] * sizes[1]);
        for (uint32_t i1 = 0; i1 < op->dims[1]; i1++) {
            output = fill(output, op->value, op->before[2] * sizes[2]);
            for (uint32_t i2 = 0; i2 < op->dims[2]; i2++) {
                output = fill(output, op->value, op->before[3]);
                output = copy(output, input, op->dims[3]);
                output = fill(output, op->value, op->after[3]);
                input += op->dims[3];
            }
            output = fill(output, op->value, op->after[2] * sizes[2]);
        }
        output = fill(output, op->value, op->after[1] * sizes[1]);
    }
    (void)fill(output, op->value, op->after[0] * sizes[0]);
}
