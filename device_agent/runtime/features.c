/*
 * FEATURES: framing, window, FFT, filter bank, logarithm and an affine map, frame by frame (compiler/NUMERICS.md section 6).
 * The scratch holds one frame's spectrum, then the logarithms of its energies.
 */
#include "features_tables.h"

#include "fixed_point.h"
#include "real_fft.h"

#include <string.h>

#define LOG_BITS 16u

/* Product of sample `at` of a frame and its window; what lies outside of the input is zero. */
static int64_t windowed(const fleet_op_features_t *op, const void *samples, int64_t start, uint32_t at, int32_t weight)
{
    const int64_t index = start + at;
    if (index < 0 || index >= (int64_t)op->samples) {
        return 0;
    }
    const int is_wide = op->input_element == FLEET_ELEMENT_INT32;
    const int32_t sample = is_wide ? ((const int32_t *)samples)[index] : ((const int16_t *)samples)[index];
    return (int64_t)sample * weight;
}

/* Left shift (negative: right) that gives the largest product of a frame `input_bits` bits. */
static int32_t normalising_shift(const fleet_op_features_t *op, const void *samples, int64_t start, const int32_t *window)
{
    uint64_t peak = 0;
    for (uint32_t i = 0; i < op->frame; i++) {
        const int64_t product = windowed(op, samples, start, i, window[i]);
        const uint64_t size = (uint64_t)(product < 0 ? -product : product); /* below 2^63 */
        peak = size > peak ? size : peak;
    }
    int32_t bits = 0;
    while (peak != 0u) {
        peak >>= 1;
        bits++;
    }
    const int32_t shift = (int32_t)op->input_bits - bits;
    return shift < op->most_shift ? shift : op->most_shift;
}

static int32_t shifted(int64_t product, int32_t shift)
{
    if (shift >= 0) {
        return (int32_t)((uint64_t)product << shift);
    }
    return (int32_t)((product + (INT64_C(1) << (-shift - 1))) >> -shift);
}

static void load_frame(const fleet_op_features_t *op, const void *samples, int64_t start, const int32_t *window,
                       int32_t shift, int32_t *values)
{
    for (uint32_t i = 0; i < op->frame; i++) {
        values[i] = shifted(windowed(op, samples, start, i, window[i]), shift);
    }
    memset(values + op->frame, 0, ((UINT32_C(1) << op->fft_log2) - op->frame) * sizeof(*values));
}

/* Whole part of a square root, bit by bit. */
static uint64_t square_root(uint64_t value)
{
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 62; bit != 0u; bit >>= 2) {
        const uint64_t tried = root + bit;
        root >>= 1;
        if (value >= tried) {
            value -= tried;
            root += bit;
        }
    }
    return root;
}

/* Of one bin; the first and the last are real and share an element. */
static uint64_t energy_of(const fleet_op_features_t *op, const fleet_complex_t *spectrum, uint32_t k)
{
    const uint32_t last = UINT32_C(1) << (op->fft_log2 - 1u);
    const int64_t re = k == last ? spectrum[0].im : spectrum[k].re;
    const int64_t im = k == 0u || k == last ? 0 : spectrum[k].im;
    const uint64_t energy = (uint64_t)(re * re) + (uint64_t)(im * im);
    return ((op->form & FLEET_FEATURES_MAGNITUDE) != 0u ? square_root(energy) : energy) >> op->energy_shift;
}

/* log2 in steps of 2^-16, rounded down bit by bit: squaring doubles a logarithm. */
static int32_t log2_of(uint64_t value)
{
    uint32_t zeros = 0;
    while ((value >> 63) == 0u) {
        value <<= 1;
        zeros++;
    }
    uint64_t x = value >> 32;
    uint32_t fraction = 0;
    for (uint32_t bit = 0; bit < LOG_BITS; bit++) {
        x = (x * x) >> 31;
        const uint32_t carry = (uint32_t)(x >> 32) & 1u;
        x >>= carry;
        fraction = fraction * 2u + carry;
    }
    return (int32_t)((63u - zeros) << LOG_BITS | fraction);
}

static uint64_t floor_of(const fleet_op_features_t *op, int32_t shift)
{
    const int32_t total = op->floor_exponent + shift;
    if (total >= 0) {
        return (uint64_t)op->floor_mantissa << total;
    }
    return total > -64 ? (uint64_t)op->floor_mantissa >> -total : 0u;
}

/* Logarithm of every filter's energy; `shift` is what the frame's own scale added to log2 of an energy. */
static void log_energies(const fleet_op_features_t *op, const fleet_features_tables_t *tables,
                         const fleet_complex_t *spectrum, int32_t shift, int32_t *logs)
{
    const int16_t *weight = tables->weights;
    const uint64_t least = floor_of(op, shift);
    for (uint32_t mel = 0; mel < op->mels; mel++) {
        const uint32_t first = (uint16_t)tables->spans[2u * mel];
        const uint32_t end = first + (uint16_t)tables->spans[2u * mel + 1u];
        uint64_t sum = 0;
        for (uint32_t k = first; k < end; k++) {
            sum += energy_of(op, spectrum, k) * (uint16_t)*weight++;
        }
        sum = (op->form & FLEET_FEATURES_ADD_FLOOR) != 0u ? sum + least : sum > least ? sum : least;
        logs[mel] = log2_of(sum | (sum == 0u)) - shift * (1 << LOG_BITS);
    }
}

static int64_t weighed(const fleet_op_features_t *op, const int16_t *matrix, const int32_t *logs, uint32_t row)
{
    if ((op->form & FLEET_FEATURES_DIAGONAL) != 0u) {
        return (int64_t)logs[row] * matrix[row];
    }
    int64_t sum = 0;
    for (uint32_t mel = 0; mel < op->mels; mel++) {
        sum += (int64_t)logs[mel] * matrix[row * op->mels + mel];
    }
    return sum;
}

static int8_t feature(const fleet_op_features_t *op, int64_t sum, int64_t bias, uint32_t shift)
{
    const int64_t y = (int64_t)((uint64_t)sum + (uint64_t)bias + (UINT64_C(1) << (shift - 1u))) >> shift;
    const int64_t moved = y + op->output_zero_point;
    return (int8_t)(moved < op->activation_min ? op->activation_min
                    : moved > op->activation_max ? op->activation_max : moved);
}

void fleet_features(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_features_t *op = record;
    const fleet_features_tables_t tables = fleet_features_tables(context->image, op);
    const void *samples = context->arena + op->input;
    fleet_complex_t *spectrum = (void *)(context->arena + op->scratch);
    int32_t *logs = (void *)(context->arena + op->scratch + (4u << op->fft_log2));
    int8_t *output = context->arena + op->output;
    for (uint32_t frame = 0; frame < op->frames; frame++) {
        const int64_t start = (int64_t)frame * op->hop - op->pad;
        const int32_t shift = normalising_shift(op, samples, start, tables.window);
        load_frame(op, samples, start, tables.window, shift, (void *)spectrum);
        fleet_real_fft(spectrum, tables.sine, op->fft_log2);
        log_energies(op, &tables, spectrum, (op->form & FLEET_FEATURES_MAGNITUDE) != 0u ? shift : 2 * shift, logs);
        for (uint32_t row = 0; row < op->coefficients; row++) {
            *output++ = feature(op, weighed(op, tables.matrix, logs, row), tables.bias[row], (uint32_t)tables.shifts[row]);
        }
    }
}
