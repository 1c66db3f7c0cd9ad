/*
 * What libraries leave open in RFC 8032: checks that a port makes before it lets its library verify a signature, so that every
 * port accepts exactly the same signatures. Costs no field arithmetic. Constant data only; any thread.
 */
#ifndef FLEET_ED25519_H
#define FLEET_ED25519_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * True when public key and R are canonical (y < p) and not of small order, and the signature's S is below the group order L:
 * the rules of ota/SPEC.md, which the signing side checks as well.
 * @param[in] public_key 32 bytes, RFC 8032 section 5.1.5
 * @param[in] signature  64 bytes, R || S, section 5.1.6
 */
bool fleet_ed25519_is_strict(const uint8_t public_key[32], const uint8_t signature[64]);

/** True for a canonically encoded public key of large order: what a root may list. */
bool fleet_ed25519_key_is_strict(const uint8_t public_key[32]);

#ifdef __cplusplus
}
#endif

#endif
