#include "firmware.h"

#if FLEET_WITH_FIRMWARE

#include <string.h>

#include "events.h"
#include "flash_area.h"
#include "signature.h"
#include "slot_rules.h"
#include "slots.h"

enum { MAGIC_BYTES = 16, UNIT_MAX = 32, HEADER_BYTES = 32, SWAP_TEST = 2, FLAG_SET = 1, FLAG_BLANK = 0xFF };

/* Where a slot's trailer lies. */
typedef struct {
    uint32_t magic;
    uint32_t image_ok;
    uint32_t copy_done;
    uint32_t swap_info;
} trailer_t;

static uint32_t field_bytes(const fleet_flash_t *flash) {
    return flash->program_bytes > 8U ? flash->program_bytes : 8U;
}

static trailer_t trailer_of(const fleet_flash_t *flash) {
    const uint32_t each = field_bytes(flash);
    trailer_t trailer;
    trailer.magic = flash->size - MAGIC_BYTES;
    trailer.image_ok = (trailer.magic - each) / each * each;
    trailer.copy_done = trailer.image_ok - each;
    trailer.swap_info = trailer.copy_done - each;
    return trailer;
}

/* Above 8 bytes a field the magic says how many. */
static void magic_of(const fleet_flash_t *flash, uint8_t magic[MAGIC_BYTES]) {
    static const uint8_t by_eight[MAGIC_BYTES] = {0x77, 0xc2, 0x95, 0xf3, 0x60, 0xd2, 0xef, 0x7f,
                                                  0x35, 0x52, 0x50, 0x0f, 0x2c, 0xb6, 0x79, 0x80};
    static const uint8_t by_more[MAGIC_BYTES] = {0x00, 0x00, 0x2d, 0xe1, 0x5d, 0x29, 0x41, 0x0b,
                                                 0x8d, 0x77, 0x67, 0x9c, 0x11, 0x0f, 0x1f, 0x8a};
    const uint32_t each = field_bytes(flash);
    memcpy(magic, each == 8U ? by_eight : by_more, MAGIC_BYTES);
    if (each != 8U) {
        magic[0] = (uint8_t)each;
    }
}

static const fleet_flash_t *primary_of(const fleet_agent_t *agent) {
    return agent->config.firmware->primary;
}

static const fleet_flash_t *secondary_of(const fleet_agent_t *agent) {
    return agent->config.firmware->secondary;
}

/* ---- trailers ---- */

/* Programs the units in which `data` lies; what is not data stays erased. */
static fleet_status_t put_field(const fleet_flash_t *flash, uint32_t at, const uint8_t *data, uint32_t bytes) {
    const uint32_t unit_bytes = flash->program_bytes;
    fleet_status_t status = FLEET_OK;
    for (uint32_t start = at / unit_bytes * unit_bytes; start < at + bytes && status == FLEET_OK; start += unit_bytes) {
        uint8_t unit[UNIT_MAX];
        for (uint32_t i = 0; i < unit_bytes; i++) {
            const bool inside = start + i >= at && start + i < at + bytes;
            unit[i] = inside ? data[start + i - at] : 0xFFU;
        }
        status = fleet_flash_prog_unit(flash, start, unit);
    }
    return status;
}

static fleet_status_t put_flag(const fleet_flash_t *flash, uint32_t at, uint8_t value) {
    return put_field(flash, at, &value, 1);
}

static fleet_status_t erase_trailer(const fleet_flash_t *flash) {
    return fleet_flash_erase_wait(flash, flash->size - flash->erase_bytes);
}

static fleet_status_t put_magic(const fleet_flash_t *flash) {
    uint8_t magic[MAGIC_BYTES];
    magic_of(flash, magic);
    return put_field(flash, trailer_of(flash).magic, magic, sizeof magic);
}

/* A flag that does not read is not blank. */
static bool is_blank(const fleet_flash_t *flash, uint32_t at) {
    uint8_t value = 0;
    return fleet_flash_read(flash, at, &value, 1) == FLEET_OK && value == FLAG_BLANK;
}

static bool has_magic(const fleet_flash_t *flash) {
    uint8_t wanted[MAGIC_BYTES];
    uint8_t found[MAGIC_BYTES];
    magic_of(flash, wanted);
    return fleet_flash_read(flash, trailer_of(flash).magic, found, sizeof found) == FLEET_OK && memcmp(found, wanted, sizeof found) == 0;
}

static fleet_status_t set_pending(const fleet_flash_t *flash) {
    fleet_status_t status = erase_trailer(flash);
    status = status == FLEET_OK ? put_flag(flash, trailer_of(flash).swap_info, SWAP_TEST) : status;
    return status == FLEET_OK ? put_magic(flash) : status;
}

/* The trailer of an image that stays, from its erase on: at no point in between would MCUboot swap. */
static fleet_status_t renew_confirmed(const fleet_flash_t *flash) {
    fleet_status_t status = erase_trailer(flash);
    status = status == FLEET_OK ? put_flag(flash, trailer_of(flash).image_ok, FLAG_SET) : status;
    status = status == FLEET_OK ? put_flag(flash, trailer_of(flash).copy_done, FLAG_SET) : status;
    return status == FLEET_OK ? put_magic(flash) : status;
}

/* An image without MCUboot's mark was put there by a programmer and stays anyway. */
static fleet_status_t set_image_ok(const fleet_flash_t *flash) {
    if (!has_magic(flash)) {
        return FLEET_OK;
    }
    return put_flag(flash, trailer_of(flash).image_ok, FLAG_SET);
}

/* ---- which image runs ---- */

static bool runs(const fleet_agent_t *agent, const fleet_slot_record_t *slot) {
    enum { PIECE_BYTES = 128 };
    const fleet_crypto_t *crypto = agent->config.crypto;
    uint8_t piece[PIECE_BYTES];
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256_t sha;
    crypto->sha256_init(crypto->ctx, &sha);
    for (uint32_t done = 0; done < slot->image_bytes; done += PIECE_BYTES) {
        const uint32_t rest = slot->image_bytes - done;
        const uint32_t count = rest < PIECE_BYTES ? rest : PIECE_BYTES;
        if (fleet_flash_read(primary_of(agent), done, piece, count) != FLEET_OK) {
            return false;
        }
        crypto->sha256_update(crypto->ctx, &sha, piece, count);
    }
    crypto->sha256_final(crypto->ctx, &sha, digest);
    return memcmp(digest, slot->digest, sizeof digest) == 0;
}

static fleet_component_t *component_of(fleet_agent_t *agent) {
    return fleet_component(agent, FLEET_FIRMWARE);
}

static bool confirm(fleet_agent_t *agent) {
    fleet_component_t *component = component_of(agent);
    return fleet_slots_change(agent, component, component->record.active, FLEET_CONFIRM);
}

/* Rules 3 and 4 at boot. */
static bool settle_test(fleet_agent_t *agent) {
    const fleet_component_t *component = component_of(agent);
    if (!runs(agent, &component->record.slots[component->record.active])) {
        return fleet_slots_revert(agent, component_of(agent), FLEET_REASON_FIRMWARE_REVERTED);
    }
    if (is_blank(primary_of(agent), trailer_of(primary_of(agent)).image_ok)) {
        return true;
    }
    return renew_confirmed(primary_of(agent)) == FLEET_OK && confirm(agent);
}

/* Rule 2 at boot. */
static bool settle_candidate(fleet_agent_t *agent, uint8_t slot) {
    if (runs(agent, &component_of(agent)->record.slots[slot])) {
        agent->trailer_fresh = true;
        return fleet_slots_change(agent, component_of(agent), slot, FLEET_TEST);
    }
    return fleet_slots_change(agent, component_of(agent), slot, FLEET_COUNT_ATTEMPT);
}

fleet_status_t fleet_firmware_boot(fleet_agent_t *agent) {
    fleet_component_t *component = component_of(agent);
    const uint8_t candidate = fleet_slots_candidate(component);
    bool stored = true;
    component->usable[0] = fleet_record_holds_image(&component->record.slots[0]);
    component->usable[1] = fleet_record_holds_image(&component->record.slots[1]);
    if (fleet_is_testing(component)) {
        stored = settle_test(agent);
    } else if (candidate != FLEET_NO_SLOT) {
        stored = settle_candidate(agent, candidate);
    }
    return stored ? FLEET_OK : FLEET_ERR_FLASH;
}

/* ---- what is due ---- */

static void reset(fleet_agent_t *agent) {
    agent->reset_asked = true;
    agent->config.clock->reset(agent->config.clock->ctx);
}

static void go_back(fleet_agent_t *agent, fleet_reason_t reason) {
    if (fleet_slots_revert(agent, component_of(agent), reason)) {
        reset(agent);
    }
}

/* A write of an earlier boot that was cut may leave a flag that reads as blank and is not: such a trailer is erased first. */
static void keep(fleet_agent_t *agent) {
    const fleet_flash_t *primary = primary_of(agent);
    const bool fresh = agent->trailer_fresh;
    agent->trailer_fresh = false;
    if ((fresh && set_image_ok(primary) == FLEET_OK) || renew_confirmed(primary) == FLEET_OK) {
        (void)confirm(agent);
    } else {
        go_back(agent, FLEET_REASON_FLASH_FAILED);
    }
}

static void advance_test(fleet_agent_t *agent) {
    const fleet_component_t *component = component_of(agent);
    const fleet_firmware_t *firmware = agent->config.firmware;
    const int test = firmware->self_test(firmware->ctx);
    if (test < 0) {
        go_back(agent, FLEET_REASON_SELF_TEST_FAILED);
    } else if (test == FLEET_OK && agent->met_broker) {
        keep(agent);
    } else if (fleet_test_is_over(agent, component)) {
        go_back(agent, FLEET_REASON_CONFIRM_TIMEOUT);
    }
}

static void install(fleet_agent_t *agent, uint8_t slot) {
    if (set_pending(secondary_of(agent)) == FLEET_OK) {
        reset(agent);
    } else {
        (void)fleet_slots_change(agent, component_of(agent), slot, FLEET_FOR(FLEET_REJECT, FLEET_REASON_FLASH_FAILED));
    }
}

void fleet_firmware_advance(fleet_agent_t *agent) {
    const fleet_component_t *component = component_of(agent);
    const uint8_t candidate = fleet_slots_candidate(component);
    if (agent->reset_asked) {
        return;
    }
    if (fleet_is_testing(component)) {
        advance_test(agent);
    } else if (candidate != FLEET_NO_SLOT && component->record.slots[candidate].until == FLEET_SLOT_STATE_CONFIRMED) {
        install(agent, candidate);
    }
}

bool fleet_firmware_holds(const fleet_agent_t *agent) {
    const fleet_component_t *component = &agent->components[FLEET_FIRMWARE];
    return agent->reset_asked || fleet_is_testing(component);
}

/* ---- images ---- */

fleet_status_t fleet_firmware_forget_pending(const fleet_agent_t *agent) {
    return erase_trailer(secondary_of(agent));
}

/* Header of an MCUboot image: magic, load address, header bytes, protected TLV bytes, image bytes. MCUboot checks the rest. */
fleet_status_t fleet_firmware_open(const fleet_agent_t *agent, uint32_t image_bytes) {
    static const uint8_t magic[] = {0x3d, 0xb8, 0xf3, 0x96};
    uint8_t header[HEADER_BYTES];
    uint32_t body_bytes;
    if (image_bytes < sizeof header || fleet_flash_read(secondary_of(agent), 0, header, sizeof header) != FLEET_OK ||
        memcmp(header, magic, sizeof magic) != 0) {
        return FLEET_ERR_MAGIC;
    }
    const uint32_t before = (uint32_t)header[8] + 256U * header[9] + header[10] + 256U * header[11];
    memcpy(&body_bytes, header + 12, sizeof body_bytes);
    return before <= image_bytes && body_bytes <= image_bytes - before ? FLEET_OK : FLEET_ERR_TRUNCATED;
}

fleet_status_t fleet_firmware_check(const fleet_agent_config_t *config) {
    const fleet_firmware_t *firmware = config->firmware;
    if (firmware == NULL) {
        return FLEET_OK;
    }
    const fleet_flash_t *primary = firmware->primary;
    const fleet_flash_t *secondary = firmware->secondary;
    const bool usable = primary != NULL && secondary != NULL && firmware->self_test != NULL && config->clock->reset != NULL &&
                        primary->size == secondary->size && primary->program_bytes == secondary->program_bytes &&
                        primary->program_bytes > 0 && primary->program_bytes <= UNIT_MAX && 128U % primary->program_bytes == 0 &&
                        secondary->erase_bytes >= 128U && primary->erase_bytes >= 128U &&
                        secondary->size % secondary->erase_bytes == 0 && primary->size % primary->erase_bytes == 0 &&
                        secondary->size > secondary->erase_bytes;
    return usable ? FLEET_OK : FLEET_ERR_ARGUMENT;
}

#endif
