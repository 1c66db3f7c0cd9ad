/* Small steps on a flash that journal and download share. */
#ifndef FLEET_FLASH_AREA_H
#define FLEET_FLASH_AREA_H

#include "fleet_port.h"

/** `value` rounded up to a multiple of `step`. */
uint32_t fleet_round_up(uint32_t value, uint32_t step);

/** Flash takes one operation at a time: waits for an erase that runs ahead. @return 0, negative when it failed */
int fleet_flash_settle(const fleet_flash_t *flash);

/** Reads after a running erase is over. FLEET_OK or FLEET_ERR_FLASH */
fleet_status_t fleet_flash_read(const fleet_flash_t *flash, uint32_t offset, void *data, uint32_t bytes);

/** Programs one unit after a running erase is over. FLEET_OK or FLEET_ERR_FLASH */
fleet_status_t fleet_flash_prog_unit(const fleet_flash_t *flash, uint32_t offset, const void *data);

/** Erases one block and waits for it. */
fleet_status_t fleet_flash_erase_wait(const fleet_flash_t *flash, uint32_t offset);

/** True when every byte in RAM is 0xFF. */
bool fleet_all_ones(const uint8_t *data, uint32_t bytes);

/** True when every byte reads and is 0xFF. */
bool fleet_flash_is_blank(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes);

/** True when every byte reads: on flash with ECC only then may the area be looked at where it is mapped. */
bool fleet_flash_is_readable(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes);

#endif
