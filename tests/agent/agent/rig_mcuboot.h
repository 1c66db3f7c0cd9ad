/*
 * What MCUboot does with two slots at a reset, for tests: reads the trailers, checks the image's hash, swaps, swaps back or leaves alone.
 * Swapping is one step here: that it survives power cuts is MCUboot's own promise. Written from MCUboot's docs/design.md.
 */
#ifndef RIG_MCUBOOT_H
#define RIG_MCUBOOT_H

#include "rig_flash.h"

typedef enum { RIG_SWAP_NONE = 1, RIG_SWAP_TEST = 2, RIG_SWAP_REVERT = 4, RIG_SWAP_FAIL = 5 } rig_swap_t;

/* True when an image with a good hash lies at `base`: without one in the primary slot a device is a brick. */
bool rig_mcuboot_valid(rig_flash_t *flash, uint32_t base, uint32_t bytes);

/* Slots of `bytes` at `primary` and `secondary`. Answers what was done. */
int rig_mcuboot(rig_flash_t *flash, uint32_t primary, uint32_t secondary, uint32_t bytes);

#endif
