/* An agent on parts that live in memory: flash that can lose power at any operation, transport by callbacks. */
#ifndef AGENT_RIG_H
#define AGENT_RIG_H

#include "fleet_agent.h"
#include "fleet_posix.h"
#include "rig_fault.h"
#include "rig_flash.h"

/* A part of a flash as a flash of its own. */
typedef struct {
    fleet_flash_t port;
    const fleet_flash_t *whole;
    uint32_t base;
} rig_view_t;

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
    rig_view_t primary;
    rig_view_t secondary;
    fleet_firmware_t firmware;
    bool has_firmware;
    int self_test;          /* what the firmware says of itself */
    uint32_t resets;        /* asked for */
    uint8_t *state; /* for the next boot */
    uint32_t state_bytes;
    uint8_t components;     /* for the next boot */
    uint32_t answers;       /* told by `answered` */
    uint32_t answered_top;
    uint32_t output_room;   /* that the product has for an answer, up to 64 */
    rig_fault_t fault;      /* of live inferences, until the next boot */
} rig_t;

void rig_transport(rig_t *rig, int (*connect)(void *), int32_t (*send)(void *, const uint8_t *, uint32_t),
                   int32_t (*recv)(void *, uint8_t *, uint32_t), void (*close)(void *));
void rig_clock(rig_t *rig, uint32_t step_us, uint64_t wall_s);
void rig_state(rig_t *rig, uint8_t *state, uint32_t state_bytes);
int rig_reset_stream(rig_t *rig);
rig_t *rig_new(rig_flash_t *flash);
void rig_free(rig_t *rig);
void rig_key(rig_t *rig, const char *path); /* the P-256 key of the device, made when it is not there */
void rig_without_decryption(rig_t *rig);
void rig_without_random(rig_t *rig);
int rig_boot(rig_t *rig, const char *device, const char *device_class, const uint8_t *root, uint32_t root_bytes, uint8_t *arena,
             uint32_t arena_bytes, uint32_t slot_bytes, uint32_t report_interval_s);
uint64_t rig_step(rig_t *rig, uint64_t now_ms);
void rig_fault(rig_t *rig, int kind, const uint8_t *image);
void rig_components(rig_t *rig, uint8_t components);
void rig_output_room(rig_t *rig, uint32_t bytes);
int rig_infer(rig_t *rig, uint8_t component, const void *data, uint32_t bytes, int is_float, uint8_t *output, uint32_t *top, uint32_t *id);
uint32_t rig_answers(const rig_t *rig, uint32_t *top); /* how many were told before a candidate ran, and the last */
int rig_label(rig_t *rig, uint32_t id, uint32_t label);
int rig_factory_reset(rig_t *rig);
int rig_shutdown(rig_t *rig, uint64_t now_ms);
void rig_info(const rig_t *rig, fleet_agent_info_t *info);
uint32_t rig_slot_offset(const rig_t *rig, uint8_t slot);
int rig_boot_select(const rig_t *rig, uint32_t slot_bytes, uint8_t *slot);
void rig_firmware(rig_t *rig, uint32_t primary, uint32_t secondary, uint32_t slot_bytes);
void rig_self_test(rig_t *rig, int answer);
uint32_t rig_resets(const rig_t *rig);
void rig_component_info(const rig_t *rig, uint8_t component, fleet_agent_info_t *info);
uint32_t rig_agent_bytes(void);

#endif
