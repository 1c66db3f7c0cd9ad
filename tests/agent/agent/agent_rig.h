/* An agent on parts that live in memory: NOR flash that can lose power at any operation, transport and crypto by callbacks. */
#ifndef AGENT_RIG_H
#define AGENT_RIG_H

#include "fleet_agent.h"
#include "fleet_posix.h"

/* What is left of the operation during which power fails. */
enum { CUT_NOTHING = 0, CUT_PREFIX = 1, CUT_AFTER = 2 };

typedef struct rig_flash {
    uint8_t *data;
    uint8_t *programmed; /* per unit, since its erase */
    fleet_flash_t port;
    uint64_t operations; /* programs and erases so far */
    uint64_t cut_at;     /* power fails in this one, 0 = never */
    uint64_t fail_from;  /* from this one on programs and erases fail, 0 = never */
    int cut_variant;
    int busy_polls;      /* how often an erase is still busy when asked */
    int busy;
    bool dead;
    uint32_t violations; /* NOR rules broken */
} rig_flash_t;

typedef struct rig_t {
    fleet_agent_t agent;
    rig_flash_t *flash;
    fleet_transport_t transport;
    fleet_crypto_t crypto;
    fleet_posix_crypto_t crypto_state;
    fleet_clock_t clock;
    uint32_t clock_us;
    uint32_t step_us; /* what each look at the clock adds */
    uint64_t wall_s;
} rig_t;

rig_flash_t *rig_flash_new(uint32_t size, uint32_t erase_bytes, uint32_t program_bytes);
void rig_flash_free(rig_flash_t *flash);
void rig_flash_power_on(rig_flash_t *flash);

uint8_t *rig_flash_data(rig_flash_t *flash);
uint8_t *rig_flash_programmed(rig_flash_t *flash);
uint64_t rig_flash_operations(rig_flash_t *flash);
uint32_t rig_flash_violations(rig_flash_t *flash);
bool rig_flash_dead(rig_flash_t *flash);
void rig_flash_cut(rig_flash_t *flash, uint64_t at, int variant);
void rig_flash_fail_from(rig_flash_t *flash, uint64_t at);
void rig_flash_busy_polls(rig_flash_t *flash, int polls);

void rig_transport(rig_t *rig, int (*connect)(void *), int32_t (*send)(void *, const uint8_t *, uint32_t),
                   int32_t (*recv)(void *, uint8_t *, uint32_t), void (*close)(void *));
void rig_clock(rig_t *rig, uint32_t step_us, uint64_t wall_s);
rig_t *rig_new(rig_flash_t *flash);
void rig_free(rig_t *rig);
int rig_boot(rig_t *rig, const char *device, const char *device_class, const uint8_t *root, uint32_t root_bytes, uint8_t *arena,
             uint32_t arena_bytes, uint32_t slot_bytes, uint32_t report_interval_s);
uint64_t rig_step(rig_t *rig, uint64_t now_ms);
int rig_infer(rig_t *rig, const void *data, uint32_t bytes, int is_float, uint8_t *output, uint32_t *top, uint32_t *id);
int rig_label(rig_t *rig, uint32_t id, uint32_t label);
int rig_factory_reset(rig_t *rig);
int rig_shutdown(rig_t *rig, uint64_t now_ms);
void rig_info(const rig_t *rig, fleet_agent_info_t *info);
uint32_t rig_slot_offset(const rig_t *rig, uint8_t slot);
uint32_t rig_agent_bytes(void);

#endif
