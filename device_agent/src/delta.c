/*
 * Streaming patch decoder, ota/SPEC.md section 6. The reference is tinyfleet_ota/delta.
 *
 * One symbol is decoded only when the input ring holds as many bytes as the longest symbol can need, or the patch's last
 * byte has come: so nothing ever stops inside a symbol, and pieces of any size give the same result.
 */
#include "fleet_delta.h"

#include <stdlib.h>
#include <string.h>

#include "compact.h"
#include "fleet_runtime.h"

enum { PHASE_HEADER, PHASE_BLOCK, PHASE_HEAD, PHASE_OFFSET, PHASE_PLACE, PHASE_ROWS = PHASE_PLACE + 4, PHASE_READY, PHASE_BODY, PHASE_DONE };

/* Longest symbol: a word of 38 adaptive bits, each of at most 12 bits, rounded up. */
#define LOOKAHEAD_BYTES 64u
#define RANGE_TOP (1u << 24)
#define PROBABILITY_HALF 0x8000u
#define COPY_STEP_BYTES 32u
#define SPACING_UNIT 256u
#define CHECKED_BYTES 2u
#define CODE_BYTES 4u
#define UNIT_RATIO (1u << FLEET_DELTA_RATIO_BITS)
#define ROW_PIECE_BYTES 32u
/* Adding up this many bytes of rows counts as one byte of output against a call's budget. */
#define ROW_BYTES_PER_OUTPUT 8u

enum { OP_STORED = FLEET_DELTA_OP_COPY + 1 }; /* bytes as they came: the only segment of each block where no patch travels */
enum { OLD, NEW, WINDOW }; /* of rows.layer */

typedef char fleet_delta_ring_holds_a_symbol[(FLEET_DELTA_INPUT_BYTES >= LOOKAHEAD_BYTES) ? 1 : -1];
typedef char fleet_delta_state_is_small[(sizeof(fleet_delta_t) <= 2560u) ? 1 : -1];

/* The first failure stays. */
static void fail(fleet_delta_t *d, fleet_status_t status) {
    if (d->status == FLEET_OK) {
        d->status = status;
    }
}

static void damaged(fleet_delta_t *d) {
    fail(d, FLEET_ERR_PATCH);
}

/* ---- input */

static uint32_t take_input(fleet_delta_t *d, const uint8_t *data, size_t size) {
    uint32_t taken = 0;
    while (taken < size && d->input_count < FLEET_DELTA_INPUT_BYTES && d->received < d->config->patch_bytes) {
        d->input[(d->input_first + d->input_count) % FLEET_DELTA_INPUT_BYTES] = data[taken];
        d->input_count++;
        d->received++;
        taken++;
    }
    return taken;
}

/* Behind the last byte of a patch some zeros follow that do not travel. */
static uint32_t next_byte(fleet_delta_t *d) {
    uint32_t byte = 0;
    if (d->input_count > 0u) {
        byte = d->input[d->input_first];
        d->input_first = (d->input_first + 1u) % FLEET_DELTA_INPUT_BYTES;
        d->input_count--;
    } else if (d->consumed >= d->config->patch_bytes + FLEET_DELTA_SILENT_BYTES) {
        damaged(d);
    }
    d->consumed++;
    return byte;
}

/* ---- range coder */

FLEET_APART static void forget(fleet_delta_t *d, uint32_t first) {
    for (uint32_t i = first; i < FLEET_DELTA_CONTEXTS; i++) {
        d->probability[i] = PROBABILITY_HALF;
        d->count[i] = 0;
    }
}

static void normalise(fleet_delta_t *d) {
    while (d->range < RANGE_TOP) {
        d->range <<= 8;
        d->code = (d->code << 8) | next_byte(d);
    }
}

static uint32_t bit(fleet_delta_t *d, uint32_t context) {
    const uint32_t probability = d->probability[context];
    const uint32_t rate = 65536u / (d->count[context] + 2u); /* of 65536: fast while it knows little, then steady */
    const uint32_t bound = (d->range >> 12) * ((probability >> 4) | 1u);
    const uint32_t one = d->code >= bound;
    if (one) {
        d->code -= bound;
        d->range -= bound;
        d->probability[context] = (uint16_t)(probability - ((probability * rate) >> 16));
    } else {
        d->range = bound;
        d->probability[context] = (uint16_t)(probability + (((65536u - probability) * rate) >> 16));
    }
    if (d->count[context] < FLEET_DELTA_COUNT_LIMIT) {
        d->count[context]++;
    }
    normalise(d);
    return one;
}

static uint32_t direct(fleet_delta_t *d, uint32_t bits) {
    uint32_t value = 0;
    while (bits-- > 0u) {
        d->range >>= 1;
        const uint32_t one = d->code >= d->range;
        if (one) {
            d->code -= d->range;
        }
        value = (value << 1) | one;
        normalise(d);
    }
    return value;
}

static uint32_t tree(fleet_delta_t *d, uint32_t contexts, uint32_t bits) {
    uint32_t node = 1;
    for (uint32_t i = 0; i < bits; i++) {
        node = (node << 1) | bit(d, contexts + node);
    }
    return node - (1u << bits);
}

static uint32_t exp_golomb(fleet_delta_t *d, uint32_t contexts, uint32_t bits_max) {
    uint32_t bits = 0;
    while (bit(d, contexts + bits)) {
        if (++bits > bits_max) {
            damaged(d);
            return 0;
        }
    }
    return ((1u << bits) | direct(d, bits)) - 1u;
}

/* ---- old and new images */

static uint32_t little32(const uint8_t *data) {
    return (uint32_t)data[0] | ((uint32_t)data[1] << 8) | ((uint32_t)data[2] << 16) | ((uint32_t)data[3] << 24);
}

static uint32_t old_byte(fleet_delta_t *d) {
    const uint32_t offset = d->old_offset;
    if (offset - d->cache_offset >= d->cache_count) {
        const uint32_t left = d->config->old_bytes - offset;
        d->cache_offset = offset;
        d->cache_count = (uint8_t)(left < FLEET_DELTA_OLD_CACHE_BYTES ? left : FLEET_DELTA_OLD_CACHE_BYTES);
        if (d->config->read_old(d->config->ctx, offset, d->cache, d->cache_count) != 0) {
            d->cache_count = 0;
            fail(d, FLEET_ERR_STORAGE);
            return 0;
        }
    }
    d->old_offset++;
    return d->cache[offset - d->cache_offset];
}

static void write_unit(fleet_delta_t *d) {
    const uint32_t offset = d->produced - d->unit_used;
    if (d->status == FLEET_OK && d->unit_used > 0u &&
        d->config->write_new(d->config->ctx, offset, d->config->unit, d->unit_used) != 0) {
        fail(d, FLEET_ERR_STORAGE);
    }
    d->unit_used = 0;
}

static void put(fleet_delta_t *d, uint32_t byte) {
    d->config->unit[d->unit_used++] = (uint8_t)byte;
    d->produced++;
    d->segment_left--;
    if (d->unit_used == d->config->unit_bytes) {
        write_unit(d);
    }
}

/* ---- symbols */

static uint32_t residual_magnitude(fleet_delta_t *d, uint32_t near) {
    const uint32_t contexts = FLEET_DELTA_AT_UNARY + near * FLEET_DELTA_UNARY_MAX;
    for (uint32_t value = 1; value <= FLEET_DELTA_UNARY_MAX; value++) {
        if (!bit(d, contexts + value - 1u)) {
            return value;
        }
    }
    return FLEET_DELTA_UNARY_MAX + 1u + exp_golomb(d, FLEET_DELTA_AT_ESCAPE, FLEET_DELTA_ESCAPE_BITS_MAX);
}

static uint32_t residual(fleet_delta_t *d, uint32_t old) {
    uint32_t near = 0;
    while (near < FLEET_DELTA_NEAR_CLASSES - 1u && d->energy >> (FLEET_DELTA_ENERGY_BITS + near) != 0) {
        near++;
    }
    if (!bit(d, FLEET_DELTA_AT_ZERO + 2u * near + (uint32_t)(old != 0u))) {
        return 0;
    }
    const uint32_t side = d->balance > FLEET_DELTA_BALANCE ? 1u : d->balance < -FLEET_DELTA_BALANCE ? 2u : 0u;
    const uint32_t negative = bit(d, FLEET_DELTA_AT_SIGN + side);
    const uint32_t magnitude = residual_magnitude(d, near);
    d->energy += 8u * magnitude;
    d->balance += negative ? -8 : 8;
    return negative ? 0u - magnitude : magnitude;
}

/* RESIDUAL8 and SPARSE8 */
static void decode_byte(fleet_delta_t *d) {
    const uint32_t old = old_byte(d);
    uint32_t value = 0;
    bool zero = false;
    if (d->op == FLEET_DELTA_OP_SPARSE8) {
        const uint32_t magnitude = old < 128u ? old : 256u - old;
        zero = bit(d, FLEET_DELTA_AT_NEW_ZERO + magnitude / 8u) != 0u;
    }
    if (!zero) {
        value = old + residual(d, old);
    }
    d->energy -= d->energy / 8u;
    d->balance -= d->balance / 8;
    put(d, value & 0xffu);
}

/* The difference of a word to the expected one, wrapping */
static uint32_t word_difference(fleet_delta_t *d) {
    const uint32_t history = d->energy;
    d->energy = bit(d, FLEET_DELTA_AT_WORD_ZERO + history);
    if (d->energy == 0u) {
        return 0;
    }
    const uint32_t negative = bit(d, FLEET_DELTA_AT_WORD_SIGN);
    const uint32_t bits = tree(d, FLEET_DELTA_AT_WORD_LENGTH + 32u * history, 5);
    uint32_t magnitude = 1u << bits;
    const uint32_t zeros = (uint32_t)d->balance;
    uint32_t place = 0;
    for (uint32_t one = 0; place < bits && one == 0u; place++) {
        one = bit(d, FLEET_DELTA_AT_WORD_LOW + (uint32_t)(place >= zeros) + (uint32_t)(place > zeros));
        magnitude |= one << place;
        d->balance = (int32_t)place;
    }
    magnitude |= direct(d, bits - place) << place;
    return negative ? 0u - magnitude : magnitude;
}

/* ---- GRID32 */

/* A number of `bits` bits times a factor, shifted to result_bits bits, rounded half up. */
FLEET_APART static uint32_t scaled_to(uint32_t value, fleet_delta_factor_t factor, uint32_t bits, uint32_t result_bits) {
    const uint64_t product = (uint64_t)value * factor.high + (((uint64_t)value * factor.low) >> 8);
    const uint32_t top = (uint32_t)(product >> (bits + 31u)) & 1u;
    return (uint32_t)(((product >> (bits + 30u + top - result_bits)) + 1u) >> 1);
}

static uint32_t grid_word(fleet_delta_t *d, uint32_t old) {
    const uint32_t number = scaled_to(old, d->factors[0], FLEET_DELTA_WORD_BITS, d->grid_bits) + word_difference(d);
    if (d->grid_bits == FLEET_DELTA_WORD_BITS) {
        return number;
    }
    return scaled_to(number & ((1u << FLEET_DELTA_FLOAT_BITS) - 1u), d->factors[1], FLEET_DELTA_FLOAT_BITS, FLEET_DELTA_WORD_BITS);
}

/* ---- ROWSUM32 */

/* Bytes of an image: those of the new one that wait in the unit are taken from there. */
static void read_image(fleet_delta_t *d, bool from_new, uint32_t offset, uint8_t *data, uint32_t size) {
    const fleet_delta_config_t *config = d->config;
    const uint32_t written = d->produced - d->unit_used;
    uint32_t stored = size;
    if (from_new && offset + size > written) {
        stored = offset < written ? written - offset : 0u;
        memcpy(data + stored, config->unit + (offset + stored - written), size - stored);
    }
    if (stored > 0u && (from_new ? config->read_new : config->read_old)(config->ctx, offset, data, stored) != 0) {
        fail(d, FLEET_ERR_STORAGE);
    }
}

static uint32_t image_word(fleet_delta_t *d, bool from_new, uint32_t offset) {
    uint8_t piece[FLEET_DELTA_WORD];
    read_image(d, from_new, offset, piece, sizeof piece);
    return little32(piece);
}

static int8_t signed_byte(uint32_t byte) {
    return (int8_t)(byte < 128u ? (int32_t)byte : (int32_t)byte - 256);
}

static uint32_t row_sum(fleet_delta_t *d, uint32_t image) {
    uint8_t piece[ROW_PIECE_BYTES];
    int32_t sum = 0;
    uint32_t offset = d->rows.at[image];
    for (uint32_t left = d->rows.length; left > 0u && d->status == FLEET_OK;) {
        const uint32_t size = left < sizeof piece ? left : (uint32_t)sizeof piece;
        read_image(d, image == 1u, offset, piece, size);
        for (uint32_t i = 0; i < size; i++) {
            sum += signed_byte(piece[i]);
        }
        offset += size;
        left -= size;
    }
    return (uint32_t)sum;
}

/* dividend x 2^30 / divisor modulo 2^32, without a library's 64-bit division. */
static uint32_t quotient(uint32_t dividend, uint32_t divisor) {
    uint32_t result = dividend / divisor;
    uint64_t rest = dividend % divisor;
    for (uint32_t i = 0; i < FLEET_DELTA_RATIO_BITS; i++) {
        rest <<= 1;
        result <<= 1;
        if (rest >= divisor) {
            rest -= divisor;
            result |= 1u;
        }
    }
    return result;
}

/* Old over new multiplier, brought into its window by a power of two, times the common ratio; in units of 2^-30. */
FLEET_APART static uint32_t row_ratio(fleet_delta_t *d) {
    const uint32_t low = (uint32_t)d->rows.layer[WINDOW] << FLEET_DELTA_WINDOW_BITS;
    const uint32_t old_word = image_word(d, false, d->rows.at[2]);
    const uint32_t new_word = image_word(d, true, d->rows.at[3]);
    uint32_t ratio = new_word > 0u ? quotient(old_word, new_word) : UNIT_RATIO;
    for (uint32_t i = 0; i < 3u; i++) {
        ratio = ratio >= 2u * low ? ratio >> 1 : ratio < low ? ratio << 1 : ratio;
    }
    return (uint32_t)(((uint64_t)ratio * d->rows.ratio) >> FLEET_DELTA_RATIO_BITS);
}

/* Word as int32 times ratio / 2^30, rounded half away from zero. */
static uint32_t scaled_word(uint32_t word, uint32_t ratio) {
    const bool negative = word >= 0x80000000u;
    const uint64_t magnitude = negative ? 0u - word : word;
    const uint64_t half = 1u << (FLEET_DELTA_RATIO_BITS - 1u);
    const uint32_t scaled = (uint32_t)((magnitude * ratio + half) >> FLEET_DELTA_RATIO_BITS);
    return negative ? 0u - scaled : scaled;
}

static void next_row(fleet_delta_t *d) {
    d->rows.at[0] += d->rows.length;
    d->rows.at[1] += d->rows.length;
    d->rows.at[2] += FLEET_DELTA_WORD;
    d->rows.at[3] += FLEET_DELTA_WORD;
    d->work += d->rows.length;
}

static uint32_t zero_point(const fleet_delta_t *d, uint32_t image) {
    return (uint32_t)(int32_t)signed_byte(d->rows.layer[image]);
}

static uint32_t bias(fleet_delta_t *d, uint32_t old) {
    const uint32_t folded = old + zero_point(d, OLD) * row_sum(d, 0);
    const uint32_t scaled = scaled_word(folded, row_ratio(d));
    const uint32_t expected = scaled - zero_point(d, NEW) * row_sum(d, 1);
    next_row(d);
    return expected + word_difference(d);
}

static void decode_word(fleet_delta_t *d) {
    uint32_t word = 0;
    for (uint32_t shift = 0; shift < 32u; shift += 8u) {
        word |= old_byte(d) << shift;
    }
    switch (d->op) {
        case FLEET_DELTA_OP_GRID32: word = grid_word(d, word); break;
        case FLEET_DELTA_OP_ROWSUM32: word = bias(d, word); break;
        default: word += word_difference(d); break;
    }
    for (uint32_t shift = 0; shift < 32u; shift += 8u) {
        put(d, (word >> shift) & 0xffu);
    }
}

static void copy_some(fleet_delta_t *d, uint32_t budget) {
    uint32_t count = budget < COPY_STEP_BYTES ? budget : COPY_STEP_BYTES;
    count = count < d->segment_left ? count : d->segment_left;
    while (count-- > 0u && d->status == FLEET_OK) {
        put(d, old_byte(d));
    }
}

/* ---- phases */

/* The check begins with the sizes and the base as the caller gave them, little-endian as the core. */
#define SIZES_AND_BASE_BYTES (offsetof(fleet_delta_config_t, base_id) + FLEET_DELTA_BASE_ID_BYTES)
typedef char fleet_delta_config_begins_with_what_is_checked[SIZES_AND_BASE_BYTES == 20u ? 1 : -1];

static void read_header(fleet_delta_t *d) {
    uint8_t head[FLEET_DELTA_HEADER_BYTES];
    for (uint32_t i = 0; i < FLEET_DELTA_HEADER_BYTES; i++) {
        head[i] = (uint8_t)next_byte(d);
    }
    const uint32_t crc = fleet_crc32(fleet_crc32(0, d->config, SIZES_AND_BASE_BYTES), head, CHECKED_BYTES);
    const uint32_t check = (uint32_t)head[2] | ((uint32_t)head[3] << 8);
    const uint32_t number = head[1] / 2u;
    if (head[0] != FLEET_DELTA_START || number > FLEET_DELTA_SPACING_MAX || d->config->new_bytes > FLEET_DELTA_IMAGE_BYTES_MAX) {
        damaged(d);
    } else if (check != (crc & 0xffffu)) {
        fail(d, FLEET_ERR_PATCH_BASE);
    }
    d->checkpoint.spacing = SPACING_UNIT * ((1u << (number & 31u)) >> 1);
    for (uint32_t left = (head[1] % 2u) * FLEET_DELTA_SIZE_BYTES; left > 0u; left--) {
        (void)next_byte(d);
    }
    d->phase = PHASE_BLOCK;
}

static void forget_rows(fleet_delta_t *d) {
    memset(&d->rows, 0, sizeof d->rows);
    d->rows.layer[OLD] = FLEET_DELTA_ZERO_FIRST;
    d->rows.layer[NEW] = FLEET_DELTA_ZERO_FIRST;
    d->rows.layer[WINDOW] = FLEET_DELTA_WINDOW_FIRST;
}

static void start_block(fleet_delta_t *d) {
    const uint32_t left = d->config->new_bytes - d->produced;
    const uint32_t spacing = d->checkpoint.spacing;
    d->block_end = d->produced + (spacing > 0u && spacing < left ? spacing : left);
    d->old_offset = d->produced;
    d->op = FLEET_DELTA_OP_COPY;
    if (d->config->stored) {
        d->op = OP_STORED;
        d->segment_left = d->block_end - d->produced;
        d->phase = PHASE_BODY;
        return;
    }
    forget_rows(d);
    d->range = 0xffffffffu;
    d->code = 0;
    for (uint32_t i = 0; i < CODE_BYTES; i++) {
        d->code = (d->code << 8) | next_byte(d);
    }
    forget(d, 0);
    d->phase = PHASE_HEAD;
}

static void end_block(fleet_delta_t *d) {
    if (d->produced < d->config->new_bytes) {
        const uint32_t align = d->config->checkpoint_align_bytes;
        if (align == 0u || d->produced % align == 0u) {
            d->checkpoint.input_offset = d->consumed;
            d->checkpoint.output_offset = d->produced;
        }
        d->phase = PHASE_BLOCK;
        return;
    }
    write_unit(d);
    if (d->consumed < d->config->patch_bytes) {
        damaged(d);
    }
    d->phase = PHASE_DONE;
}

static void read_length(fleet_delta_t *d) {
    const uint32_t unit = d->op >= FLEET_DELTA_OP_RESIDUAL32 ? FLEET_DELTA_WORD : 1u;
    const uint32_t lengths = FLEET_DELTA_AT_LENGTH + (d->op == FLEET_DELTA_OP_COPY ? FLEET_DELTA_LENGTH_BITS_MAX + 1u : 0u);
    d->segment_left = unit * (exp_golomb(d, lengths, FLEET_DELTA_LENGTH_BITS_MAX) + 1u);
    if (d->segment_left > d->block_end - d->produced) {
        damaged(d);
    }
}

static void read_op(fleet_delta_t *d) {
    d->op = (uint8_t)tree(d, d->op == FLEET_DELTA_OP_COPY ? FLEET_DELTA_AT_OP : FLEET_DELTA_AT_OP + 8u, 3);
    d->fresh = bit(d, FLEET_DELTA_AT_RESET) != 0u;
    if (d->op > FLEET_DELTA_OP_COPY) {
        damaged(d);
    }
    read_length(d);
    d->phase = PHASE_OFFSET;
}

/* An offset that goes on at `expected` unless the patch moves it; contexts of the distance follow that of its direction. */
static uint32_t moved(fleet_delta_t *d, uint32_t flag, uint32_t direction, uint32_t expected) {
    if (!bit(d, flag)) {
        return expected;
    }
    const uint32_t back = bit(d, direction);
    const uint32_t distance = 1u + exp_golomb(d, direction + 1u, FLEET_DELTA_LENGTH_BITS_MAX);
    if (back && distance > expected) {
        damaged(d);
    }
    return back ? expected - distance : expected + distance;
}

static bool inside(uint32_t offset, uint32_t size, uint32_t end) {
    return offset <= end && size <= end - offset;
}

static void read_grid(fleet_delta_t *d) {
    const uint32_t is_float = direct(d, 1);
    d->grid_bits = is_float ? FLEET_DELTA_FLOAT_BITS : FLEET_DELTA_WORD_BITS;
    for (uint32_t i = 0; i <= is_float; i++) {
        d->factors[i].high = 0x80000000u | direct(d, 31);
        d->factors[i].low = (uint8_t)direct(d, 8);
    }
}

static void make_ready(fleet_delta_t *d) {
    if (d->fresh) {
        forget(d, FLEET_DELTA_BODY);
    }
    d->energy = 0;
    d->balance = 0;
    if (d->op < FLEET_DELTA_OP_ROWSUM32) {
        uint32_t *at = &d->rows.at[d->op < FLEET_DELTA_OP_RESIDUAL32 ? 0 : 2];
        at[0] = d->old_offset;
        at[1] = d->produced;
    }
    d->phase = PHASE_BODY;
}

/* Every old byte of the segment must exist. */
static void read_offset(fleet_delta_t *d) {
    if (d->op != FLEET_DELTA_OP_LITERAL) {
        d->old_offset = moved(d, FLEET_DELTA_AT_MOVED, FLEET_DELTA_AT_MOVED_BACK, d->old_offset);
        if (!inside(d->old_offset, d->segment_left, d->config->old_bytes)) {
            damaged(d);
        }
    }
    if (d->op == FLEET_DELTA_OP_GRID32) {
        read_grid(d);
    }
    d->phase = d->op == FLEET_DELTA_OP_ROWSUM32 ? PHASE_PLACE : PHASE_READY;
}

static void read_place(fleet_delta_t *d) {
    const uint32_t place = (uint32_t)d->phase - PHASE_PLACE;
    uint32_t *at = &d->rows.at[place];
    const uint32_t expected = *at;
    *at = moved(d, FLEET_DELTA_AT_ROWS_MOVED + place, FLEET_DELTA_AT_ROWS_BACK, expected);
    if (place % 2u == 0u) {
        at[1] += *at - expected;
    }
    d->phase++;
}

/* Rows lie inside the old image and inside what is done of the new one; no byte of a patch can make much work. */
static bool rows_usable(const fleet_delta_t *d) {
    const fleet_delta_rows_t *rows = &d->rows;
    const uint32_t count = d->segment_left / FLEET_DELTA_WORD;
    if (rows->length > d->rows_left / count) {
        return false;
    }
    bool usable = true;
    for (uint32_t i = 0; i < 4u; i++) {
        usable = usable && inside(rows->at[i], count * (i < 2u ? rows->length : FLEET_DELTA_WORD), i % 2u ? d->produced : d->config->old_bytes);
    }
    return usable;
}

static void read_rows(fleet_delta_t *d) {
    fleet_delta_rows_t *rows = &d->rows;
    rows->length = 1u + exp_golomb(d, FLEET_DELTA_AT_ROWS_LENGTH, FLEET_DELTA_LENGTH_BITS_MAX);
    if (bit(d, FLEET_DELTA_AT_ROWS_SAME)) {
        for (uint32_t i = 0; i < sizeof rows->layer; i++) {
            rows->layer[i] = (uint8_t)direct(d, 8);
        }
    }
    rows->ratio = UNIT_RATIO;
    if (bit(d, FLEET_DELTA_AT_ROWS_UNIT)) {
        rows->ratio = direct(d, 32);
    }
    if (rows_usable(d)) {
        d->rows_left -= rows->length * (d->segment_left / FLEET_DELTA_WORD);
    } else {
        damaged(d);
    }
    d->phase = PHASE_READY;
}

static void decode_body(fleet_delta_t *d, uint32_t budget) {
    switch (d->op) {
        case FLEET_DELTA_OP_COPY: copy_some(d, budget); break;
        case OP_STORED: put(d, next_byte(d)); break;
        case FLEET_DELTA_OP_RESIDUAL32:
        case FLEET_DELTA_OP_GRID32:
        case FLEET_DELTA_OP_ROWSUM32: decode_word(d); break;
        case FLEET_DELTA_OP_LITERAL:
            put(d, tree(d, FLEET_DELTA_AT_TREE, 8));
            d->old_offset++;
            break;
        default: decode_byte(d); break;
    }
    if (d->segment_left == 0u) {
        d->phase = PHASE_HEAD;
        if (d->produced == d->block_end) {
            end_block(d);
        }
    }
}

FLEET_APART static void step(fleet_delta_t *d, uint32_t budget) {
    switch (d->phase) {
        case PHASE_HEADER: read_header(d); break;
        case PHASE_BLOCK: start_block(d); break;
        case PHASE_HEAD: read_op(d); break;
        case PHASE_OFFSET: read_offset(d); break;
        case PHASE_ROWS: read_rows(d); break;
        case PHASE_READY: make_ready(d); break;
        case PHASE_BODY: decode_body(d, budget); break;
        default: read_place(d); break;
    }
}

/* ---- public */

static bool config_is_usable(const fleet_delta_config_t *c) {
    return c != NULL && c->write_new != NULL && ((c->read_old != NULL && c->read_new != NULL) || c->old_bytes == 0u) && c->unit != NULL &&
           c->unit_bytes > 0u && SPACING_UNIT % c->unit_bytes == 0u &&
           c->new_bytes > 0u && c->old_bytes <= FLEET_DELTA_IMAGE_BYTES_MAX;
}

fleet_status_t fleet_delta_init(fleet_delta_t *delta, const fleet_delta_config_t *config) {
    if (delta == NULL || !config_is_usable(config)) {
        return FLEET_ERR_ARGUMENT;
    }
    memset(delta, 0, sizeof *delta);
    delta->config = config;
    delta->rows_left = config->new_bytes;
    delta->starved = true;
    delta->lookahead = LOOKAHEAD_BYTES;
    if (config->stored) {
        delta->lookahead = 1;
        delta->checkpoint.spacing = SPACING_UNIT;
        delta->phase = PHASE_BLOCK;
    }
    return FLEET_OK;
}

fleet_status_t fleet_delta_resume(fleet_delta_t *delta, const fleet_delta_config_t *config,
                                  const fleet_delta_checkpoint_t *checkpoint) {
    const fleet_status_t status = fleet_delta_init(delta, config);
    if (status != FLEET_OK || checkpoint == NULL) {
        return FLEET_ERR_ARGUMENT;
    }
    if (checkpoint->input_offset == 0u) {
        return FLEET_OK;
    }
    if (checkpoint->input_offset < FLEET_DELTA_HEADER_BYTES || checkpoint->input_offset >= config->patch_bytes ||
        checkpoint->spacing == 0u || checkpoint->spacing % SPACING_UNIT != 0u || checkpoint->output_offset == 0u ||
        checkpoint->output_offset % checkpoint->spacing != 0u || checkpoint->output_offset >= config->new_bytes) {
        return FLEET_ERR_ARGUMENT;
    }
    delta->checkpoint = *checkpoint;
    delta->received = checkpoint->input_offset;
    delta->consumed = checkpoint->input_offset;
    delta->produced = checkpoint->output_offset;
    delta->phase = PHASE_BLOCK;
    return FLEET_OK;
}

fleet_status_t fleet_delta_push(fleet_delta_t *delta, const uint8_t *data, size_t size, uint32_t budget_bytes, size_t *used) {
    fleet_delta_t *d = delta;
    if (d == NULL || d->config == NULL || used == NULL || (data == NULL && size > 0u) || budget_bytes < FLEET_DELTA_WORD) {
        return FLEET_ERR_ARGUMENT;
    }
    const uint32_t before = d->produced;
    *used = 0;
    d->starved = false;
    d->work = 0;
    while (d->status == FLEET_OK && d->phase != PHASE_DONE) {
        if (*used < size) {
            *used += take_input(d, data + *used, size - *used);
        }
        if (d->input_count < d->lookahead && d->received < d->config->patch_bytes) {
            d->starved = true;
            break;
        }
        const uint32_t spent = d->produced - before + d->work / ROW_BYTES_PER_OUTPUT;
        if (spent > budget_bytes - FLEET_DELTA_WORD) {
            break;
        }
        step(d, budget_bytes - spent);
    }
    return (fleet_status_t)d->status;
}

bool fleet_delta_wants_input(const fleet_delta_t *delta) {
    return delta->starved;
}

bool fleet_delta_done(const fleet_delta_t *delta) {
    return delta->status == FLEET_OK && delta->phase == PHASE_DONE;
}

const fleet_delta_checkpoint_t *fleet_delta_checkpoint(const fleet_delta_t *delta) {
    return &delta->checkpoint;
}
