#include "journal.h"

#include <string.h>

#include "compact.h"
#include "flash_area.h"
#include "fleet_runtime.h"

#define VERSION 4U
#define CRC_SEED 0x324A4654U /* "TFJ2": runs of ones and zeros are no record */
#define NOWHERE UINT32_MAX
#define DOUBT_READS 16U
#define OPEN_ROUNDS 4U /* one for each record in doubt that cuts one after the other may leave, and one more */

/*
 * A record in RAM, as it lies in flash, with room to fill up its last unit. One reading of flash fills it, its checksum is judged here, and
 * what is written elsewhere is written from here: bytes that read otherwise another time are never stored as if they had been checked.
 */
typedef struct {
    uint32_t crc;
    uint32_t generation; /* the CRC begins here */
    uint32_t previous;
    uint16_t bytes;
    uint8_t key;
    uint8_t version;
    uint8_t value[FLEET_JOURNAL_VALUE_MAX + FLEET_FLASH_UNIT_MAX];
} record_t;

/* Keys in flash: as ours for device, root and models, then those of the firmware, wherever that comes in this build, and the commit. */
enum { KEY_COMMIT = 24, MODELS_LIMIT = 10 };

FLEET_APART static uint8_t key_in_flash(uint8_t key) {
    const uint32_t firmware = FLEET_KEY_COMPONENTS + 2U * FLEET_MODELS_MAX;
    return (uint8_t)(key < firmware ? key : key + 2U * (MODELS_LIMIT - FLEET_MODELS_MAX));
}

#define HEAD_BYTES ((uint32_t)offsetof(record_t, value))
typedef char fleet_record_head_has_no_padding[offsetof(record_t, value) == 16 ? 1 : -1];

/* ---- geometry ---- */

FLEET_APART static uint32_t record_bytes(const fleet_flash_t *flash, uint32_t value_bytes) {
    return fleet_round_up(HEAD_BYTES + value_bytes, flash->program_bytes);
}

/* Twice what all values take, so that a fresh half has room to append. */
uint32_t fleet_journal_half_bytes(const fleet_flash_t *flash) {
    uint32_t live = record_bytes(flash, 0) + record_bytes(flash, sizeof(fleet_device_record_t)) +
                    record_bytes(flash, FLEET_ROOT_BYTES_MAX);
    live += FLEET_COMPONENTS *
            (record_bytes(flash, sizeof(fleet_component_record_t)) + record_bytes(flash, sizeof(fleet_progress_record_t)));
    const uint32_t wanted = 2U * live > FLEET_JOURNAL_BYTES ? 2U * live : FLEET_JOURNAL_BYTES;
    return fleet_round_up(wanted, flash->erase_bytes);
}

static uint32_t half_end(const fleet_journal_t *journal) {
    return (journal->half + 1U) * journal->half_bytes;
}

FLEET_APART static bool has_room(const fleet_journal_t *journal, uint32_t bytes) {
    return journal->tail + record_bytes(journal->flash, bytes) <= half_end(journal);
}

/* ---- reading ---- */

FLEET_APART static uint32_t record_crc(const record_t *record) {
    return fleet_crc32(CRC_SEED, &record->generation, HEAD_BYTES - sizeof record->crc + record->bytes);
}

static bool read_record(const fleet_journal_t *journal, uint32_t at, record_t *record) {
    const uint32_t end = half_end(journal);
    return end - at >= HEAD_BYTES && fleet_flash_read(journal->flash, at, record, HEAD_BYTES) == FLEET_OK &&
           record->key <= KEY_COMMIT && record->bytes <= FLEET_JOURNAL_VALUE_MAX &&
           (record->bytes == 0) == (record->key == KEY_COMMIT) && record_bytes(journal->flash, record->bytes) <= end - at &&
           fleet_flash_read(journal->flash, at + HEAD_BYTES, record->value, record->bytes) == FLEET_OK &&
           record_crc(record) == record->crc;
}

static bool surely_blank(const fleet_flash_t *flash, uint32_t at) {
    for (uint32_t i = 0; i < DOUBT_READS; i++) {
        if (!fleet_flash_is_blank(flash, at, flash->program_bytes)) {
            return false;
        }
    }
    return true;
}

/* Rules 2 and 3: the last record before `avoid`, where that lies in this half, and the first unit that may be programmed. */
static void find_last(fleet_journal_t *journal, uint32_t avoid, record_t *record) {
    const uint32_t unit = journal->flash->program_bytes;
    const uint32_t end = half_end(journal);
    const uint32_t start = end - journal->half_bytes;
    uint32_t next;
    journal->tail = start;
    journal->last = NOWHERE;
    for (uint32_t at = start; at < end; at = next) {
        const bool whole = read_record(journal, at, record);
        next = at + (whole ? record_bytes(journal->flash, record->bytes) : unit);
        if (whole && (at < avoid || avoid < start)) {
            journal->last = at;
            journal->generation = record->generation;
            journal->version = record->version;
        }
        if (whole || !fleet_flash_is_blank(journal->flash, at, unit)) {
            journal->tail = next;
        }
    }
    while (journal->tail < end && !surely_blank(journal->flash, journal->tail)) {
        journal->tail += unit;
    }
}

/* Where the value of a key in flash is remembered; null for the commit and for a component that this build has not. */
static fleet_journal_value_t *value_of(fleet_journal_t *journal, uint8_t in_flash) {
    for (uint8_t key = 0; key < FLEET_JOURNAL_KEYS; key++) {
        if (key_in_flash(key) == in_flash) {
            return &journal->values[key];
        }
    }
    return NULL;
}

/* Walks the chain; true when it is whole and committed. */
static bool collect(fleet_journal_t *journal, record_t *record) {
    const uint32_t start = half_end(journal) - journal->half_bytes;
    bool committed = false;
    for (uint32_t at = journal->last; at != NOWHERE; at = record->previous) {
        if (!read_record(journal, at, record) || record->generation != journal->generation ||
            (record->previous != NOWHERE && (record->previous >= at || record->previous < start))) {
            return false;
        }
        committed = committed || record->key == KEY_COMMIT;
        fleet_journal_value_t *value = value_of(journal, record->key);
        if (value != NULL && value->bytes == 0) {
            value->at = at + HEAD_BYTES;
            value->bytes = record->bytes;
        }
    }
    return committed;
}

/* ---- writing ---- */

/*
 * Programs the record behind the last one. A unit of ones stays as it was erased: what reads blank was never programmed.
 * After an error its units are passed over: what was tried is not programmed twice.
 */
static fleet_status_t append(fleet_journal_t *journal, record_t *record) {
    const uint32_t unit = journal->flash->program_bytes;
    const uint32_t at = journal->tail;
    uint8_t *from = (uint8_t *)record;
    fleet_status_t status = FLEET_OK;
    record->generation = journal->generation;
    record->previous = journal->last;
    record->version = VERSION;
    record->crc = record_crc(record);
    memset(record->value + record->bytes, 0xFF, unit);
    journal->tail += record_bytes(journal->flash, record->bytes);
    for (uint32_t offset = at; offset < journal->tail && status == FLEET_OK; offset += unit) {
        status = fleet_all_ones(from, unit) ? FLEET_OK : fleet_flash_prog_unit(journal->flash, offset, from);
        from += unit;
    }
    if (status == FLEET_OK) {
        fleet_journal_value_t *value = value_of(journal, record->key);
        journal->last = at;
        if (value != NULL) {
            value->at = at + HEAD_BYTES;
            value->bytes = record->bytes;
        }
    }
    return status;
}

static fleet_status_t append_value(fleet_journal_t *journal, record_t *record, uint8_t key, const void *value, uint32_t bytes) {
    record->key = key_in_flash(key);
    record->bytes = (uint16_t)bytes;
    memcpy(record->value, value, bytes);
    return append(journal, record);
}

static fleet_status_t copy_value(fleet_journal_t *next, const fleet_journal_t *journal, uint8_t key, record_t *record) {
    if (journal->values[key].bytes == 0) {
        return FLEET_OK;
    }
    return read_record(journal, journal->values[key].at - HEAD_BYTES, record) && record->key == key_in_flash(key) ? append(next, record) : FLEET_ERR_JOURNAL;
}

/*
 * Rule 4, the new value behind the old ones; with no bytes: copy only.
 * FLEET_ERR_JOURNAL: a value in flash reads differently than before, nothing that counts was written.
 */
static fleet_status_t move_over(fleet_journal_t *journal, record_t *record, uint8_t key, const void *value, uint32_t bytes) {
    fleet_journal_t next = *journal;
    fleet_status_t status = FLEET_OK;
    next.half ^= 1U;
    next.generation = ++next.newest;
    next.tail = next.half * next.half_bytes;
    next.last = NOWHERE;
    for (uint32_t at = next.tail; at < half_end(&next) && status == FLEET_OK; at += next.flash->erase_bytes) {
        status = fleet_flash_erase_wait(next.flash, at);
    }
    for (uint8_t k = 0; k < FLEET_JOURNAL_KEYS && status == FLEET_OK; k++) {
        status = bytes > 0 && k == key ? FLEET_OK : copy_value(&next, journal, k, record);
    }
    if (status == FLEET_OK && bytes > 0) {
        status = append_value(&next, record, key, value, bytes);
    }
    record->key = KEY_COMMIT;
    record->bytes = 0;
    if (status == FLEET_OK) {
        status = append(&next, record);
    }
    if (status == FLEET_OK) {
        *journal = next;
    }
    return status;
}

fleet_status_t fleet_journal_write(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes) {
    record_t record;
    if (key >= FLEET_JOURNAL_KEYS || bytes == 0 || bytes > FLEET_JOURNAL_VALUE_MAX) {
        return FLEET_ERR_ARGUMENT;
    }
    return has_room(journal, bytes) ? append_value(journal, &record, key, value, bytes) : move_over(journal, &record, key, value, bytes);
}

/* ---- opening ---- */

/* FLEET_ERR_FLASH: nothing in this half counts. The last record may read well first and badly then: the one before it surely ends a chain. */
static fleet_status_t open_half(fleet_journal_t *journal, const fleet_flash_t *flash, uint8_t half, uint32_t avoid, record_t *record) {
    for (uint32_t round = 0; round < 2U; round++) {
        memset(journal, 0, sizeof *journal);
        journal->flash = flash;
        journal->half_bytes = fleet_journal_half_bytes(flash);
        journal->half = half;
        find_last(journal, avoid, record);
        if (journal->last == NOWHERE) {
            break;
        }
        journal->newest = journal->generation;
        if (journal->version != VERSION) {
            return FLEET_ERR_JOURNAL;
        }
        if (collect(journal, record)) {
            return FLEET_OK;
        }
        avoid = journal->last;
    }
    return FLEET_ERR_FLASH;
}

/* Rules 1 and 5. What to do where no half counts is said by `origin`. FLEET_OK or FLEET_ERR_JOURNAL. */
static fleet_status_t look(fleet_journal_t *journal, const fleet_flash_t *flash, uint32_t avoid, record_t *record, fleet_journal_origin_t *origin) {
    fleet_journal_t second;
    const fleet_status_t first_status = open_half(journal, flash, 0, avoid, record);
    const fleet_status_t second_status = open_half(&second, flash, 1, avoid, record);
    const uint32_t newest = second.newest > journal->newest ? second.newest : journal->newest;
    if (first_status == FLEET_ERR_JOURNAL || second_status == FLEET_ERR_JOURNAL) {
        return FLEET_ERR_JOURNAL;
    }
    *origin = FLEET_JOURNAL_FOUND;
    if (second_status == FLEET_OK && (first_status != FLEET_OK || second.generation > journal->generation)) {
        *journal = second;
    } else if (first_status != FLEET_OK) {
        memset(journal->values, 0, sizeof journal->values);
        *origin = fleet_flash_is_blank(flash, 0, 2U * journal->half_bytes) ? FLEET_JOURNAL_FRESH : FLEET_JOURNAL_LOST;
    }
    journal->newest = newest;
    return FLEET_OK;
}

/* Rules 3 and 5. FLEET_ERR_JOURNAL: the last record reads differently already. */
static fleet_status_t settle(fleet_journal_t *journal, record_t *record) {
    if (!read_record(journal, journal->last, record)) {
        return FLEET_ERR_JOURNAL;
    }
    if (journal->newest > journal->generation || !has_room(journal, record->bytes)) {
        return move_over(journal, record, 0, NULL, 0);
    }
    journal->last = record->previous;
    return append(journal, record);
}

fleet_status_t fleet_journal_open(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin) {
    record_t record;
    uint32_t avoid = NOWHERE;
    fleet_status_t status = FLEET_ERR_JOURNAL;
    for (uint32_t round = 0; round < OPEN_ROUNDS && status == FLEET_ERR_JOURNAL; round++) {
        if (look(journal, flash, avoid, &record, origin) != FLEET_OK) {
            return FLEET_ERR_JOURNAL;
        }
        avoid = journal->last;
        status = *origin == FLEET_JOURNAL_FOUND ? settle(journal, &record) : move_over(journal, &record, 0, NULL, 0);
    }
    return status == FLEET_ERR_JOURNAL ? FLEET_ERR_FLASH : status;
}

fleet_status_t fleet_journal_peek(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin) {
    record_t record;
    return look(journal, flash, NOWHERE, &record, origin);
}

fleet_status_t fleet_journal_read(const fleet_journal_t *journal, uint8_t key, void *value, uint32_t size, uint32_t *bytes) {
    *bytes = journal->values[key].bytes;
    if (*bytes > size) {
        return FLEET_ERR_SIZE;
    }
    if (*bytes == 0) {
        return FLEET_OK;
    }
    return fleet_flash_read(journal->flash, journal->values[key].at, value, *bytes);
}
