#include "journal.h"

#include <string.h>

#include "compact.h"
#include "flash_area.h"
#include "fleet_runtime.h"

#define VERSION 3U
#define CRC_SEED 0x324A4654U /* "TFJ2": runs of ones and zeros are no record */
#define PIECE_BYTES 64U
#define NOWHERE UINT32_MAX
#define DOUBT_READS 16U
#define OPEN_ROUNDS 4U /* one for each record in doubt that cuts one after the other may leave, and one more */

typedef struct {
    uint32_t crc;
    uint32_t generation;
    uint32_t previous;
    uint16_t bytes;
    uint8_t key;
    uint8_t version;
} record_head_t;

typedef char fleet_record_head_has_no_padding[sizeof(record_head_t) == 16 ? 1 : -1];

/* A value to be stored: in RAM, or that of a record in flash, whose head was read. */
typedef struct {
    const uint8_t *ram;
    uint32_t at;
    const record_head_t *stored;
    uint16_t bytes;
    uint8_t key;
} value_t;

/* Programs a stream in whole units; the last one is padded with 0xFF. */
typedef struct {
    const fleet_flash_t *flash;
    uint32_t offset;
    uint32_t fill;
    fleet_status_t status;
    uint8_t unit[FLEET_FLASH_UNIT_MAX];
} unit_writer_t;

/* A unit of ones stays as it was erased: what reads blank was never programmed. */
static bool is_blank(const unit_writer_t *out) {
    for (uint32_t i = 0; i < out->flash->program_bytes; i++) {
        if (out->unit[i] != 0xFFU) {
            return false;
        }
    }
    return true;
}

static void finish_unit(unit_writer_t *out) {
    if (out->fill == 0) {
        return;
    }
    memset(out->unit + out->fill, 0xFF, out->flash->program_bytes - out->fill);
    if (out->status == FLEET_OK && !is_blank(out)) {
        out->status = fleet_flash_prog_unit(out->flash, out->offset, out->unit);
    }
    out->offset += out->flash->program_bytes;
    out->fill = 0;
}

static void put(unit_writer_t *out, const void *data, uint32_t bytes) {
    const uint8_t *from = data;
    for (uint32_t i = 0; i < bytes; i++) {
        out->unit[out->fill++] = from[i];
        if (out->fill == out->flash->program_bytes) {
            finish_unit(out);
        }
    }
}

/* ---- geometry ---- */

static uint32_t record_bytes(const fleet_flash_t *flash, uint32_t value_bytes) {
    return fleet_round_up((uint32_t)sizeof(record_head_t) + value_bytes, flash->program_bytes);
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

/* ---- reading ---- */

static bool next_piece(const fleet_journal_t *journal, const value_t *value, uint32_t done, uint8_t *piece, uint32_t *count) {
    *count = value->bytes - done < PIECE_BYTES ? value->bytes - done : PIECE_BYTES;
    if (value->ram != NULL) {
        memcpy(piece, value->ram + done, *count);
        return true;
    }
    return fleet_flash_read(journal->flash, value->at + done, piece, *count) == FLEET_OK;
}

FLEET_APART static uint32_t head_crc(const record_head_t *head) {
    return fleet_crc32(CRC_SEED, &head->generation, sizeof *head - sizeof head->crc);
}

/* CRC of `value` behind `head`. False when a value in flash is not, in the same reading, what its own record says. */
static bool checksum(const fleet_journal_t *journal, const record_head_t *head, const value_t *value, uint32_t *crc) {
    uint8_t piece[PIECE_BYTES];
    uint32_t count;
    uint32_t stored = value->stored != NULL ? head_crc(value->stored) : 0;
    *crc = head_crc(head);
    for (uint32_t done = 0; done < value->bytes; done += count) {
        if (!next_piece(journal, value, done, piece, &count)) {
            return false;
        }
        *crc = fleet_crc32(*crc, piece, count);
        stored = fleet_crc32(stored, piece, count);
    }
    return value->stored == NULL || stored == value->stored->crc;
}

FLEET_APART static value_t value_at(uint32_t at, const record_head_t *head) {
    const value_t value = {NULL, at + (uint32_t)sizeof *head, head, head->bytes, head->key};
    return value;
}

static bool read_record(const fleet_journal_t *journal, uint32_t at, record_head_t *head) {
    const uint32_t end = half_end(journal);
    if (end - at < sizeof *head || fleet_flash_read(journal->flash, at, head, sizeof *head) != FLEET_OK ||
        head->key > FLEET_JOURNAL_COMMIT || head->bytes > FLEET_JOURNAL_VALUE_MAX ||
        (head->bytes == 0) != (head->key == FLEET_JOURNAL_COMMIT) || record_bytes(journal->flash, head->bytes) > end - at) {
        return false;
    }
    const value_t value = value_at(at, head);
    uint32_t crc;
    return checksum(journal, head, &value, &crc);
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
static bool find_last(fleet_journal_t *journal, uint32_t avoid, record_head_t *last) {
    const uint32_t unit = journal->flash->program_bytes;
    const uint32_t end = half_end(journal);
    record_head_t head;
    const uint32_t start = end - journal->half_bytes;
    uint32_t at = start;
    journal->tail = at;
    journal->last = NOWHERE;
    while (at < end) {
        const bool whole = read_record(journal, at, &head);
        if (whole && (at < avoid || avoid < start)) {
            *last = head;
            journal->last = at;
        }
        const uint32_t next = at + (whole ? record_bytes(journal->flash, head.bytes) : unit);
        if (whole || !fleet_flash_is_blank(journal->flash, at, unit)) {
            journal->tail = next;
        }
        at = next;
    }
    while (journal->tail < end && !surely_blank(journal->flash, journal->tail)) {
        journal->tail += unit;
    }
    return journal->last != NOWHERE;
}

/* Walks the chain; true when it is whole and committed. */
static bool collect(fleet_journal_t *journal) {
    const uint32_t start = half_end(journal) - journal->half_bytes;
    bool committed = false;
    record_head_t head;
    for (uint32_t at = journal->last; at != NOWHERE; at = head.previous) {
        if (!read_record(journal, at, &head) || head.generation != journal->generation ||
            (head.previous != NOWHERE && (head.previous >= at || head.previous < start))) {
            return false;
        }
        committed = committed || head.key == FLEET_JOURNAL_COMMIT;
        fleet_journal_value_t *value = &journal->values[head.key];
        if (value->bytes == 0) {
            value->at = at + (uint32_t)sizeof head;
            value->bytes = head.bytes;
        }
    }
    return committed;
}

/* ---- writing ---- */

/*
 * After an error the units are passed over: what was tried is not programmed twice.
 * FLEET_ERR_JOURNAL: the value in flash reads differently than before, nothing that counts was written.
 */
static fleet_status_t append(fleet_journal_t *journal, const value_t *value) {
    record_head_t head = {0, journal->generation, journal->last, value->bytes, value->key, VERSION};
    unit_writer_t out = {journal->flash, journal->tail, 0, FLEET_OK, {0}};
    uint8_t piece[PIECE_BYTES];
    uint32_t count;
    if (!checksum(journal, &head, value, &head.crc)) {
        return FLEET_ERR_JOURNAL;
    }
    uint32_t written = head_crc(&head);
    put(&out, &head, sizeof head);
    for (uint32_t done = 0; done < value->bytes && next_piece(journal, value, done, piece, &count); done += count) {
        written = fleet_crc32(written, piece, count);
        put(&out, piece, count);
    }
    finish_unit(&out);
    const uint32_t at = journal->tail;
    journal->tail = out.offset;
    if (out.status == FLEET_OK && written != head.crc) {
        return FLEET_ERR_JOURNAL;
    }
    if (out.status == FLEET_OK) {
        journal->last = at;
        journal->values[value->key].at = at + (uint32_t)sizeof head;
        journal->values[value->key].bytes = value->bytes;
    }
    return out.status;
}

static fleet_status_t erase_half(const fleet_journal_t *journal) {
    fleet_status_t status = FLEET_OK;
    for (uint32_t at = journal->tail; at < half_end(journal) && status == FLEET_OK; at += journal->flash->erase_bytes) {
        status = fleet_flash_erase_wait(journal->flash, at);
    }
    return status;
}

static fleet_status_t copy_value(fleet_journal_t *next, const fleet_journal_t *journal, uint8_t key) {
    record_head_t head;
    const uint32_t at = journal->values[key].at - (uint32_t)sizeof head;
    if (journal->values[key].bytes == 0) {
        return FLEET_OK;
    }
    if (fleet_flash_read(journal->flash, at, &head, sizeof head) != FLEET_OK || head.bytes != journal->values[key].bytes) {
        return FLEET_ERR_JOURNAL;
    }
    const value_t value = value_at(at, &head);
    return append(next, &value);
}

/* Rule 4. `value` may be null: copy only. */
static fleet_status_t move_over(fleet_journal_t *journal, const value_t *value) {
    fleet_journal_t next = *journal;
    next.half ^= 1U;
    next.generation = journal->newest + 1U;
    next.newest = next.generation;
    next.tail = next.half * next.half_bytes;
    next.last = NOWHERE;
    fleet_status_t status = erase_half(&next);
    for (uint8_t k = 0; k < FLEET_JOURNAL_COMMIT && status == FLEET_OK; k++) {
        status = value != NULL && value->key == k ? append(&next, value) : copy_value(&next, journal, k);
    }
    const value_t commit = {NULL, 0, NULL, 0, FLEET_JOURNAL_COMMIT};
    status = status == FLEET_OK ? append(&next, &commit) : status;
    if (status == FLEET_OK) {
        *journal = next;
    }
    return status;
}

static bool has_room(const fleet_journal_t *journal, uint32_t bytes) {
    return journal->tail + record_bytes(journal->flash, bytes) <= half_end(journal);
}

fleet_status_t fleet_journal_write(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes) {
    if (key >= FLEET_JOURNAL_COMMIT || bytes == 0 || bytes > FLEET_JOURNAL_VALUE_MAX) {
        return FLEET_ERR_ARGUMENT;
    }
    const value_t stored = {value, 0, NULL, (uint16_t)bytes, key};
    return has_room(journal, bytes) ? append(journal, &stored) : move_over(journal, &stored);
}

/* ---- opening ---- */

typedef enum { HALF_VOID, HALF_USABLE, HALF_OTHER_VERSION } half_kind_t;

/* The last record may read well first and badly then: the one before it surely ends a chain. */
static half_kind_t open_half(fleet_journal_t *journal, const fleet_flash_t *flash, uint8_t half, uint32_t avoid) {
    record_head_t last = {0, 0, NOWHERE, 0, 0, VERSION};
    bool usable = false;
    for (uint32_t round = 0; round < 2U && !usable; round++) {
        memset(journal, 0, sizeof *journal);
        journal->flash = flash;
        journal->half_bytes = fleet_journal_half_bytes(flash);
        journal->half = half;
        if (!find_last(journal, avoid, &last)) {
            return HALF_VOID;
        }
        journal->generation = last.generation;
        journal->newest = last.generation;
        if (last.version != VERSION) {
            return HALF_OTHER_VERSION;
        }
        usable = collect(journal);
        avoid = journal->last;
    }
    return usable ? HALF_USABLE : HALF_VOID;
}

/* Rules 1 and 5. */
static half_kind_t choose_half(fleet_journal_t *journal, const fleet_flash_t *flash, uint32_t avoid) {
    fleet_journal_t second;
    const half_kind_t kind[2] = {open_half(journal, flash, 0, avoid), open_half(&second, flash, 1, avoid)};
    const uint32_t newest = second.newest > journal->newest ? second.newest : journal->newest;
    if (kind[0] == HALF_OTHER_VERSION || kind[1] == HALF_OTHER_VERSION) {
        return HALF_OTHER_VERSION;
    }
    if (kind[1] == HALF_USABLE && (kind[0] != HALF_USABLE || second.generation > journal->generation)) {
        *journal = second;
    }
    journal->newest = newest;
    return kind[0] == HALF_USABLE ? HALF_USABLE : kind[1];
}

/* Rules 3 and 5. FLEET_ERR_JOURNAL: the last record reads differently already. */
static fleet_status_t settle(fleet_journal_t *journal) {
    record_head_t head;
    const uint32_t at = journal->last;
    if (fleet_flash_read(journal->flash, at, &head, sizeof head) != FLEET_OK || head.bytes > FLEET_JOURNAL_VALUE_MAX ||
        head.key > FLEET_JOURNAL_COMMIT) {
        return FLEET_ERR_JOURNAL;
    }
    if (journal->newest > journal->generation || !has_room(journal, head.bytes)) {
        return move_over(journal, NULL);
    }
    const value_t value = value_at(at, &head);
    journal->last = head.previous;
    return append(journal, &value);
}

static fleet_journal_origin_t origin_of(const fleet_journal_t *journal) {
    const bool blank = fleet_flash_is_blank(journal->flash, 0, 2U * journal->half_bytes);
    return blank ? FLEET_JOURNAL_FRESH : FLEET_JOURNAL_LOST;
}

static fleet_status_t format(fleet_journal_t *journal, fleet_journal_origin_t *origin) {
    *origin = origin_of(journal);
    memset(journal->values, 0, sizeof journal->values);
    return move_over(journal, NULL);
}

fleet_status_t fleet_journal_open(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin) {
    uint32_t avoid = NOWHERE;
    fleet_status_t status = FLEET_ERR_JOURNAL;
    for (uint32_t round = 0; round < OPEN_ROUNDS && status == FLEET_ERR_JOURNAL; round++) {
        const half_kind_t kind = choose_half(journal, flash, avoid);
        if (kind == HALF_OTHER_VERSION) {
            return FLEET_ERR_JOURNAL;
        }
        *origin = FLEET_JOURNAL_FOUND;
        avoid = journal->last;
        status = kind == HALF_USABLE ? settle(journal) : format(journal, origin);
    }
    return status == FLEET_ERR_JOURNAL ? FLEET_ERR_FLASH : status;
}

fleet_status_t fleet_journal_peek(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin) {
    const half_kind_t kind = choose_half(journal, flash, NOWHERE);
    if (kind == HALF_OTHER_VERSION) {
        return FLEET_ERR_JOURNAL;
    }
    *origin = FLEET_JOURNAL_FOUND;
    if (kind != HALF_USABLE) {
        *origin = origin_of(journal);
        memset(journal->values, 0, sizeof journal->values);
    }
    return FLEET_OK;
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
