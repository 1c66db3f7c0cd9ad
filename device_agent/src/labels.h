/* Labels: which inference gave which answer, until its truth comes or FLEET_LABEL_RING newer ones did. */
#ifndef FLEET_LABELS_H
#define FLEET_LABELS_H

#include "fleet_agent.h"

/** Remembers an answer, and the candidate's beside it (`shadow_image` FLEET_IMAGES_NONE: none). @return its id */
uint32_t fleet_labels_add(fleet_agent_t *agent, uint8_t active_image, uint32_t active_class, uint8_t shadow_image,
                          uint32_t shadow_class);

/** The counters at `image` get another owner: answers that would credit them are dropped. */
void fleet_labels_forget(fleet_agent_t *agent, uint8_t image);

#endif
