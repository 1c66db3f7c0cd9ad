/* Crypto port on OpenSSL 3. SHA-256 uses the flat context: the agent's state has no destructor, an EVP context would need one. */
#define _POSIX_C_SOURCE 200809L
#define OPENSSL_SUPPRESS_DEPRECATED

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "fleet_ed25519.h"
#include "fleet_posix.h"

typedef char fleet_sha256_fits[sizeof(SHA256_CTX) <= sizeof(fleet_sha256_t) ? 1 : -1];

static void sha256_init(void *ctx, fleet_sha256_t *state)
{
    (void)ctx;
    (void)SHA256_Init((SHA256_CTX *)state->opaque);
}

static void sha256_update(void *ctx, fleet_sha256_t *state, const void *data, size_t bytes)
{
    (void)ctx;
    (void)SHA256_Update((SHA256_CTX *)state->opaque, data, bytes);
}

static void sha256_final(void *ctx, fleet_sha256_t *state, uint8_t digest[32])
{
    (void)ctx;
    (void)SHA256_Final(digest, (SHA256_CTX *)state->opaque);
}

static bool ed25519_verify(void *ctx, const uint8_t public_key[32], const uint8_t *message, size_t bytes,
                           const uint8_t signature[64])
{
    (void)ctx;
    if (!fleet_ed25519_is_strict(public_key, signature)) {
        return false;
    }
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    EVP_MD_CTX *verifier = EVP_MD_CTX_new();
    bool valid = key != NULL && verifier != NULL && EVP_DigestVerifyInit(verifier, NULL, NULL, NULL, key) == 1 &&
                 EVP_DigestVerify(verifier, signature, 64, message, bytes) == 1;
    EVP_MD_CTX_free(verifier);
    EVP_PKEY_free(key);
    return valid;
}

static bool write_der(const uint8_t signature_rs[64], uint8_t **der, int *bytes)
{
    ECDSA_SIG *signature = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(signature_rs, 32, NULL);
    BIGNUM *s = BN_bin2bn(signature_rs + 32, 32, NULL);
    if (signature == NULL || r == NULL || s == NULL || ECDSA_SIG_set0(signature, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(signature);
        return false;
    }
    *bytes = i2d_ECDSA_SIG(signature, der);
    ECDSA_SIG_free(signature); /* r and s with it */
    return *bytes > 0;
}

/* Compressed (33 bytes) or not (65); null when it is not on the curve. */
static EVP_PKEY *p256_point(const uint8_t *point, size_t bytes)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *reader = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    char group[] = "P-256";
    uint8_t copy[65];
    memcpy(copy, point, bytes);
    OSSL_PARAM fields[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
                           OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, copy, bytes),
                           OSSL_PARAM_construct_end()};
    if (reader == NULL || EVP_PKEY_fromdata_init(reader) != 1 ||
        EVP_PKEY_fromdata(reader, &key, EVP_PKEY_PUBLIC_KEY, fields) != 1) {
        key = NULL;
    }
    EVP_PKEY_CTX_free(reader);
    return key;
}

/* OpenSSL refuses points off the curve and r, s outside 1 to n - 1. */
static bool p256_verify(void *ctx, const uint8_t public_key[33], const uint8_t digest[32], const uint8_t signature_rs[64])
{
    (void)ctx;
    uint8_t *der = NULL;
    int der_bytes = 0;
    EVP_PKEY *key = p256_point(public_key, 33);
    EVP_PKEY_CTX *verifier = key != NULL ? EVP_PKEY_CTX_new(key, NULL) : NULL;
    const bool valid = verifier != NULL && write_der(signature_rs, &der, &der_bytes) && EVP_PKEY_verify_init(verifier) == 1 &&
                       EVP_PKEY_verify(verifier, der, (size_t)der_bytes, digest, 32) == 1;
    OPENSSL_free(der);
    EVP_PKEY_CTX_free(verifier);
    EVP_PKEY_free(key);
    return valid;
}

static fleet_status_t random_bytes(void *ctx, void *data, size_t bytes)
{
    (void)ctx;
    return bytes <= INT32_MAX && RAND_bytes(data, (int)bytes) == 1 ? FLEET_OK : FLEET_ERR_CRYPTO;
}

static EVP_PKEY *read_key(const char *path, bool *missing)
{
    FILE *file = fopen(path, "re");
    *missing = file == NULL && errno == ENOENT;
    if (file == NULL) {
        return NULL;
    }
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    (void)fclose(file);
    if (key != NULL && EVP_PKEY_get_bits(key) != 256) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static bool write_key(const char *path, EVP_PKEY *key)
{
    char *text = NULL;
    BIO *memory = BIO_new(BIO_s_mem());
    bool written = false;
    if (memory != NULL && PEM_write_bio_PKCS8PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL) == 1) {
        long bytes = BIO_get_mem_data(memory, &text);
        written = bytes > 0 && fleet_posix_write_file(path, text, (size_t)bytes, 0600) == FLEET_OK;
    }
    BIO_free(memory);
    return written;
}

/* A key that cannot be read is never replaced: its certificate would be lost with it. */
static fleet_status_t open_key(fleet_posix_crypto_t *crypto)
{
    if (crypto->key != NULL) {
        return FLEET_OK;
    }
    bool missing = false;
    EVP_PKEY *key = read_key(crypto->key_path, &missing);
    if (key == NULL && !missing) {
        return FLEET_ERR_CRYPTO;
    }
    if (missing) {
        key = EVP_EC_gen("P-256");
        if (key == NULL || !write_key(crypto->key_path, key)) {
            EVP_PKEY_free(key);
            return FLEET_ERR_STORAGE;
        }
    }
    crypto->key = key;
    return FLEET_OK;
}

static fleet_status_t p256_key(void *ctx, uint8_t public_xy[64])
{
    fleet_posix_crypto_t *crypto = ctx;
    uint8_t point[65];
    size_t bytes = 0;
    fleet_status_t status = open_key(crypto);
    if (status != FLEET_OK) {
        return status;
    }
    if (EVP_PKEY_get_octet_string_param(crypto->key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &bytes) != 1 ||
        bytes != sizeof point || point[0] != 0x04) {
        return FLEET_ERR_CRYPTO;
    }
    memcpy(public_xy, point + 1, 64);
    return FLEET_OK;
}

static bool split_signature(const uint8_t *der, size_t bytes, uint8_t signature_rs[64])
{
    const unsigned char *at = der;
    ECDSA_SIG *signature = d2i_ECDSA_SIG(NULL, &at, (long)bytes);
    bool split = signature != NULL && BN_bn2binpad(ECDSA_SIG_get0_r(signature), signature_rs, 32) == 32 &&
                 BN_bn2binpad(ECDSA_SIG_get0_s(signature), signature_rs + 32, 32) == 32;
    ECDSA_SIG_free(signature);
    return split;
}

static fleet_status_t p256_sign(void *ctx, const uint8_t digest[32], uint8_t signature_rs[64])
{
    fleet_posix_crypto_t *crypto = ctx;
    uint8_t der[80];
    size_t bytes = sizeof der;
    fleet_status_t status = open_key(crypto);
    if (status != FLEET_OK) {
        return status;
    }
    EVP_PKEY_CTX *signer = EVP_PKEY_CTX_new(crypto->key, NULL);
    bool made = signer != NULL && EVP_PKEY_sign_init(signer) == 1 && EVP_PKEY_sign(signer, der, &bytes, digest, 32) == 1 &&
                split_signature(der, bytes, signature_rs);
    EVP_PKEY_CTX_free(signer);
    return made ? FLEET_OK : FLEET_ERR_CRYPTO;
}

static fleet_status_t p256_agree(void *ctx, const uint8_t peer_xy[64], uint8_t secret[32])
{
    fleet_posix_crypto_t *crypto = ctx;
    uint8_t point[65] = {0x04};
    size_t bytes = 32;
    fleet_status_t status = open_key(crypto);
    if (status != FLEET_OK) {
        return status;
    }
    memcpy(point + 1, peer_xy, 64);
    EVP_PKEY *peer = p256_point(point, sizeof point);
    EVP_PKEY_CTX *agreement = peer != NULL ? EVP_PKEY_CTX_new(crypto->key, NULL) : NULL;
    const bool agreed = agreement != NULL && EVP_PKEY_derive_init(agreement) == 1 &&
                        EVP_PKEY_derive_set_peer(agreement, peer) == 1 && EVP_PKEY_derive(agreement, secret, &bytes) == 1 && bytes == 32;
    EVP_PKEY_CTX_free(agreement);
    EVP_PKEY_free(peer);
    return agreed ? FLEET_OK : FLEET_ERR_CRYPTO;
}

static bool aes128_gcm_open(void *ctx, const uint8_t key[16], const uint8_t nonce[12], uint8_t *data, size_t bytes,
                            const uint8_t tag[16])
{
    (void)ctx;
    uint8_t expected[16];
    int count = 0;
    memcpy(expected, tag, sizeof expected);
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    const bool opened = cipher != NULL && bytes <= INT32_MAX && EVP_DecryptInit_ex(cipher, EVP_aes_128_gcm(), NULL, key, nonce) == 1 &&
                        EVP_DecryptUpdate(cipher, data, &count, data, (int)bytes) == 1 &&
                        EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, sizeof expected, expected) == 1 &&
                        EVP_DecryptFinal_ex(cipher, data + count, &count) == 1;
    EVP_CIPHER_CTX_free(cipher);
    return opened;
}

void fleet_posix_crypto_open(fleet_posix_crypto_t *crypto, const char *key_path)
{
    crypto->key = NULL;
    (void)snprintf(crypto->key_path, sizeof crypto->key_path, "%s", key_path);
}

void fleet_posix_crypto_close(fleet_posix_crypto_t *crypto)
{
    EVP_PKEY_free(crypto->key);
    crypto->key = NULL;
}

fleet_crypto_t fleet_posix_crypto_port(fleet_posix_crypto_t *crypto)
{
    fleet_crypto_t port = {sha256_init, sha256_update, sha256_final, ed25519_verify, p256_verify, random_bytes,
                           p256_key,    p256_sign,     p256_agree,   aes128_gcm_open, crypto};
    return port;
}
