/*
 * The journal: a small set of values that survive any power cut. Format version 1.
 *
 * Two halves of flash, each whole erase blocks; one is current. A half is
 *     head    magic "TFJ1", u16 version, u16 reserved, u32 generation, u32 CRC-32 of the 12 bytes before
 *     records one after the other: u32 CRC-32, u16 bytes, u8 key, u8 reserved, value; the last one of a key counts
 * little-endian, head and every record padded with 0xFF to whole program units, so a unit is programmed once per erase.
 * A record's CRC runs over generation, bytes, key, reserved and value: what an earlier life of the block left is never taken for it.
 *
 * Rules
 *  1. The current half is the one with a valid head and the higher generation.
 *  2. Reading stops at the first record that is not whole. When anything behind it is not erased (a torn record), nothing more is
 *     appended to this half: the next write goes to the other one.
 *  3. Moving over: erase the other half, copy the last value of every key and the new one, and program the head LAST.
 *     Until the head stands the old half is current; afterwards the new one is. One write is all or nothing.
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

/** The last value of `key`; 0 bytes when there is none. FLEET_ERR_SIZE when it is longer than `size`. */
fleet_status_t fleet_journal_read(const fleet_journal_t *journal, uint8_t key, void *value, uint32_t size, uint32_t *bytes);

/** Stores a value, at most FLEET_JOURNAL_VALUE_MAX bytes. After an error the old value stands. */
fleet_status_t fleet_journal_write(fleet_journal_t *journal, uint8_t key, const void *value, uint32_t bytes);

#endif
