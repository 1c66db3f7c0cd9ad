/* Stack high-water by painting: what still holds the mark was never used. Stacks grow down on every core we know. */
#include "fleet_runtime.h"

#define MARK UINT32_C(0xA5C3A5C3)
#define OWN_FRAMES 32u /* words below a local that this function itself may use */

void fleet_stack_mark(uint32_t *low, size_t bytes)
{
    volatile uint32_t here = MARK;
    const uintptr_t top = (uintptr_t)&here - OWN_FRAMES * sizeof(here);
    uint32_t *const end = low + bytes / sizeof(*low);
    for (volatile uint32_t *word = low; word < end && (uintptr_t)word < top; word++) {
        *word = MARK;
    }
}

uint32_t fleet_stack_used(const uint32_t *low, size_t bytes)
{
    const size_t words = bytes / sizeof(*low);
    size_t untouched = 0;
    while (untouched < words && low[untouched] == MARK) {
        untouched++;
    }
    return (uint32_t)((words - untouched) * sizeof(*low));
}
