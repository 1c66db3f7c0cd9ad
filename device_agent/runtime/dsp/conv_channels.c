/* The inner loop of convolutions: 15 instructions for 16 products, 8 to finish an output. In assembly, so that nothing spills. */
#include "dsp.h"

/* Four values of both columns (r4-r7) x one word of each row; sums in r8-r11. */
#define GROUP                       \
    "ldmia r1!, {r4-r7}         \n" \
    "ldr r0, [r2], #4           \n" \
    "sxtb16 lr, r0              \n" \
    "sxtb16 r0, r0, ror #8      \n" \
    "smlad r8, r4, lr, r8       \n" \
    "smlad r8, r5, r0, r8       \n" \
    "smlad r9, r6, lr, r9       \n" \
    "smlad r9, r7, r0, r9       \n" \
    "ldr r0, [r3], #4           \n" \
    "sxtb16 lr, r0              \n" \
    "sxtb16 r0, r0, ror #8      \n" \
    "smlad r10, r4, lr, r10     \n" \
    "smlad r10, r5, r0, r10     \n" \
    "smlad r11, r6, lr, r11     \n" \
    "smlad r11, r7, r0, r11     \n"

/* One output of a channel that shifts right: fleet_dsp_requantize with multiplier r7, exponent lr, 2^exponent r1, zero point r6. */
#define FINISH(sum, output)                           \
    "lsl " sum ", " sum ", #1 \n"                     \
    "smmulr " sum ", " sum ", r7 \n"                  \
    "add " sum ", " sum ", " sum ", asr #31 \n"       \
    "add " sum ", " sum ", r1, lsr #1 \n"             \
    "asr " sum ", " sum ", lr \n"                     \
    "add " sum ", " sum ", r6 \n"                     \
    "ssat " sum ", #8, " sum " \n"                    \
    "strb " sum ", [" output "], #1 \n"

#define CHANNEL(first, second)  \
    "ldr r7, [r2], #4 \n"       \
    "ldrsb lr, [r3], #1 \n"     \
    "rsb lr, lr, #0 \n"         \
    "mov r1, #1 \n"             \
    "lsl r1, r1, lr \n" FINISH(first, "r4") FINISH(second, "r5")

/* Sign of r1: whether a sum leaves -2^30 .. 2^30 - 1, which its two top bits tell. */
#define SHORT                       \
    "eor r1, r8, r8, lsl #1     \n" \
    "eor r2, r9, r9, lsl #1     \n" \
    "orr r1, r1, r2             \n" \
    "eor r2, r10, r10, lsl #1   \n" \
    "orr r1, r1, r2             \n" \
    "eor r2, r11, r11, lsl #1   \n" \
    "orr r1, r1, r2             \n"

/* Offsets are those of fleet_dsp_conv_t. On the stack: the job, what the caller keeps. */
__attribute__((naked)) void fleet_dsp_conv_channels(fleet_dsp_conv_t *job __attribute__((unused)))
{
    __asm__ volatile("push {r0, r4-r11, lr}  \n"
                     "1:                     \n" /* two channels */
                     "ldr r0, [sp]           \n"
                     "ldr r1, [r0, #24]      \n"
                     "ldrh r1, [r1]          \n"
                     "movw r2, #0x8080       \n"
                     "bic r2, r2, r1         \n" /* not 0: a shift that is not negative */
                     "str r2, [r0, #44]      \n"
                     "ldr r1, [r0, #16]      \n"
                     "ldmia r1!, {r8, r10}   \n"
                     "str r1, [r0, #16]      \n"
                     "mov r9, r8             \n"
                     "mov r11, r10           \n"
                     "ldmia r0, {r1-r3, r12} \n"
                     "add r3, r3, r2         \n" /* second row */
                     "lsrs r12, r12, #1      \n"
                     "bcc 2f                 \n" GROUP
                     "2: beq 4f              \n" /* flags of lsrs: nothing between changes them */
                     "3:                     \n" GROUP GROUP
                     "subs r12, r12, #1      \n"
                     "bne 3b                 \n"
                     "4:                     \n"
                     "ldr r0, [sp]           \n"
                     "ldr r3, [r0, #44]      \n" SHORT
                     "orrs r1, r1, r3, lsl #16 \n" /* bit 15 to bit 31 */
                     "bmi 6f                 \n"
                     "lsls r3, r3, #24       \n" /* bit 7 to bit 31 */
                     "bmi 6f                 \n"
                     "add r1, r0, #20        \n"
                     "ldmia r1, {r2-r6}      \n" CHANNEL("r8", "r9") CHANNEL("r10", "r11")
                     "add r1, r0, #20        \n"
                     "stmia r1, {r2-r5}      \n"
                     "ldrd r2, r3, [r0, #4]  \n"
                     "add r2, r2, r3, lsl #1 \n"
                     "str r2, [r0, #4]       \n"
                     "ldr r1, [r0, #40]      \n"
                     "subs r1, r1, #1        \n"
                     "str r1, [r0, #40]      \n"
                     "bne 1b                 \n"
                     "b 5f                   \n"
                     "6: add r1, r0, #44     \n" /* the caller finishes these two */
                     "stmia r1, {r8-r11}     \n"
                     "5: pop {r0, r4-r11, pc} \n");
}
