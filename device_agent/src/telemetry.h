/* Counters per image: they only grow within one boot, so that lost, repeated and reordered reports do no harm. */
#ifndef FLEET_TELEMETRY_H
#define FLEET_TELEMETRY_H

#include "cbor.h"
#include "fleet_agent.h"

/**
 * Counters of an image: those it has since boot, a free place, or in turn that of an image which no slot uses.
 * @return index into agent->counters
 */
uint8_t fleet_counters_of(fleet_agent_t *agent, const uint8_t image[16]);

/** One more of `value_us`; quarter-octave buckets. */
void fleet_histogram_add(fleet_histogram_t *histogram, uint32_t value_us);

/** Counts an answer of the active model. */
void fleet_counters_answer(fleet_counters_t *counters, uint32_t top, float confidence, uint32_t latency_us);

/** Payload of `telemetry`; images that do not fit come in the next one. @return its bytes */
uint32_t fleet_telemetry_encode(fleet_agent_t *agent, fleet_cbor_out_t *out);

#endif
