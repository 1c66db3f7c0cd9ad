/* Live inputs for one device, in an order of its own, and their labels some time later. */
#ifndef FLEET_DEVICE_FEED_H
#define FLEET_DEVICE_FEED_H

#include <stdint.h>

#include "dataset.h"
#include "fleet_agent.h"

typedef struct {
    uint64_t due_ms;
    uint32_t id;
    uint32_t label;
} feed_label_t;

typedef struct {
    const dataset_t *dataset;
    uint32_t *order; /* a permutation of the samples, drawn anew when used up */
    uint32_t position;
    uint64_t random;
    double interval_ms;
    uint32_t label_delay_ms;
    uint64_t next_ms;
    feed_label_t labels[FLEET_LABEL_RING];
    uint32_t first;
    uint32_t waiting;
    uint64_t inferences; /* answered */
    uint64_t labelled;
    uint64_t correct;
    fleet_status_t last_status;
} feed_t;

/* Allocates the order; false when out of memory. */
bool feed_open(feed_t *feed, const dataset_t *dataset, double rate_hz, uint32_t label_delay_ms, uint64_t seed, uint64_t now_ms);
void feed_close(feed_t *feed);

/* Gives what is due; returns when it wants to be called next. */
uint64_t feed_step(feed_t *feed, fleet_agent_t *agent, uint64_t now_ms);

#endif
