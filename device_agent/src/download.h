/*
 * One download at a time: manifest, wait for its turn, chunks straight into the slot, digest read back from flash.
 *
 *   MANIFEST  subscribed to the release manifest, until it comes and is good
 *   WAIT      a random part of start-spread, not-before, the daily window; gives way to a component that need not wait
 *   FETCH     chunks in order through a buffer of one program unit; erases run ahead; progress goes to the journal
 *   HASH      the digest of what flash holds decides
 *
 * Chunks are single retained topics, subscribed at QoS 0 in a window that falls to 1 when chunks get lost and grows again.
 * A chunk out of order is dropped and asked again. MQTT 3.1.1 has no "not there": after a timeout `state` says waiting.
 */
#ifndef FLEET_DOWNLOAD_H
#define FLEET_DOWNLOAD_H

#include "fleet_agent.h"

typedef enum {
    FLEET_DOWNLOAD_IDLE = 0,
    FLEET_DOWNLOAD_MANIFEST,
    FLEET_DOWNLOAD_WAIT,
    FLEET_DOWNLOAD_FETCH,
    FLEET_DOWNLOAD_HASH
} fleet_download_phase_t;

/** Starts to bring the image of a component's entry into `slot`. */
void fleet_download_start(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot);

/** The image is whole in `slot` already (WRITING by fleet_slots_restage): read it back only. */
void fleet_download_restage(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot);

/** Drops the download; what is in flash stays for a resume. */
void fleet_download_stop(fleet_agent_t *agent);

/**
 * The download waits for its time while this other component need not, as far as is known. Where that one starts, the one that
 * waited comes again later, from its manifest on; its wait ends when it would have.
 */
bool fleet_download_gives_way(const fleet_agent_t *agent, const fleet_component_t *component);

/** No download runs, or it gives way. */
static inline bool fleet_download_may_start(const fleet_agent_t *agent, const fleet_component_t *component) {
    return agent->download.phase == FLEET_DOWNLOAD_IDLE || (FLEET_COMPONENTS > 1 && fleet_download_gives_way(agent, component));
}

/** True while this component has a download in any phase. */
bool fleet_download_runs(const fleet_agent_t *agent, const fleet_component_t *component);

/** Subscriptions are gone with the old connection: subscribe again. */
void fleet_download_online(fleet_agent_t *agent);

/** A message on a manifest or chunk topic. */
void fleet_download_message(fleet_agent_t *agent, const fleet_mqtt_event_t *message);

/** True while a chunk is not wholly used: its bytes lie in `rx`, so no more input may be read. */
bool fleet_download_holds_input(const fleet_agent_t *agent);

/** Does what is due. @return how long until it wants to be called again, ms */
uint32_t fleet_download_step(fleet_agent_t *agent);

/** How long a slot with that many failed downloads is left alone, s. */
uint32_t fleet_download_backoff_s(uint32_t failures);

/** Image bytes in a slot, for `state`. */
uint32_t fleet_download_written(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot);

#endif
