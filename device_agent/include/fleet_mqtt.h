/*
 * MQTT 3.1.1 client without I/O: bytes from the network go in, events come out; bytes to send come out.
 * The caller owns the socket, the buffers and the clock: milliseconds from any start, which may wrap. No heap, no globals, one client
 * per connection.
 *
 *   connect the transport -> fleet_mqtt_begin -> loop {
 *       fleet_mqtt_output -> transport send -> fleet_mqtt_sent
 *       transport recv -> fleet_mqtt_input (again until every byte is used) -> act on the event
 *       fleet_mqtt_poll }
 *   on any error, or when the transport breaks: close it, fleet_mqtt_end; connect again later, fleet_mqtt_begin.
 *
 * What is kept across fleet_mqtt_begin: QoS 1 publishes without their PUBACK, sent again with DUP. Everything else
 * (subscriptions, QoS 0 publishes, pings) is dropped: subscribe again after FLEET_MQTT_CONNECTED.
 * Sessions are clean: what the device must not miss is retained at the broker.
 * Not for interrupts; one thread at a time per client.
 * Source: MQTT Version 3.1.1, OASIS Standard, 29 October 2014 (section numbers in the sources refer to it).
 */
#ifndef FLEET_MQTT_H
#define FLEET_MQTT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of `tx` that only acknowledgements and pings may use, so a full queue cannot dead-lock the connection. */
#define FLEET_MQTT_TX_RESERVE_BYTES 32U

/** Bytes of `tx` that the CONNECT packet takes for good, for a client id of `id_bytes`. */
#define FLEET_MQTT_CONNECT_BYTES(id_bytes) (16U + (id_bytes))

/** Smallest `tx` for a client id of `id_bytes` and packets of `packet_bytes` in all (header and topic included). */
#define FLEET_MQTT_TX_BYTES(id_bytes, packet_bytes) \
    (FLEET_MQTT_CONNECT_BYTES(id_bytes) + FLEET_MQTT_TX_RESERVE_BYTES + (packet_bytes))

typedef enum {
    FLEET_MQTT_NOTHING = 0,  /**< the packet is not complete, or needs no action */
    FLEET_MQTT_CONNECTED,    /**< CONNACK accepted: subscribe now */
    FLEET_MQTT_MESSAGE,      /**< a PUBLISH: topic, payload */
    FLEET_MQTT_OVERSIZE,     /**< a PUBLISH larger than `rx` was skipped; topic as far as it fits, payload null */
    FLEET_MQTT_SUBSCRIBED,   /**< SUBACK: packet_id, code 0 or 1 = granted QoS, FLEET_MQTT_SUBACK_REFUSED = none */
    FLEET_MQTT_UNSUBSCRIBED, /**< UNSUBACK: packet_id */
    FLEET_MQTT_DELIVERED     /**< PUBACK of a QoS 1 publish: packet_id */
} fleet_mqtt_event_kind_t;

/** `code` of a subscription that the broker refused (section 3.9.3). */
#define FLEET_MQTT_SUBACK_REFUSED 0x80U

/** One thing that happened. Pointers reach into `rx` and are valid until the next fleet_mqtt_input. */
typedef struct {
    fleet_mqtt_event_kind_t kind;
    const char *topic; /**< not zero-terminated */
    uint32_t topic_bytes;
    uint8_t *payload; /**< the caller's to change */
    uint32_t payload_bytes; /**< with FLEET_MQTT_OVERSIZE the size it would have had */
    uint16_t packet_id;
    uint8_t code; /**< SUBACK or CONNACK return code */
    uint8_t qos;
    bool retained;
    bool duplicate;
} fleet_mqtt_event_t;

/** What the caller supplies once. `client_id` is copied into `tx`; the buffers must outlive the client. */
typedef struct {
    const char *client_id; /**< zero-terminated, 1..64 bytes; the broker takes the certificate's name for it */
    uint8_t *rx;           /**< receives one packet's body: topic + 4 bytes + payload */
    uint32_t rx_bytes;
    uint8_t *tx;           /**< see FLEET_MQTT_TX_BYTES */
    uint32_t tx_bytes;
    uint16_t keep_alive_s;      /**< 0 = off, default 60; a PINGREQ goes out after 3/4 of it without traffic */
    uint32_t answer_timeout_ms; /**< CONNACK, PINGRESP and PUBACK must come within this; 0 = 10,000 */
} fleet_mqtt_config_t;

/** State of one client. Its fields are private. */
typedef struct {
    uint8_t phase;      /* see mqtt_internal.h */
    bool ping_waiting;
    uint8_t first;      /* byte of the packet being read */
    uint8_t header_bytes; /* of its fixed header that were read */
    bool in_body;       /* all of them */
    uint16_t keep_alive_s;
    uint16_t connect_bytes;
    uint16_t last_id;
    int32_t failure;    /* status every call answers until the next begin */
    uint8_t *rx;
    uint32_t rx_bytes;
    uint8_t *tx;        /* CONNECT packet, then the queue */
    uint32_t tx_bytes;
    uint32_t body_bytes; /* of the packet being read */
    uint32_t body_read;
    uint32_t queue_bytes;  /* packets in the queue */
    uint32_t cursor;       /* start of the first packet not wholly sent; before it: QoS 1 awaiting PUBACK */
    uint32_t partial;      /* bytes of that packet (or of CONNECT) already sent */
    uint32_t answer_timeout_ms;
    uint32_t sent_ms;      /* last byte sent */
    uint32_t answer_ms;    /* last progress on what the broker is to answer: CONNECT, PUBLISH, PINGREQ */
} fleet_mqtt_t;

/**
 * Prepares a client; no packet is queued.
 * @param[out] mqtt    caller's memory
 * @param[in]  config  copied, but the buffers
 * @return FLEET_OK, FLEET_ERR_ARGUMENT, or FLEET_ERR_SIZE when `tx` cannot hold CONNECT and the reserve
 */
fleet_status_t fleet_mqtt_init(fleet_mqtt_t *mqtt, const fleet_mqtt_config_t *config);

/** A transport connection is up: forget the old one's state, send CONNECT first, then unacknowledged QoS 1 publishes. */
void fleet_mqtt_begin(fleet_mqtt_t *mqtt, uint32_t now_ms);

/** The transport was closed or broke: not connected any more. What begin keeps, this keeps; begin calls it as well. */
void fleet_mqtt_end(fleet_mqtt_t *mqtt);

/** True between CONNACK and the next error, end or begin. */
bool fleet_mqtt_connected(const fleet_mqtt_t *mqtt);

/** How a PUBLISH goes, to be added: sent again until its PUBACK, kept by the broker for those who subscribe later. */
enum { FLEET_MQTT_RETAIN = 1, FLEET_MQTT_QOS1 = 2 };

/**
 * Queues a PUBLISH. QoS 1 publishes stay in `tx` until their PUBACK, across reconnects. Its packet id, as that of a subscription below, is
 * mqtt->last_id afterwards.
 * @param[in]  topic          zero-terminated, no wildcards
 * @param[in]  flags          FLEET_MQTT_QOS1, FLEET_MQTT_RETAIN, or 0
 * @return FLEET_OK; FLEET_ERR_MQTT_FULL: nothing queued, try again after output was sent or a PUBACK came;
 *         FLEET_ERR_ARGUMENT
 */
fleet_status_t fleet_mqtt_publish(fleet_mqtt_t *mqtt, const char *topic, const uint8_t *payload, uint32_t payload_bytes,
                                  uint8_t flags);

/**
 * Where a payload of up to `bytes` for the next publish on `topic` may be built, so that no buffer is needed for it; null when the
 * queue has no room for it now. Valid until the next call on this client but fleet_mqtt_publish.
 */
uint8_t *fleet_mqtt_room(const fleet_mqtt_t *mqtt, const char *topic, uint32_t bytes);

/** Queues a SUBSCRIBE for one topic filter. Errors as fleet_mqtt_publish, and FLEET_ERR_MQTT_OFFLINE before CONNECTED. */
fleet_status_t fleet_mqtt_subscribe(fleet_mqtt_t *mqtt, const char *filter, uint8_t qos);

/** Queues an UNSUBSCRIBE for one topic filter. Errors as fleet_mqtt_subscribe. */
fleet_status_t fleet_mqtt_unsubscribe(fleet_mqtt_t *mqtt, const char *filter);

/** Queues a DISCONNECT: the orderly end. Close the transport once fleet_mqtt_output is empty. */
fleet_status_t fleet_mqtt_disconnect(fleet_mqtt_t *mqtt);

/** Bytes of QoS 1 publishes and other packets in the queue, sent or not: 0 = everything is delivered. */
uint32_t fleet_mqtt_queued_bytes(const fleet_mqtt_t *mqtt);

/**
 * Bytes to send now, several packets at once where they are.
 * @param[out] data  valid until the next call on this client
 * @return count, 0 = nothing
 */
uint32_t fleet_mqtt_output(const fleet_mqtt_t *mqtt, const uint8_t **data);

/** The transport took the first `bytes` of fleet_mqtt_output. */
void fleet_mqtt_sent(fleet_mqtt_t *mqtt, uint32_t bytes, uint32_t now_ms);

/**
 * Reads received bytes up to the end of one packet, in any portions.
 * @param[in]  data, bytes  what the transport received
 * @param[out] used         how many were read; call again with the rest. Acknowledging a QoS 1 message needs room in `tx`:
 *                          FLEET_ERR_MQTT_FULL with the message not delivered means send output, then call again
 *                          (with no bytes, if all were used)
 * @param[out] event        FLEET_MQTT_NOTHING unless a packet was completed
 * @return FLEET_OK; FLEET_ERR_MQTT_OFFLINE before begin; FLEET_ERR_MQTT_MALFORMED, FLEET_ERR_MQTT_PROTOCOL, FLEET_ERR_MQTT_REFUSED (event->code: CONNACK code):
 *         close the transport
 */
fleet_status_t fleet_mqtt_input(fleet_mqtt_t *mqtt, const uint8_t *data, uint32_t bytes, uint32_t now_ms, uint32_t *used,
                                fleet_mqtt_event_t *event);

/**
 * Time passes: queues PINGREQ when due.
 * @return FLEET_OK, or FLEET_ERR_MQTT_TIMEOUT when an answer is overdue: close the transport
 */
fleet_status_t fleet_mqtt_poll(fleet_mqtt_t *mqtt, uint32_t now_ms);

/** How long until fleet_mqtt_poll has something to do, ms; 0 = now, UINT32_MAX = nothing to wait for. */
uint32_t fleet_mqtt_wait_ms(const fleet_mqtt_t *mqtt, uint32_t now_ms);

#ifdef __cplusplus
}
#endif

#endif
