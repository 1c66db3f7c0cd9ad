/*
 * The knobs of the POSIX programs (fleet_device): a host has memory for labels that come late, classes by the dozen and a long outage.
 * The defaults of fleet_config.h are for a microcontroller.
 */
#ifndef FLEET_CONFIG_HOST_H
#define FLEET_CONFIG_HOST_H

#define FLEET_TX_BYTES 2560
#define FLEET_MESSAGE_BYTES 1280
#define FLEET_LABEL_RING 128
#define FLEET_COUNTER_IMAGES 4
#define FLEET_CLASSES_MAX 32
#define FLEET_LATENCY_BUCKETS 20
#define FLEET_EVENT_RING 16

#endif
