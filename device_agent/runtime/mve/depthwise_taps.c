/* The inner loops of depthwise convolutions with any number of taps: 5 or 8 instructions for eight taps of a channel. */
#include "mve.h"

/* Eight taps into q0. r9: the channel's first tap, q6: the mark of taps inside. */
#define INSIDE                          \
    "vldrh.u16 q1, [r3], #32        \n" \
    "vldrb.s16 q0, [r9, q1]         \n"

#define ANY                             \
    "vldrh.u16 q1, [r3], #32        \n" \
    "vldrh.u16 q2, [r3, #-16]       \n" \
    "vpt.i16 eq, q2, q6             \n" \
    "vldrbt.s16 q0, [r9, q1]        \n" \
    "vpsel q0, q0, q2               \n"

/* Sum of one channel. r1: weights of the channel, r12: taps, [sp]: where they lie. */
#define CHANNEL(TAPS, sum)              \
    "ldr r3, [sp]                   \n" \
    "mov r5, r1                     \n" \
    "add r1, r1, r12                \n" \
    "dlstp.16 lr, r12               \n" \
    "3:                             \n" \
    TAPS                                 \
    "vldrb.s16 q1, [r5], #8         \n" \
    "vmladava.s16 " sum ", q0, q1   \n" \
    "letp lr, 3b                    \n" \
    "add r9, r9, #1                 \n"

/* Offsets are those of fleet_mve_depthwise_t. On the stack: taps, steps left, next shift, the bounds' registers, the job. */
#define BODY(TAPS)                                                                    \
    __asm__ volatile("push {r0, r4-r11, lr}             \n"                           \
                     "vpush {d8-d15}                    \n"                           \
                     "sub sp, sp, #16                   \n"                           \
                     "ldr r1, [r0, #56]                 \n" /* taps */                \
                     "str r1, [sp]                      \n"                           \
                     "movw r1, #0x7fff                  \n" /* FLEET_MVE_INSIDE */    \
                     "vdup.16 q6, r1                    \n"                           \
                     "ldrd r1, r2, [r0, #68]            \n" /* low, high */           \
                     "vdup.32 q4, r1                    \n"                           \
                     "vdup.32 q5, r2                    \n"                           \
                     "1:                                \n"                           \
                     "ldm r0, {r1, r3, r5, r7-r12, lr}  \n"                           \
                     "ldr r12, [r0, #60]                \n" /* tap_count */           \
                     "strd lr, r5, [sp, #4]             \n" /* steps, shifts */       \
                     "2:                                \n"                           \
                     "ldmia r8!, {r0, r2, r4, r6}       \n" /* biases */              \
                     CHANNEL(TAPS, "r0") CHANNEL(TAPS, "r2") CHANNEL(TAPS, "r4") CHANNEL(TAPS, "r6")\
                     "vmov q0[2], q0[0], r0, r4         \n"                           \
                     "vmov q0[3], q0[1], r2, r6         \n"                           \
                     "ldrd r2, r3, [sp, #4]             \n" /* steps, shifts */       \
                     "vldrw.32 q1, [r10], #16           \n" /* multipliers */         \
                     "vldrb.s32 q2, [r3], #4            \n"                           \
                     "vmov.i32 q3, #0                   \n"                           \
                     "vmax.s32 q3, q3, q2               \n" /* the left part of the shifts */\
                     "vsub.i32 q2, q2, q3               \n"                           \
                     "vshl.s32 q0, q0, q3               \n"                           \
                     "vqrdmulh.s32 q0, q0, q1           \n"                           \
                     "vand q1, q0, q2                   \n"                           \
                     "vshr.s32 q1, q1, #31              \n"                           \
                     "vqadd.s32 q0, q0, q1              \n"                           \
                     "vrshl.s32 q0, q0, q2              \n"                           \
                     "vqadd.s32 q0, q0, r11             \n" /* zero point */          \
                     "vmax.s32 q0, q0, q4               \n"                           \
                     "vmin.s32 q0, q0, q5               \n"                           \
                     "vstrb.32 q0, [r7], #4             \n"                           \
                     "subs r2, r2, #1                   \n"                           \
                     "strd r2, r3, [sp, #4]             \n"                           \
                     "bne 2b                            \n"                           \
                     "ldr r0, [sp, #80]                 \n" /* the job */             \
                     "add r9, r0, #40                   \n"                           \
                     "ldm r9, {r1-r3}                   \n" /* pixels, moves */       \
                     "ldr r5, [r0, #20]                 \n"                           \
                     "ldr r6, [r0, #12]                 \n"                           \
                     "add r5, r5, r2                    \n"                           \
                     "add r6, r6, r3                    \n"                           \
                     "str r5, [r0, #20]                 \n"                           \
                     "str r6, [r0, #12]                 \n"                           \
                     "subs r1, r1, #1                   \n"                           \
                     "str r1, [r0, #40]                 \n"                           \
                     "bne 1b                            \n"                           \
                     "add sp, sp, #16                   \n"                           \
                     "vpop {d8-d15}                     \n"                           \
                     "pop {r0, r4-r11, pc}              \n")

__attribute__((naked)) void fleet_mve_depthwise_taps(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(ANY);
}

__attribute__((naked)) void fleet_mve_depthwise_taps_inside(fleet_mve_depthwise_t *job __attribute__((unused)))
{
    BODY(INSIDE);
}
