/* The image where QEMU's loader put it: in flash, as in a product. */
#include "bench.h"

#define FLASH_END 0x00100000u

extern const uint8_t fleet_image[];

const uint8_t *fleet_bench_image(size_t *bytes)
{
    *bytes = FLASH_END - (uintptr_t)fleet_image;
    return fleet_image;
}
