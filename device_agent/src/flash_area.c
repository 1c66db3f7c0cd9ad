#include "flash_area.h"

enum { PIECE_BYTES = 64 };

uint32_t fleet_round_up(uint32_t value, uint32_t step) {
    return (value + step - 1U) / step * step;
}

fleet_status_t fleet_flash_erase_wait(const fleet_flash_t *flash, uint32_t offset) {
    if (flash->erase_start(flash->ctx, offset) != FLEET_OK) {
        return FLEET_ERR_FLASH;
    }
    int busy;
    do {
        busy = flash->erase_busy(flash->ctx);
    } while (busy > 0);
    return busy == 0 ? FLEET_OK : FLEET_ERR_FLASH;
}

bool fleet_flash_is_blank(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes) {
    uint8_t piece[PIECE_BYTES];
    while (bytes > 0) {
        const uint32_t count = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
        if (flash->read(flash->ctx, offset, piece, count) != FLEET_OK) {
            return false;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (piece[i] != 0xFFU) {
                return false;
            }
        }
        offset += count;
        bytes -= count;
    }
    return true;
}
