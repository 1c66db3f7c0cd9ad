/* Structure of FEATURES records and their tables: compiler/SPEC.md section 9 point 3. */
#include "check_features.h"

#include "features_tables.h"

#define MAX_SAMPLES (1u << 20)
#define MAX_MELS 256u
#define MAX_SHIFT 40

static uint32_t bit_length(uint32_t x)
{
    uint32_t bits = 0;
    while (x != 0u) {
        x >>= 1;
        bits++;
    }
    return bits;
}

static int sizes_are_legal(const fleet_op_features_t *op)
{
    return op->fft_log2 >= 4u && op->fft_log2 <= 12u && op->frame != 0u && op->frame <= 1u << op->fft_log2 && op->hop != 0u &&
           op->frames != 0u && op->samples != 0u && op->samples <= MAX_SAMPLES && op->pad <= MAX_SAMPLES &&
           op->mels != 0u && op->mels <= MAX_MELS && op->coefficients != 0u;
}

static uint32_t sample_bytes(const fleet_op_features_t *op)
{
    return op->input_element == FLEET_ELEMENT_INT16 ? 2u : op->input_element == FLEET_ELEMENT_INT32 ? 4u : 0u;
}

static int form_is_legal(const fleet_op_features_t *op)
{
    const uint32_t known = FLEET_FEATURES_MAGNITUDE | FLEET_FEATURES_ADD_FLOOR | FLEET_FEATURES_DIAGONAL;
    const int square = (op->form & FLEET_FEATURES_DIAGONAL) == 0u || op->coefficients == op->mels;
    return (op->form & ~known) == 0u && op->reserved == 0u && square && sample_bytes(op) != 0u &&
           op->output_element == FLEET_ELEMENT_INT8 && op->activation_min <= op->activation_max;
}

static int scales_are_legal(const fleet_op_features_t *op)
{
    const int32_t step = (op->form & FLEET_FEATURES_MAGNITUDE) != 0u ? 1 : 2;
    const int64_t exponent = (int64_t)op->floor_exponent + step * op->most_shift;
    return op->input_bits >= 1 && op->input_bits <= 29 - (int32_t)bit_length(op->frame - 1u) && op->most_shift >= -60 &&
           op->most_shift <= 31 && op->energy_shift <= 62u && op->floor_mantissa >> 31 == 0u && exponent >= -127 &&
           exponent <= 31;
}

static int spans_are_legal(const fleet_op_features_t *op, const fleet_features_tables_t *tables)
{
    const uint32_t bins = (1u << op->fft_log2) / 2u + 1u;
    uint32_t total = 0;
    for (uint32_t mel = 0; mel < op->mels; mel++) {
        const uint32_t first = (uint16_t)tables->spans[2u * mel];
        const uint32_t count = (uint16_t)tables->spans[2u * mel + 1u];
        if (first + count > bins) {
            return 0;
        }
        total += count;
    }
    return total == op->mel_weights;
}

static int shifts_are_legal(const fleet_op_features_t *op, const int16_t *shifts)
{
    for (uint32_t row = 0; row < op->coefficients; row++) {
        if (shifts[row] < 1 || shifts[row] > MAX_SHIFT) {
            return 0;
        }
    }
    return 1;
}

int fleet_check_features(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_features_t *op = record;
    const uint8_t *image = (const void *)header; /* the header is the first byte of the image */
    extent->input_bytes = (uint64_t)op->samples * sample_bytes(op);
    extent->output_bytes = (uint64_t)op->frames * op->coefficients;
    if (!sizes_are_legal(op) || !form_is_legal(op) || !scales_are_legal(op) || op->input % sample_bytes(op) != 0u ||
        op->scratch == FLEET_NO_OFFSET || op->scratch % 4u != 0u ||
        op->scratch_bytes < (4u << op->fft_log2) + 4u * op->mels || op->table % FLEET_IMAGE_SECTION_ALIGN != 0u ||
        op->table >= header->image_bytes) {
        return 0;
    }
    const fleet_features_tables_t tables = fleet_features_tables(image, op);
    const uint64_t bytes = (uint64_t)((const uint8_t *)tables.end - (image + op->table));
    return fleet_inside(op->table, bytes, header->image_bytes) && spans_are_legal(op, &tables) &&
           shifts_are_legal(op, tables.shifts);
}
