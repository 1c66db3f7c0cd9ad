/* The inner loop of depthwise convolutions: four taps of four channels in 52 instructions, no product alone. */
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

__attribute__((naked)) void fleet_dsp_dot_taps(int32_t sums[4] __attribute__((unused)),
                                               const int8_t *const *taps __attribute__((unused)),
                                               uint32_t channel __attribute__((unused)),
                                               const int8_t *weights __attribute__((unused)),
                                               uint32_t row_bytes __attribute__((unused)),
                                               uint32_t quads __attribute__((unused)))
{
    __asm__ volatile("push {r0, r4-r11, lr}  \n"
                     "ldr r12, [sp, #40]     \n" /* row_bytes */
                     "ldmia r0, {r8-r11}     \n"
                     "1:                     \n" PAIR("") PAIR(", ror #8")
                     "adds r3, r3, #4        \n"
                     "ldr r0, [sp, #44]      \n" /* quads */
                     "subs r0, r0, #1        \n"
                     "str r0, [sp, #44]      \n"
                     "bne 1b                 \n"
                     "ldr r0, [sp]           \n"
                     "stmia r0, {r8-r11}     \n"
                     "pop {r0, r4-r11, pc}   \n");
}
