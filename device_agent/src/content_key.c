#include "content_key.h"

#include <string.h>

#include "signature.h"

#if FLEET_WITH_ENCRYPTION

enum { POINT_BYTES = 64, NONCE_BYTES = 12 };

/* One-step key derivation with SHA-256 (NIST SP 800-56C rev. 2 section 4); fixed info is label, point, blob, device. */
static void derive(const fleet_agent_t *agent, const fleet_entry_t *entry, const uint8_t secret[32], uint8_t digest[FLEET_DIGEST_BYTES]) {
    static const uint8_t counter[] = {0, 0, 0, 1};
    static const char label[] = "fleet content key 1";
    const char *device = agent->config.device;
    const fleet_piece_t pieces[] = {{counter, sizeof counter},      {secret, 32},
                                    {label, sizeof label - 1U},     {entry->content_key, POINT_BYTES},
                                    {entry->blob, FLEET_ID_BYTES}, {device, strlen(device)}};
    fleet_sha256_pieces(agent->config.crypto, pieces, sizeof pieces / sizeof *pieces, digest);
}

bool fleet_chunk_open(const fleet_crypto_t *crypto, const uint8_t *key, uint32_t number, uint8_t *chunk, uint32_t bytes) {
    uint8_t nonce[NONCE_BYTES] = {0};
    for (uint32_t i = 0; i < 4; i++) {
        nonce[NONCE_BYTES - 1U - i] = (uint8_t)(number >> (8U * i));
    }
    const uint32_t plain = bytes - FLEET_TAG_BYTES;
    return bytes > FLEET_TAG_BYTES && crypto->aes128_gcm_open(crypto->ctx, key, nonce, chunk, plain, chunk + plain);
}

bool fleet_content_key_open(const fleet_agent_t *agent, const fleet_entry_t *entry, uint8_t key[FLEET_CONTENT_KEY_BYTES]) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    uint8_t secret[32];
    uint8_t wrapping[FLEET_DIGEST_BYTES];
    uint8_t wrapped[FLEET_CONTENT_KEY_BYTES + FLEET_TAG_BYTES];
    if (crypto->p256_agree == NULL || crypto->aes128_gcm_open == NULL ||
        crypto->p256_agree(crypto->ctx, entry->content_key, secret) != FLEET_OK) {
        return false;
    }
    derive(agent, entry, secret, wrapping);
    memcpy(wrapped, entry->content_key + POINT_BYTES, sizeof wrapped);
    if (!fleet_chunk_open(crypto, wrapping, 0, wrapped, sizeof wrapped)) {
        return false;
    }
    memcpy(key, wrapped, FLEET_CONTENT_KEY_BYTES);
    return true;
}

#endif

uint32_t fleet_plain_chunk_bytes(const fleet_entry_t *entry) {
    return fleet_entry_is_encrypted(entry) ? entry->chunk_bytes - FLEET_TAG_BYTES : entry->chunk_bytes;
}

uint32_t fleet_chunk_count(const fleet_entry_t *entry) {
    return (entry->blob_bytes - 1U) / entry->chunk_bytes + 1U; /* no blob is empty */
}

uint32_t fleet_plain_blob_bytes(const fleet_entry_t *entry) {
    const uint32_t rest = entry->blob_bytes % entry->chunk_bytes;
    if (!fleet_entry_is_encrypted(entry)) {
        return entry->blob_bytes;
    }
    return rest == 0 || rest > FLEET_TAG_BYTES ? entry->blob_bytes - fleet_chunk_count(entry) * FLEET_TAG_BYTES : 0;
}
