/*
 * What the Helium kernels (Armv8.1-M with integer MVE: M55, M85) share. They give the bytes of compiler/NUMERICS.md, take the
 * same records and packing as the portable kernels, and hand shapes they were not made for to them.
 *
 * Loops are tail-predicated (DLSTP .. LETP): no lane reads or writes outside its row, whatever the number of values.
 */
#ifndef FLEET_MVE_H
#define FLEET_MVE_H

#include "../fixed_point.h"
#include "../internal.h"

#if !defined(__ARM_FEATURE_MVE) || !(__ARM_FEATURE_MVE & 1)
#error "the Helium kernels need a core with integer MVE: build with -DFLEET_KERNELS=dsp or portable"
#endif

/** Pixels of one step of fleet_mve_conv_channels. */
#define FLEET_MVE_PIXELS 3u
/** Channels of one step of every kernel. */
#define FLEET_MVE_CHANNELS 4u

/** What the convolution of four channels starts from or has got to. */
typedef struct {
    const int32_t *biases;      /**< of the next channel, as all below */
    const int32_t *multipliers;
    const int8_t *shifts;
    int8_t *outputs[FLEET_MVE_PIXELS];
    uint32_t steps;             /**< of four channels, at least 1 */
    int32_t zero_point;
    int32_t lefts;              /**< not 0: some channel shifts left */
} fleet_mve_channels_t;

/** What fleet_mve_conv_channels works on; its assembly knows the offsets. */
typedef struct {
    int32_t zero_a[3];          /**< 0: sums and columns are loaded by one instruction */
    const int8_t *column_0;     /**< the window of pixel 0, as long as a row of weights */
    int32_t zero_b;
    const int8_t *column_1;
    int32_t zero_c;
    const int8_t *column_2;
    int32_t zero_d;
    uint32_t row_bytes;
    fleet_mve_channels_t work;  /**< the assembly's */
    const int8_t *weights;      /**< row of channel 0 */
    int32_t low;                /**< activation bounds */
    int32_t high;
    fleet_mve_channels_t start; /**< of channel 0 */
    uint32_t groups;            /**< of three pixels, at least 1 */
    int32_t column_move;        /**< bytes from a group to the next */
    int32_t output_move;
} fleet_mve_conv_t;

/** Outputs of three pixels a group, four channels a step. Moves the columns and start.outputs on; leaves groups at 0. */
void fleet_mve_conv_channels(fleet_mve_conv_t *job);

/** What fleet_mve_dot_rows works on and moves on by four rows a step; its assembly knows the offsets. */
typedef struct {
    const int8_t *input;
    const int8_t *weights;      /**< next row */
    uint32_t row_bytes;
    const int32_t *biases;
    const int32_t *multipliers;
    const int8_t *shifts;
    int8_t *output;
    int32_t zero_point;
    uint32_t steps;             /**< of four rows, at least 1 */
    int32_t low;
    int32_t high;
} fleet_mve_rows_t;

/** Outputs of a matrix of weights times one vector, four rows a step. */
void fleet_mve_dot_rows(fleet_mve_rows_t *job);

/** Taps of depthwise windows that fleet_mve_depthwise_taps takes. */
#define FLEET_MVE_MAX_TAPS 64u

/** Where a channel's taps lie: blocks of eight offsets from the window's first tap, then what replaces them. */
typedef struct {
    uint16_t offsets[8];
    int16_t padding[8];         /**< value where the tap is padded; fleet_mve_depthwise_taps: FLEET_MVE_INSIDE for others */
} fleet_mve_taps_t;

#define FLEET_MVE_INSIDE 0x7fff

/**
 * What the depthwise kernels work on: `pixels` pixels, each all channels, four at a time. Their assembly knows the offsets
 * and loads the first ten fields by one instruction.
 */
typedef struct {
    const int8_t *weights;      /**< of channel 0, as all of these */
    const int8_t *ninth;        /**< the ninth tap, or `padding` */
    const int8_t *shifts;
    int8_t *output;
    const int32_t *biases;
    uintptr_t window;           /**< where the first tap lies or would lie */
    const int32_t *multipliers;
    int32_t zero_point;
    int32_t ninth_step;         /**< 4, or 0 where the ninth tap is padded; taps where there are at most eight */
    uint32_t steps;             /**< of four channels, at least 1 */
    uint32_t pixels;            /**< at least 1 */
    int32_t window_move;        /**< bytes to the next pixel */
    int32_t output_move;
    int32_t ninth_move;
    const fleet_mve_taps_t *taps;
    uint32_t tap_count;
    uint32_t mask;              /**< of the first eight taps, two bits each: those inside */
    int32_t low;                /**< activation bounds */
    int32_t high;
} fleet_mve_depthwise_t;

/** Windows of one to eight taps, `mask` of them inside; no channel shifts left. Reads eight weights a channel; ninth_step: tap_count. */
void fleet_mve_depthwise_few(fleet_mve_depthwise_t *job);

/** The same where all taps lie inside. */
void fleet_mve_depthwise_few_inside(fleet_mve_depthwise_t *job);

/** Windows of nine taps, all inside; no channel shifts left. */
void fleet_mve_depthwise_inside(fleet_mve_depthwise_t *job);

/** Windows of nine taps, `mask` of the first eight inside; no channel shifts left. */
void fleet_mve_depthwise_border(fleet_mve_depthwise_t *job);

/** Any windows of 1 .. FLEET_MVE_MAX_TAPS taps. */
void fleet_mve_depthwise_taps(fleet_mve_depthwise_t *job);

/** The same where all taps lie inside. */
void fleet_mve_depthwise_taps_inside(fleet_mve_depthwise_t *job);

/** sum + a x b. */
int32_t fleet_mve_dot(int32_t sum, const int8_t *a, const int8_t *b, uint32_t count);

/** Whether any of `count` shifts goes left. */
int fleet_mve_any_left(const int8_t *shifts, uint32_t count);

static inline int8_t *fleet_mve_copy(int8_t *to, const int8_t *from, int32_t count)
{
    int8_t *at = to;
    __asm__ volatile("   wlstp.8 lr, %2, 2f       \n"
                     "1: vldrb.8 q0, [%1], #16    \n"
                     "   vstrb.8 q0, [%0], #16    \n"
                     "   letp lr, 1b              \n"
                     "2:                          \n"
                     : "+r"(at), "+r"(from) : "r"(count) : "lr", "q0", "memory", "cc");
    return to + count;
}

static inline int8_t *fleet_mve_fill(int8_t *to, int32_t value, int32_t count)
{
    int8_t *at = to;
    __asm__ volatile("   vdup.8 q0, %1            \n"
                     "   wlstp.8 lr, %2, 2f       \n"
                     "1: vstrb.8 q0, [%0], #16    \n"
                     "   letp lr, 1b              \n"
                     "2:                          \n"
                     : "+r"(at) : "r"(value), "r"(count) : "lr", "q0", "memory", "cc");
    return to + count;
}

#endif
