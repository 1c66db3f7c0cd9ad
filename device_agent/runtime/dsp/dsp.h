/*
 * What the Armv7E-M / Armv8-M DSP kernels share. They give the bytes of compiler/NUMERICS.md, take the same records and
 * packing as the portable kernels, and hand shapes they were not made for to them.
 *
 * Words are read at any address: the core must allow unaligned access to flash and arena (it does out of reset).
 */
#ifndef FLEET_DSP_H
#define FLEET_DSP_H

#include "../fixed_point.h"
#include "../internal.h"

#include <string.h>

#ifndef __ARM_FEATURE_DSP
#error "the DSP kernels need a core with the DSP extension: build with -DFLEET_KERNELS=portable"
#endif

/** Sums of this many products stay within 2^28; see fleet_dsp_short_channels. */
#define FLEET_DSP_MAX_ROW 16384u

/** What fleet_dsp_conv_channels works on and moves on by two channels a step; its assembly knows the offsets. */
typedef struct {
    const uint32_t *columns;    /**< per group of four values two words of pixel 0, then two of pixel 1: bytes 0 and 2, 1 and 3 */
    const int8_t *weights;      /**< row of the next channel; its words are read up to the end of the last group */
    uint32_t row_bytes;
    uint32_t groups;            /**< of four values in a row, at least 1 */
    const int32_t *biases;
    const int32_t *multipliers; /**< of the channel, as shifts */
    const int8_t *shifts;
    int8_t *first;              /**< output of pixel 0 */
    int8_t *second;             /**< output of pixel 1 */
    int32_t zero_point;
    uint32_t steps;             /**< of two channels, at least 1 */
    int32_t sums[4];            /**< where steps are left: of the next channel for both pixels, then of the one after it */
} fleet_dsp_conv_t;

/**
 * Outputs of two pixels, two channels a step, until `steps` is 0 or two channels come that do not both shift right and have
 * sums below 2^30: only their sums and biases are done then.
 */
void fleet_dsp_conv_channels(fleet_dsp_conv_t *job);

/** sums[row] += row x input, for four rows of weights `row_bytes` apart and 4 x `groups` values; groups at least 1. */
void fleet_dsp_dot_1x4(int32_t sums[4], const int8_t *input, const int8_t *weights, uint32_t row_bytes,
                       uint32_t groups);

/** What fleet_dsp_depthwise_channels works on and moves on by four channels a step; its assembly knows the offsets. */
typedef struct {
    const int8_t *const *taps;  /**< channel 0 of each tap; of every four: the first, third, second and fourth */
    uint32_t channel;           /**< where channels begin in each tap */
    const int8_t *weights;      /**< of that channel */
    uint32_t row_bytes;         /**< taps */
    uint32_t quads;             /**< taps / 4 */
    const int32_t *biases;
    const int32_t *multipliers; /**< from here on of the channel, too */
    const int8_t *shifts;
    int8_t *output;
    int32_t zero_point;
    uint32_t rest;              /**< taps % 4 */
    uint32_t steps;             /**< of four channels, at least 1 */
} fleet_dsp_depthwise_t;

/** Outputs of one pixel, four channels a step, until `steps` is 0 or four channels come that do not all shift right. */
void fleet_dsp_depthwise_channels(fleet_dsp_depthwise_t *job);

static inline uint32_t fleet_dsp_word(const int8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

/* bytes 0 and 2, sign-extended to halfwords */
static inline uint32_t fleet_dsp_even(uint32_t bytes)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(bytes));
    return halves;
}

/* bytes 1 and 3 */
static inline uint32_t fleet_dsp_odd(uint32_t bytes)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(bytes));
    return halves;
}

static inline int32_t fleet_dsp_mac2(uint32_t a, uint32_t b, int32_t sum)
{
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}

/* high_mul(x, multiplier) for |x| < 2^30: (2x * m + 2^31) >> 32 is (x * m + 2^30) >> 31. */
static inline int32_t fleet_dsp_high_mul(int32_t x, int32_t multiplier)
{
    int32_t result;
    __asm__("smmulr %0, %1, %2" : "=r"(result) : "r"(fleet_wrap_shift_left(x, 1)), "r"(multiplier));
    return result;
}

static inline int32_t fleet_dsp_saturate8(int32_t x)
{
    int32_t result;
    __asm__("ssat %0, #8, %1" : "=r"(result) : "r"(x));
    return result;
}

/* round_shift(x, exponent) for exponent 1 .. 31 and |x| < 2^30: `nudge` is 2^(exponent - 1), one less for negatives. */
static inline int32_t fleet_dsp_round_shift(int32_t x, int32_t nudge, uint32_t exponent)
{
    return (x + (x >> 31) + nudge) >> exponent;
}

/*
 * How many of the next `count` channels, from the first on, have sums below 2^30, as the short form of rescale needs. The
 * products of a row of at most FLEET_DSP_MAX_ROW stay within 2^28, so the biases decide: dead channels may have huge ones.
 */
uint32_t fleet_dsp_short_channels(const int32_t *biases, uint32_t count);

/* to_int8(rescale(sum, multiplier, shift)) of any sum and shift, before activation bounds narrower than int8. */
int8_t fleet_dsp_requantize_long(int32_t sum, int32_t multiplier, int32_t shift, int32_t zero_point);

/* The same for |sum| < 2^30. */
static inline int8_t fleet_dsp_requantize(int32_t sum, int32_t multiplier, int32_t shift, int32_t zero_point)
{
    if (shift >= 0) {
        return fleet_dsp_requantize_long(sum, multiplier, shift, zero_point);
    }
    const uint32_t exponent = (uint32_t)-shift & 31u;
    const int32_t nudge = (int32_t)((UINT32_C(1) << exponent) >> 1);
    const int32_t x = fleet_dsp_round_shift(fleet_dsp_high_mul(sum, multiplier), nudge, exponent);
    return (int8_t)fleet_dsp_saturate8(x + zero_point);
}

/* Bounds narrower than int8, over outputs that are written: clamping twice is clamping to the narrower range. */
static inline void fleet_dsp_clamp(int8_t *output, uint32_t count, int8_t low, int8_t high)
{
    if (low == INT8_MIN && high == INT8_MAX) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        output[i] = output[i] < low ? low : output[i] > high ? high : output[i];
    }
}

#endif
