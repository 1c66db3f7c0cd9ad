/*
 * The inner loops of depthwise convolutions with at most nine taps: 36 instructions for four outputs of nine taps inside. One gathering load brings eight
 * taps of a channel; the ninth taps of four channels lie side by side and are multiplied as a vector.
 */
#include "mve.h"

/* Offsets of taps in q7, padded taps' values in q6, VPR holds the taps inside. r1: weights, r9: the channel's first tap. */
#define INSIDE(sum)                     \
    "vldrb.s16 q0, [r9, q7]         \n" \
    "vldrb.s16 q1, [r1], #9         \n" \
    "add r9, r9, #1                 \n" \
    "vmladava.s16 " sum ", q0, q1   \n"

#define BORDER(sum)                     \
    "vpst                           \n" \
    "vldrbt.s16 q0, [r9, q7]        \n" \
    "vldrb.s16 q1, [r1], #9         \n" \
    "vorr q0, q0, q6                \n" \
    "add r9, r9, #1                 \n" \
    "vmladava.s16 " sum ", q0, q1   \n"

/* One to eight taps; r12 of them. */
#define FEW(sum)                        \
    "vpst                           \n" \
    "vldrbt.s16 q0, [r9, q7]        \n" \
    "vldrb.s16 q1, [r1]             \n" \
    "vorr q0, q0, q6                \n" \
    "add r1, r1, r12                \n" \
    "add r9, r9, #1                 \n" \
    "vmladava.s16 " sum ", q0, q1   \n"

/* The same where all of them lie inside. */
#define FEW_INSIDE(sum)                 \
    "vpst                           \n" \
    "vldrbt.s16 q0, [r9, q7]        \n" \
    "vldrb.s16 q1, [r1]             \n" \
    "add r1, r1, r12                \n" \
    "add r9, r9, #1                 \n" \
    "vmladava.s16 " sum ", q0, q1   \n"

/* The ninth taps of four channels and their weights. */
#define NINTH_WEIGHTS "vldrb.s32 q2, [r1, q5] \n"
#define NINTH                           \
    "vldrb.s32 q1, [r3]             \n" \
    "add r3, r3, r12                \n" \
    "vmul.i32 q2, q1, q2            \n" \
    "vadd.i32 q0, q0, q2            \n"

/* Offsets are those of fleet_mve_depthwise_t. On the stack: bounds, registers, the job. */
#define BODY(CHANNEL, BEFORE, AFTER)                                             \
    __asm__ volatile("push {r0, r4-r11, lr}             \n"                      \
                     "vpush {d8-d15}                    \n"                      \
                     "ldr r1, [r0, #56]                 \n" /* taps */           \
                     "vldrh.u16 q7, [r1]                \n"                      \
                     "vldrh.u16 q6, [r1, #16]           \n"                      \
                     "ldr r1, [r0, #64]                 \n" /* mask */           \
                     "vmov.i32 q0, #0                   \n"                      \
                     "vmsr p0, r1                       \n"                      \
                     "vpsel q6, q0, q6                  \n"                      \
                     "movs r1, #8                       \n"                      \
                     "movs r2, #9                       \n"                      \
                     "vdup.32 q5, r1                    \n" /* 8, 17, 26, 35 */  \
                     "movs r4, #0                       \n"                      \
                     "vidup.u32 q0, r4, #1              \n"                      \
                     "vmla.s32 q5, q0, r2               \n"                      \
                     "ldrd r1, r2, [r0, #68]            \n" /* low, high */      \
                     "vdup.32 q4, r1                    \n"                      \
                     "vdup.32 q3, r2                    \n"                      \
                     "1:                                \n"                      \
                     "ldm r0, {r1, r3, r5, r7-r12, lr}  \n"                      \
                     "dls lr, lr                        \n"                      \
                     "2:                                \n"                      \
                     "ldmia r8!, {r0, r2, r4, r6}       \n" /* biases */         \
                     BEFORE                                                      \
                     CHANNEL("r0") CHANNEL("r2") CHANNEL("r4") CHANNEL("r6")     \
                     "vmov q0[2], q0[0], r0, r4         \n"                      \
                     "vmov q0[3], q0[1], r2, r6         \n"                      \
                     AFTER                                                       \
                     "vldrw.32 q1, [r10], #16           \n" /* multipliers */    \
                     "vldrb.s32 q2, [r5], #4            \n" /* shifts */         \
                     "vqrdmulh.s32 q0, q0, q1           \n"                      \
                     "vand q1, q0, q2                   \n"                      \
                     "vshr.s32 q1, q1, #31              \n"                      \
                     "vqadd.s32 q0, q0, q1              \n"                      \
                     "vrshl.s32 q0, q0, q2              \n"                      \
                     "vqadd.s32 q0, q0, r11             \n" /* zero point */     \
                     "vmax.s32 q0, q0, q4               \n"                      \
                     "vmin.s32 q0, q0, q3               \n"                      \
                     "vstrb.32 q0, [r7], #4             \n"                      \
                     "le lr, 2b                         \n"                      \
                     "ldr r0, [sp, #64]                 \n" /* the job */        \
                     "add r9, r0, #40                   \n"                      \
                     "ldm r9, {r1-r4}                   \n" /* pixels, moves */  \
                     "ldr r5, [r0, #20]                 \n"                      \
                     "ldr r6, [r0, #12]                 \n"                      \
                     "ldr r7, [r0, #4]                  \n"                      \
                     "add r5, r5, r2                    \n"                      \
                     "add r6, r6, r3                    \n"                      \
                     "add r7, r7, r4                    \n"                      \
                     "str r5, [r0, #20]                 \n"                      \
                     "str r6, [r0, #12]                 \n"                      \
                     "str r7, [r0, #4]                  \n"                      \
                     "subs r1, r1, #1                   \n"                      \
                     "str r1, [r0, #40]                 \n"                      \
                     "bne 1b                            \n"                      \
                     "vpop {d8-d15}                     \n"                      \
                     "pop {r0, r4-r11, pc}              \n")

__attribute__((naked)) void fleet_mve_depthwise_inside(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(INSIDE, NINTH_WEIGHTS, NINTH);
}

__attribute__((naked)) void fleet_mve_depthwise_border(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(BORDER, NINTH_WEIGHTS, NINTH);
}

__attribute__((naked)) void fleet_mve_depthwise_few(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(FEW, "", "");
}

__attribute__((naked)) void fleet_mve_depthwise_few_inside(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(FEW_INSIDE, "", "");
}
