#include "seeded.h"

uint64_t seeded_next(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15U;
    uint64_t mixed = *state;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
    return mixed ^ (mixed >> 31);
}

uint32_t seeded_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)(seeded_next(state) % bound);
}

double seeded_unit(uint64_t *state)
{
    return (double)(seeded_next(state) >> 11) / 9007199254740992.0; /* 2^53 */
}
