/* Repeatable randomness for what is simulated (order, jitter); never for secrets. */
#ifndef FLEET_DEVICE_SEEDED_H
#define FLEET_DEVICE_SEEDED_H

#include <stdint.h>

/* Next of a SplitMix64 sequence (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
uint64_t seeded_next(uint64_t *state);

/* Uniform in 0 .. bound - 1; the bias of at most bound / 2^64 does not matter here. */
uint32_t seeded_below(uint64_t *state, uint32_t bound);

/* Uniform in [0, 1). */
double seeded_unit(uint64_t *state);

#endif
