#include "fleet_boot.h"

#include "flash_area.h"
#include "fleet_image.h"
#include "journal.h"
#include "slot_rules.h"

typedef struct {
    const fleet_flash_t *flash;
    uint32_t slots; /* offset of the component's first slot */
    uint32_t slot_bytes;
} area_t;

static const fleet_image_header_t *header_at(const area_t *area, uint8_t slot) {
    return (const fleet_image_header_t *)(const void *)(area->flash->mapped + area->slots + slot * area->slot_bytes);
}

/* As fleet_model_open tells an image of another runtime from a damaged one. */
static bool is_other_abi(const fleet_image_header_t *header) {
    return header->format_version != FLEET_IMAGE_FORMAT_VERSION || header->header_bytes != sizeof *header ||
           header->abi != FLEET_IMAGE_ABI || header->kernel_set != FLEET_IMAGE_KERNEL_SET_PORTABLE ||
           header->kernel_set_version != FLEET_IMAGE_KERNEL_SET_VERSION;
}

/* FLEET_OK, FLEET_ERR_ABI or what is wrong with the image of at most `bytes` bytes. */
static fleet_status_t check_image(const area_t *area, uint8_t slot, uint32_t bytes) {
    const fleet_image_header_t *header = header_at(area, slot);
    if (bytes < sizeof *header || bytes > area->slot_bytes ||
        !fleet_flash_is_readable(area->flash, area->slots + slot * area->slot_bytes, bytes)) {
        return FLEET_ERR_SIZE;
    }
    if (header->magic != FLEET_IMAGE_MAGIC) {
        return FLEET_ERR_MAGIC;
    }
    if (is_other_abi(header)) {
        return FLEET_ERR_ABI;
    }
    if (header->image_bytes > bytes || header->image_bytes < sizeof *header) {
        return FLEET_ERR_TRUNCATED;
    }
    const uint8_t *covered = (const uint8_t *)header + FLEET_IMAGE_CRC_START;
    return fleet_crc32(0, covered, header->image_bytes - FLEET_IMAGE_CRC_START) == header->crc32 ? FLEET_OK : FLEET_ERR_CRC;
}

static void choose(const area_t *area, uint8_t slot, fleet_boot_choice_t *choice) {
    choice->slot = slot;
    choice->offset = area->slots + slot * area->slot_bytes;
    choice->image_bytes = header_at(area, slot)->image_bytes;
}

/* Both halves were lost: whole images only, the first one. */
static void choose_recovered(const area_t *area, fleet_boot_choice_t *choice) {
    for (uint8_t s = 0; s < 2; s++) {
        if (choice->slot == FLEET_NO_SLOT && check_image(area, s, area->slot_bytes) == FLEET_OK) {
            choose(area, s, choice);
            choice->reason = FLEET_REASON_JOURNAL_RECOVERED;
        }
    }
}

/* Rules 6 and 9 of slots.c, in the order of the agent's boot. */
static void choose_by_record(const area_t *area, fleet_component_record_t *record, fleet_boot_choice_t *choice) {
    const uint8_t wanted = record->active;
    bool usable[2] = {false, false};
    fleet_record_count_attempts(record);
    for (uint8_t s = 0; s < 2; s++) {
        const fleet_slot_record_t *slot = &record->slots[s];
        if (fleet_record_holds_image(slot)) {
            fleet_status_t status = check_image(area, s, slot->image_bytes);
            status = status == FLEET_OK && header_at(area, s)->image_bytes != slot->image_bytes ? FLEET_ERR_TRUNCATED : status;
            usable[s] = status == FLEET_OK;
            if (status == FLEET_ERR_ABI) {
                choice->reason = FLEET_REASON_ABI_MISMATCH;
            } else if (status != FLEET_OK) {
                fleet_record_drop_damaged(record, s);
            }
        }
    }
    const uint8_t slot = fleet_record_choose(record, usable);
    if (slot != FLEET_NO_SLOT) {
        choose(area, slot, choice);
    }
    if (wanted != slot && choice->reason == FLEET_REASON_NONE) {
        choice->reason = slot == FLEET_NO_SLOT ? FLEET_REASON_BOOT_NO_IMAGE : FLEET_REASON_BOOT_OTHER_SLOT;
    }
}

fleet_status_t fleet_boot_select(const fleet_flash_t *flash, uint32_t slot_bytes, uint8_t component, fleet_boot_choice_t *choice) {
    choice->slot = FLEET_NO_SLOT;
    choice->reason = FLEET_REASON_NONE;
    choice->offset = 0;
    choice->image_bytes = 0;
    if (component >= FLEET_MODELS_MAX || slot_bytes == 0) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_journal_t journal;
    fleet_journal_origin_t origin;
    fleet_component_record_t record;
    uint32_t bytes;
    fleet_status_t status = fleet_journal_peek(&journal, flash, &origin);
    if (status != FLEET_OK) {
        return status;
    }
    area_t area = {flash, 0, fleet_round_up(slot_bytes, flash->erase_bytes)};
    area.slots = 2U * journal.half_bytes + 2U * component * area.slot_bytes;
    status = fleet_journal_read(&journal, FLEET_RECORD_KEY(component), &record, sizeof record, &bytes);
    if (status == FLEET_OK && bytes == sizeof record) {
        choose_by_record(&area, &record, choice);
    } else if (status == FLEET_OK && origin == FLEET_JOURNAL_LOST) {
        choose_recovered(&area, choice);
    }
    return status;
}
