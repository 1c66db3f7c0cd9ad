/* Release manifests: what an image is (ota/SPEC.md section 3), matched against the one SUIT template. */
#ifndef FLEET_MANIFEST_H
#define FLEET_MANIFEST_H

#include "fleet_agent.h"

/** SUIT class id of a device class name. */
void fleet_manifest_class_id(const fleet_crypto_t *crypto, const char *device_class, uint8_t class_id[16]);

/**
 * Reads a release manifest and checks all that stands in it, in the order of the SPEC: size, digest, template, key, signature,
 * component, class, ABI, floor, image size.
 * @param[in]  component  index of the component the assignment names
 * @param[in]  digest     the assignment's manifest digest
 * @param      scratch    FLEET_MESSAGE_BYTES, overwritten
 * @param[out] release    set with FLEET_REASON_NONE only
 */
fleet_reason_t fleet_manifest_read(const fleet_agent_t *agent, uint8_t component, const uint8_t digest[32], const uint8_t *data,
                                   uint32_t bytes, uint8_t *scratch, fleet_release_t *release);

#endif
