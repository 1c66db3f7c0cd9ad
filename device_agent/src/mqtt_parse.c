/*
 * MQTT 3.1.1 client: packets in. One packet at a time is gathered in `rx`; a body that is larger is read to its end and only its
 * start kept, so an oversize message costs the connection nothing. Whatever the broker sends, nothing is read or written
 * outside `rx`.
 */
#include <string.h>

#include "mqtt_internal.h"

#define LENGTH_DIGITS_MAX 4U

static uint16_t get_u16(const uint8_t *in)
{
    return (uint16_t)(((uint32_t)in[0] << 8) | in[1]);
}

static uint32_t stored_bytes(const fleet_mqtt_t *mqtt)
{
    return mqtt->body_read < mqtt->rx_bytes ? mqtt->body_read : mqtt->rx_bytes;
}

void fleet_mqtt_next_packet(fleet_mqtt_t *mqtt)
{
    mqtt->header_bytes = 0;
    mqtt->in_body = false;
    mqtt->body_bytes = 0;
    mqtt->body_read = 0;
}

/* One byte of the fixed header: the first one, then the remaining length. */
static fleet_status_t read_header(fleet_mqtt_t *mqtt, uint8_t byte)
{
    if (mqtt->header_bytes == 0U) {
        mqtt->first = byte;
    } else {
        mqtt->body_bytes |= (uint32_t)(byte & 0x7FU) << (7U * (mqtt->header_bytes - 1U));
        mqtt->in_body = byte < 0x80U;
    }
    return mqtt->header_bytes++ == LENGTH_DIGITS_MAX && !mqtt->in_body ? FLEET_ERR_MQTT_MALFORMED : FLEET_OK;
}

static void read_body(fleet_mqtt_t *mqtt, const uint8_t *data, uint32_t bytes, uint32_t *used)
{
    uint32_t take = mqtt->body_bytes - mqtt->body_read;
    take = take < bytes - *used ? take : bytes - *used;
    uint32_t stored = stored_bytes(mqtt);
    uint32_t keep = mqtt->rx_bytes - stored;
    keep = keep < take ? keep : take;
    if (keep > 0U) {
        memcpy(mqtt->rx + stored, data + *used, keep);
    }
    mqtt->body_read += take;
    *used += take;
}

static fleet_status_t on_connack(fleet_mqtt_t *mqtt, uint32_t now_ms, fleet_mqtt_event_t *event)
{
    if (mqtt->body_bytes != 2U || mqtt->rx[0] > 1U) {
        return FLEET_ERR_MQTT_MALFORMED;
    }
    bool connect_was_sent = mqtt->partial == mqtt->connect_bytes;
    if (mqtt->phase != PHASE_CONNECTING || !connect_was_sent) {
        return FLEET_ERR_MQTT_PROTOCOL;
    }
    event->code = mqtt->rx[1];
    if (event->code != 0U) {
        return FLEET_ERR_MQTT_REFUSED;
    }
    mqtt->phase = PHASE_CONNECTED;
    mqtt->partial = 0;
    mqtt->answer_ms = now_ms;
    event->kind = FLEET_MQTT_CONNECTED;
    return FLEET_OK;
}

/* Topic names carry no wildcards and no NUL (sections 1.5.3, 3.3.2.1). */
static bool topic_is_legal(const uint8_t *topic, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        if (topic[i] == 0U || topic[i] == (uint8_t)'#' || topic[i] == (uint8_t)'+') {
            return false;
        }
    }
    return bytes > 0U;
}

/* Topic, packet id and payload as far as they lie in `rx`. Sizes were checked against the body, so subtractions hold. */
static fleet_status_t locate(const fleet_mqtt_t *mqtt, fleet_mqtt_event_t *event)
{
    uint32_t stored = stored_bytes(mqtt);
    if (mqtt->body_bytes < 2U) {
        return FLEET_ERR_MQTT_MALFORMED;
    }
    uint32_t topic_bytes = get_u16(mqtt->rx);
    uint32_t id_bytes = event->qos > 0U ? 2U : 0U;
    if (mqtt->body_bytes - 2U < topic_bytes + id_bytes) {
        return FLEET_ERR_MQTT_MALFORMED;
    }
    event->topic = (const char *)mqtt->rx + 2;
    event->topic_bytes = topic_bytes < stored - 2U ? topic_bytes : stored - 2U;
    event->payload_bytes = mqtt->body_bytes - 2U - topic_bytes - id_bytes;
    if (!topic_is_legal(mqtt->rx + 2, event->topic_bytes)) {
        return FLEET_ERR_MQTT_MALFORMED;
    }
    if (id_bytes > 0U && stored >= 4U + topic_bytes) {
        event->packet_id = get_u16(mqtt->rx + 2U + topic_bytes);
        if (event->packet_id == 0U) {
            return FLEET_ERR_MQTT_MALFORMED;
        }
    }
    if (mqtt->body_bytes <= mqtt->rx_bytes) {
        event->payload = mqtt->rx + 2U + topic_bytes + id_bytes;
    }
    return FLEET_OK;
}

static fleet_status_t on_publish(fleet_mqtt_t *mqtt, fleet_mqtt_event_t *event)
{
    uint8_t flags = mqtt->first;
    event->qos = (uint8_t)((flags & FLAG_QOS_MASK) >> 1);
    event->retained = (flags & FLEET_MQTT_RETAIN) != 0;
    event->duplicate = (flags & FLAG_DUP) != 0;
    if (event->qos > 1U) {
        return event->qos == 3U ? FLEET_ERR_MQTT_MALFORMED : FLEET_ERR_MQTT_PROTOCOL; /* we never ask for QoS 2 */
    }
    fleet_status_t status = locate(mqtt, event);
    if (status != FLEET_OK) {
        return status;
    }
    if (event->packet_id != 0U) {
        status = fleet_mqtt_queue_puback(mqtt, event->packet_id);
        if (status != FLEET_OK) {
            return status;
        }
    }
    event->kind = event->payload != NULL ? FLEET_MQTT_MESSAGE : FLEET_MQTT_OVERSIZE;
    return FLEET_OK;
}

static fleet_status_t on_acknowledgement(fleet_mqtt_t *mqtt, uint32_t now_ms, fleet_mqtt_event_t *event)
{
    uint8_t type = mqtt->first;
    if (mqtt->body_bytes != (type == PACKET_SUBACK ? 3U : 2U)) {
        return FLEET_ERR_MQTT_MALFORMED;
    }
    event->packet_id = get_u16(mqtt->rx);
    if (type == PACKET_PUBACK) {
        if (fleet_mqtt_drop_delivered(mqtt, event->packet_id)) {
            mqtt->answer_ms = now_ms;
            event->kind = FLEET_MQTT_DELIVERED;
        }
    } else if (type == PACKET_SUBACK) {
        event->code = mqtt->rx[2];
        event->kind = FLEET_MQTT_SUBSCRIBED;
    } else {
        event->kind = FLEET_MQTT_UNSUBSCRIBED;
    }
    return FLEET_OK;
}

static fleet_status_t on_pingresp(fleet_mqtt_t *mqtt)
{
    mqtt->ping_waiting = false;
    return mqtt->body_bytes == 0U ? FLEET_OK : FLEET_ERR_MQTT_MALFORMED;
}

static fleet_status_t on_packet(fleet_mqtt_t *mqtt, uint32_t now_ms, fleet_mqtt_event_t *event)
{
    uint8_t first = mqtt->first;
    if (first == PACKET_CONNACK) {
        return on_connack(mqtt, now_ms, event);
    }
    if (mqtt->phase != PHASE_CONNECTED && mqtt->phase != PHASE_CLOSING) {
        return FLEET_ERR_MQTT_PROTOCOL;
    }
    if ((first & TYPE_MASK) == PACKET_PUBLISH) {
        return on_publish(mqtt, event);
    }
    if (first == PACKET_PUBACK || first == PACKET_SUBACK || first == PACKET_UNSUBACK) {
        return on_acknowledgement(mqtt, now_ms, event);
    }
    return first == PACKET_PINGRESP ? on_pingresp(mqtt) : FLEET_ERR_MQTT_PROTOCOL;
}

fleet_status_t fleet_mqtt_input(fleet_mqtt_t *mqtt, const uint8_t *data, uint32_t bytes, uint32_t now_ms, uint32_t *used,
                                fleet_mqtt_event_t *event)
{
    *used = 0;
    memset(event, 0, sizeof *event);
    if (mqtt->failure != FLEET_OK) {
        return (fleet_status_t)mqtt->failure;
    }
    if (mqtt->phase == PHASE_IDLE) {
        return FLEET_ERR_MQTT_OFFLINE;
    }
    while (*used < bytes && !mqtt->in_body) {
        if (read_header(mqtt, data[(*used)++]) != FLEET_OK) {
            return fleet_mqtt_fail(mqtt, FLEET_ERR_MQTT_MALFORMED);
        }
    }
    if (!mqtt->in_body) {
        return FLEET_OK;
    }
    read_body(mqtt, data, bytes, used);
    if (mqtt->body_read < mqtt->body_bytes) {
        return FLEET_OK;
    }
    const fleet_status_t status = on_packet(mqtt, now_ms, event);
    if (status == FLEET_ERR_MQTT_FULL) {
        memset(event, 0, sizeof *event);
        return status; /* the packet stays in `rx`, the next call delivers it */
    }
    fleet_mqtt_next_packet(mqtt);
    return status == FLEET_OK ? FLEET_OK : fleet_mqtt_fail(mqtt, status);
}
