#include "bench.h"

/* 1 ns an instruction; the machine's system clock gives the tick. */
#ifndef FLEET_CLOCK_KHZ
#define FLEET_CLOCK_KHZ 25000u
#endif
#define RELOAD 0xFFFFFFu
#define QUARTERS_PER_TICK (4000000u / FLEET_CLOCK_KHZ) /* of an instruction; a division by a variable would need libgcc */

typedef struct {
    volatile uint32_t control;
    volatile uint32_t reload;
    volatile uint32_t value;
} systick_t;

#define SYSTICK ((systick_t *)0xE000E010u)

static volatile uint32_t wraps;

void fleet_systick(void)
{
    wraps++;
}

void fleet_counter_start(void)
{
    wraps = 0;
    SYSTICK->reload = RELOAD;
    SYSTICK->value = 0;
    SYSTICK->control = 7; /* processor clock, interrupt, enable */
    while (SYSTICK->value == 0u) {
        /* the first tick loads RELOAD; until then a reading would look like a whole period */
    }
}

uint64_t fleet_counter_instructions(void)
{
    uint32_t before, value;
    do { /* a wrap between the two reads would be counted half */
        before = wraps;
        value = SYSTICK->value;
    } while (before != wraps);
    return ((uint64_t)before * (RELOAD + 1u) + (RELOAD - value)) * QUARTERS_PER_TICK / 4u;
}
