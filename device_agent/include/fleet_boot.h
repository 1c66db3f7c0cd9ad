/*
 * Boot selection for a bootloader: which slot of a component would answer, by journal and CRC, before anything else runs.
 *
 * Reads flash and nothing else: no RAM is expected to be initialised (there is no .data or .bss here), no libc is needed, nothing is
 * written, and the stack takes about 1.5 KB. The agent's own boot decides by the same rules on the same flash, then counts the attempt.
 *
 * Objects to link: boot_select.c, slot_rules.c, journal.c, flash_area.c of src/ and crc32.c of runtime/, with -ffunction-sections and
 * --gc-sections; without a libc ports/boot/memory.c too, which holds the memory functions that compilers call.
 *
 * What a bootloader cannot see, and leaves to the agent: operators that the firmware's runtime was built without, and whether an image
 * that nobody ever opened is more than bytes with a good CRC (only after both journal halves were lost).
 */
#ifndef FLEET_BOOT_H
#define FLEET_BOOT_H

#include "fleet_agent.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint8_t slot;        /**< 0 or 1; FLEET_NO_SLOT: no image may run, `reason` says why where it is known */
    uint8_t reason;      /**< fleet_reason_t: NONE, or what was found on the way, as the agent's boot event says it */
    uint32_t offset;     /**< of the slot in the agent's flash area */
    uint32_t image_bytes;
} fleet_boot_choice_t;

/**
 * @param[in]  flash      `read` and `mapped` are used; `erase_busy` may be null
 * @param[in]  slot_bytes as in fleet_agent_config_t
 * @param[out] choice     always set
 * @return FLEET_OK, also with FLEET_NO_SLOT; FLEET_ERR_ARGUMENT; FLEET_ERR_JOURNAL: written by another version; FLEET_ERR_FLASH
 */
fleet_status_t fleet_boot_select(const fleet_flash_t *flash, uint32_t slot_bytes, uint8_t component, fleet_boot_choice_t *choice);

#ifdef __cplusplus
}
#endif

#endif
