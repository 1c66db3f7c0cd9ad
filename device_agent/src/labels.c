#include "labels.h"

#include "compact.h"

#if FLEET_WITH_LABELS

FLEET_APART static fleet_label_slot_t *place_of(fleet_agent_t *agent, uint32_t id) {
    return &agent->labels[id % FLEET_LABEL_RING];
}

uint32_t fleet_labels_add(fleet_agent_t *agent, uint8_t active_image, uint32_t active_class, uint8_t shadow_image,
                          uint32_t shadow_class) {
    fleet_label_slot_t *place = place_of(agent, ++agent->inference);
    place->active = (uint8_t)(active_image + 1U);
    place->active_class = (uint16_t)active_class;
    place->shadow = (uint8_t)(shadow_image + 1U); /* FLEET_IMAGES_NONE + 1 is 0 */
    place->shadow_class = (uint16_t)shadow_class;
    return agent->inference;
}

void fleet_labels_forget(fleet_agent_t *agent, uint8_t image) {
    for (uint32_t i = 0; i < FLEET_LABEL_RING; i++) {
        fleet_label_slot_t *place = &agent->labels[i];
        if (place->shadow == image + 1U) {
            place->shadow = 0;
        }
        if (place->active == image + 1U) {
            place->active = 0;
        }
    }
}

fleet_status_t fleet_agent_label(fleet_agent_t *agent, uint32_t id, uint32_t label) {
    if (agent == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_label_slot_t *place = place_of(agent, id);
    if (agent->inference - id >= FLEET_LABEL_RING || place->active == 0) {
        return FLEET_ERR_LABEL;
    }
    const bool active_right = place->active_class == label;
    fleet_counters_t *active = &agent->counters[place->active - 1U];
    active->labelled++;
    active->correct += active_right ? 1U : 0U;
    if (place->shadow != 0) {
        const bool shadow_right = place->shadow_class == label;
        const uint32_t cell = (active_right ? 0U : 2U) + (shadow_right ? 0U : 1U);
        /* wire order: both right, active only, candidate only, neither */
        agent->counters[place->shadow - 1U].shadow_pairs[cell]++;
    }
    place->active = 0;
    return FLEET_OK;
}

#endif
