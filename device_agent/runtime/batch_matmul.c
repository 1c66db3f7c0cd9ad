/* BATCH_MATMUL: the steps of the record read either input, and write the output, in any order of their axes. */
#include "fixed_point.h"
#include "internal.h"

typedef struct {
    const fleet_op_matmul_t *op;
    const int8_t *a; /* a row */
    const int8_t *b; /* a matrix */
    int8_t *output;  /* a row */
} fleet_matmul_row_t;

static void write_row(const fleet_matmul_row_t *row)
{
    const fleet_op_matmul_t *op = row->op;
    for (uint32_t j = 0; j < op->dims[3]; j++) {
        const int8_t *b = row->b + j * op->steps_b[2];
        uint32_t sum = 0;
        for (uint32_t k = 0; k < op->depth; k++) {
            sum += (uint32_t)((row->a[k * op->steps[3]] - op->input_zero_point) *
                              (b[k * op->steps_b[3]] - op->input_b_zero_point));
        }
        row->output[j * op->output_steps[3]] =
            fleet_to_int8(fleet_rescale((int32_t)sum, op->multiplier, op->shift), op->output_zero_point,
                          op->activation_min, op->activation_max);
    }
}

void fleet_batch_matmul(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_matmul_t *op = record;
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *a = context->arena + op->input;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    int8_t *output = context->arena + op->output;
    for (uint32_t outer = 0; outer < op->dims[0]; outer++) {
        for (uint32_t inner = 0; inner < op->dims[1]; inner++) {
            for (uint32_t i = 0; i < op->dims[2]; i++) {
                const fleet_matmul_row_t row = {
                    op, a + outer * op->steps[0] + inner * op->steps[1] + i * op->steps[2],
                    b + outer * op->steps_b[0] + inner * op->steps_b[1],
                    output + outer * op->output_steps[0] + inner * op->output_steps[1] + i * op->output_steps[2]};
                write_row(&row);
            }
        }
    }
}
