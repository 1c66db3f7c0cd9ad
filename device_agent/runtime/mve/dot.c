#include "mve.h"

int32_t fleet_mve_dot(int32_t sum, const int8_t *a, const int8_t *b, uint32_t count)
{
    __asm__ volatile("   mov r4, %0               \n" /* VMLADAVA adds to even registers only */
                     "   wlstp.8 lr, %3, 2f       \n"
                     "1: vldrb.8 q0, [%1], #16    \n"
                     "   vldrb.8 q1, [%2], #16    \n"
                     "   vmladava.s8 r4, q0, q1   \n"
                     "   letp lr, 1b              \n"
                     "2: mov %0, r4               \n"
                     : "+r"(sum), "+r"(a), "+r"(b) : "r"(count) : "r4", "lr", "q0", "q1", "memory", "cc");
    return sum;
}

int fleet_mve_any_left(const int8_t *shifts, uint32_t count)
{
    int32_t largest = 0;
    __asm__ volatile("   wlstp.8 lr, %2, 2f       \n"
                     "1: vldrb.8 q0, [%1], #16    \n"
                     "   vmaxv.s8 %0, q0          \n"
                     "   letp lr, 1b              \n"
                     "2:                          \n"
                     : "+r"(largest), "+r"(shifts) : "r"(count) : "lr", "q0", "memory", "cc");
    return largest > 0;
}
