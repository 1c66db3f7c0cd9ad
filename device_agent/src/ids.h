/* Ids, digests and texts, copied and compared by calls: GCC would write each out as a loop of its own. */
#ifndef FLEET_IDS_H
#define FLEET_IDS_H

#include <stdbool.h>
#include <stdint.h>

/** FLEET_ID_BYTES, also of the head of a digest. */
void fleet_id_copy(uint8_t *to, const uint8_t *from);
bool fleet_id_same(const uint8_t *a, const uint8_t *b);

/** FLEET_DIGEST_BYTES. */
void fleet_digest_copy(uint8_t *to, const uint8_t *from);
bool fleet_digest_same(const uint8_t *a, const uint8_t *b);

/** Whether `bytes` bytes are `text`, which is zero-terminated and not empty. */
bool fleet_text_is(const void *data, uint32_t bytes, const char *text);

#endif
