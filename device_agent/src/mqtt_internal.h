/* Shared by mqtt.c (queue, timers, packets out) and mqtt_parse.c (packets in). Section numbers: MQTT 3.1.1. */
#ifndef FLEET_MQTT_INTERNAL_H
#define FLEET_MQTT_INTERNAL_H

#include "fleet_mqtt.h"

enum { PHASE_IDLE = 0, PHASE_CONNECTING, PHASE_CONNECTED, PHASE_CLOSING };

/* First byte of the fixed header: type in the upper half, flags in the lower (section 2.2). */
enum {
    PACKET_CONNECT = 0x10,
    PACKET_CONNACK = 0x20,
    PACKET_PUBLISH = 0x30,
    PACKET_PUBACK = 0x40,
    PACKET_SUBSCRIBE = 0x82,
    PACKET_SUBACK = 0x90,
    PACKET_UNSUBSCRIBE = 0xA2,
    PACKET_UNSUBACK = 0xB0,
    PACKET_PINGREQ = 0xC0,
    PACKET_PINGRESP = 0xD0,
    PACKET_DISCONNECT = 0xE0,
    TYPE_MASK = 0xF0,
    FLAG_QOS_MASK = 0x06,
    FLAG_DUP = 0x08
};

/* A packet of four bytes: PUBACK. May use the reserve of `tx`. */
fleet_status_t fleet_mqtt_queue_puback(fleet_mqtt_t *mqtt, uint16_t packet_id);

/* A PUBACK came: drop its publish from the queue. False when no such publish is waiting. */
bool fleet_mqtt_drop_delivered(fleet_mqtt_t *mqtt, uint16_t packet_id);

/* Remembers a failure until the next begin, and returns it. */
fleet_status_t fleet_mqtt_fail(fleet_mqtt_t *mqtt, fleet_status_t status);

/* The next byte begins a packet. */
void fleet_mqtt_next_packet(fleet_mqtt_t *mqtt);

#endif
