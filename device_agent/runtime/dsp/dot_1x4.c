/* The inner loop of fully connected layers: 23 instructions for 16 products. */
#include "dsp.h"

#define ROW(address, sum)                                 \
    "ldr r0, " address " \n"                              \
    "sxtb16 lr, r0 \n"                                    \
    "sxtb16 r0, r0, ror #8 \n"                            \
    "smlad " sum ", r4, lr, " sum " \n"                   \
    "smlad " sum ", r5, r0, " sum " \n"

/* Four inputs in r4 and r5; rows at r2, r2 + r3, r2 + 2 r3, r2 + r6; sums in r8-r11. */
#define GROUP                                             \
    "ldr r0, [r1], #4 \n"                                 \
    "sxtb16 r4, r0 \n"                                    \
    "sxtb16 r5, r0, ror #8 \n"                            \
    ROW("[r2, r3]", "r9") ROW("[r2, r3, lsl #1]", "r10")  \
    ROW("[r2, r6]", "r11") ROW("[r2], #4", "r8")

__attribute__((naked)) void fleet_dsp_dot_1x4(int32_t sums[4] __attribute__((unused)),
                                              const int8_t *input __attribute__((unused)),
                                              const int8_t *weights __attribute__((unused)),
                                              uint32_t row_bytes __attribute__((unused)),
                                              uint32_t groups __attribute__((unused)))
{
    __asm__ volatile("push {r0, r4-r11, lr}     \n"
                     "ldr r12, [sp, #40]        \n" /* groups */
                     "add r6, r3, r3, lsl #1    \n"
                     "ldmia r0, {r8-r11}        \n"
                     "and r7, r12, #3           \n"
                     "lsrs r12, r12, #2         \n"
                     "beq 2f                    \n"
                     "1:                        \n" GROUP GROUP GROUP GROUP
                     "subs r12, r12, #1         \n"
                     "bne 1b                    \n"
                     "2: cmp r7, #0             \n"
                     "beq 4f                    \n"
                     "3:                        \n" GROUP
                     "subs r7, r7, #1           \n"
                     "bne 3b                    \n"
                     "4: ldr r0, [sp]           \n"
                     "stmia r0, {r8-r11}        \n"
                     "pop {r0, r4-r11, pc}      \n");
}
