#include "dwt.h"

/* Arm v7-M Architecture Reference Manual, C1.6.5 and C1.8. */
#define DEMCR (*(volatile uint32_t *)0xE000EDFCu)
#define DWT_CTRL (*(volatile uint32_t *)0xE0001000u)
#define DWT_CYCCNT (*(volatile uint32_t *)0xE0001004u)
#define DEMCR_TRCENA (UINT32_C(1) << 24)
#define DWT_NOCYCCNT (UINT32_C(1) << 25)
#define DWT_CYCCNTENA UINT32_C(1)

int fleet_dwt_start(void)
{
    DEMCR |= DEMCR_TRCENA;
    if ((DWT_CTRL & DWT_NOCYCCNT) != 0u) {
        return -1;
    }
    DWT_CYCCNT = 0;
    DWT_CTRL |= DWT_CYCCNTENA;
    return 0;
}

uint32_t fleet_dwt_cycles(void *context)
{
    (void)context;
    return DWT_CYCCNT;
}
