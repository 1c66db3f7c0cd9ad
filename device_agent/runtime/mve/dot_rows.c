/* The inner loop of fully connected layers: 10 instructions for 64 products. */
#include "mve.h"

/* Offsets are those of fleet_mve_rows_t. r11: the job; r12: the next row of weights; r8: the next bias. */
__attribute__((naked)) void fleet_mve_dot_rows(fleet_mve_rows_t *job __attribute__((unused)))
{
    __asm__ volatile("push {r4-r11, lr}                 \n"
                     "vpush {d8-d15}                    \n"
                     "mov r11, r0                       \n"
                     "ldrd r12, lr, [r11, #4]           \n" /* weights, row_bytes */
                     "ldr r8, [r11, #12]                \n" /* biases */
                     "ldrd r0, r1, [r11, #36]           \n" /* low, high */
                     "vdup.32 q6, r0                    \n"
                     "vdup.32 q7, r1                    \n"
                     "3:                                \n"
                     "ldr r9, [r11]                     \n" /* input */
                     "mov r1, r12                       \n"
                     "add r3, r1, lr                    \n"
                     "add r5, r3, lr                    \n"
                     "add r7, r5, lr                    \n"
                     "add r12, r7, lr                   \n"
                     "ldmia r8!, {r0, r2, r4, r6}       \n" /* sums start as biases */
                     "dlstp.8 lr, lr                    \n"
                     "1:                                \n"
                     "vldrb.8 q0, [r9], #16             \n"
                     "vldrb.8 q1, [r1], #16             \n"
                     "vldrb.8 q2, [r3], #16             \n"
                     "vmladava.s8 r0, q0, q1            \n"
                     "vldrb.8 q3, [r5], #16             \n"
                     "vmladava.s8 r2, q0, q2            \n"
                     "vldrb.8 q4, [r7], #16             \n"
                     "vmladava.s8 r4, q0, q3            \n"
                     "vmladava.s8 r6, q0, q4            \n"
                     "letp lr, 1b                       \n"
                     "vmov q0[2], q0[0], r0, r4         \n"
                     "vmov q0[3], q0[1], r2, r6         \n"
                     "add r0, r11, #16                  \n"
                     "ldm r0, {r1-r5}                   \n" /* multipliers, shifts, output, zero point, steps */
                     "vldrw.32 q1, [r1], #16            \n"
                     "vldrb.s32 q2, [r2], #4            \n"
                     "veor q3, q3, q3                   \n"
                     "vmax.s32 q3, q3, q2               \n" /* the left part of the shifts */
                     "vsub.i32 q2, q2, q3               \n"
                     "vshl.s32 q0, q0, q3               \n"
                     "vqrdmulh.s32 q0, q0, q1           \n"
                     "vand q3, q0, q2                   \n"
                     "vshr.s32 q3, q3, #31              \n"
                     "vqadd.s32 q0, q0, q3              \n"
                     "vrshl.s32 q0, q0, q2              \n"
                     "vqadd.s32 q0, q0, r4              \n"
                     "vmax.s32 q0, q0, q6               \n"
                     "vmin.s32 q0, q0, q7               \n"
                     "vstrb.32 q0, [r3], #4             \n"
                     "subs r5, r5, #1                   \n"
                     "stm r0, {r1-r5}                   \n"
                     "ldr lr, [r11, #8]                 \n" /* row_bytes */
                     "bne 3b                            \n"
                     "vpop {d8-d15}                     \n"
                     "pop {r4-r11, pc}                  \n");
}
