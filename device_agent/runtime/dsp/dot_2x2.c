/* The inner loop of convolutions: 15 instructions for 16 products. Whole in assembly, so that no value is spilled. */
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

__attribute__((naked)) void fleet_dsp_dot_2x2(int32_t sums[4] __attribute__((unused)),
                                              const uint32_t *columns __attribute__((unused)),
                                              const int8_t *weights __attribute__((unused)),
                                              uint32_t row_bytes __attribute__((unused)),
                                              uint32_t groups __attribute__((unused)))
{
    __asm__ volatile("push {r0, r4-r11, lr}  \n"
                     "ldr r12, [sp, #40]     \n" /* groups */
                     "add r3, r3, r2         \n" /* second row */
                     "ldmia r0, {r8-r11}     \n"
                     "lsrs r12, r12, #1      \n"
                     "bcc 1f                 \n" GROUP "1: beq 3f \n" /* flags of lsrs: nothing between changes them */
                     "2:                     \n" GROUP GROUP
                     "subs r12, r12, #1      \n"
                     "bne 2b                 \n"
                     "3: ldr r0, [sp]        \n"
                     "stmia r0, {r8-r11}     \n"
                     "pop {r0, r4-r11, pc}   \n");
}
