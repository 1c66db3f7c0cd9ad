#include "signature.h"

#include <string.h>

#include "fleet_ed25519.h"

enum { EDDSA = 0x27, ES256 = 0x26 };

static const uint8_t HEADER[] = {0x4d, 0xa2, 0x01};
static const uint8_t KID[] = FLEET_SUIT_KID;

void fleet_sha256_pieces(const fleet_crypto_t *crypto, const fleet_piece_t *pieces, size_t count, uint8_t digest[32]) {
    fleet_sha256_t state;
    crypto->sha256_init(crypto->ctx, &state);
    for (size_t i = 0; i < count; i++) {
        crypto->sha256_update(crypto->ctx, &state, pieces[i].data, pieces[i].bytes);
    }
    crypto->sha256_final(crypto->ctx, &state, digest);
}

void fleet_sha256(const fleet_crypto_t *crypto, const void *data, size_t bytes, uint8_t digest[32]) {
    const fleet_piece_t piece = {data, bytes};
    fleet_sha256_pieces(crypto, &piece, 1, digest);
}

bool fleet_algorithm_is_known(uint8_t algorithm) {
    return algorithm == EDDSA || algorithm == ES256;
}

void fleet_signature_read_header(fleet_cbor_t *in, fleet_signature_t *signature) {
    fleet_cbor_expect(in, HEADER, sizeof HEADER);
    const uint8_t *algorithm = fleet_cbor_raw(in, 1);
    fleet_cbor_expect(in, KID, sizeof KID);
    signature->kid = fleet_cbor_raw(in, FLEET_KID_BYTES);
    if (signature->kid != NULL) {
        signature->algorithm = *algorithm;
        fleet_cbor_require(in, fleet_algorithm_is_known(*algorithm));
    }
}

void fleet_signature_read_bytes(fleet_cbor_t *in, fleet_signature_t *signature) {
    signature->bytes = fleet_cbor_fixed(in, FLEET_SIGNATURE_BYTES);
}

bool fleet_signature_holds(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           const uint8_t *message, size_t bytes) {
    if (key == NULL || signature->algorithm != (key->count == FLEET_ED25519_KEY_BYTES ? EDDSA : ES256)) {
        return false;
    }
    if (signature->algorithm == EDDSA) {
        return crypto->ed25519_verify(crypto->ctx, key->bytes, message, bytes, signature->bytes);
    }
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256(crypto, message, bytes, digest);
    return crypto->p256_verify != NULL && crypto->p256_verify(crypto->ctx, key->bytes, digest, signature->bytes);
}

/* Sig_structure of RFC 9052 section 4.4: context, protected headers, no external data, payload. */
bool fleet_signature_valid(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           fleet_signature_context_t context, fleet_signed_t payload, uint8_t *scratch) {
    static const uint8_t sign1[] = {0x84, 0x6a, 'S', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', '1', 0x4d, 0xa2, 0x01};
    static const uint8_t sign[] = {0x85, 0x69, 'S', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', 0x40, 0x4d, 0xa2, 0x01};
    uint8_t *at = scratch + sizeof sign;
    memmove(scratch + FLEET_SIGNED_HEAD_BYTES, payload.data, payload.bytes);
    memcpy(scratch, context == FLEET_SIGN1 ? sign1 : sign, sizeof sign);
    *at++ = signature->algorithm;
    *at++ = KID[0];
    *at++ = KID[1];
    memmove(at, signature->kid, FLEET_KID_BYTES);
    at[FLEET_KID_BYTES] = 0x40;
    return fleet_signature_holds(crypto, key, signature, scratch, FLEET_SIGNED_HEAD_BYTES + payload.bytes);
}

bool fleet_key_is_strict(const uint8_t *key, uint32_t bytes) {
    enum { EVEN = 2, ODD = 3 }; /* SEC 1 section 2.3.3; the port refuses what is no point of the curve */
    if (bytes == FLEET_P256_KEY_BYTES) {
        return key[0] == EVEN || key[0] == ODD;
    }
    return bytes == FLEET_ED25519_KEY_BYTES && fleet_ed25519_key_is_strict(key);
}
