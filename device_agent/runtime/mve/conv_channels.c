/*
 * The inner loop of convolutions: 12 instructions for 96 products. Two rows of weights meet the columns of three pixels; first
 * channels 0 and 2 of a step, then 1 and 3, as VMOV puts pairs of sums into lanes 0 and 2, 1 and 3.
 */
#include "mve.h"

/* One pair of rows (r1, r3) x columns r5, r7, r9: sums of the row at r1 in r0, r4, r8, of the other in r2, r6, r10. */
#define PAIR                        \
    "dlstp.8 lr, lr\n" \
    "1:\n" \
    "vldrb.8 q3, [r1], #16\n" \
    "vldrb.8 q5, [r5], #16\n" \
    "vldrb.8 q4, [r3], #16\n" \
    "vmladava.s8 r0, q3, q5\n" \
    "vmladava.s8 r2, q4, q5\n" \
    "vldrb.8 q5, [r7], #16\n" \
    "vmladava.s8 r4, q3, q5\n" \
    "vmladava.s8 r6, q4, q5\n" \
    "vldrb.8 q5, [r9], #16\n" \
    "vmladava.s8 r8, q3, q5\n" \
    "vmladava.s8 r10, q4, q5\n" \
    "letp lr, 1b\n"

/* q: sums of a pixel with biases; q3 is free, q4 multipliers, q5 shifts of 0 and below, q6 and q7 bounds, r8 zero point. */
#define FINISH(q, output)                   \
    "vqrdmulh.s32 " q ", " q ", q4\n" \
    "vand q3, " q ", q5\n" \
    "vshr.s32 q3, q3, #31\n" \
    "vqadd.s32 " q ", " q ", q3\n" \
    "vrshl.s32 " q ", " q ", q5\n" \
    "vqadd.s32 " q ", " q ", r8\n" \
    "vmax.s32 " q ", " q ", q6\n" \
    "vmin.s32 " q ", " q ", q7\n" \
    "vstrb.32 " q ", [" output "], #4\n"

/* One string must stay below the 4,095 characters that C99 promises: no padding. Offsets are those of fleet_mve_conv_t. r11: the job; r12: the next row of weights. */
__attribute__((naked)) void fleet_mve_conv_channels(fleet_mve_conv_t *job __attribute__((unused)))
{
    __asm__ volatile("push {r4-r11, lr}\n"
                     "vpush {d8-d15}\n"
                     "mov r11, r0\n"
                     "ldrd r1, r2, [r11, #80]\n" /* low, high */
                     "vdup.32 q6, r1\n"
                     "vdup.32 q7, r2\n"
                     "2:\n"
                     "add r0, r11, #88\n"
                     "ldm r0, {r1-r9}\n" /* start */
                     "add r0, r11, #40\n"
                     "stm r0, {r1-r9}\n" /* work */
                     "ldr r12, [r11, #76]\n" /* weights */
                     "3:\n"
                     "ldr lr, [r11, #36]\n" /* row_bytes */
                     "mov r1, r12\n"
                     "add r3, r12, lr, lsl #1\n"
                     "ldm r11, {r0, r2, r4-r10}\n" /* sums of 0 and columns */
                     PAIR
                     "vmov q0[2], q0[0], r0, r2\n"
                     "vmov q1[2], q1[0], r4, r6\n"
                     "vmov q2[2], q2[0], r8, r10\n"
                     "ldr lr, [r11, #36]\n"
                     "add r1, r12, lr\n"
                     "add r3, r1, lr, lsl #1\n"
                     "add r12, r12, lr, lsl #2\n"
                     "ldm r11, {r0, r2, r4-r10}\n"
                     PAIR
                     "vmov q0[3], q0[1], r0, r2\n"
                     "vmov q1[3], q1[1], r4, r6\n"
                     "vmov q2[3], q2[1], r8, r10\n"
                     "add r0, r11, #40\n"
                     "ldm r0, {r1-r9}\n" /* biases .. lefts */
                     "vldrw.32 q3, [r1], #16\n"
                     "vldrw.32 q4, [r2], #16\n"
                     "vldrb.s32 q5, [r3], #4\n"
                     "vadd.i32 q0, q0, q3\n"
                     "vadd.i32 q1, q1, q3\n"
                     "vadd.i32 q2, q2, q3\n"
                     "cmp r9, #0\n"
                     "bne 5f\n"
                     "4:\n"
                     FINISH("q0", "r4") FINISH("q1", "r5") FINISH("q2", "r6")
                     "subs r7, r7, #1\n"
                     "stm r0, {r1-r7}\n"
                     "bne 3b\n"
                     "add r0, r11, #100\n"
                     "ldr r10, [r11, #124]\n" /* groups */
                     "ldrd r8, r9, [r11, #128]\n" /* moves */
                     "ldm r0, {r1-r3}\n" /* outputs */
                     "add r1, r1, r9\n"
                     "add r2, r2, r9\n"
                     "add r3, r3, r9\n"
                     "stm r0, {r1-r3}\n"
                     "ldr r1, [r11, #12]\n" /* columns */
                     "ldr r2, [r11, #20]\n"
                     "ldr r3, [r11, #28]\n"
                     "add r1, r1, r8\n"
                     "add r2, r2, r8\n"
                     "add r3, r3, r8\n"
                     "str r1, [r11, #12]\n"
                     "str r2, [r11, #20]\n"
                     "str r3, [r11, #28]\n"
                     "subs r10, r10, #1\n"
                     "str r10, [r11, #124]\n"
                     "bne 2b\n"
                     "vpop {d8-d15}\n"
                     "pop {r4-r11, pc}\n"
                     "5:\n" /* the left part of the shifts */
                     "veor q3, q3, q3\n"
                     "vmax.s32 q3, q3, q5\n"
                     "vsub.i32 q5, q5, q3\n"
                     "vshl.s32 q0, q0, q3\n"
                     "vshl.s32 q1, q1, q3\n"
                     "vshl.s32 q2, q2, q3\n"
                     "b 4b\n");
}
