/* Topics of this device and of what it fetches. */
#ifndef FLEET_TOPICS_H
#define FLEET_TOPICS_H

#include "fleet_agent.h"

/** Room for any topic. */
#define FLEET_TOPIC_BYTES FLEET_TOPIC_TELEMETRY_SIZE

void fleet_topic_device(char topic[FLEET_TOPIC_BYTES], const char *format, const char *device);
void fleet_topic_manifest(char topic[FLEET_TOPIC_BYTES], const uint8_t id[16]);
void fleet_topic_chunk(char topic[FLEET_TOPIC_BYTES], const uint8_t id[16], uint32_t chunk_bytes, uint32_t number);
void fleet_topic_root(char topic[FLEET_TOPIC_BYTES], uint32_t number);

/** True when the message came on exactly this topic. */
bool fleet_topic_is(const fleet_mqtt_event_t *message, const char *topic);

#endif
