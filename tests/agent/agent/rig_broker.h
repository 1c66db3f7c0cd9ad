/* The far side of the transport in memory: answers one MQTT 3.1.1 client with retained messages. */
#ifndef RIG_BROKER_H
#define RIG_BROKER_H

#include "fleet_port.h"

enum { BROKER_MESSAGES = 64, BROKER_BYTES = 16384 };

typedef struct {
    const char *topic;
    const uint8_t *payload;
    uint32_t bytes;
} rig_message_t;

typedef struct {
    rig_message_t retained[BROKER_MESSAGES];
    uint32_t count;
    uint8_t in[BROKER_BYTES]; /* from the device, packets not whole yet */
    uint32_t in_bytes;
    uint8_t out[BROKER_BYTES];
    uint32_t out_bytes;
    bool closed;
} rig_broker_t;

fleet_transport_t rig_broker_transport(rig_broker_t *broker);

#endif
