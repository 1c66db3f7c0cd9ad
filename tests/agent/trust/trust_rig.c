/* An agent's trusted state, set by hand, and the three readers of signed messages. */
#include "assignment.h"
#include "fleet_agent.h"
#include "fleet_posix.h"
#include "manifest.h"
#include "roots.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    fleet_agent_t agent;
    fleet_posix_crypto_t crypto_state;
    fleet_crypto_t crypto;
} trust_t;

trust_t *trust_new(const char *device, const char *device_class, uint32_t floor, uint64_t epoch, uint64_t sequence,
                   const uint8_t *nonces);
void trust_free(trust_t *trust);
int trust_root(trust_t *trust, const uint8_t *data, uint32_t bytes, int follows);
int trust_release(trust_t *trust, const uint8_t *digest, const uint8_t *data, uint32_t bytes);
int trust_assignment(trust_t *trust, const uint8_t *data, uint32_t bytes);
int trust_verify(trust_t *trust, const uint8_t *key, uint32_t key_bytes, const uint8_t *message, uint32_t bytes,
                 const uint8_t *signature);

trust_t *trust_new(const char *device, const char *device_class, uint32_t floor, uint64_t epoch, uint64_t sequence,
                   const uint8_t *nonces) {
    trust_t *trust = calloc(1, sizeof *trust);
    if (trust != NULL) {
        fleet_agent_t *agent = &trust->agent;
        fleet_posix_crypto_open(&trust->crypto_state, NULL);
        trust->crypto = fleet_posix_crypto_port(&trust->crypto_state);
        agent->config.crypto = &trust->crypto;
        agent->config.device = device;
        agent->config.device_class = device_class;
        agent->config.components = 1;
        agent->slot_bytes = 1u << 20;
        agent->components[0].record.floor = floor;
        agent->device.followed.epoch = epoch;
        agent->device.followed.sequence = sequence;
        memcpy(agent->device.nonce, nonces, 8);
        memcpy(agent->device.nonce_before, nonces + 8, 8);
    }
    return trust;
}

void trust_free(trust_t *trust) {
    fleet_posix_crypto_close(&trust->crypto_state);
    free(trust);
}

/* Take a root: as the provisioned one, or as successor of the one held (which then stays as it is). */
int trust_root(trust_t *trust, const uint8_t *data, uint32_t bytes, int follows) {
    fleet_root_t root;
    const bool taken =
        fleet_root_accept(&trust->crypto, data, bytes, follows ? &trust->agent.root : NULL, trust->agent.rx, &root);
    if (taken && !follows) {
        trust->agent.root = root;
    }
    return taken;
}

int trust_release(trust_t *trust, const uint8_t *digest, const uint8_t *data, uint32_t bytes) {
    fleet_release_t release;
    fleet_component_t *component = &trust->agent.components[0];
    memcpy(component->entry.manifest, digest, FLEET_DIGEST_BYTES);
    return (int)fleet_manifest_read(&trust->agent, component, data, bytes, &release);
}

int trust_assignment(trust_t *trust, const uint8_t *data, uint32_t bytes) {
    fleet_assignment_t assignment;
    uint8_t *at = trust->agent.rx + FLEET_DIRECTOR_ROOM_BYTES;
    if (bytes > sizeof trust->agent.rx - FLEET_DIRECTOR_ROOM_BYTES) {
        return (int)FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    memcpy(at, data, bytes);
    return (int)fleet_assignment_read(&trust->agent, at, bytes, &assignment);
}

/* As a reader would take it whose message names the key's own algorithm. */
int trust_verify(trust_t *trust, const uint8_t *key, uint32_t key_bytes, const uint8_t *message, uint32_t bytes,
                 const uint8_t *signature) {
    fleet_key_t held = {{0}, (uint8_t)key_bytes, {0}};
    const fleet_signature_t given = {signature, NULL, key_bytes == FLEET_P256_KEY_BYTES ? 0x26 : 0x27};
    memcpy(held.bytes, key, key_bytes);
    return fleet_key_is_strict(key, key_bytes) && fleet_signature_holds(&trust->crypto, &held, &given, message, bytes);
}
