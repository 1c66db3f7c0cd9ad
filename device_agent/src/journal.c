#include "journal.h"

#include <string.h>

#include "flash_area.h"
#include "fleet_runtime.h"

#define MAGIC 0x314A4654U /* "TFJ1" */
#define VERSION 1U
#define PIECE_BYTES 64U

typedef struct {
    uint32_t magic;
    uint16_t version;
    uint16_t reserved;
    uint32_t generation;
    uint32_t crc;
} half_head_t;

typedef struct {
    uint32_t crc;
    uint16_t bytes;
    uint8_t key;
    uint8_t reserved;
} record_head_t;

/* Programs a stream in whole units; the last one is padded with 0xFF. */
typedef struct {
    const fleet_flash_t *flash;
    uint32_t offset;
    uint32_t fill;
    fleet_status_t status;
    uint8_t unit[FLEET_FLASH_UNIT_MAX];
} unit_writer_t;

static void program_unit(unit_writer_t *out) {
    if (out->status == FLEET_OK && fleet_flash_prog_unit(out->flash, out->offset, out->unit) != FLEET_OK) {
        out->status = FLEET_ERR_FLASH;
    }
    out->offset += out->flash->program_bytes;
    out->fill = 0;
}

static void put(unit_writer_t *out, const void *data, uint32_t bytes) {
    const uint8_t *from = data;
    for (uint32_t i = 0; i < bytes; i++) {
        out->unit[out->fill++] = from[i];
        if (out->fill == out->flash->program_bytes) {
            program_unit(out);
        }
    }
}

static void finish_unit(unit_writer_t *out) {
    if (out->fill > 0) {
        memset(out->unit + out->fill, 0xFF, out->flash->program_bytes - out->fill);
        program_unit(out);
    }
}

static void begin_units(unit_writer_t *out, const fleet_flash_t *flash, uint32_t offset) {
    out->flash = flash;
    out->offset = offset;
    out->fill = 0;
    out->status = FLEET_OK;
}

static uint32_t record_bytes(const fleet_flash_t *flash, uint32_t value_bytes) {
    return fleet_round_up((uint32_t)sizeof(record_head_t) + value_bytes, flash->program_bytes);
}

static uint32_t head_bytes(const fleet_flash_t *flash) {
    return fleet_round_up((uint32_t)sizeof(half_head_t), flash->program_bytes);
}

/* Twice what all values take, so that a fresh half has room to append. */
uint32_t fleet_journal_half_bytes(const fleet_flash_t *flash) {
    uint32_t live = head_bytes(flash) + record_bytes(flash, sizeof(fleet_device_record_t)) + record_bytes(flash, FLEET_ROOT_BYTES_MAX);
    live += FLEET_MODELS_MAX *
            (record_bytes(flash, sizeof(fleet_component_record_t)) + record_bytes(flash, sizeof(fleet_progress_record_t)));
    const uint32_t wanted = 2U * live > FLEET_JOURNAL_BYTES ? 2U * live : FLEET_JOURNAL_BYTES;
    return fleet_round_up(wanted, flash->erase_bytes);
}

static uint32_t half_start(const fleet_journal_t *journal, uint8_t half) {
    return half * journal->half_bytes;
}

typedef enum { HEAD_NONE, HEAD_VALID, HEAD_OTHER_VERSION } head_kind_t;

static head_kind_t read_half_head(const fleet_journal_t *journal, uint8_t half, uint32_t *generation) {
    half_head_t head;
    const fleet_flash_t *flash = journal->flash;
    if (fleet_flash_read(flash, half_start(journal, half), &head, sizeof head) != FLEET_OK || head.magic != MAGIC ||
        head.crc != fleet_crc32(0, &head, offsetof(half_head_t, crc))) {
        return HEAD_NONE;
    }
    *generation = head.generation;
    return head.version == VERSION ? HEAD_VALID : HEAD_OTHER_VERSION;
}

static uint32_t record_crc(uint32_t generation, const record_head_t *head) {
    const uint32_t crc = fleet_crc32(0, &generation, sizeof generation);
    return fleet_crc32(crc, &head->bytes, sizeof *head - offsetof(record_head_t, bytes));
}

/* CRC of a record as it lies in flash; false where flash does not read. */
static bool crc_in_flash(const fleet_journal_t *journal, uint32_t at, const record_head_t *head, uint32_t *crc) {
    uint8_t piece[PIECE_BYTES];
    *crc = record_crc(journal->generation, head);
    for (uint32_t done = 0; done < head->bytes; done += PIECE_BYTES) {
        const uint32_t count = head->bytes - done < PIECE_BYTES ? head->bytes - done : PIECE_BYTES;
        if (fleet_flash_read(journal->flash, at + (uint32_t)sizeof *head + done, piece, count) != FLEET_OK) {
            return false;
        }
        *crc = fleet_crc32(*crc, piece, count);
    }
    return true;
}

static bool read_record(const fleet_journal_t *journal, uint32_t at, uint32_t end, record_head_t *head) {
    const fleet_flash_t *flash = journal->flash;
    uint32_t crc;
    return end - at >= sizeof *head && fleet_flash_read(flash, at, head, sizeof *head) == FLEET_OK &&
           head->key < FLEET_JOURNAL_KEYS && head->bytes <= FLEET_JOURNAL_VALUE_MAX &&
           record_bytes(flash, head->bytes) <= end - at && crc_in_flash(journal, at, head, &crc) && crc == head->crc;
}

/* Rule 2. */
static void scan(fleet_journal_t *journal) {
    const uint32_t end = half_start(journal, journal->half) + journal->half_bytes;
    uint32_t at = half_start(journal, journal->half) + head_bytes(journal->flash);
    record_head_t head;
    memset(journal->values, 0, sizeof journal->values);
    while (at < end && read_record(journal, at, end, &head)) {
        journal->values[head.key].at = at + (uint32_t)sizeof head;
        journal->values[head.key].bytes = head.bytes;
        at += record_bytes(journal->flash, head.bytes);
    }
    journal->tail = at;
    journal->closed = !fleet_flash_is_blank(journal->flash, at, end - at);
}

static void put_record(unit_writer_t *out, uint32_t generation, uint8_t key, const void *value, uint32_t bytes) {
    record_head_t head = {0, (uint16_t)bytes, key, 0};
    head.crc = fleet_crc32(record_crc(generation, &head), value, bytes);
    put(out, &head, sizeof head);
    put(out, value, bytes);
    finish_unit(out);
}

/* Copies a value from the current half; its CRC is computed anew for the new generation, after the old one was checked. */
static void copy_record(unit_writer_t *out, const fleet_journal_t *journal, uint32_t generation, uint8_t key) {
    uint8_t value[FLEET_JOURNAL_VALUE_MAX];
    uint32_t bytes;
    if (fleet_journal_read(journal, key, value, sizeof value, &bytes) != FLEET_OK) {
        out->status = FLEET_ERR_FLASH;
        return;
    }
    put_record(out, generation, key, value, bytes);
}

static fleet_status_t erase_half(const fleet_journal_t *journal, uint8_t half) {
    for (uint32_t done = 0; done < journal->half_bytes; done += journal->flash->erase_bytes) {
        if (fleet_flash_erase_wait(journal->flash, half_start(journal, half) + done) != FLEET_OK) {
            return FLEET_ERR_FLASH;
        }
    }
    return FLEET_OK;
}

static fleet_status_t write_half_head(const fleet_journal_t *journal, uint8_t half, uint32_t generation) {
    half_head_t head = {MAGIC, VERSION, 0xFFFF, generation, 0};
    head.crc = fleet_crc32(0, &head, offsetof(half_head_t, crc));
    unit_writer_t out;
    begin_units(&out, journal->flash, half_start(journal, half));
    put(&out, &head, sizeof head);
    finish_unit(&out);
    return out.status;
}

/* Rule 3. `key` may be FLEET_JOURNAL_KEYS: copy only. */
static fleet_status_t move_over(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes) {
    const uint8_t half = journal->half ^ 1U;
    const uint32_t generation = journal->generation + 1U;
    fleet_status_t status = erase_half(journal, half);
    unit_writer_t out;
    begin_units(&out, journal->flash, half_start(journal, half) + head_bytes(journal->flash));
    out.status = status;
    for (uint8_t k = 0; k < FLEET_JOURNAL_KEYS; k++) {
        if (k == key) {
            put_record(&out, generation, k, value, bytes);
        } else if (journal->values[k].bytes > 0) {
            copy_record(&out, journal, generation, k);
        }
    }
    status = out.status == FLEET_OK ? write_half_head(journal, half, generation) : out.status;
    if (status == FLEET_OK) {
        journal->half = half;
        journal->generation = generation;
        scan(journal);
    }
    return status;
}

fleet_status_t fleet_journal_open(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin) {
    memset(journal, 0, sizeof *journal);
    journal->flash = flash;
    journal->half_bytes = fleet_journal_half_bytes(flash);
    uint32_t generation[2] = {0, 0};
    const head_kind_t first = read_half_head(journal, 0, &generation[0]);
    const head_kind_t second = read_half_head(journal, 1, &generation[1]);
    if (first == HEAD_OTHER_VERSION || second == HEAD_OTHER_VERSION) {
        return FLEET_ERR_JOURNAL;
    }
    if (first == HEAD_VALID || second == HEAD_VALID) {
        journal->half = second == HEAD_VALID && (first != HEAD_VALID || generation[1] > generation[0]) ? 1U : 0U;
        journal->generation = generation[journal->half];
        *origin = FLEET_JOURNAL_FOUND;
        scan(journal);
        return FLEET_OK;
    }
    *origin = fleet_flash_is_blank(flash, 0, 2U * journal->half_bytes) ? FLEET_JOURNAL_FRESH : FLEET_JOURNAL_LOST;
    journal->half = 1;
    return move_over(journal, FLEET_JOURNAL_KEYS, NULL, 0);
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

static fleet_status_t append(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes) {
    unit_writer_t out;
    begin_units(&out, journal->flash, journal->tail);
    put_record(&out, journal->generation, key, value, bytes);
    if (out.status != FLEET_OK) {
        journal->closed = true; /* units are spoilt: rule 2 */
        return out.status;
    }
    journal->values[key].at = journal->tail + (uint32_t)sizeof(record_head_t);
    journal->values[key].bytes = (uint16_t)bytes;
    journal->tail = out.offset;
    return FLEET_OK;
}

fleet_status_t fleet_journal_write(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes) {
    if (key >= FLEET_JOURNAL_KEYS || bytes == 0 || bytes > FLEET_JOURNAL_VALUE_MAX) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint32_t end = half_start(journal, journal->half) + journal->half_bytes;
    if (journal->closed || record_bytes(journal->flash, bytes) > end - journal->tail) {
        return move_over(journal, key, value, bytes);
    }
    return append(journal, key, value, bytes);
}
