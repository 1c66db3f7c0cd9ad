#include "cbor.h"

#include <string.h>

#include "compact.h"
#include "ids.h"

enum { UINT = 0, BYTES = 2, TEXT = 3, ARRAY = 4, MAP = 5, TAG = 6, SIMPLE = 7 };
enum { DEPTH_MAX = 6 };
enum { HEAD_BYTES_1 = 24, HEAD_BYTES_8 = 27 };
enum { HEAD_FALSE = 0xF4, HEAD_TRUE = 0xF5, HEAD_NULL = 0xF6 };

fleet_cbor_t fleet_cbor_reader(const uint8_t *data, uint32_t bytes) {
    fleet_cbor_t in = {data, data + bytes, false};
    return in;
}

bool fleet_cbor_done(const fleet_cbor_t *in) {
    return !in->bad && in->at == in->end;
}

static uint32_t left(const fleet_cbor_t *in) {
    return (uint32_t)(in->end - in->at);
}

void fleet_cbor_fail(fleet_cbor_t *in) {
    in->bad = true;
    in->at = in->end;
}

FLEET_APART static uint64_t fail(fleet_cbor_t *in) {
    fleet_cbor_fail(in);
    return 0;
}

/* Any head: major type and argument. A longer head than the value needs is not deterministic. */
static uint64_t read_head(fleet_cbor_t *in, uint8_t *major) {
    const uint8_t *at = fleet_cbor_raw(in, 1);
    *major = 255;
    if (at == NULL) {
        return 0;
    }
    const uint32_t low = *at & 31U;
    *major = *at >> 5;
    if (low < HEAD_BYTES_1) {
        return low;
    }
    const uint32_t bytes = 1U << (low - HEAD_BYTES_1);
    uint64_t value = 0;
    if (low > HEAD_BYTES_8 || fleet_cbor_raw(in, bytes) == NULL) {
        return fail(in);
    }
    uint32_t upper = 0; /* bits of the half that a shorter head leaves out */
    for (uint32_t i = 1; i <= bytes; i++) {
        value = (value << 8) | at[i];
        upper |= 2U * i <= bytes ? at[i] : 0U;
    }
    return (bytes == 1 ? value >= HEAD_BYTES_1 : upper != 0) ? value : fail(in);
}

FLEET_APART static uint64_t head_of(fleet_cbor_t *in, uint8_t expected) {
    uint8_t major;
    const uint64_t value = read_head(in, &major);
    return major == expected ? value : fail(in);
}

/* A count of what is still to come: at least `each` bytes for one. */
static uint32_t count_of(fleet_cbor_t *in, uint8_t expected, uint32_t each) {
    const uint64_t count = head_of(in, expected);
    return (uint32_t)(count <= left(in) / each ? count : fail(in));
}

uint64_t fleet_cbor_uint(fleet_cbor_t *in) {
    return head_of(in, UINT);
}

uint32_t fleet_cbor_u32(fleet_cbor_t *in, uint32_t max) {
    const uint64_t value = fleet_cbor_uint(in);
    return (uint32_t)(value <= max ? value : fail(in));
}

static const uint8_t *take_string(fleet_cbor_t *in, uint8_t major, uint32_t *bytes) {
    *bytes = count_of(in, major, 1);
    return fleet_cbor_raw(in, *bytes);
}

const uint8_t *fleet_cbor_bytes(fleet_cbor_t *in, uint32_t *bytes) {
    return take_string(in, BYTES, bytes);
}

const uint8_t *fleet_cbor_raw(fleet_cbor_t *in, uint32_t bytes) {
    const uint8_t *data = in->at;
    if (in->bad || bytes > left(in)) {
        (void)fail(in);
        return NULL;
    }
    in->at += bytes;
    return data;
}

const uint8_t *fleet_cbor_fixed(fleet_cbor_t *in, uint32_t bytes) {
    uint32_t count;
    const uint8_t *data = fleet_cbor_bytes(in, &count);
    if (data != NULL && count != bytes) {
        (void)fail(in);
        return NULL;
    }
    return data;
}

const char *fleet_cbor_text(fleet_cbor_t *in, uint32_t *bytes) {
    return (const char *)take_string(in, TEXT, bytes);
}

bool fleet_cbor_is_text(fleet_cbor_t *in, const char *text) {
    uint32_t bytes;
    const char *found = fleet_cbor_text(in, &bytes);
    return fleet_text_is(found, bytes, text);
}

uint32_t fleet_cbor_array(fleet_cbor_t *in) {
    return count_of(in, ARRAY, 1);
}

uint32_t fleet_cbor_map(fleet_cbor_t *in) {
    return count_of(in, MAP, 2);
}

bool fleet_cbor_null(fleet_cbor_t *in) {
    if (left(in) == 0 || *in->at != HEAD_NULL) {
        return false;
    }
    in->at++;
    return true;
}

void fleet_cbor_expect(fleet_cbor_t *in, const uint8_t *expected, uint32_t bytes) {
    const uint8_t *data = fleet_cbor_raw(in, bytes);
    if (data != NULL && memcmp(data, expected, bytes) != 0) {
        (void)fail(in);
    }
}

/* Passes one item; `depth` bounds the recursion. */
static void skip(fleet_cbor_t *in, uint32_t depth) {
    uint8_t major;
    uint64_t inside = read_head(in, &major);
    switch (major) {
        case BYTES:
        case TEXT: in->at += inside <= left(in) ? inside : fail(in); return;
        case MAP: in->bad |= inside >> 63 != 0; inside *= 2U; break; /* too many items run out of bytes soon */
        case TAG: inside = 1; break;
        case ARRAY: break;
        case SIMPLE: in->bad |= inside < 20 || inside > 22; return;
        default: return; /* a number */
    }
    if (inside > 0 && depth == 0) {
        (void)fail(in);
    }
    for (; inside > 0 && !in->bad; inside--) {
        skip(in, depth - 1U);
    }
}

void fleet_cbor_skip(fleet_cbor_t *in) {
    skip(in, DEPTH_MAX - 1);
}

void fleet_cbor_item(fleet_cbor_t *in, fleet_cbor_t *item) {
    item->at = in->at;
    fleet_cbor_skip(in);
    item->end = in->at;
    item->bad = in->bad;
    if (in->bad) {
        item->at = in->at;
    }
}

fleet_cbor_out_t fleet_cbor_writer(uint8_t *data, uint32_t size) {
    fleet_cbor_out_t out = {data, size, 0, false};
    return out;
}

void fleet_cbor_put_raw(fleet_cbor_out_t *out, const uint8_t *data, uint32_t bytes) {
    if (out->full || bytes > out->size - out->used) {
        out->full = true;
        return;
    }
    memcpy(out->data + out->used, data, bytes);
    out->used += bytes;
}

static void put_head(fleet_cbor_out_t *out, uint8_t major, uint64_t value) {
    uint8_t head[9];
    uint32_t bytes = 0;
    head[0] = (uint8_t)(major << 5 | (uint8_t)value);
    if (value >= HEAD_BYTES_1) {
        const uint32_t log = (uint32_t)value == value ? (value > 0xFF ? 1U : 0U) + (value > 0xFFFF ? 1U : 0U) : 3U;
        head[0] = (uint8_t)((uint32_t)major << 5 | (HEAD_BYTES_1 + log));
        bytes = 1U << log;
    }
    for (uint32_t i = bytes; i > 0; i--) {
        head[i] = (uint8_t)value;
        value >>= 8;
    }
    fleet_cbor_put_raw(out, head, 1U + bytes);
}

void fleet_cbor_put_uint(fleet_cbor_out_t *out, uint32_t value) {
    put_head(out, UINT, value);
}

void fleet_cbor_put_u64(fleet_cbor_out_t *out, uint64_t value) {
    put_head(out, UINT, value);
}

static void put_string(fleet_cbor_out_t *out, uint8_t major, const void *data, uint32_t bytes) {
    put_head(out, major, bytes);
    fleet_cbor_put_raw(out, data, bytes);
}

void fleet_cbor_put_bytes(fleet_cbor_out_t *out, const uint8_t *data, uint32_t bytes) {
    put_string(out, BYTES, data, bytes);
}

void fleet_cbor_put_text(fleet_cbor_out_t *out, const char *text) {
    put_string(out, TEXT, text, (uint32_t)strlen(text));
}

void fleet_cbor_put_array(fleet_cbor_out_t *out, uint32_t count) {
    put_head(out, ARRAY, count);
}

void fleet_cbor_put_map(fleet_cbor_out_t *out, uint32_t count) {
    put_head(out, MAP, count);
}

FLEET_APART static void put_simple(fleet_cbor_out_t *out, uint8_t head) {
    fleet_cbor_put_raw(out, &head, 1);
}

void fleet_cbor_put_bool(fleet_cbor_out_t *out, bool value) {
    put_simple(out, value ? HEAD_TRUE : HEAD_FALSE);
}

void fleet_cbor_put_null(fleet_cbor_out_t *out) {
    put_simple(out, HEAD_NULL);
}
