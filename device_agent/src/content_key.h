/* Encrypted blobs: a content key wrapped for this device, chunks that are opened one by one in place. ota/SPEC.md section 8. */
#ifndef FLEET_CONTENT_KEY_H
#define FLEET_CONTENT_KEY_H

#include "fleet_agent.h"

/** Unwraps the entry's content key with the device's own key. False: wrapped for another, or the port cannot. */
bool fleet_content_key_open(const fleet_agent_t *agent, const fleet_entry_t *entry, uint8_t key[FLEET_CONTENT_KEY_BYTES]);

/** Decrypts chunk `number` in place; its last FLEET_TAG_BYTES are the tag. False: not of this key and place. */
bool fleet_chunk_open(const fleet_crypto_t *crypto, const uint8_t *key, uint32_t number, uint8_t *chunk, uint32_t bytes);

/** Chunks of a blob, which is never empty. */
uint32_t fleet_chunk_count(const fleet_entry_t *entry);

/** Plain bytes of a blob, of a chunk and in a whole chunk, as the entry says; equal to the stored ones when nothing is encrypted. */
uint32_t fleet_plain_blob_bytes(const fleet_entry_t *entry);
uint32_t fleet_plain_chunk_bytes(const fleet_entry_t *entry);

#endif
