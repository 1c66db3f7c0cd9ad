#include "bench.h"

void fleet_reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    volatile uint32_t *const cpacr = (volatile uint32_t *)0xE000ED88u;
    *cpacr |= 0xFu << 20; /* FPU or Helium on: coprocessors 10 and 11 */
#endif
    for (uint32_t i = 0; &fleet_data_start[i] < fleet_data_end; i++) {
        fleet_data_start[i] = fleet_data_load[i];
    }
    for (uint32_t *word = fleet_bss_start; word < fleet_bss_end; word++) {
        *word = 0;
    }
    fleet_host_exit(main());
}

static void fault(void)
{
    fleet_host_print("fleet_bench: hard fault\n");
    fleet_host_exit(1);
}

typedef void (*handler_t)(void);

/* Entries 0 .. 15: stack, reset, faults, SysTick last. */
typedef struct {
    uint32_t *stack;
    handler_t handlers[15];
} vectors_t;

__attribute__((section(".vectors"), used)) static const vectors_t vectors = {
    fleet_stack_high,
    {fleet_reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fleet_systick},
};
