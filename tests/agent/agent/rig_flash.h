/*
 * Flash in memory that can lose power in any operation and leaves behind what real flash leaves.
 *
 *   NOR  a torn unit reads as some mix of old and new bits; a program may not meet a unit that was programmed since its erase
 *   ECC  a unit is programmed once per erase and a torn unit fails to read
 *
 * Metastable: the harmed units read differently each time: as before, as meant, or as a mix (NOR) or an error (ECC).
 */
#ifndef RIG_FLASH_H
#define RIG_FLASH_H

#include "fleet_port.h"

enum { PROFILE_NOR = 0, PROFILE_ECC = 1 };

/* What is left of the operation during which power fails; CUT_PATTERN + 0..7 are seeded. */
enum { CUT_NOTHING, CUT_PREFIX, CUT_SUFFIX, CUT_AFTER, CUT_METASTABLE, CUT_PATTERN, CUT_VARIANTS = CUT_PATTERN + 8 };

/* A unit since its erase. */
enum { UNIT_BLANK, UNIT_WRITTEN, UNIT_UNREADABLE, UNIT_FLICKERS };

/* One program or erase, as an undisturbed run did it; or a reset, with what the bootloader does then. */
typedef struct {
    uint32_t offset;
    bool erase;
    bool reset;
    uint64_t random; /* before the reset */
    uint8_t data[FLEET_FLASH_UNIT_MAX];
} rig_operation_t;

typedef struct {
    rig_operation_t *operations;
    uint32_t count;
    uint32_t size;
} rig_log_t;

typedef struct rig_flash {
    uint8_t *data;       /* what reads return */
    uint8_t *before;     /* of units that flicker: the old bytes */
    uint8_t *units;      /* UNIT_* */
    fleet_flash_t port;
    int profile;
    uint64_t operations; /* programs and erases so far */
    uint64_t cut_at;     /* power fails in this one, 0 = never */
    uint64_t fail_from;  /* from this one on programs and erases fail, 0 = never */
    int cut_variant;
    int busy_polls;      /* how often an erase is still busy when asked */
    int busy;
    bool dead;
    uint32_t violations; /* rules of flash broken by the agent */
    uint64_t random;
    void (*on_reset)(struct rig_flash *flash); /* null: nothing happens at a reset */
    const void *reset_ctx;
    rig_log_t *log;      /* null: not kept */
} rig_flash_t;

rig_flash_t *rig_flash_new(int profile, uint32_t size, uint32_t erase_bytes, uint32_t program_bytes);
void rig_flash_free(rig_flash_t *flash);
void rig_flash_power_on(rig_flash_t *flash);

/* The bootloader's turn: one operation of the log, which power cuts leave whole or undone. */
void rig_flash_reset(rig_flash_t *flash);
void rig_flash_copy(rig_flash_t *to, const rig_flash_t *from);
uint64_t rig_flash_hash(const rig_flash_t *flash);

/* The whole operation, or what `variant` leaves of it. */
void rig_flash_apply(rig_flash_t *flash, const rig_operation_t *operation);
void rig_flash_tear(rig_flash_t *flash, const rig_operation_t *operation, int variant);

uint8_t *rig_flash_data(rig_flash_t *flash);
uint8_t *rig_flash_units(rig_flash_t *flash);
uint64_t rig_flash_operations(rig_flash_t *flash);
uint32_t rig_flash_violations(rig_flash_t *flash);
bool rig_flash_dead(rig_flash_t *flash);
void rig_flash_cut(rig_flash_t *flash, uint64_t at, int variant);
void rig_flash_fail_from(rig_flash_t *flash, uint64_t at);
void rig_flash_busy_polls(rig_flash_t *flash, int polls);

#endif
