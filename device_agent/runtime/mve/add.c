/* ADD where all three scales go down, which they do unless the image says otherwise: 27 instructions for four elements. */
#include "mve.h"

/* What the loop keeps in registers: r3 .. r11, loaded by one instruction, and what becomes vectors. */
typedef struct {
    int32_t zero_a, zero_b;
    int32_t multiplier_a, multiplier_b;
    int32_t shift_a, shift_b; /* 0 or below */
    int32_t multiplier_y, shift_y, zero_y;
    int32_t mask_a, mask_b, mask_y; /* -1 where the shift is below 0: there, halves of negatives go down */
    int32_t low, high;
} scales_t;

/* x: the product's high half; -1 for negatives, then a rounding shift by a register. */
#define SHIFT(x, mask, shift)               \
    "vshr.s32 q2, " x ", #31            \n" \
    "vand q2, q2, " mask "              \n" \
    "vadd.i32 " x ", " x ", q2          \n" \
    "vrshl.s32 " x ", " shift "         \n"

static __attribute__((naked, noinline)) void add(const int8_t *a __attribute__((unused)),
                                                 const int8_t *b __attribute__((unused)),
                                                 int8_t *output __attribute__((unused)),
                                                 uint32_t count __attribute__((unused)),
                                                 const scales_t *scales __attribute__((unused)))
{
    __asm__ volatile("push {r4-r11, lr}             \n"
                     "vpush {d8-d15}                \n"
                     "mov r12, r3                   \n"
                     "ldr lr, [sp, #100]            \n"
                     "add r3, lr, #36               \n"
                     "ldm r3, {r4-r8}               \n"
                     "vdup.32 q3, r6                \n"
                     "vdup.32 q4, r4                \n"
                     "vdup.32 q5, r5                \n"
                     "vdup.32 q6, r7                \n"
                     "vdup.32 q7, r8                \n"
                     "ldm lr, {r3-r11}              \n"
                     "wlstp.32 lr, r12, 2f          \n"
                     "1:                            \n"
                     "vldrb.s32 q0, [r0], #4        \n"
                     "vldrb.s32 q1, [r1], #4        \n"
                     "vsub.i32 q0, q0, r3           \n"
                     "vsub.i32 q1, q1, r4           \n"
                     "vshl.i32 q0, q0, #20          \n" /* FLEET_ADD_LEFT_SHIFT */
                     "vshl.i32 q1, q1, #20          \n"
                     "vqrdmulh.s32 q0, q0, r5       \n"
                     "vqrdmulh.s32 q1, q1, r6       \n"
                     SHIFT("q0", "q4", "r7") SHIFT("q1", "q5", "r8")
                     "vadd.i32 q0, q0, q1           \n"
                     "vqrdmulh.s32 q0, q0, r9       \n"
                     SHIFT("q0", "q3", "r10")
                     "vqadd.s32 q0, q0, r11         \n"
                     "vmax.s32 q0, q0, q6           \n"
                     "vmin.s32 q0, q0, q7           \n"
                     "vstrb.32 q0, [r2], #4         \n"
                     "letp lr, 1b                   \n"
                     "2:                            \n"
                     "vpop {d8-d15}                 \n"
                     "pop {r4-r11, pc}              \n");
}

static int32_t mask(int32_t shift)
{
    return shift < 0 ? -1 : 0;
}

static scales_t make_scales(const fleet_op_add_t *op)
{
    const scales_t scales = {
        .zero_a = op->input_zero_point,
        .zero_b = op->input_b_zero_point,
        .multiplier_a = op->input_multiplier,
        .multiplier_b = op->input_b_multiplier,
        .shift_a = op->input_shift,
        .shift_b = op->input_b_shift,
        .multiplier_y = op->output_multiplier,
        .shift_y = op->output_shift,
        .zero_y = op->output_zero_point,
        .mask_a = mask(op->input_shift),
        .mask_b = mask(op->input_b_shift),
        .mask_y = mask(op->output_shift),
        .low = op->activation_min,
        .high = op->activation_max,
    };
    return scales;
}

void fleet_mve_add(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_add_t *op = record;
    if (op->input_shift > 0 || op->input_b_shift > 0 || op->output_shift > 0 || op->size % op->size_b != 0u) {
        fleet_add(context, record);
        return;
    }
    const int constant = (op->flags & FLEET_OP_FLAG_CONSTANT_B) != 0u;
    const int8_t *b = constant ? (const int8_t *)context->image + op->input_b : context->arena + op->input_b;
    const int8_t *a = context->arena + op->input;
    int8_t *output = context->arena + op->output;
    const scales_t scales = make_scales(op);
    for (uint32_t done = 0; done < op->size; done += op->size_b) {
        add(a + done, b, output + done, op->size_b, &scales);
    }
}
