/* Assignments: what the director wants this device to run (ota/SPEC.md section 4). */
#ifndef FLEET_ASSIGNMENT_H
#define FLEET_ASSIGNMENT_H

#include "cbor.h"
#include "fleet_agent.h"
#include "signature.h"

typedef struct {
    fleet_pair_t pair;
    fleet_cbor_t device; /**< members as they lie in the message */
    fleet_cbor_t nonce;
    fleet_cbor_t listed;
    const uint8_t *echo; /**< the nonce; null: none */
    fleet_entry_t entries[FLEET_COMPONENTS];
} fleet_assignment_t;

/** What is signed has a longer head than the message: so many bytes before a message are overwritten. Its topic stands there. */
#define FLEET_DIRECTOR_ROOM_BYTES (FLEET_SIGNED_HEAD_BYTES - 17U)

/**
 * Opens a COSE_Sign1 and checks its signature by a director key of the root.
 * @param      data    the message; overwritten, and FLEET_DIRECTOR_ROOM_BYTES before it
 * @param[out] content the payload's bytes, in `data`; only with FLEET_REASON_NONE
 * @return FLEET_REASON_NONE, ASSIGNMENT_MALFORMED or ASSIGNMENT_SIGNATURE
 */
fleet_reason_t fleet_director_open(const fleet_agent_t *agent, uint8_t *data, uint32_t bytes, fleet_cbor_t *content);

/** Whether a nonce is one of the two newest. */
bool fleet_nonce_is_known(const fleet_agent_t *agent, const uint8_t nonce[8]);

/**
 * Reads an assignment and checks everything that needs no flash: form, signature, device, epoch, sequence, nonce.
 * @param      data       the message; overwritten, and FLEET_DIRECTOR_ROOM_BYTES before it
 * @param[out] assignment whole only with FLEET_REASON_NONE; epoch and sequence as far as they were read, else 0
 * @return FLEET_REASON_NONE or why it is refused
 */
fleet_reason_t fleet_assignment_read(const fleet_agent_t *agent, uint8_t *data, uint32_t bytes, fleet_assignment_t *assignment);

#endif
