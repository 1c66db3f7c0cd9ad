/* BATCH_MATMUL_F32: the steps of the record read either input, and write the output, in any order of their axes. */
#include "f32.h"

typedef struct {
    const fleet_op_matmul_f32_t *op;
    const float *a; /* a row */
    const float *b; /* a matrix */
    float *output;  /* a row */
} matmul_row_t;

static void write_row(const matmul_row_t *row)
{
    const fleet_op_matmul_f32_t *op = row->op;
    for (uint32_t j = 0; j < op->dims[3]; j++) {
        const float *b = row->b + (size_t)j * op->steps_b[2];
        float sum = 0.0f;
        for (uint32_t k = 0; k < op->depth; k++) {
            sum += row->a[(size_t)k * op->steps[3]] * b[(size_t)k * op->steps_b[3]];
        }
        row->output[(size_t)j * op->output_steps[3]] = fleet_f32_clamp(sum, op->activation_min, op->activation_max);
    }
}

void fleet_f32_batch_matmul(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_matmul_f32_t *op = record;
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const float *a = fleet_f32_arena(context, op->input);
    const float *b = constant ? fleet_f32_image(context, op->input_b) : fleet_f32_arena(context, op->input_b);
    float *output = fleet_f32_arena(context, op->output);
    for (uint32_t outer = 0; outer < op->dims[0]; outer++) {
        for (uint32_t inner = 0; inner < op->dims[1]; inner++) {
            for (uint32_t i = 0; i < op->dims[2]; i++) {
                const matmul_row_t row = {
                    op, a + (size_t)outer * op->steps[0] + (size_t)inner * op->steps[1] + (size_t)i * op->steps[2],
                    b + (size_t)outer * op->steps_b[0] + (size_t)inner * op->steps_b[1],
                    output + (size_t)outer * op->output_steps[0] + (size_t)inner * op->output_steps[1] +
                        (size_t)i * op->output_steps[2]};
                write_row(&row);
            }
        }
    }
}
