/* PKCS#10 writer. DER is written from its end to its start, so every length is known when its header is due. */
#include "fleet_provision.h"

#include <string.h>

enum { DER_INTEGER = 0x02, DER_BITS = 0x03, DER_UTF8 = 0x0C, DER_SEQUENCE = 0x30, DER_SET = 0x31, DER_CONTEXT_0 = 0xA0 };

typedef struct {
    uint8_t *bytes; /* FLEET_CSR_BYTES */
    uint32_t start; /* first written byte */
} der_t;

static const uint8_t common_name_oid[] = {0x06, 0x03, 0x55, 0x04, 0x03};
/* AlgorithmIdentifier ecdsa-with-SHA256 (RFC 5758 section 3.2). */
static const uint8_t ecdsa_sha256[] = {0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02};
/* SubjectPublicKeyInfo of a P-256 key up to X || Y (RFC 5480): ecPublicKey, prime256v1, uncompressed point. */
static const uint8_t p256_key_info[] = {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06,
                                        0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04};

/* FLEET_CSR_BYTES bounds every request (name <= 64), so nothing here can run out of room. */
static void put(der_t *der, const void *data, uint32_t bytes)
{
    der->start -= bytes;
    memcpy(der->bytes + der->start, data, bytes);
}

static void put_byte(der_t *der, uint32_t byte)
{
    der->bytes[--der->start] = (uint8_t)byte;
}

/* Header of the element whose content runs from `start` to `end`. */
static void put_header(der_t *der, uint8_t tag, uint32_t end)
{
    uint32_t length = end - der->start;
    put_byte(der, length);
    if (length > 255U) {
        put_byte(der, length >> 8);
        put_byte(der, 0x82);
    } else if (length > 127U) {
        put_byte(der, 0x81);
    }
    put_byte(der, tag);
}

/* Unsigned big-endian 32 bytes as INTEGER: shortest form, a zero in front where the top bit is set. */
static void put_integer(der_t *der, const uint8_t value[32])
{
    uint32_t end = der->start;
    uint32_t skip = 0;
    while (skip < 31U && value[skip] == 0U) {
        skip++;
    }
    put(der, value + skip, 32U - skip);
    if ((value[skip] & 0x80U) != 0U) {
        put_byte(der, 0);
    }
    put_header(der, DER_INTEGER, end);
}

static void put_signature(der_t *der, const uint8_t signature_rs[64])
{
    uint32_t end = der->start;
    put_integer(der, signature_rs + 32);
    put_integer(der, signature_rs);
    put_header(der, DER_SEQUENCE, end);
    put_byte(der, 0); /* no unused bits */
    put_header(der, DER_BITS, end);
}

static void put_name(der_t *der, const char *common_name)
{
    uint32_t end = der->start;
    put(der, common_name, (uint32_t)strlen(common_name));
    put_header(der, DER_UTF8, end);
    put(der, common_name_oid, sizeof common_name_oid);
    put_header(der, DER_SEQUENCE, end);
    put_header(der, DER_SET, end);
    put_header(der, DER_SEQUENCE, end);
}

/* CertificationRequestInfo: version 0, subject, key, no attributes. */
static void put_info(der_t *der, const char *common_name, const uint8_t public_xy[64])
{
    uint32_t end = der->start;
    put_header(der, DER_CONTEXT_0, end);
    put(der, public_xy, 64);
    put(der, p256_key_info, sizeof p256_key_info);
    put_name(der, common_name);
    put_byte(der, 0);
    put_header(der, DER_INTEGER, der->start + 1U);
    put_header(der, DER_SEQUENCE, end);
}

static bool name_is_printable(const char *name)
{
    size_t bytes = name == NULL ? 0 : strlen(name);
    for (size_t i = 0; i < bytes; i++) {
        if (name[i] < ' ' || name[i] > '~') {
            return false;
        }
    }
    return bytes > 0U && bytes <= FLEET_DEVICE_ID_BYTES;
}

static fleet_status_t sign_info(const fleet_crypto_t *crypto, const der_t *info, uint8_t signature_rs[64])
{
    fleet_sha256_t hash;
    uint8_t digest[32];
    crypto->sha256_init(crypto->ctx, &hash);
    crypto->sha256_update(crypto->ctx, &hash, info->bytes + info->start, FLEET_CSR_BYTES - info->start);
    crypto->sha256_final(crypto->ctx, &hash, digest);
    return crypto->p256_sign(crypto->ctx, digest, signature_rs);
}

fleet_status_t fleet_csr_write(const fleet_crypto_t *crypto, const char *common_name, uint8_t der[FLEET_CSR_BYTES],
                               uint32_t *der_bytes)
{
    uint8_t public_xy[64];
    uint8_t signature_rs[64];
    der_t out = {der, FLEET_CSR_BYTES};
    if (crypto == NULL || der == NULL || der_bytes == NULL || !name_is_printable(common_name)) {
        return FLEET_ERR_ARGUMENT;
    }
    fleet_status_t status = crypto->p256_key(crypto->ctx, public_xy);
    if (status != FLEET_OK) {
        return status;
    }
    put_info(&out, common_name, public_xy);
    status = sign_info(crypto, &out, signature_rs);
    if (status != FLEET_OK) {
        return status;
    }
    out.start = FLEET_CSR_BYTES;
    put_signature(&out, signature_rs);
    put(&out, ecdsa_sha256, sizeof ecdsa_sha256);
    put_info(&out, common_name, public_xy);
    put_header(&out, DER_SEQUENCE, FLEET_CSR_BYTES);
    *der_bytes = FLEET_CSR_BYTES - out.start;
    memmove(der, der + out.start, *der_bytes);
    return FLEET_OK;
}

bool fleet_device_id_is_legal(const char *device)
{
    size_t bytes = device == NULL ? 0 : strlen(device);
    return bytes > 0U && bytes <= FLEET_DEVICE_ID_BYTES && strspn(device, "abcdefghijklmnopqrstuvwxyz0123456789-") == bytes;
}
