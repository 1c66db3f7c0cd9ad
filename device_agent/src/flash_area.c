#include "flash_area.h"

#include "compact.h"

enum { PIECE_BYTES = 64 };

uint32_t fleet_round_up(uint32_t value, uint32_t step) {
    return (value + step - 1U) / step * step;
}

int fleet_flash_settle(const fleet_flash_t *flash) {
    int busy = 0;
    do {
        busy = flash->erase_busy != NULL ? flash->erase_busy(flash->ctx) : 0;
    } while (busy > 0);
    return busy;
}

fleet_status_t fleet_flash_read(const fleet_flash_t *flash, uint32_t offset, void *data, uint32_t bytes) {
    (void)fleet_flash_settle(flash);
    return flash->read(flash->ctx, offset, data, bytes) == FLEET_OK ? FLEET_OK : FLEET_ERR_FLASH;
}

fleet_status_t fleet_flash_prog_unit(const fleet_flash_t *flash, uint32_t offset, const void *data) {
    (void)fleet_flash_settle(flash);
    return flash->prog(flash->ctx, offset, data, flash->program_bytes) == FLEET_OK ? FLEET_OK : FLEET_ERR_FLASH;
}

fleet_status_t fleet_flash_erase_wait(const fleet_flash_t *flash, uint32_t offset) {
    (void)fleet_flash_settle(flash);
    return flash->erase_start(flash->ctx, offset) == FLEET_OK && fleet_flash_settle(flash) == 0 ? FLEET_OK : FLEET_ERR_FLASH;
}

bool fleet_all_ones(const uint8_t *data, uint32_t bytes) {
    while (bytes > 0 && data[bytes - 1U] == 0xFFU) {
        bytes--;
    }
    return bytes == 0;
}

FLEET_APART static bool reads(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes, bool blank) {
    uint8_t piece[PIECE_BYTES];
    while (bytes > 0) {
        const uint32_t count = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
        if (fleet_flash_read(flash, offset, piece, count) != FLEET_OK || (blank && !fleet_all_ones(piece, count))) {
            return false;
        }
        offset += count;
        bytes -= count;
    }
    return true;
}

bool fleet_flash_is_blank(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes) {
    return reads(flash, offset, bytes, true);
}

bool fleet_flash_is_readable(const fleet_flash_t *flash, uint32_t offset, uint32_t bytes) {
    return reads(flash, offset, bytes, false);
}
