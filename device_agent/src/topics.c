#include "topics.h"

#include <string.h>

/* A formatter for the three conversions our topics use (%s, %lu), since printf costs kilobytes of flash. */
typedef struct {
    const char *text;
    uint32_t numbers[2];
} arguments_t;

static uint32_t put_number(char *to, uint32_t value) {
    char digits[10];
    uint32_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10U);
        value /= 10U;
    } while (value > 0);
    for (uint32_t i = 0; i < count; i++) {
        to[i] = digits[count - 1U - i];
    }
    return count;
}

/* The longest result fits: texts are bounded by their makers, FLEET_TOPIC_*_SIZE counts them. */
static void format_topic(char topic[FLEET_TOPIC_BYTES], const char *format, const arguments_t *arguments) {
    uint32_t used = 0;
    uint32_t number = 0;
    for (const char *at = format; *at != 0; at++) {
        if (at[0] == '%' && at[1] == 's') {
            const uint32_t bytes = (uint32_t)strlen(arguments->text);
            memcpy(topic + used, arguments->text, bytes);
            used += bytes;
            at += 1;
        } else if (at[0] == '%' && at[1] == 'l' && at[2] == 'u') {
            used += put_number(topic + used, arguments->numbers[number++]);
            at += 2;
        } else {
            topic[used++] = *at;
        }
    }
    topic[used] = 0;
}

/* base64url without padding. */
static void id_text(const uint8_t id[16], char text[FLEET_ID_TEXT_LENGTH + 1]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (uint32_t i = 0; i < FLEET_ID_TEXT_LENGTH; i++) {
        const uint32_t bit = 6U * i;
        const uint32_t high = id[bit / 8U];
        const uint32_t low = bit / 8U + 1U < 16U ? id[bit / 8U + 1U] : 0U;
        const uint32_t pair = (high << 8) | low;
        text[i] = alphabet[(pair >> (10U - bit % 8U)) & 63U];
    }
    text[FLEET_ID_TEXT_LENGTH] = 0;
}

void fleet_topic_device(char topic[FLEET_TOPIC_BYTES], const char *format, const char *device) {
    const arguments_t arguments = {device, {0, 0}};
    format_topic(topic, format, &arguments);
}

void fleet_topic_manifest(char topic[FLEET_TOPIC_BYTES], const uint8_t id[16]) {
    char text[FLEET_ID_TEXT_LENGTH + 1];
    id_text(id, text);
    const arguments_t arguments = {text, {0, 0}};
    format_topic(topic, FLEET_TOPIC_MANIFEST, &arguments);
}

void fleet_topic_chunk(char topic[FLEET_TOPIC_BYTES], const uint8_t id[16], uint32_t chunk_bytes, uint32_t number) {
    char text[FLEET_ID_TEXT_LENGTH + 1];
    id_text(id, text);
    const arguments_t arguments = {text, {chunk_bytes, number}};
    format_topic(topic, FLEET_TOPIC_CHUNK, &arguments);
}

void fleet_topic_root(char topic[FLEET_TOPIC_BYTES], uint32_t number) {
    const arguments_t arguments = {NULL, {number, 0}};
    format_topic(topic, FLEET_TOPIC_ROOT, &arguments);
}

bool fleet_topic_is(const fleet_mqtt_event_t *message, const char *topic) {
    return message->topic_bytes == strlen(topic) && memcmp(message->topic, topic, message->topic_bytes) == 0;
}
