/* The inner loops of depthwise convolutions: 48 instructions for four taps of four channels, 12 to finish an output. */
#include "dsp.h"

/*
 * Two taps of four channels (pointers next in r1, channel in r2) become one pair of taps per channel in r0, r4, r5, r7; each
 * meets bytes 0 and 2, or 1 and 3 (turned), of its channel's word of weights: rows at r3, r12 apart. Sums in r8-r11.
 */
#define PAIR(turned)                                                                                            \
    "ldmia r1!, {r4, r5} \n"                                                                                    \
    "ldr r4, [r4, r2] \n"                                                                                       \
    "ldr r5, [r5, r2] \n"                                                                                       \
    "sxtb16 r6, r4, ror #8 \n"                                                                                  \
    "sxtb16 r4, r4 \n"                                                                                          \
    "sxtb16 r7, r5, ror #8 \n"                                                                                  \
    "sxtb16 r5, r5 \n"                                                                                          \
    "pkhbt r0, r4, r5, lsl #16 \n"                                                                              \
    "pkhtb r5, r5, r4, asr #16 \n"                                                                              \
    "pkhbt r4, r6, r7, lsl #16 \n"                                                                              \
    "pkhtb r7, r7, r6, asr #16 \n"                                                                              \
    "add lr, r3, r12, lsl #1 \n"                                                                                \
    "ldr r6, [r3] \n"      "sxtb16 r6, r6" turned " \n" "smlad r8, r0, r6, r8 \n"                               \
    "ldr r6, [r3, r12] \n" "sxtb16 r6, r6" turned " \n" "smlad r9, r4, r6, r9 \n"                               \
    "ldr r6, [lr] \n"      "sxtb16 r6, r6" turned " \n" "smlad r10, r5, r6, r10 \n"                             \
    "ldr r6, [lr, r12] \n" "sxtb16 r6, r6" turned " \n" "smlad r11, r7, r6, r11 \n"

/* One tap of four channels. */
#define SINGLE                  \
    "ldr r4, [r1], #4 \n"       \
    "ldr r4, [r4, r2] \n"       \
    "sxtb16 r5, r4 \n"          \
    "sxtb16 r4, r4, ror #8 \n"  \
    "add lr, r3, r12, lsl #1 \n" \
    "ldrsb r6, [r3, r12] \n"    \
    "ldrsb r7, [lr] \n"         \
    "ldrsb lr, [lr, r12] \n"    \
    "ldrsb r0, [r3], #1 \n"     \
    "smlabb r8, r5, r0, r8 \n"  \
    "smlabb r9, r4, r6, r9 \n"  \
    "smlatb r10, r5, r7, r10 \n" \
    "smlatb r11, r4, lr, r11 \n"

/* fleet_dsp_requantize of a channel that shifts right: multipliers r1, shifts r2, output r3, zero point r4, 1 in lr. */
#define FINISH(sum)                                   \
    "ldr r5, [r1], #4 \n"                             \
    "ldrsb r6, [r2], #1 \n"                           \
    "rsbs r6, r6, #0 \n"                              \
    "lsl " sum ", " sum ", #1 \n"                     \
    "smmulr " sum ", " sum ", r5 \n"                  \
    "lsl r7, lr, r6 \n"                               \
    "add " sum ", " sum ", " sum ", asr #31 \n"       \
    "add " sum ", " sum ", r7, lsr #1 \n"             \
    "asr " sum ", " sum ", r6 \n"                     \
    "add " sum ", " sum ", r4 \n"                     \
    "ssat " sum ", #8, " sum " \n"                    \
    "strb " sum ", [r3], #1 \n"

/* Offsets are those of fleet_dsp_depthwise_t. On the stack: the job, a counter, what the caller keeps. */
__attribute__((naked)) void fleet_dsp_depthwise_channels(fleet_dsp_depthwise_t *job __attribute__((unused)))
{
    __asm__ volatile("push {r0, r1, r4-r11, lr} \n"
                     "1:                        \n" /* four channels */
                     "ldr r0, [sp]              \n"
                     "ldr r1, [r0, #28]         \n"
                     "ldr r1, [r1]              \n"
                     "mov r2, #0x80808080       \n"
                     "bics r2, r2, r1           \n" /* a shift that is not negative ends the run */
                     "bne 5f                    \n"
                     "ldr r1, [r0, #20]         \n"
                     "ldmia r1!, {r8-r11}       \n"
                     "str r1, [r0, #20]         \n"
                     "ldr r4, [r0, #16]         \n"
                     "ldmia r0, {r1-r3, r12}    \n"
                     "cmp r4, #0                \n"
                     "beq 3f                    \n"
                     "2:                        \n" /* four taps */
                     "str r4, [sp, #4]          \n" PAIR("") PAIR(", ror #8")
                     "adds r3, r3, #4           \n"
                     "ldr r4, [sp, #4]          \n"
                     "subs r4, r4, #1           \n"
                     "bne 2b                    \n"
                     "3:                        \n"
                     "ldr r0, [sp]              \n"
                     "ldr r0, [r0, #40]         \n"
                     "cmp r0, #0                \n"
                     "beq 6f                    \n"
                     "4:                        \n" /* one of the last taps */
                     "str r0, [sp, #4]          \n" SINGLE
                     "ldr r0, [sp, #4]          \n"
                     "subs r0, r0, #1           \n"
                     "bne 4b                    \n"
                     "6:                        \n"
                     "ldr r0, [sp]              \n"
                     "add r5, r0, #24           \n"
                     "ldmia r5, {r1-r4}         \n"
                     "mov lr, #1                \n" FINISH("r8") FINISH("r9") FINISH("r10") FINISH("r11")
                     "add r5, r0, #24           \n"
                     "stmia r5, {r1-r3}         \n"
                     "ldrd r1, r2, [r0, #4]     \n" /* next channel and its weights */
                     "add r1, r1, #4            \n"
                     "add r2, r2, r12, lsl #2   \n"
                     "strd r1, r2, [r0, #4]     \n"
                     "ldr r1, [r0, #44]         \n"
                     "subs r1, r1, #1           \n"
                     "str r1, [r0, #44]         \n"
                     "bne 1b                    \n"
                     "5: pop {r0, r1, r4-r11, pc} \n");
}
