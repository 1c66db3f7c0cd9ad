/*
 * MQTT 3.1.1 client: the send queue, the timers and the packets that go out.
 *
 * `tx` = CONNECT packet | queue of whole packets, one after the other | free. The cursor stands at the first packet that is not
 * wholly sent; before it only QoS 1 publishes are left, waiting for their PUBACK, everything else goes once it is sent.
 * So the queue needs no bookkeeping besides the packets themselves, and output across packets is one contiguous run.
 */
#include <string.h>

#include "compact.h"
#include "mqtt_internal.h"

#define DEFAULT_ANSWER_TIMEOUT_MS 10000U
#define MAX_CLIENT_ID_BYTES 64U
#define MAX_TOPIC_BYTES 65535U
#define MAX_REMAINING_LENGTH 268435455U /* section 2.2.3 */
#define PUBLISH_HEAD_BYTES 9U           /* type, remaining length 4, topic length 2, id 2 */
#define CONNECT_FIXED_BYTES 14U         /* header 2, protocol name 6, level, flags, keep alive 2, id length 2 */

static uint8_t *put_u16(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return out + 2;
}

static uint8_t *put_text(uint8_t *out, const char *text, uint32_t bytes)
{
    out = put_u16(out, bytes);
    memcpy(out, text, bytes);
    return out + bytes;
}

static uint32_t length_field_bytes(uint32_t remaining)
{
    return remaining < 128U ? 1U : remaining < 16384U ? 2U : remaining < 2097152U ? 3U : 4U;
}

/* Fixed header: type and flags, then the remaining length, 7 bits a byte, least significant first (section 2.2.3). */
static uint8_t *put_header(uint8_t *out, uint8_t first, uint32_t remaining)
{
    *out++ = first;
    do {
        uint8_t digit = (uint8_t)(remaining & 0x7FU);
        remaining >>= 7;
        *out++ = (uint8_t)(remaining > 0U ? digit | 0x80U : digit);
    } while (remaining > 0U);
    return out;
}

static uint8_t *queue_start(const fleet_mqtt_t *mqtt)
{
    return mqtt->tx + mqtt->connect_bytes;
}

static uint32_t queue_room(const fleet_mqtt_t *mqtt)
{
    return mqtt->tx_bytes - mqtt->connect_bytes - mqtt->queue_bytes;
}

/* Size of a packet that we encoded ourselves, header included. */
static uint32_t packet_size(const uint8_t *packet)
{
    uint32_t remaining = 0;
    uint32_t digits = 0;
    do {
        remaining |= (uint32_t)(packet[1U + digits] & 0x7FU) << (7U * digits);
    } while ((packet[1U + digits++] & 0x80U) != 0U);
    return 1U + digits + remaining;
}

static bool is_qos1_publish(const uint8_t *packet)
{
    return (packet[0] & TYPE_MASK) == PACKET_PUBLISH && (packet[0] & FLAG_QOS_MASK) == FLEET_MQTT_QOS1;
}

static uint16_t publish_packet_id(const uint8_t *packet)
{
    const uint8_t *topic = packet + 1;
    while ((*topic++ & 0x80U) != 0U) {
    }
    const uint8_t *id = topic + 2 + (((uint32_t)topic[0] << 8) | topic[1]);
    return (uint16_t)(((uint32_t)id[0] << 8) | id[1]);
}

static void remove_packet(fleet_mqtt_t *mqtt, uint8_t *packet, uint32_t bytes)
{
    mqtt->queue_bytes -= bytes;
    memmove(packet, packet + bytes, (uint32_t)(queue_start(mqtt) + mqtt->queue_bytes - packet));
}

/* A packet's header at the end of the queue and room for the rest, or null. Acknowledgements and pings may use the reserve. */
static uint8_t *append(fleet_mqtt_t *mqtt, uint8_t first, uint32_t remaining, uint32_t reserve)
{
    uint32_t bytes = 1U + length_field_bytes(remaining) + remaining;
    uint32_t room = queue_room(mqtt);
    if (room < reserve || room - reserve < bytes) {
        return NULL;
    }
    uint8_t *packet = queue_start(mqtt) + mqtt->queue_bytes;
    mqtt->queue_bytes += bytes;
    return put_header(packet, first, remaining);
}

/* The QoS 1 publish with this identifier that begins before `end` in the queue, or null. */
FLEET_APART static uint8_t *find_publish(const fleet_mqtt_t *mqtt, uint16_t packet_id, uint32_t end)
{
    uint32_t at = 0;
    while (at < end) {
        uint8_t *packet = queue_start(mqtt) + at;
        if (is_qos1_publish(packet) && publish_packet_id(packet) == packet_id) {
            return packet;
        }
        at += packet_size(packet);
    }
    return NULL;
}

/* An identifier that no waiting publish uses; never 0 (section 2.3.1). The queue holds far fewer packets than there are ids. */
static uint16_t next_packet_id(fleet_mqtt_t *mqtt)
{
    do {
        mqtt->last_id = (uint16_t)(mqtt->last_id + 1U);
    } while (mqtt->last_id == 0U || find_publish(mqtt, mqtt->last_id, mqtt->queue_bytes) != NULL);
    return mqtt->last_id;
}

/* Bytes of a topic or filter; 0 when it is not legal: empty, too long, or a name with wildcards. */
static uint32_t topic_length(const char *topic, bool wildcards)
{
    uint32_t bytes = 0;
    while (topic != NULL && topic[bytes] != '\0') {
        if (bytes == MAX_TOPIC_BYTES || (!wildcards && (topic[bytes] == '#' || topic[bytes] == '+'))) {
            return 0;
        }
        bytes++;
    }
    return bytes;
}

static void encode_connect(fleet_mqtt_t *mqtt, const char *client_id, uint32_t id_bytes)
{
    /* Protocol name, level 3.1.1; clean session, no will, no user name: TLS has said who we are. */
    static const uint8_t head[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 0x02};
    uint8_t *out = put_header(mqtt->tx, PACKET_CONNECT, CONNECT_FIXED_BYTES - 2U + id_bytes);
    memcpy(out, head, sizeof head);
    out = put_u16(out + sizeof head, mqtt->keep_alive_s);
    out = put_text(out, client_id, id_bytes);
    mqtt->connect_bytes = (uint16_t)(out - mqtt->tx);
}

fleet_status_t fleet_mqtt_init(fleet_mqtt_t *mqtt, const fleet_mqtt_config_t *config)
{
    if (mqtt == NULL || config == NULL || config->client_id == NULL || config->rx == NULL || config->tx == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    size_t id_bytes = strlen(config->client_id);
    if (id_bytes == 0U || id_bytes > MAX_CLIENT_ID_BYTES) {
        return FLEET_ERR_ARGUMENT;
    }
    if (config->rx_bytes < 4U || config->tx_bytes < FLEET_MQTT_TX_BYTES((uint32_t)id_bytes, 0U)) {
        return FLEET_ERR_SIZE;
    }
    memset(mqtt, 0, sizeof *mqtt);
    mqtt->rx = config->rx;
    mqtt->rx_bytes = config->rx_bytes;
    mqtt->tx = config->tx;
    mqtt->tx_bytes = config->tx_bytes;
    mqtt->keep_alive_s = config->keep_alive_s;
    mqtt->answer_timeout_ms = config->answer_timeout_ms != 0U ? config->answer_timeout_ms : DEFAULT_ANSWER_TIMEOUT_MS;
    encode_connect(mqtt, config->client_id, (uint32_t)id_bytes);
    return FLEET_OK;
}

/* Keeps the QoS 1 publishes; those that may have reached the broker carry DUP from now on (section 3.3.1.1). */
static void rewind_queue(fleet_mqtt_t *mqtt)
{
    uint32_t at = 0;
    uint32_t seen = mqtt->cursor + (mqtt->partial > 0U ? 1U : 0U);
    uint32_t original = 0;
    while (at < mqtt->queue_bytes) {
        uint8_t *packet = queue_start(mqtt) + at;
        uint32_t bytes = packet_size(packet);
        if (!is_qos1_publish(packet)) {
            remove_packet(mqtt, packet, bytes);
        } else {
            packet[0] |= (uint8_t)(original < seen ? FLAG_DUP : 0);
            at += bytes;
        }
        original += bytes;
    }
}

void fleet_mqtt_end(fleet_mqtt_t *mqtt)
{
    if (mqtt->phase == PHASE_CONNECTED || mqtt->phase == PHASE_CLOSING) {
        rewind_queue(mqtt); /* in the other phases `partial` counts CONNECT's bytes and the queue was not touched */
    }
    mqtt->phase = PHASE_IDLE;
    mqtt->failure = FLEET_OK;
    mqtt->cursor = 0;
    mqtt->partial = 0;
    mqtt->ping_waiting = false;
    fleet_mqtt_next_packet(mqtt);
}

void fleet_mqtt_begin(fleet_mqtt_t *mqtt, uint32_t now_ms)
{
    fleet_mqtt_end(mqtt);
    mqtt->phase = PHASE_CONNECTING;
    mqtt->sent_ms = now_ms;
    mqtt->answer_ms = now_ms;
}

bool fleet_mqtt_connected(const fleet_mqtt_t *mqtt)
{
    return mqtt->phase == PHASE_CONNECTED && mqtt->failure == FLEET_OK;
}

fleet_status_t fleet_mqtt_fail(fleet_mqtt_t *mqtt, fleet_status_t status)
{
    mqtt->failure = status;
    return status;
}

/* PUBLISH: topic, id with QoS 1, payload. SUBSCRIBE and UNSUBSCRIBE: id, filter, the QoS asked for (sections 3.3, 3.8, 3.10). */
static fleet_status_t queue_packet(fleet_mqtt_t *mqtt, uint8_t first, const char *topic, const uint8_t *payload,
                                   uint32_t payload_bytes)
{
    bool publish = (first & TYPE_MASK) == PACKET_PUBLISH;
    bool has_id = !publish || (first & FLEET_MQTT_QOS1) != 0;
    uint32_t topic_bytes = topic_length(topic, !publish);
    if (topic_bytes == 0U || payload_bytes > MAX_REMAINING_LENGTH / 2U) {
        return FLEET_ERR_ARGUMENT;
    }
    if (!publish && !fleet_mqtt_connected(mqtt)) {
        return FLEET_ERR_MQTT_OFFLINE;
    }
    uint32_t remaining = 2U + topic_bytes + (has_id ? 2U : 0U) + payload_bytes;
    uint16_t id = has_id ? next_packet_id(mqtt) : 0U;
    uint8_t *out = append(mqtt, first, remaining, FLEET_MQTT_TX_RESERVE_BYTES);
    if (out == NULL) {
        return FLEET_ERR_MQTT_FULL;
    }
    out = publish ? out : put_u16(out, id);
    out = put_text(out, topic, topic_bytes);
    out = publish && has_id ? put_u16(out, id) : out;
    if (payload_bytes > 0U) {
        memmove(out, payload, payload_bytes); /* it may have been built a few bytes behind: fleet_mqtt_room */
    }
    return FLEET_OK;
}

uint8_t *fleet_mqtt_room(const fleet_mqtt_t *mqtt, const char *topic, uint32_t bytes)
{
    uint32_t head = PUBLISH_HEAD_BYTES + (uint32_t)strlen(topic);
    bool fits = queue_room(mqtt) >= FLEET_MQTT_TX_RESERVE_BYTES + head + bytes;
    return fits ? queue_start(mqtt) + mqtt->queue_bytes + head : NULL;
}

fleet_status_t fleet_mqtt_publish(fleet_mqtt_t *mqtt, const char *topic, const uint8_t *payload, uint32_t payload_bytes,
                                  uint8_t flags)
{
    if (mqtt == NULL || flags > (FLEET_MQTT_QOS1 | FLEET_MQTT_RETAIN) || (payload == NULL && payload_bytes > 0U)) {
        return FLEET_ERR_ARGUMENT;
    }
    return queue_packet(mqtt, (uint8_t)(PACKET_PUBLISH | flags), topic, payload, payload_bytes);
}

fleet_status_t fleet_mqtt_subscribe(fleet_mqtt_t *mqtt, const char *filter, uint8_t qos)
{
    return qos > 1U ? FLEET_ERR_ARGUMENT : queue_packet(mqtt, PACKET_SUBSCRIBE, filter, &qos, 1);
}

fleet_status_t fleet_mqtt_unsubscribe(fleet_mqtt_t *mqtt, const char *filter)
{
    return queue_packet(mqtt, PACKET_UNSUBSCRIBE, filter, NULL, 0);
}

fleet_status_t fleet_mqtt_queue_puback(fleet_mqtt_t *mqtt, uint16_t packet_id)
{
    uint8_t *out = append(mqtt, PACKET_PUBACK, 2, 0);
    if (out == NULL) {
        return FLEET_ERR_MQTT_FULL;
    }
    (void)put_u16(out, packet_id);
    return FLEET_OK;
}

fleet_status_t fleet_mqtt_disconnect(fleet_mqtt_t *mqtt)
{
    if (!fleet_mqtt_connected(mqtt)) {
        return FLEET_ERR_MQTT_OFFLINE;
    }
    if (append(mqtt, PACKET_DISCONNECT, 0, 0) == NULL) {
        return FLEET_ERR_MQTT_FULL;
    }
    mqtt->phase = PHASE_CLOSING;
    return FLEET_OK;
}

uint32_t fleet_mqtt_queued_bytes(const fleet_mqtt_t *mqtt)
{
    return mqtt->queue_bytes;
}

bool fleet_mqtt_drop_delivered(fleet_mqtt_t *mqtt, uint16_t packet_id)
{
    uint8_t *packet = find_publish(mqtt, packet_id, mqtt->cursor);
    if (packet == NULL) {
        return false;
    }
    uint32_t bytes = packet_size(packet);
    remove_packet(mqtt, packet, bytes);
    mqtt->cursor -= bytes;
    return true;
}

uint32_t fleet_mqtt_output(const fleet_mqtt_t *mqtt, const uint8_t **data)
{
    if (mqtt->failure != FLEET_OK || mqtt->phase == PHASE_IDLE) {
        return 0;
    }
    if (mqtt->phase == PHASE_CONNECTING) {
        *data = mqtt->tx + mqtt->partial;
        return mqtt->connect_bytes - mqtt->partial;
    }
    *data = queue_start(mqtt) + mqtt->cursor + mqtt->partial;
    return mqtt->queue_bytes - mqtt->cursor - mqtt->partial;
}

/* Moves the cursor over wholly sent packets: QoS 1 publishes stay, the others go. */
static void retire_sent(fleet_mqtt_t *mqtt, uint32_t now_ms)
{
    while (mqtt->cursor < mqtt->queue_bytes) {
        uint8_t *packet = queue_start(mqtt) + mqtt->cursor;
        uint32_t bytes = packet_size(packet);
        if (mqtt->partial < bytes) {
            return;
        }
        mqtt->partial -= bytes;
        if (!is_qos1_publish(packet)) {
            remove_packet(mqtt, packet, bytes);
            continue;
        }
        if (mqtt->cursor == 0U) {
            mqtt->answer_ms = now_ms; /* the first one to wait for */
        }
        mqtt->cursor += bytes;
    }
}

void fleet_mqtt_sent(fleet_mqtt_t *mqtt, uint32_t bytes, uint32_t now_ms)
{
    if (bytes == 0U) {
        return;
    }
    mqtt->sent_ms = now_ms;
    mqtt->partial += bytes;
    if (mqtt->phase != PHASE_CONNECTING) {
        retire_sent(mqtt, now_ms);
    }
}

FLEET_APART static uint32_t left_of(uint32_t period_ms, uint32_t elapsed_ms)
{
    return elapsed_ms < period_ms ? period_ms - elapsed_ms : 0U;
}

static bool answer_is_due(const fleet_mqtt_t *mqtt)
{
    return mqtt->phase == PHASE_CONNECTING || (mqtt->phase == PHASE_CONNECTED && (mqtt->cursor > 0U || mqtt->ping_waiting));
}

/* How long until something is to be done: a ping (`*ping`), or to give up waiting for an answer; UINT32_MAX = never. */
static uint32_t wait_of(const fleet_mqtt_t *mqtt, uint32_t now_ms, bool *ping)
{
    uint32_t wait = UINT32_MAX;
    *ping = false;
    if (mqtt->failure != FLEET_OK) {
        return wait;
    }
    if (answer_is_due(mqtt)) {
        wait = left_of(mqtt->answer_timeout_ms, now_ms - mqtt->answer_ms);
    }
    if (mqtt->phase == PHASE_CONNECTED && mqtt->keep_alive_s > 0U && !mqtt->ping_waiting) {
        uint32_t until_ping = left_of(mqtt->keep_alive_s * 750U, now_ms - mqtt->sent_ms); /* 3/4 of the interval */
        *ping = until_ping < wait;
        wait = *ping ? until_ping : wait;
    }
    return wait;
}

static void queue_ping(fleet_mqtt_t *mqtt, uint32_t now_ms)
{
    if (append(mqtt, PACKET_PINGREQ, 0, 0) == NULL) {
        mqtt->sent_ms = now_ms; /* output is waiting, which serves as well: look again an interval later */
        return;
    }
    if (!answer_is_due(mqtt)) {
        mqtt->answer_ms = now_ms;
    }
    mqtt->ping_waiting = true;
}

fleet_status_t fleet_mqtt_poll(fleet_mqtt_t *mqtt, uint32_t now_ms)
{
    bool ping;
    while (wait_of(mqtt, now_ms, &ping) == 0U) {
        if (!ping) {
            return fleet_mqtt_fail(mqtt, FLEET_ERR_MQTT_TIMEOUT);
        }
        queue_ping(mqtt, now_ms);
    }
    return (fleet_status_t)mqtt->failure;
}

uint32_t fleet_mqtt_wait_ms(const fleet_mqtt_t *mqtt, uint32_t now_ms)
{
    bool ping;
    return wait_of(mqtt, now_ms, &ping);
}
