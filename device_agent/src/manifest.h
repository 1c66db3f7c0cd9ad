/* Release manifests: what an image is (ota/SPEC.md section 3), matched against the one SUIT template. */
#ifndef FLEET_MANIFEST_H
#define FLEET_MANIFEST_H

#include "fleet_agent.h"

/**
 * Reads a release manifest and checks all that stands in it, in the order of the SPEC: size, digest, template, key, signature,
 * component, class, ABI, floor, image size.
 * @param[in]  component  its entry says the digest
 * @param[out] release    set with FLEET_REASON_NONE only
 */
fleet_reason_t fleet_manifest_read(const fleet_agent_t *agent, const fleet_component_t *component, const uint8_t *data, uint32_t bytes,
                                   fleet_release_t *release);

#endif
