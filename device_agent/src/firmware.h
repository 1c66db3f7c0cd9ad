/*
 * The component `firmware` under MCUboot: an update goes to the secondary slot, is marked pending, and MCUboot swaps it in; it is kept
 * when it passed its self-test and met the broker once, else MCUboot swaps back at the next reset.
 *
 *  1. A slot of the record is an image, not a place: the image in use lies in the primary slot, the other one in the secondary. At
 *     each boot with a candidate the digest of the primary slot decides which one runs.
 *  2. STAGED with `until` CONFIRMED: the trailer's block is erased, swap type TEST is programmed, the magic LAST, and the device
 *     resets. A boot that finds the candidate not swapped in counts an attempt and does it anew from the erase on: what a cut left
 *     behind is never relied on. After FLEET_ATTEMPTS_MAX (MCUboot refuses the image) it is REJECTED(ATTEMPTS_EXHAUSTED).
 *  3. STAGED and swapped in: TESTING. image_ok is set only after the self-test passed AND the broker accepted a connection in this
 *     boot; then CONFIRMED. image_ok comes first: a boot that finds it set, or in doubt, writes the trailer anew and confirms.
 *  4. TESTING and no longer in the primary slot: MCUboot swapped back, REJECTED(FIRMWARE_REVERTED). A failed self-test or a test that
 *     took longer than `confirm_timeout_s` is REJECTED first and reset then, which makes MCUboot swap back.
 *  5. While a candidate is TESTING the secondary slot holds what MCUboot goes back to: nothing is downloaded.
 *
 * tests/agent/agent/firmware_model.py says the same in Python; property tests lead both through the same steps.
 *
 * Trailer, from the slot's end: magic 16 bytes, then, each in a program unit of its own of at least 8 bytes, image_ok, copy_done, swap info.
 * Source: MCUboot docs/design.md, "Image trailer", and its trailer functions in boot/bootutil.
 */
#ifndef FLEET_FIRMWARE_SRC_H
#define FLEET_FIRMWARE_SRC_H

#include "fleet_agent.h"

/** FLEET_OK, or FLEET_ERR_ARGUMENT: slots that differ, units above 32 bytes, no reset. */
fleet_status_t fleet_firmware_check(const fleet_agent_config_t *config);

/** After the record was loaded: finds out which image runs and moves on. */
fleet_status_t fleet_firmware_boot(fleet_agent_t *agent);

/** A candidate was read back: FLEET_OK when it is an image for MCUboot. */
fleet_status_t fleet_firmware_open(const fleet_agent_t *agent, uint32_t image_bytes);

/** The trailer's block is erased, so that what is written next is not swapped in by an old mark. */
fleet_status_t fleet_firmware_forget_pending(const fleet_agent_t *agent);

/** What is due: pending and reset, confirm, or back. */
void fleet_firmware_advance(fleet_agent_t *agent);

/** No download may begin: a candidate is TESTING, or a reset is awaited. */
bool fleet_firmware_holds(const fleet_agent_t *agent);

#endif
