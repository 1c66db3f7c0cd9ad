/*
 * Radix-2, decimation in time, of a half as long complex signal, then one pass that takes it apart. Sums wrap as two's
 * complement does: an image that breaks the compiler's bounds gives wrong numbers and never undefined behaviour.
 */
#include "real_fft.h"

#include "fixed_point.h"
#include "fleet_image.h"

#define HALF_STEP (UINT64_C(1) << (FLEET_FEATURES_TWIDDLE_BITS - 1))

static int32_t subtract(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a - (uint32_t)b);
}

/* (a x b + c x d), rounded to whole steps, halves up */
static int32_t scaled(uint64_t sum)
{
    return (int32_t)((int64_t)(sum + HALF_STEP) >> FLEET_FEATURES_TWIDDLE_BITS);
}

static uint64_t product(int32_t a, int32_t b)
{
    return (uint64_t)((int64_t)a * b);
}

/* x * (w.re - j w.im) */
static fleet_complex_t turn(fleet_complex_t x, fleet_complex_t w)
{
    const fleet_complex_t turned = {scaled(product(x.re, w.re) + product(x.im, w.im)),
                                    scaled(product(x.im, w.re) - product(x.re, w.im))};
    return turned;
}

/* cos and sin of 2 pi k / n for k <= n / 2, quarter = n / 4 */
static fleet_complex_t twiddle(const int32_t *sine, uint32_t quarter, uint32_t k)
{
    const int first = k <= quarter;
    const fleet_complex_t w = {first ? sine[quarter - k] : subtract(0, sine[k - quarter]),
                               first ? sine[k] : sine[2u * quarter - k]};
    return w;
}

static void swap(fleet_complex_t *a, fleet_complex_t *b)
{
    const fleet_complex_t kept = *a;
    *a = *b;
    *b = kept;
}

static void reverse_bits(fleet_complex_t *z, uint32_t count)
{
    uint32_t reversed = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i < reversed) {
            swap(&z[i], &z[reversed]);
        }
        uint32_t bit = count >> 1; /* add one from the top */
        while ((reversed & bit) != 0u) {
            reversed ^= bit;
            bit >>= 1;
        }
        reversed |= bit;
    }
}

/* Elements `at` and `at + half`, every 2 half: all pairs of one twiddle. */
static void butterflies(fleet_complex_t *z, uint32_t count, uint32_t half, fleet_complex_t w)
{
    for (uint32_t at = 0; at < count; at += 2u * half) {
        fleet_complex_t *a = &z[at];
        fleet_complex_t *b = &z[at + half];
        const fleet_complex_t t = turn(*b, w);
        b->re = subtract(a->re, t.re);
        b->im = subtract(a->im, t.im);
        a->re = fleet_wrap_add(a->re, t.re);
        a->im = fleet_wrap_add(a->im, t.im);
    }
}

/* Bin k from sum = Z[k] + conj Z[-k] and difference = Z[k] - conj Z[-k]: sum - j W difference. */
static fleet_complex_t bin(fleet_complex_t sum, fleet_complex_t difference, fleet_complex_t w)
{
    const fleet_complex_t minus_j = {difference.im, subtract(0, difference.re)};
    const fleet_complex_t t = turn(minus_j, w);
    const fleet_complex_t found = {fleet_wrap_add(sum.re, t.re), fleet_wrap_add(sum.im, t.im)};
    return found;
}

/* Bins k and half - k, whose sums are conjugates and whose differences and twiddles are each other's mirror. */
static void take_apart(fleet_complex_t *low, fleet_complex_t *high, fleet_complex_t w)
{
    const fleet_complex_t a = *low;
    const fleet_complex_t b = *high;
    const fleet_complex_t sum = {fleet_wrap_add(a.re, b.re), subtract(a.im, b.im)};
    const fleet_complex_t difference = {subtract(a.re, b.re), fleet_wrap_add(a.im, b.im)};
    const fleet_complex_t other_sum = {sum.re, subtract(0, sum.im)};
    const fleet_complex_t other_difference = {subtract(0, difference.re), difference.im};
    const fleet_complex_t other_w = {subtract(0, w.re), w.im};
    *low = bin(sum, difference, w);
    *high = bin(other_sum, other_difference, other_w);
}

void fleet_real_fft(fleet_complex_t *z, const int32_t *sine, uint32_t log2)
{
    const uint32_t count = UINT32_C(1) << (log2 - 1u);
    const uint32_t quarter = count / 2u;
    reverse_bits(z, count);
    for (uint32_t half = 1; half < count; half *= 2u) {
        for (uint32_t k = 0; k < half; k++) {
            butterflies(z + k, count - k, half, twiddle(sine, quarter, k * (count / half)));
        }
    }
    const int32_t re = fleet_wrap_shift_left(z[0].re, 1);
    const int32_t im = fleet_wrap_shift_left(z[0].im, 1);
    z[0].re = fleet_wrap_add(re, im);
    z[0].im = subtract(re, im);
    for (uint32_t k = 1; k <= quarter; k++) {
        take_apart(&z[k], &z[count - k], twiddle(sine, quarter, k));
    }
}
