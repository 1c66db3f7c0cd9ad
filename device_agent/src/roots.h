/* Roots: which keys may sign releases and assignments (ota/SPEC.md section 5). */
#ifndef FLEET_ROOTS_H
#define FLEET_ROOTS_H

#include "fleet_agent.h"
#include "signature.h"

#define FLEET_ROOT_SCRATCH_BYTES (FLEET_SIGNED_HEAD_BYTES + FLEET_ROOT_BYTES_MAX)

/**
 * Reads a root and checks its signatures: by its own threshold, and by that of `previous` whose number it must follow.
 * @param[in]  previous null for the root a device is provisioned with
 * @param      scratch  FLEET_ROOT_SCRATCH_BYTES, overwritten
 * @param[out] root     worth something on true only
 */
bool fleet_root_accept(const fleet_crypto_t *crypto, const uint8_t *data, uint32_t bytes, const fleet_root_t *previous,
                       uint8_t *scratch, fleet_root_t *root);

/** The key with this id, or null. */
const fleet_key_t *fleet_key_find(const fleet_key_set_t *set, const uint8_t *kid);

#endif
