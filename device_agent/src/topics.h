/* Topics of this device and of what it fetches. */
#ifndef FLEET_TOPICS_H
#define FLEET_TOPICS_H

#include "fleet_agent.h"

/** Room for any topic. */
#define FLEET_TOPIC_BYTES FLEET_TOPIC_TELEMETRY_SIZE

/** Writes a topic by its format, a FLEET_TOPIC_*: `text` for %s, then `numbers` for each %lu; null where there is none. */
void fleet_topic(char topic[FLEET_TOPIC_BYTES], const char *format, const char *text, const uint32_t *numbers);

/** The same with an id as text. */
void fleet_topic_of_id(char topic[FLEET_TOPIC_BYTES], const char *format, const uint8_t id[16], const uint32_t *numbers);

#endif
