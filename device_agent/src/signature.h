/* Signatures as the three kinds of signed message carry them: algorithm, key id, 64 bytes (ota/SPEC.md section 2). */
#ifndef FLEET_SIGNATURE_H
#define FLEET_SIGNATURE_H

#include "cbor.h"
#include "fleet_agent.h"

#define FLEET_SIGNATURE_BYTES 64U

/** As it lies in a message. */
typedef struct {
    const uint8_t *bytes; /* FLEET_SIGNATURE_BYTES */
    const uint8_t *kid;
    uint8_t algorithm; /* as on the wire: 0x27 EdDSA, 0x26 ES256 */
} fleet_signature_t;

/** What a signature covers: the payload with its byte string head. */
typedef struct {
    const uint8_t *data;
    uint32_t bytes;
} fleet_signed_t;

/** COSE's contexts: one signature on the message, or one of several. */
typedef enum { FLEET_SIGN1, FLEET_SIGN } fleet_signature_context_t;

/** What is signed is the payload behind so many bytes. */
#define FLEET_SIGNED_HEAD_BYTES 27U

/** One of the two algorithms we know. */
bool fleet_algorithm_is_known(uint8_t algorithm);

/** Reads algorithm and key id of a protected header, from its byte string on; any other algorithm makes `in` bad. */
void fleet_signature_read_header(fleet_cbor_t *in, fleet_signature_t *signature);

/** Reads the signature itself: a byte string. */
void fleet_signature_read_bytes(fleet_cbor_t *in, fleet_signature_t *signature);

/** Whether the signature over `message` holds; false for a null key, or one of the other algorithm. */
bool fleet_signature_holds(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           const uint8_t *message, size_t bytes);

/**
 * The same over a payload in COSE's frame.
 * @param scratch FLEET_SIGNED_HEAD_BYTES more than the payload, overwritten; the payload may lie in it, and the key id where it is to be: so
 *                it does in messages of one signature, whose payload stays where it is
 */
bool fleet_signature_valid(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           fleet_signature_context_t context, fleet_signed_t payload, uint8_t *scratch);

/** Whether a key may stand in a root: an Ed25519 key of large order, or a compressed P-256 point by its form. */
bool fleet_key_is_strict(const uint8_t *key, uint32_t bytes);

typedef struct {
    const void *data;
    size_t bytes;
} fleet_piece_t;

/** SHA-256 of pieces one after the other. */
void fleet_sha256_pieces(const fleet_crypto_t *crypto, const fleet_piece_t *pieces, size_t count, uint8_t digest[32]);

/** SHA-256 of some bytes in one go. */
void fleet_sha256(const fleet_crypto_t *crypto, const void *data, size_t bytes, uint8_t digest[32]);

#endif
