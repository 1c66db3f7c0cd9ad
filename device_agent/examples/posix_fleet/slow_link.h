/* A transport that receives no faster than a given rate: the slow radio link of a real device. */
#ifndef FLEET_DEVICE_SLOW_LINK_H
#define FLEET_DEVICE_SLOW_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "fleet_port.h"

typedef struct {
    fleet_transport_t inner;
    uint32_t bytes_per_s; /* 0 = no limit */
    double credit_bytes;
    uint64_t filled_ms;
} slow_link_t;

void slow_link_open(slow_link_t *link, fleet_transport_t inner, uint32_t bytes_per_s, uint64_t now_ms);
fleet_transport_t slow_link_port(slow_link_t *link);

/* True when nothing may be received now; `wake_ms` says until when. */
bool slow_link_is_throttled(slow_link_t *link, uint64_t now_ms, uint64_t *wake_ms);

#endif
