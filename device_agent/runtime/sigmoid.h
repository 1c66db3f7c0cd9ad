/* Sigmoid and tanh in Q15 from one table: tanh(x) = 2 sigmoid(2x) - 1. Places are steps of 1 / 12288 (a third of Q12). */
#ifndef FLEET_SIGMOID_H
#define FLEET_SIGMOID_H

#include "fleet_image.h"

#include <stdint.h>

extern const uint16_t fleet_sigmoid_table[FLEET_SIGMOID_ENTRIES];

/* sigmoid at a magnitude in steps of the table / 2^bits, Q(16 + bits); `beyond` past its end. */
static inline int32_t fleet_sigmoid_between(int32_t place, uint32_t bits, int32_t beyond)
{
    const uint32_t magnitude = place < 0 ? 0u - (uint32_t)place : (uint32_t)place;
    const uint32_t index = magnitude >> bits;
    if (index >= FLEET_SIGMOID_ENTRIES - 1u) {
        return beyond;
    }
    const uint32_t low = fleet_sigmoid_table[index];
    const uint32_t step = fleet_sigmoid_table[index + 1u] - low;
    return (int32_t)((low << bits) + (magnitude & ((1u << bits) - 1u)) * step);
}

static inline int16_t fleet_sigmoid_at(int32_t place)
{
    const int32_t y = fleet_sigmoid_between(place, 9, INT16_MAX << 10);
    return (int16_t)((place >= 0 ? y + (1 << 9) : (1 << 25) - y + (1 << 9) - 1) >> 10);
}

static inline int16_t fleet_tanh_at(int32_t place)
{
    const int32_t y = fleet_sigmoid_between(place, 8, 0xffff << 8) - (1 << 23);
    return (int16_t)((place >= 0 ? y + (1 << 7) : (1 << 7) - 1 - y) >> 8);
}

#endif
