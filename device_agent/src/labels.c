#include "labels.h"

static fleet_label_slot_t *place_of(fleet_agent_t *agent, uint32_t id) {
    return &agent->labels[id % FLEET_LABEL_RING];
}

uint32_t fleet_labels_add(fleet_agent_t *agent, uint8_t active_image, uint32_t active_class, uint8_t shadow_image,
                          uint32_t shadow_class) {
    agent->inference = agent->inference == UINT32_MAX ? 1U : agent->inference + 1U;
    fleet_label_slot_t *place = place_of(agent, agent->inference);
    place->id = agent->inference;
    place->active_image = active_image;
    place->active_class = (uint16_t)active_class;
    place->shadow_image = shadow_image;
    place->shadow_class = (uint16_t)shadow_class;
    return place->id;
}

void fleet_labels_forget(fleet_agent_t *agent, uint8_t image) {
    for (uint32_t i = 0; i < FLEET_LABEL_RING; i++) {
        fleet_label_slot_t *place = &agent->labels[i];
        if (place->shadow_image == image) {
            place->shadow_image = FLEET_IMAGES_NONE;
        }
        if (place->active_image == image) {
            place->id = 0;
        }
    }
}

fleet_status_t fleet_agent_label(fleet_agent_t *agent, uint32_t id, uint32_t label) {
    if (agent == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_label_slot_t *place = place_of(agent, id);
    if (id == 0 || place->id != id) {
        return FLEET_ERR_LABEL;
    }
    const bool active_right = place->active_class == label;
    fleet_counters_t *active = &agent->counters[place->active_image];
    active->labelled++;
    active->correct += active_right ? 1U : 0U;
    if (place->shadow_image != FLEET_IMAGES_NONE) {
        const bool shadow_right = place->shadow_class == label;
        const uint32_t cell = (active_right ? 0U : 2U) + (shadow_right ? 0U : 1U);
        /* wire order: both right, active only, candidate only, neither */
        agent->counters[place->shadow_image].shadow_pairs[cell]++;
    }
    place->id = 0;
    return FLEET_OK;
}
