#include "link.h"

#include <string.h>

#include "cbor.h"
#include "command.h"
#include "compact.h"
#include "download.h"
#include "events.h"
#include "follow.h"
#include "ids.h"
#include "telemetry.h"
#include "topics.h"

/* Packets handled in one step at most, so that a flood cannot hold it. */
enum { PACKETS_PER_STEP = 256 };

typedef char fleet_queue_holds_a_payload
    [FLEET_TX_BYTES >= FLEET_MQTT_TX_BYTES(FLEET_DEVICE_ID_MAX, 9U + FLEET_TOPIC_TELEMETRY_SIZE + FLEET_MESSAGE_BYTES) ? 1 : -1];

typedef enum { LINK_DOWN = 0, LINK_CONNECTING, LINK_UP } link_state_t;

fleet_status_t fleet_link_init(fleet_agent_t *agent) {
    fleet_mqtt_config_t config;
    memset(&config, 0, sizeof config);
    config.client_id = agent->config.device;
    config.rx = agent->rx;
    config.rx_bytes = sizeof agent->rx;
    config.tx = agent->tx;
    config.tx_bytes = sizeof agent->tx;
    config.keep_alive_s = FLEET_KEEP_ALIVE_S;
    agent->retry_delay_ms = FLEET_RECONNECT_MIN_MS;
    return fleet_mqtt_init(&agent->mqtt, &config);
}

/* ---- up and down ---- */

uint32_t fleet_random_below(const fleet_agent_t *agent, uint32_t bound) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    uint32_t word = UINT32_MAX;
    (void)crypto->random(crypto->ctx, &word, sizeof word);
    return (uint32_t)((uint64_t)word * bound >> 32);
}

uint32_t fleet_wait_ms(const fleet_agent_t *agent, uint32_t due_ms) {
    const int32_t wait_ms = (int32_t)(due_ms - agent->now_ms);
    return wait_ms > 0 ? (uint32_t)wait_ms : 0U;
}

/* Decorrelated jitter: uniform between the minimum and three times the last delay, capped. */
static uint32_t next_delay_ms(fleet_agent_t *agent) {
    const uint32_t span = 3U * agent->retry_delay_ms - FLEET_RECONNECT_MIN_MS;
    const uint32_t delay = FLEET_RECONNECT_MIN_MS + fleet_random_below(agent, span + 1U);
    agent->retry_delay_ms = delay < FLEET_RECONNECT_MAX_MS ? delay : FLEET_RECONNECT_MAX_MS;
    return agent->retry_delay_ms;
}

static void go_down(fleet_agent_t *agent) {
    agent->config.transport->close(agent->config.transport->ctx);
    fleet_mqtt_end(&agent->mqtt);
    agent->link = LINK_DOWN;
    agent->link_due_ms = agent->now_ms + next_delay_ms(agent);
    agent->input_bytes = 0;
    agent->input_used = 0;
    agent->subscribed = 0;
    agent->acknowledge_owed = false;
    fleet_download_online(agent);
}

static void try_connect(fleet_agent_t *agent) {
    const int status = agent->config.transport->connect(agent->config.transport->ctx);
    if (status == FLEET_OK) {
        agent->link = LINK_UP;
        fleet_mqtt_begin(&agent->mqtt, agent->now_ms);
    } else if (status < 0 || fleet_wait_ms(agent, agent->link_due_ms) == 0) {
        go_down(agent);
    }
}

/* ---- what comes in ---- */

/* In the order of their subscriptions: the root before `desired`, so that keys are known when it comes. */
typedef enum { OWN_ROOT, OWN_DESIRED, OWN_COMMAND, OWN_TOPICS = OWN_COMMAND + FLEET_WITH_COMMANDS } own_topic_t;

FLEET_APART static void write_own_topic(const fleet_agent_t *agent, uint32_t own, char topic[FLEET_TOPIC_BYTES]) {
    static const char *const formats[] = {FLEET_TOPIC_ROOT, FLEET_TOPIC_DESIRED, FLEET_TOPIC_COMMAND};
    const uint32_t next_root = agent->root.number + 1U;
    fleet_topic(topic, formats[own], agent->config.device, &next_root);
}

/* Which of our own topics the message came on, OWN_TOPICS for none. */
static uint32_t own_topic_of(const fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    char topic[FLEET_TOPIC_BYTES];
    uint32_t own = 0;
    for (; own < OWN_TOPICS; own++) {
        write_own_topic(agent, own, topic);
        if (fleet_text_is(message->topic, message->topic_bytes, topic)) {
            break;
        }
    }
    return own;
}

/* FLEET_ERR_FLASH: an assignment could not be kept. It is retained and comes again with the next connection, when delays have passed. */
static fleet_status_t on_message(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    const uint32_t own = own_topic_of(agent, message);
    if (own == OWN_TOPICS) {
        fleet_download_message(agent, message);
    } else if (own == OWN_DESIRED) {
        return fleet_follow_desired(agent, message) ? FLEET_OK : FLEET_ERR_FLASH;
    } else if (FLEET_WITH_COMMANDS && own == OWN_COMMAND) {
        fleet_command(agent, message);
    } else if (fleet_follow_root(agent, message)) {
        agent->subscribed = 0; /* to the next one; what was refused under the old root comes again */
    }
    return FLEET_OK;
}

static fleet_status_t on_event(fleet_agent_t *agent, const fleet_mqtt_event_t *event) {
    switch (event->kind) {
        case FLEET_MQTT_CONNECTED:
            agent->met_broker = true;
            agent->state_dirty = true;
            fleet_download_online(agent);
            break;
        case FLEET_MQTT_MESSAGE:
        case FLEET_MQTT_OVERSIZE: return on_message(agent, event);
        case FLEET_MQTT_SUBSCRIBED: return event->code < FLEET_MQTT_SUBACK_REFUSED ? FLEET_OK : FLEET_ERR_MQTT_REFUSED;
        default: break;
    }
    return FLEET_OK;
}

/* More bytes from the transport, once the last ones are used. @return false when the link broke */
static bool refill(fleet_agent_t *agent) {
    if (agent->input_used < agent->input_bytes) {
        return true;
    }
    const int32_t got = agent->config.transport->recv(agent->config.transport->ctx, agent->input, sizeof agent->input);
    agent->input_used = 0;
    agent->input_bytes = (uint16_t)(got > 0 ? got : 0);
    return got >= 0;
}

/* One packet at most. @return FLEET_OK, FLEET_ERR_MQTT_FULL (later), or the link's error */
static fleet_status_t read_packet(fleet_agent_t *agent) {
    fleet_mqtt_event_t event;
    uint32_t used = 0;
    const fleet_status_t status = fleet_mqtt_input(&agent->mqtt, agent->input + agent->input_used,
                                                   (uint32_t)(agent->input_bytes - agent->input_used), agent->now_ms, &used, &event);
    agent->input_used = (uint16_t)(agent->input_used + used);
    return status == FLEET_OK ? on_event(agent, &event) : status;
}

static bool read_input(fleet_agent_t *agent) {
    for (uint32_t packets = 0; packets < PACKETS_PER_STEP && !fleet_download_holds_input(agent); packets++) {
        if (!refill(agent)) {
            return false;
        }
        if (agent->input_bytes == 0 && !agent->acknowledge_owed) {
            return true;
        }
        const fleet_status_t status = read_packet(agent);
        agent->acknowledge_owed = status == FLEET_ERR_MQTT_FULL;
        if (agent->acknowledge_owed) {
            return true;
        }
        if (status != FLEET_OK) {
            return false;
        }
    }
    return true;
}

/* ---- what goes out ---- */

static void subscribe_own(fleet_agent_t *agent) {
    char topic[FLEET_TOPIC_BYTES];
    for (; agent->subscribed < OWN_TOPICS; agent->subscribed++) {
        write_own_topic(agent, agent->subscribed, topic);
        if (fleet_mqtt_subscribe(&agent->mqtt, topic, 1) != FLEET_OK) {
            return;
        }
    }
}

typedef uint32_t (*encode_t)(fleet_agent_t *agent, fleet_cbor_out_t *out);

/* Payloads are built where they are sent from. False: not now, the queue has no room for the largest one. */
static bool publish(fleet_agent_t *agent, const char *format, encode_t encode, uint32_t bytes_max, uint8_t flags) {
    char topic[FLEET_TOPIC_BYTES];
    fleet_topic(topic, format, agent->config.device, NULL);
    uint8_t *payload = fleet_mqtt_room(&agent->mqtt, topic, bytes_max);
    fleet_cbor_out_t out = fleet_cbor_writer(payload, bytes_max);
    if (payload == NULL) {
        return false;
    }
    const uint32_t bytes = encode(agent, &out);
    return bytes > 0 && fleet_mqtt_publish(&agent->mqtt, topic, payload, bytes, flags) == FLEET_OK;
}

/* State last: when it is seen the events that led to it are on their way. */
static void publish_due(fleet_agent_t *agent) {
    enum { EVENT_BYTES = 112 }; /* every member at its longest */
    while (agent->event_count > 0 && publish(agent, FLEET_TOPIC_EVENT, fleet_event_encode, EVENT_BYTES, FLEET_MQTT_QOS1)) {
        fleet_event_drop(agent);
    }
    if (agent->telemetry_due && publish(agent, FLEET_TOPIC_TELEMETRY, fleet_telemetry_encode, FLEET_MESSAGE_BYTES, FLEET_MQTT_QOS1)) {
        agent->telemetry_due = false;
        agent->report++;
    }
    if (agent->state_dirty && agent->event_count == 0 &&
        publish(agent, FLEET_TOPIC_STATE, fleet_state_encode, FLEET_MESSAGE_BYTES, FLEET_MQTT_QOS1 | FLEET_MQTT_RETAIN)) {
        agent->state_dirty = false;
    }
}

static bool send_output(fleet_agent_t *agent) {
    const uint8_t *data;
    for (uint32_t bytes = fleet_mqtt_output(&agent->mqtt, &data); bytes > 0; bytes = fleet_mqtt_output(&agent->mqtt, &data)) {
        const int32_t sent = agent->config.transport->send(agent->config.transport->ctx, data, bytes);
        if (sent <= 0) {
            return sent == 0;
        }
        fleet_mqtt_sent(&agent->mqtt, (uint32_t)sent, agent->now_ms);
    }
    return true;
}

void fleet_link_flush(fleet_agent_t *agent) {
    if (agent->link != LINK_UP) {
        return;
    }
    if (fleet_mqtt_connected(&agent->mqtt)) {
        subscribe_own(agent);
        publish_due(agent);
    }
    if (!send_output(agent)) {
        go_down(agent);
    }
}

uint32_t fleet_link_step(fleet_agent_t *agent) {
    enum { CONNECT_POLL_MS = 20 };
    if (agent->link == LINK_DOWN && fleet_wait_ms(agent, agent->link_due_ms) == 0 && !agent->stopping) {
        agent->link = LINK_CONNECTING;
        agent->link_due_ms = agent->now_ms + FLEET_CONNECT_TIMEOUT_MS;
    }
    if (agent->link == LINK_CONNECTING) {
        try_connect(agent);
    }
    if (agent->link == LINK_UP && fleet_wait_ms(agent, agent->link_due_ms) == 0) {
        agent->retry_delay_ms = FLEET_RECONNECT_MIN_MS; /* it holds: where all end at once, handshakes get rare */
    }
    if (agent->link == LINK_UP && (!read_input(agent) || fleet_mqtt_poll(&agent->mqtt, agent->now_ms) != FLEET_OK)) {
        go_down(agent);
    }
    switch (agent->link) {
        case LINK_UP: return agent->input_used < agent->input_bytes ? 0U : FLEET_IDLE_MS;
        case LINK_CONNECTING: return CONNECT_POLL_MS;
        default: return fleet_wait_ms(agent, agent->link_due_ms);
    }
}

bool fleet_link_end(fleet_agent_t *agent) {
    if (agent->link == LINK_UP && fleet_mqtt_connected(&agent->mqtt) && fleet_mqtt_queued_bytes(&agent->mqtt) == 0) {
        (void)fleet_mqtt_disconnect(&agent->mqtt);
        (void)send_output(agent);
        go_down(agent);
    } else if (agent->link == LINK_CONNECTING) {
        go_down(agent);
    }
    return agent->link == LINK_DOWN;
}
