/*
 * Getting an identity: the certificate request a device sends to the enrolment server (EST, RFC 7030). The library makes the
 * request through the crypto port, so the private key never leaves it; the port carries the request and keeps the answer.
 * No state, no heap. Any thread, not for interrupts.
 */
#ifndef FLEET_PROVISION_H
#define FLEET_PROVISION_H

#include <stdbool.h>
#include <stdint.h>

#include "fleet_port.h"
#include "fleet_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Longest device id and common name, bytes. */
#define FLEET_DEVICE_ID_BYTES 64U

/** Room that every certificate request fits in, bytes. */
#define FLEET_CSR_BYTES 320U

/**
 * Writes a PKCS#10 certificate request (RFC 2986) for the port's P-256 key, made when there is none yet, signed with
 * ecdsa-with-SHA256 (RFC 5758).
 * @param[in]  crypto       sha256, p256_key and p256_sign are used
 * @param[in]  common_name  1..64 bytes of printable ASCII; the server assigns the device id whatever it says, a renewal names
 *                          the present id
 * @param[out] der          FLEET_CSR_BYTES of room
 * @param[out] der_bytes    bytes written
 * @return FLEET_OK, FLEET_ERR_ARGUMENT, or what the crypto port answered; `der` is not to be used then
 */
fleet_status_t fleet_csr_write(const fleet_crypto_t *crypto, const char *common_name, uint8_t der[FLEET_CSR_BYTES],
                               uint32_t *der_bytes);

/** True for 1..64 characters of [a-z0-9-]: what a server may assign as a device id. */
bool fleet_device_id_is_legal(const char *device);

#ifdef __cplusplus
}
#endif

#endif
