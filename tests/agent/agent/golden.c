/* The agent's readers on single messages, on the device that tests/golden/ota/messages.json describes. */
#include <stdlib.h>
#include <string.h>

#include "assignment.h"
#include "fleet_posix.h"
#include "manifest.h"
#include "roots.h"

int golden_release(const char *device_class, const uint8_t *release_key, uint32_t floor, const uint8_t *digest, const uint8_t *data,
                   uint32_t bytes);
int golden_assignment(const char *device, const uint8_t *director_key, uint64_t epoch, uint64_t sequence, const uint8_t *nonces,
                      const uint8_t *data, uint32_t bytes);
int golden_root(const uint8_t *previous, uint32_t previous_bytes, const uint8_t *data, uint32_t bytes);

static void add_key(const fleet_crypto_t *crypto, fleet_key_set_t *set, const uint8_t *key) {
    uint8_t digest[32];
    fleet_sha256(crypto, key, 32, digest);
    memcpy(set->keys[0], key, 32);
    memcpy(set->kids[0], digest, FLEET_KID_BYTES);
    set->count = 1;
}

/* An exact copy, so that a byte too far is a sanitizer report. */
static uint8_t *exact(const uint8_t *data, uint32_t bytes) {
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, bytes);
    return copy;
}

int golden_release(const char *device_class, const uint8_t *release_key, uint32_t floor, const uint8_t *digest, const uint8_t *data,
                   uint32_t bytes) {
    fleet_posix_crypto_t state;
    memset(&state, 0, sizeof state);
    const fleet_crypto_t crypto = fleet_posix_crypto_port(&state);
    fleet_agent_t *agent = calloc(1, sizeof *agent);
    uint8_t *copy = exact(data, bytes);
    fleet_release_t release;
    agent->config.crypto = &crypto;
    agent->config.components = 1;
    agent->slot_bytes = UINT32_MAX;
    agent->components[0].record.floor = floor;
    fleet_manifest_class_id(&crypto, device_class, agent->class_id);
    add_key(&crypto, &agent->root.release_keys, release_key);
    const fleet_reason_t reason = fleet_manifest_read(agent, 0, digest, copy, bytes, agent->message, &release);
    free(copy);
    free(agent);
    return (int)reason;
}

int golden_assignment(const char *device, const uint8_t *director_key, uint64_t epoch, uint64_t sequence, const uint8_t *nonces,
                      const uint8_t *data, uint32_t bytes) {
    fleet_posix_crypto_t state;
    memset(&state, 0, sizeof state);
    const fleet_crypto_t crypto = fleet_posix_crypto_port(&state);
    fleet_agent_t *agent = calloc(1, sizeof *agent);
    uint8_t *copy = exact(data, bytes);
    fleet_assignment_t assignment;
    agent->config.crypto = &crypto;
    agent->config.device = device;
    agent->config.components = 1;
    agent->root.director_epoch = epoch;
    agent->device.epoch = epoch;
    agent->device.sequence = sequence;
    memcpy(agent->device.nonce, nonces, 8);
    memcpy(agent->device.nonce_before, nonces + 8, 8);
    add_key(&crypto, &agent->root.director_keys, director_key);
    const fleet_reason_t reason = fleet_assignment_read(agent, copy, bytes, agent->message, &assignment);
    free(copy);
    free(agent);
    return (int)reason;
}

int golden_root(const uint8_t *previous, uint32_t previous_bytes, const uint8_t *data, uint32_t bytes) {
    fleet_posix_crypto_t state;
    memset(&state, 0, sizeof state);
    const fleet_crypto_t crypto = fleet_posix_crypto_port(&state);
    uint8_t scratch[FLEET_MESSAGE_BYTES];
    fleet_root_t first;
    fleet_root_t root;
    if (previous_bytes > 0 && !fleet_root_accept(&crypto, previous, previous_bytes, NULL, scratch, &first)) {
        return -1;
    }
    uint8_t *copy = exact(data, bytes);
    const bool accepted = fleet_root_accept(&crypto, copy, bytes, previous_bytes > 0 ? &first : NULL, scratch, &root);
    free(copy);
    return accepted ? 1 : 0;
}
