#include "topics.h"

#include <string.h>

static char *put_text(char *to, const char *text) {
    while (*text != 0) {
        *to++ = *text++;
    }
    return to;
}

static char *put_number(char *to, uint32_t value) {
    uint32_t power = 1;
    while (value / power >= 10U) {
        power *= 10U;
    }
    for (; power > 0; power /= 10U) {
        *to++ = (char)('0' + value / power % 10U);
    }
    return to;
}

/*
 * A formatter for the two conversions our topics use (%s, %lu), since printf costs kilobytes of flash.
 * The longest result fits: texts are bounded by their makers, FLEET_TOPIC_*_SIZE counts them.
 */
void fleet_topic(char topic[FLEET_TOPIC_BYTES], const char *format, const char *text, const uint32_t *numbers) {
    char *to = put_text(topic, FLEET_TOPIC_PREFIX);
    for (const char *at = format; *at != 0; at++) {
        if (*at != '%') {
            *to++ = *at;
        } else if (*++at == 's') {
            to = put_text(to, text);
        } else {
            to = put_number(to, *numbers++);
            at++;
        }
    }
    *to = 0;
}

/* Of base64url. */
static char digit_of(uint32_t six_bits) {
    static const char last[] = "-_";
    if (six_bits >= 62U) {
        return last[six_bits - 62U];
    }
    return (char)(six_bits < 26U ? 'A' + six_bits : six_bits < 52U ? 'a' + six_bits - 26U : '0' + six_bits - 52U);
}

/* base64url without padding. */
static void id_text(const uint8_t id[16], char text[FLEET_ID_TEXT_LENGTH + 1]) {
    for (uint32_t i = 0; i < FLEET_ID_TEXT_LENGTH; i++) {
        const uint32_t bit = 6U * i;
        const uint32_t high = id[bit / 8U];
        const uint32_t low = bit / 8U + 1U < 16U ? id[bit / 8U + 1U] : 0U;
        const uint32_t pair = (high << 8) | low;
        text[i] = digit_of((pair >> (10U - bit % 8U)) & 63U);
    }
    text[FLEET_ID_TEXT_LENGTH] = 0;
}

void fleet_topic_of_id(char topic[FLEET_TOPIC_BYTES], const char *format, const uint8_t id[16], const uint32_t *numbers) {
    char text[FLEET_ID_TEXT_LENGTH + 1];
    id_text(id, text);
    fleet_topic(topic, format, text, numbers);
}
