/* Reciprocals in fixed point: compiler/NUMERICS.md section 3. Qn = n integer bits, 31 - n fractional. */
#ifndef FLEET_NEWTON_H
#define FLEET_NEWTON_H

#include "fixed_point.h"

#define FLEET_48_17THS 1515870810      /* 48/17, Q2 */
#define FLEET_MINUS_32_17THS (-1010580540) /* -32/17, Q2 */

static inline int32_t fleet_shift_left_saturating(int32_t x, uint32_t bits)
{
    if (x > (INT32_MAX >> bits)) {
        return INT32_MAX;
    }
    return x < (INT32_MIN >> bits) ? INT32_MIN : fleet_wrap_shift_left(x, bits);
}

/* 1 / (1 + a) for a >= 0, Q0, by three Newton steps. */
static inline int32_t fleet_reciprocal(int32_t a)
{
    const int32_t d = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = FLEET_48_17THS + fleet_high_mul(d, FLEET_MINUS_32_17THS);
    for (int step = 0; step < 3; step++) {
        const int32_t error = (INT32_C(1) << 29) - fleet_high_mul(d, x);
        x = fleet_wrap_add(x, fleet_shift_left_saturating(fleet_high_mul(x, error), 2));
    }
    return fleet_shift_left_saturating(x, 1);
}

/* At most 31. */
static inline uint32_t fleet_leading_zeros(uint32_t x)
{
    uint32_t count = 0;
    while (count < 31u && (x & 0x80000000u) == 0u) {
        x <<= 1;
        count++;
    }
    return count;
}

#endif
