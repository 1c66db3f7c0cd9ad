#include "ids.h"

#include <string.h>

#include "compact.h"
#include "fleet_agent.h"

FLEET_APART static bool is_same(const uint8_t *a, const uint8_t *b, uint32_t bytes) {
    return memcmp(a, b, bytes) == 0;
}

void fleet_id_copy(uint8_t *to, const uint8_t *from) {
    memmove(to, from, FLEET_ID_BYTES);
}

void fleet_digest_copy(uint8_t *to, const uint8_t *from) {
    memmove(to, from, FLEET_DIGEST_BYTES);
}

bool fleet_id_same(const uint8_t *a, const uint8_t *b) {
    return is_same(a, b, FLEET_ID_BYTES);
}

bool fleet_digest_same(const uint8_t *a, const uint8_t *b) {
    return is_same(a, b, FLEET_DIGEST_BYTES);
}

bool fleet_text_is(const void *data, uint32_t bytes, const char *text) {
    return bytes == strlen(text) && memcmp(data, text, bytes) == 0;
}
