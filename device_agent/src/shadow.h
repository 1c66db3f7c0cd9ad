/* Inferences: the active model answers, a candidate may run beside it on the same input and is only counted. */
#ifndef FLEET_SHADOW_H
#define FLEET_SHADOW_H

#include "fleet_agent.h"

/** What one image made of one input. */
typedef struct {
    uint32_t top;
    float confidence;
    uint32_t latency_us;
    const int8_t *output; /**< in the arena, until the next run */
    uint32_t output_bytes;
    uint32_t arena_bytes; /**< of the image */
} fleet_run_t;

/** Runs an image in the agent's arena. */
fleet_status_t fleet_run_image(const fleet_agent_t *agent, const fleet_model_t *model, const fleet_input_t *input, fleet_run_t *run);

/**
 * Runs a candidate in SHADOW on the input that the active model just answered with `active_top`.
 * @param[out] shadow_top what it answered, where it counts
 * @return index of its counters, FLEET_IMAGES_NONE where nothing counts
 */
uint8_t fleet_shadow_run(fleet_agent_t *agent, fleet_component_t *component, const fleet_input_t *input, uint32_t active_top,
                         uint32_t *shadow_top);

#endif
