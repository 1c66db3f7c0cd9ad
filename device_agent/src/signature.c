#include "signature.h"

#include <string.h>

#include "fleet_ed25519.h"

enum { EDDSA = 0x27, ES256 = 0x26 };

static const uint8_t KID[] = FLEET_SUIT_KID;

void fleet_sha256(const fleet_crypto_t *crypto, const void *data, size_t bytes, uint8_t digest[32]) {
    fleet_sha256_t state;
    crypto->sha256_init(crypto->ctx, &state);
    crypto->sha256_update(crypto->ctx, &state, data, bytes);
    crypto->sha256_final(crypto->ctx, &state, digest);
}

void fleet_signature_read_header(fleet_cbor_t *in, fleet_signature_t *signature) {
    const uint8_t *algorithm = fleet_cbor_raw(in, 1);
    signature->algorithm = algorithm != NULL ? *algorithm : 0;
    in->bad |= signature->algorithm != EDDSA && signature->algorithm != ES256;
    fleet_cbor_expect(in, KID, sizeof KID);
    signature->kid = fleet_cbor_raw(in, FLEET_KID_BYTES);
}

void fleet_signature_put_header(fleet_cbor_out_t *out, const fleet_signature_t *signature) {
    fleet_cbor_put_raw(out, &signature->algorithm, 1);
    fleet_cbor_put_raw(out, KID, sizeof KID);
    fleet_cbor_put_raw(out, signature->kid, FLEET_KID_BYTES);
}

bool fleet_signature_valid(const fleet_crypto_t *crypto, const fleet_key_t *key, const fleet_signature_t *signature,
                           const uint8_t *message, size_t bytes) {
    if (key == NULL) {
        return false;
    }
    if (key->count == FLEET_ED25519_KEY_BYTES) {
        return signature->algorithm == EDDSA &&
               crypto->ed25519_verify(crypto->ctx, key->bytes, message, bytes, signature->bytes);
    }
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256(crypto, message, bytes, digest);
    return signature->algorithm == ES256 && crypto->p256_verify != NULL &&
           crypto->p256_verify(crypto->ctx, key->bytes, digest, signature->bytes);
}

bool fleet_key_is_strict(const uint8_t *key, uint32_t bytes) {
    enum { EVEN = 2, ODD = 3 }; /* SEC 1 section 2.3.3; the port refuses what is no point of the curve */
    if (bytes == FLEET_P256_KEY_BYTES) {
        return key[0] == EVEN || key[0] == ODD;
    }
    return bytes == FLEET_ED25519_KEY_BYTES && fleet_ed25519_key_is_strict(key);
}
