/* Signatures as the three kinds of signed message carry them: algorithm, key id, 64 bytes (ota/SPEC.md section 2). */
#ifndef FLEET_SIGNATURE_H
#define FLEET_SIGNATURE_H

#include "cbor.h"
#include "fleet_agent.h"

#define FLEET_SIGNATURE_BYTES 64U

/** Pointers reach into the message. */
typedef struct {
    const uint8_t *bytes;
    const uint8_t *kid;
    uint8_t algorithm; /* as on the wire: 0x27 EdDSA, 0x26 ES256 */
} fleet_signature_t;

/** Reads algorithm and key id of a protected header, from behind its `a2 01`; any other algorithm makes `in` bad. */
void fleet_signature_read_header(fleet_cbor_t *in, fleet_signature_t *signature);

/** Writes what fleet_signature_read_header reads. */
void fleet_signature_put_header(fleet_cbor_out_t *out, const fleet_signature_t *signature);

/** Whether the signature over `message` holds; false for a null key, or one of the other algorithm. */
bool fleet_signature_valid(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           const uint8_t *message, size_t bytes);

/** Whether a key may stand in a root: an Ed25519 key of large order, or a compressed P-256 point by its form. */
bool fleet_key_is_strict(const uint8_t *key, uint32_t bytes);

/** SHA-256 of some bytes in one go. */
void fleet_sha256(const fleet_crypto_t *crypto, const void *data, size_t bytes, uint8_t digest[32]);

#endif
