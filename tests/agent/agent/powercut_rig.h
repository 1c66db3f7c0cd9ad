/*
 * Cuts power in every flash operation of an update, leaves each variant of a torn one behind, and watches the recovery.
 *
 * The undisturbed run is made once and its operations are kept. The flash after a cut in operation k is then the start, the
 * operations before k and what is left of k: only recoveries run the agent. A recovery keeps its own operations, in which power is
 * cut again. Two cuts that leave the same flash are one.
 */
#ifndef POWERCUT_RIG_H
#define POWERCUT_RIG_H

#include "agent_rig.h"
#include "rig_broker.h"

enum { WORLD_VALID_MAX = 4 };

/* What a scenario starts from and where it ends. */
typedef struct {
    rig_flash_t *flash; /* as it is when the run begins */
    rig_broker_t broker;
    const uint8_t *root;
    uint32_t root_bytes;
    uint32_t slot_bytes;
    const uint8_t *input; /* of inferences */
    uint32_t input_bytes;
    uint8_t valid[WORLD_VALID_MAX][16]; /* ids of images that may answer; zeros: none may */
    uint32_t valid_count;
    uint8_t goal[16];     /* confirmed and answering at the end */
    uint8_t rejected[16]; /* in the other slot, REJECTED; zeros: anything */
    uint8_t keep[16];     /* what runs when the candidate was dropped after too many resets */
    uint32_t goal_root;
    uint32_t goal_bytes;
    const uint8_t *goal_image;
    uint8_t component;       /* that is updated */
    uint32_t primary;        /* of the firmware, 0: there is none */
    uint32_t secondary;
    uint32_t firmware_bytes; /* of a slot */
} powercut_world_t;

typedef struct {
    uint64_t operations; /* flash operations of the undisturbed run */
    uint64_t cuts;       /* distinct ones tried, second ones included */
    uint64_t second;     /* of them, in a recovery */
    uint64_t boots;
    uint64_t dropped;    /* recoveries that ended with the old image: too many resets while the candidate ran */
    uint64_t lost;       /* recoveries that broke a promise */
    uint32_t lost_operation; /* the first of them */
    int lost_variant;
    uint32_t lost_second;
    int lost_second_variant;
    char why[96];
} powercut_result_t;

/*
 * Sweeps every `stride`-th operation with every variant and, in each recovery, `seconds` more cuts drawn with `seed`.
 * False when the undisturbed run does not reach the goal.
 */
bool powercut_sweep(const powercut_world_t *world, uint32_t first, uint32_t stride, uint32_t seconds, uint64_t seed,
                    powercut_result_t *result);

powercut_world_t *powercut_world_new(rig_flash_t *flash);
void powercut_world_free(powercut_world_t *world);
void powercut_start(powercut_world_t *world, const uint8_t *root, uint32_t root_bytes, uint32_t slot_bytes, const uint8_t *input,
                    uint32_t input_bytes);
bool powercut_allow(powercut_world_t *world, const uint8_t id[16]);
void powercut_goal(powercut_world_t *world, const uint8_t id[16], const uint8_t *image, uint32_t image_bytes, uint32_t root);
void powercut_otherwise(powercut_world_t *world, const uint8_t rejected[16], const uint8_t keep[16]);
/* The firmware is what is updated; MCUboot has its turn at every reset. */
void powercut_firmware(powercut_world_t *world, uint32_t primary, uint32_t secondary, uint32_t slot_bytes);
void powercut_retain(powercut_world_t *world, const char *topic, const uint8_t *payload, uint32_t bytes);

#endif
