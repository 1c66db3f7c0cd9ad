/*
 * The device agent: follows signed assignments, installs model images, runs them, counts, and reverts what fails.
 *
 *   fleet_agent_init(&agent, &config)            boots: journal -> slot of each component
 *   loop: next = fleet_agent_step(&agent, now)   network, downloads, time; never blocks beyond one flash or crypto operation
 *         fleet_agent_infer(...)                 when the product has a live input
 *         fleet_agent_label(...)                 when the truth is known, if ever
 *
 * No heap, no globals: `fleet_agent_t` is the caller's, as are the arena and everything the config points to, which must
 * live as long as the agent. All calls of one agent come from one thread, none from an interrupt.
 */
#ifndef FLEET_AGENT_H
#define FLEET_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_config.h"
#include "fleet_port.h"
#include "fleet_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FLEET_AGENT_VERSION "0.1.0"

/** Index of the component "firmware"; models are 0 .. */
#define FLEET_FIRMWARE FLEET_MODELS_MAX

/** `active` and slot indices when there is none. */
#define FLEET_NO_SLOT 0xFFU

/** How live input is given. FLOAT32 is quantised with the parameters of each image that sees it, so images may differ. */
typedef enum {
    FLEET_INPUT_RAW = 0, /**< exactly the image's own input bytes */
    FLEET_INPUT_FLOAT32  /**< float, one value per input element, in the image's (NHWC) order */
} fleet_input_type_t;

/** One live input; stays the caller's and is not changed. */
typedef struct {
    const void *data;
    uint32_t bytes;
    fleet_input_type_t type;
} fleet_input_t;

/** The answer of the active model. */
typedef struct {
    void *output;          /**< [in] room for the raw output bytes, may be null */
    uint32_t output_bytes; /**< [in] its size; [out] bytes of the image's output */
    uint32_t top;          /**< index of the largest output */
    float confidence;      /**< its probability or score, 0..1 */
    uint32_t latency_us;   /**< 0 when the clock port measures nothing */
    uint8_t image[16];     /**< id of the image that answered */
} fleet_answer_t;

/** What a product tells its agent once. */
typedef struct {
    const char *device;       /**< device id = certificate name = MQTT client id, [a-z0-9-]{1,64} */
    const char *device_class; /**< as enrolled, 1..64 bytes */
    const uint8_t *root;      /**< the root it was provisioned with, as published under fleet/v1/root/<n>; newer ones are stored in flash */
    uint32_t root_bytes;
    const fleet_flash_t *flash;
    const fleet_transport_t *transport;
    const fleet_crypto_t *crypto;
    const fleet_clock_t *clock;
    const fleet_firmware_t *firmware; /**< null: the firmware is not updated here; needs FLEET_WITH_FIRMWARE and a reset in `clock` */
    uint8_t *arena; /**< 16-byte aligned; images run in it one after the other, golden and shadow runs too */
    uint32_t arena_bytes; /**< as the largest image says; 240 bytes more and a kernel that writes there behind its image's arena is noticed with
                               every image. One that skips them is not: where the core has an MPU, end the region of the arena there */
    /** Null, or told each answer before a candidate runs on the same input: whoever acts on it here waits neither for a slow
     * candidate nor for one that never returns. It must not call the agent. */
    void (*answered)(void *ctx, uint8_t component, const fleet_answer_t *answer);
    void *answered_ctx;
    uint32_t *stack_low; /**< lowest address of the stack the agent runs on, marked at init; null: not measured */
    uint32_t stack_bytes;
    uint8_t *state; /**< what models keep between inferences: an area for each slot of each component, 2 x components x state_bytes,
                         16-byte aligned; null where no image of this product keeps anything */
    uint32_t state_bytes; /**< of one area, a multiple of 16; an image that keeps more is refused with SHADOW_NO_RAM */
    uint32_t slot_bytes; /**< room of one image, rounded up to whole erase blocks; see fleet_agent_flash_bytes */
    uint8_t components;  /**< model components, 1..FLEET_MODELS_MAX */
    uint32_t report_interval_s; /**< telemetry period, 1..2,000,000 */
    uint32_t sleep_max_s;       /**< longest the device sleeps without reporting, up to 2,000,000 (23 days); 0 = never sleeps */
} fleet_agent_config_t;

/** What one slot of a component holds, for logs and tests. */
typedef struct {
    uint8_t state;  /**< fleet_slot_state_t */
    uint8_t reason; /**< fleet_reason_t */
    uint8_t attempts;
    uint8_t image[16]; /**< id, zeros when unknown */
    uint32_t image_bytes;
    uint32_t written_bytes;
    uint32_t release_counter;
} fleet_slot_info_t;

/** A snapshot of the agent, for logs and tests. */
typedef struct {
    bool connected;        /**< MQTT session up */
    uint8_t answering;     /**< slot that answers fleet_agent_infer, FLEET_NO_SLOT when none */
    uint8_t active;        /**< slot the journal names */
    uint8_t fallback;      /**< slot undo goes to */
    uint32_t floor;        /**< security floor */
    fleet_slot_info_t slots[2];
    uint64_t sequence;
    uint64_t director_epoch;
    uint32_t root;
    uint32_t boot;
    uint8_t last_reason;
    uint64_t received_bytes; /**< blob bytes received for the candidate */
} fleet_agent_info_t;

typedef struct fleet_agent fleet_agent_t;

/** Flash an agent needs, bytes: two journal halves and two slots a component. 0 when the geometry is unusable. */
uint32_t fleet_agent_flash_bytes(const fleet_flash_t *flash, uint32_t slot_bytes, uint8_t components);

/**
 * Boots the agent: reads the journal, picks each component's slot by journal and CRC, checks the runtime ABI, takes the other
 * slot or none and reports it. Nothing is sent before the first step.
 * @return FLEET_OK also when no image is there; FLEET_ERR_ARGUMENT; FLEET_ERR_SINGLE_SLOT: the flash cannot hold two slots;
 *         FLEET_ERR_JOURNAL: written by another version, nothing was changed; FLEET_ERR_ROOT: the provisioned root is not valid;
 *         FLEET_ERR_FLASH: it could not be read or written; FLEET_ERR_CRYPTO, or whatever status `random` of the port had
 */
fleet_status_t fleet_agent_init(fleet_agent_t *agent, const fleet_agent_config_t *config);

/**
 * Does what is due: connection, messages, downloads, timeouts, reports.
 * @param[in] now_ms monotonic, from any start; no two steps lie 24 days or more apart. A step back counts as no time, and what is waited
 *            for comes that much later
 * @return when it wants to be called next at the latest, ms on the same clock; call earlier when the transport has bytes, or can take more
 *         after `send` took less than it was given
 */
uint64_t fleet_agent_step(fleet_agent_t *agent, uint64_t now_ms);

/**
 * Begins a stream anew for the model that answers (and a candidate beside it): call it where the input's past is not its own,
 * after a pause for example. Models that keep nothing do not notice. @return FLEET_OK or FLEET_ERR_ARGUMENT
 */
fleet_status_t fleet_agent_reset_stream(fleet_agent_t *agent, uint8_t component);

/**
 * Runs the active model on a live input; while a candidate shadows, runs it on the same input afterwards and only counts
 * (`answered` of the config is told before).
 * A candidate in TESTING that fails is reverted at once and the input is answered by the fallback.
 * @param[in]     component index of the model component
 * @param[in,out] answer    see fleet_answer_t
 * @param[out]    id        names this inference for fleet_agent_label
 * @return FLEET_OK; FLEET_ERR_NO_MODEL: no runnable image (fleet_agent_info says why); FLEET_ERR_SIZE: input or output size;
 *         a runtime error
 */
fleet_status_t fleet_agent_infer(fleet_agent_t *agent, uint8_t component, const fleet_input_t *input, fleet_answer_t *answer,
                                 uint32_t *id);

/**
 * The truth of an inference became known: credits the image that answered, and both when a candidate shadowed. Not in builds with
 * FLEET_WITH_LABELS=0.
 * @return FLEET_OK; FLEET_ERR_LABEL: the id is unknown, already labelled or too old (see FLEET_LABEL_RING)
 */
fleet_status_t fleet_agent_label(fleet_agent_t *agent, uint32_t id, uint32_t label);

/** Publishes a last state and ends the session in order; step a while longer until it returns true. */
bool fleet_agent_shutdown(fleet_agent_t *agent, uint64_t now_ms);

/** Drops every image and download; floors, root and sequence stay, so that nothing old can come back. Restart afterwards.
 * @return FLEET_OK or FLEET_ERR_FLASH: not everything is gone, try again */
fleet_status_t fleet_agent_factory_reset(fleet_agent_t *agent);

/** A snapshot for logs and tests. */
fleet_status_t fleet_agent_info(const fleet_agent_t *agent, uint8_t component, fleet_agent_info_t *info);

#ifdef __cplusplus
}
#endif

#include "fleet_agent_state.h" /* struct fleet_agent, so that its size is known; fields are private */

#endif
