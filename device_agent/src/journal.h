/*
 * The journal: a small set of values that survive any power cut. Format version 4.
 *
 * Two halves of flash, each whole erase blocks. A half is records one after the other, each on whole program units, the last
 * one padded with 0xFF, so a unit is programmed once per erase. A record, little-endian:
 *     u32 CRC-32 of all that follows (seeded with "TFJ2"), u32 generation, u32 previous (offset of the record before it, all ones for the first),
 *     u16 bytes, u8 key, u8 version, value
 * The records that count are the chain from the last whole one back to the first: of a key the newest counts. Keys in flash are those
 * of a build with ten models and the firmware, so that a firmware with more or fewer components reads the journal of the one before, where
 * the halves are as large; key 24 behind them has no value: it makes a half count.
 *
 * Rules
 *  1. The current half is the one with a whole, committed chain and the higher generation.
 *  2. What does not read as a record is passed unit by unit: a torn record costs its units and nothing else. No later record
 *     names it as the one before, so it stays void also when it reads well another day.
 *  3. The last record found at boot is in doubt: power may have failed in its last unit, and it may read otherwise next time. It is
 *     written again behind itself before anything is read from it; when that reading fails, it is void. A unit behind the last one
 *     that is not blank must read blank DOUBT_READS times before it is programmed, else it is passed over.
 *  4. Moving over, when the half is full: erase the other half, copy the last value of every key and the new one, and write the
 *     commit LAST. Until it stands the old half is current. One write is all or nothing.
 *  5. A half of a higher generation without a commit is a move that was cut: it is done again at once.
 *
 * Assumed of flash: an interrupted operation harms only the unit or block it works on; an interrupted erase after which every
 * byte still reads as before, at every later boot too, has not begun.
 */
#ifndef FLEET_JOURNAL_H
#define FLEET_JOURNAL_H

#include "fleet_agent.h"

/** What fleet_journal_open found. */
typedef enum { FLEET_JOURNAL_FOUND, FLEET_JOURNAL_FRESH, FLEET_JOURNAL_LOST } fleet_journal_origin_t;

/** Bytes of one half on this flash. */
uint32_t fleet_journal_half_bytes(const fleet_flash_t *flash);

/**
 * Finds the current half, or formats one: FRESH when the area was erased, LOST when it held something unreadable.
 * @return FLEET_OK, FLEET_ERR_JOURNAL (another version, nothing changed) or FLEET_ERR_FLASH
 */
fleet_status_t fleet_journal_open(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin);

/**
 * As fleet_journal_open, but writes nothing: what is in doubt stays in doubt, nothing is formatted. For bootloaders; the journal
 * serves fleet_journal_read only.
 */
fleet_status_t fleet_journal_peek(fleet_journal_t *journal, const fleet_flash_t *flash, fleet_journal_origin_t *origin);

/** The last value of `key`; 0 bytes when there is none. FLEET_ERR_SIZE when it is longer than `size`. */
fleet_status_t fleet_journal_read(const fleet_journal_t *journal, uint8_t key, void *value, uint32_t size, uint32_t *bytes);

/** Stores a value, at most FLEET_JOURNAL_VALUE_MAX bytes. After an error the old value stands. */
fleet_status_t fleet_journal_write(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes);

#endif
