/*
 * The knobs of fleet_config.h for parts with little RAM: name this file in FLEET_CONFIG_FILE. Two thirds of the default RAM go; what gets
 * smaller is how much is remembered while the broker is away, and the largest message. Chunks of 1,024 bytes still fit.
 * `make bench-footprint` measures both.
 */
#ifndef FLEET_CONFIG_SMALL_H
#define FLEET_CONFIG_SMALL_H

#define FLEET_RX_BYTES 1152
#define FLEET_TX_BYTES 712
#define FLEET_MESSAGE_BYTES 504
#define FLEET_LABEL_RING 8
#define FLEET_COUNTER_IMAGES 2
#define FLEET_CLASSES_MAX 12
#define FLEET_LATENCY_BUCKETS 8
#define FLEET_EVENT_RING 4
#define FLEET_WINDOW 2

#endif
