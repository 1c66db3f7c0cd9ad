/* Cycle counter of Armv7-M and Armv8-M cores with a DWT unit (M3, M4, M7, M33, M55; not Armv6-M). */
#ifndef FLEET_DWT_H
#define FLEET_DWT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Let CYCCNT run. @return 0, or -1 where the core has none */
int fleet_dwt_start(void);

/** A fleet_counter_t: core clock cycles since start, modulo 2^32. `context` is not used. Fit for interrupts. */
uint32_t fleet_dwt_cycles(void *context);

#ifdef __cplusplus
}
#endif

#endif
