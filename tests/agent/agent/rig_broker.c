#include "rig_broker.h"

#include <stdlib.h>
#include <string.h>

static void put(rig_broker_t *broker, const void *data, uint32_t bytes) {
    if (bytes > BROKER_BYTES - broker->out_bytes) {
        abort(); /* the window of the agent bounds what is on its way */
    }
    memcpy(broker->out + broker->out_bytes, data, bytes);
    broker->out_bytes += bytes;
}

static void put_message(rig_broker_t *broker, const rig_message_t *message) {
    const uint32_t topic = (uint32_t)strlen(message->topic);
    uint32_t rest = 2U + topic + message->bytes;
    uint8_t head[5] = {0x31};
    uint32_t used = 1;
    do {
        head[used++] = (uint8_t)((rest & 0x7FU) | (rest > 0x7FU ? 0x80U : 0U));
        rest >>= 7;
    } while (rest > 0);
    const uint8_t length[2] = {(uint8_t)(topic >> 8), (uint8_t)topic};
    put(broker, head, used);
    put(broker, length, 2);
    put(broker, message->topic, topic);
    put(broker, message->payload, message->bytes);
}

static void on_subscribe(rig_broker_t *broker, const uint8_t *body) {
    const uint8_t answer[5] = {0x90, 3, body[0], body[1], 0};
    const uint32_t bytes = (uint32_t)body[2] << 8 | body[3];
    put(broker, answer, sizeof answer);
    for (uint32_t i = 0; i < broker->count; i++) {
        if (strlen(broker->retained[i].topic) == bytes && memcmp(broker->retained[i].topic, body + 4, bytes) == 0) {
            put_message(broker, &broker->retained[i]);
        }
    }
}

static void on_publish(rig_broker_t *broker, uint8_t first, const uint8_t *body) {
    const uint32_t topic = (uint32_t)body[0] << 8 | body[1];
    const uint8_t answer[4] = {0x40, 2, body[2U + topic], body[3U + topic]};
    if ((first & 6U) != 0) {
        put(broker, answer, sizeof answer);
    }
}

static void handle(rig_broker_t *broker, uint8_t first, const uint8_t *body) {
    static const uint8_t connack[] = {0x20, 2, 0, 0};
    static const uint8_t pong[] = {0xD0, 0};
    switch (first >> 4) {
        case 1: put(broker, connack, sizeof connack); break;
        case 3: on_publish(broker, first, body); break;
        case 8: on_subscribe(broker, body); break;
        case 10: {
            const uint8_t answer[4] = {0xB0, 2, body[0], body[1]};
            put(broker, answer, sizeof answer);
            break;
        }
        case 12: put(broker, pong, sizeof pong); break;
        default: break;
    }
}

static bool one_packet(rig_broker_t *broker) {
    uint32_t length = 0;
    uint32_t used = 1;
    do {
        if (used >= broker->in_bytes) {
            return false;
        }
        length |= (uint32_t)(broker->in[used] & 0x7FU) << (7U * (used - 1U));
    } while ((broker->in[used++] & 0x80U) != 0);
    if (broker->in_bytes < used + length) {
        return false;
    }
    handle(broker, broker->in[0], broker->in + used);
    broker->in_bytes -= used + length;
    memmove(broker->in, broker->in + used + length, broker->in_bytes);
    return true;
}

static int broker_connect(void *ctx) {
    rig_broker_t *broker = ctx;
    broker->closed = false;
    broker->in_bytes = 0;
    broker->out_bytes = 0;
    return FLEET_OK;
}

static int32_t broker_send(void *ctx, const uint8_t *data, uint32_t bytes) {
    rig_broker_t *broker = ctx;
    if (broker->closed || bytes > BROKER_BYTES - broker->in_bytes) {
        return -1;
    }
    memcpy(broker->in + broker->in_bytes, data, bytes);
    broker->in_bytes += bytes;
    while (one_packet(broker)) {
    }
    return (int32_t)bytes;
}

static int32_t broker_recv(void *ctx, uint8_t *data, uint32_t bytes) {
    rig_broker_t *broker = ctx;
    if (broker->closed) {
        return -1;
    }
    const uint32_t count = bytes < broker->out_bytes ? bytes : broker->out_bytes;
    memcpy(data, broker->out, count);
    broker->out_bytes -= count;
    memmove(broker->out, broker->out + count, broker->out_bytes);
    return (int32_t)count;
}

static void broker_close(void *ctx) {
    ((rig_broker_t *)ctx)->closed = true;
}

fleet_transport_t rig_broker_transport(rig_broker_t *broker) {
    return (fleet_transport_t){broker_connect, broker_send, broker_recv, broker_close, broker};
}
