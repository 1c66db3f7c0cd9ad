/* RESCALE, four elements in 14 instructions. */
#include "mve.h"

typedef struct {
    int32_t zero_x, left, multiplier, right, zero_y, mask, low, high; /* r3 .. r10 */
} scale_t;

static __attribute__((naked, noinline)) void rescale(const int8_t *input __attribute__((unused)),
                                                     int8_t *output __attribute__((unused)),
                                                     uint32_t count __attribute__((unused)),
                                                     const scale_t *scale __attribute__((unused)))
{
    __asm__ volatile("push {r4-r10, lr}             \n"
                     "vpush {d8-d9}                 \n"
                     "ldm r3, {r3-r10}              \n"
                     "vdup.32 q2, r8                \n"
                     "vdup.32 q3, r9                \n"
                     "vdup.32 q4, r10               \n"
                     "wlstp.32 lr, r2, 2f           \n"
                     "1:                            \n"
                     "vldrb.s32 q0, [r0], #4        \n"
                     "vsub.i32 q0, q0, r3           \n"
                     "vshl.s32 q0, r4               \n"
                     "vqrdmulh.s32 q0, q0, r5       \n"
                     "vshr.s32 q1, q0, #31          \n" /* negatives round away from zero, where the shift goes right */
                     "vand q1, q1, q2               \n"
                     "vqadd.s32 q0, q0, q1          \n"
                     "vrshl.s32 q0, r6              \n"
                     "vqadd.s32 q0, q0, r7          \n"
                     "vmax.s32 q0, q0, q3           \n"
                     "vmin.s32 q0, q0, q4           \n"
                     "vstrb.32 q0, [r1], #4         \n"
                     "letp lr, 1b                   \n"
                     "2:                            \n"
                     "vpop {d8-d9}                  \n"
                     "pop {r4-r10, pc}              \n");
}

void fleet_mve_rescale_s8(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_rescale_t *op = record;
    const scale_t scale = {
        .zero_x = op->input_zero_point,
        .left = op->shift > 0 ? op->shift : 0,
        .multiplier = op->multiplier,
        .right = op->shift > 0 ? 0 : op->shift,
        .zero_y = op->output_zero_point,
        .mask = op->shift < 0 ? -1 : 0,
        .low = op->activation_min,
        .high = op->activation_max,
    };
    rescale(context->arena + op->input, context->arena + op->output, op->size, &scale);
}
