#include "rig_mcuboot.h"

#include <openssl/sha.h>
#include <string.h>

enum { MAGIC_BYTES = 16, HEADER_MAGIC_BYTES = 4, TLV_SHA256 = 0x10, SLOT_MAX = 1 << 16 };

typedef enum { MAGIC_UNSET, MAGIC_GOOD, MAGIC_BAD } magic_t;

typedef struct {
    magic_t magic;
    uint8_t image_ok;
    uint8_t copy_done;
} trailer_t;

typedef struct {
    rig_flash_t *flash;
    uint32_t base;
    uint32_t bytes;
} slot_t;

static bool slot_read(const slot_t *slot, uint32_t at, void *data, uint32_t bytes) {
    const fleet_flash_t *port = &slot->flash->port;
    return at + bytes <= slot->bytes && port->read(port->ctx, slot->base + at, data, bytes) == FLEET_OK;
}

static uint32_t write_align(const slot_t *slot) {
    const uint32_t unit = slot->flash->port.program_bytes;
    return unit > 8 ? unit : 8;
}

static magic_t judge(const slot_t *slot, const uint8_t found[MAGIC_BYTES]) {
    static const uint8_t eight[] = "\x77\xc2\x95\xf3\x60\xd2\xef\x7f\x35\x52\x50\x0f\x2c\xb6\x79\x80";
    static const uint8_t other[] = "\x2d\xe1\x5d\x29\x41\x0b\x8d\x77\x67\x9c\x11\x0f\x1f\x8a";
    uint8_t blank[MAGIC_BYTES];
    memset(blank, 0xFF, sizeof blank);
    if (memcmp(found, blank, sizeof blank) == 0) {
        return MAGIC_UNSET;
    }
    const uint32_t align = write_align(slot);
    const bool sized = found[0] == align && found[1] == 0 && memcmp(found + 2, other, MAGIC_BYTES - 2) == 0;
    return (align == 8 ? memcmp(found, eight, MAGIC_BYTES) == 0 : sized) ? MAGIC_GOOD : MAGIC_BAD;
}

/* A trailer that does not read counts as none. */
static trailer_t read_trailer(const slot_t *slot) {
    const uint32_t align = write_align(slot);
    const uint32_t ok_at = (slot->bytes - MAGIC_BYTES - align) & ~(align - 1);
    uint8_t magic[MAGIC_BYTES];
    trailer_t trailer = {MAGIC_UNSET, 0xFF, 0xFF};
    if (slot_read(slot, slot->bytes - MAGIC_BYTES, magic, sizeof magic)) {
        trailer.magic = judge(slot, magic);
    }
    if (!slot_read(slot, ok_at, &trailer.image_ok, 1) || !slot_read(slot, ok_at - align, &trailer.copy_done, 1)) {
        trailer.magic = MAGIC_UNSET;
    }
    return trailer;
}

static uint32_t little(const uint8_t *data, uint32_t bytes) {
    uint32_t value = 0;
    for (uint32_t i = bytes; i > 0; i--) {
        value = value << 8 | data[i - 1];
    }
    return value;
}

/* The hash that imgtool wrote behind the image is that of header, body and protected TLVs. Only what belongs to the image is read. */
static bool image_is_valid(const slot_t *slot) {
    enum { HEADER_BYTES = 32, TLV_INFO_BYTES = 4 };
    static uint8_t image[SLOT_MAX];
    uint8_t digest[SHA256_DIGEST_LENGTH];
    if (slot->bytes > sizeof image || !slot_read(slot, 0, image, HEADER_BYTES) || little(image, HEADER_MAGIC_BYTES) != 0x96f3b83d) {
        return false;
    }
    const uint32_t hashed = little(image + 8, 2) + little(image + 10, 2) + little(image + 12, 4);
    if (hashed > slot->bytes - TLV_INFO_BYTES || !slot_read(slot, 0, image, hashed + TLV_INFO_BYTES)) {
        return false;
    }
    const uint32_t end = hashed + little(image + hashed + 2, 2);
    if (end > slot->bytes || !slot_read(slot, 0, image, end)) {
        return false;
    }
    SHA256(image, hashed, digest);
    for (uint32_t at = hashed + TLV_INFO_BYTES; at + 4 <= end; at += 4 + little(image + at + 2, 2)) {
        if (little(image + at, 2) == TLV_SHA256) {
            return memcmp(image + at + 4, digest, sizeof digest) == 0;
        }
    }
    return false;
}

/* The last block holds the trailer. */
static uint32_t body_bytes(const slot_t *slot) {
    return slot->bytes - slot->flash->port.erase_bytes;
}

static void swap_bodies(const slot_t *a, const slot_t *b) {
    rig_flash_t *flash = a->flash;
    const uint32_t unit = flash->port.program_bytes;
    for (uint32_t i = 0; i < body_bytes(a); i++) {
        const uint8_t byte = flash->data[a->base + i];
        flash->data[a->base + i] = flash->data[b->base + i];
        flash->data[b->base + i] = byte;
    }
    for (uint32_t i = 0; i < body_bytes(a) / unit; i++) {
        const uint8_t state = flash->units[a->base / unit + i];
        flash->units[a->base / unit + i] = flash->units[b->base / unit + i];
        flash->units[b->base / unit + i] = state;
    }
}

static void erase_trailer(const slot_t *slot) {
    rig_flash_t *flash = slot->flash;
    const uint32_t from = slot->base + body_bytes(slot);
    const uint32_t unit = flash->port.program_bytes;
    memset(flash->data + from, 0xFF, flash->port.erase_bytes);
    memset(flash->units + from / unit, UNIT_BLANK, flash->port.erase_bytes / unit);
}

static void put(const slot_t *slot, uint32_t at, const uint8_t *data, uint32_t bytes) {
    const uint32_t unit = slot->flash->port.program_bytes;
    memcpy(slot->flash->data + slot->base + at, data, bytes);
    for (uint32_t i = at / unit; i <= (at + bytes - 1) / unit; i++) {
        slot->flash->units[slot->base / unit + i] = UNIT_WRITTEN;
    }
}

static void write_trailer(const slot_t *slot, const uint8_t magic[MAGIC_BYTES], bool image_ok) {
    static const uint8_t set = 1;
    const uint32_t align = write_align(slot);
    const uint32_t ok_at = (slot->bytes - MAGIC_BYTES - align) & ~(align - 1);
    erase_trailer(slot);
    put(slot, ok_at - align, &set, 1);
    if (image_ok) {
        put(slot, ok_at, &set, 1);
    }
    put(slot, slot->bytes - MAGIC_BYTES, magic, MAGIC_BYTES);
}

bool rig_mcuboot_valid(rig_flash_t *flash, uint32_t base, uint32_t bytes) {
    const slot_t slot = {flash, base, bytes};
    return image_is_valid(&slot);
}

int rig_mcuboot(rig_flash_t *flash, uint32_t primary, uint32_t secondary, uint32_t bytes) {
    const slot_t first = {flash, primary, bytes};
    const slot_t second = {flash, secondary, bytes};
    const trailer_t runs = read_trailer(&first);
    const trailer_t waits = read_trailer(&second);
    uint8_t magic[MAGIC_BYTES];
    if (waits.magic == MAGIC_GOOD && waits.image_ok == 0xFF && slot_read(&second, bytes - MAGIC_BYTES, magic, MAGIC_BYTES)) {
        if (!image_is_valid(&second)) {
            erase_trailer(&second);
            return RIG_SWAP_FAIL;
        }
        swap_bodies(&first, &second);
        write_trailer(&first, magic, false);
        erase_trailer(&second);
        return RIG_SWAP_TEST;
    }
    if (runs.magic == MAGIC_GOOD && runs.copy_done == 1 && runs.image_ok == 0xFF &&
        slot_read(&first, bytes - MAGIC_BYTES, magic, MAGIC_BYTES)) {
        swap_bodies(&first, &second);
        write_trailer(&first, magic, true);
        erase_trailer(&second);
        return RIG_SWAP_REVERT;
    }
    return RIG_SWAP_NONE;
}
