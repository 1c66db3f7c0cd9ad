#include "cbor.h"

#include <string.h>

enum { UINT = 0, BYTES = 2, TEXT = 3, ARRAY = 4, MAP = 5, TAG = 6, SIMPLE = 7 };
enum { DEPTH_MAX = 6 };
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

static uint64_t fail(fleet_cbor_t *in) {
    in->bad = true;
    in->at = in->end;
    return 0;
}

/* The bytes after a head's first one, by its low five bits; 255 where the head is not allowed. */
static uint32_t argument_bytes(uint8_t low) {
    static const uint8_t sizes[4] = {1, 2, 4, 8};
    return low < 24 ? 0U : (low < 28 ? sizes[low - 24] : 255U);
}

/* A longer head than the value needs is not deterministic. */
static bool is_shortest(uint64_t value, uint32_t bytes) {
    switch (bytes) {
        case 0: return true;
        case 1: return value >= 24;
        case 2: return value > 0xFF;
        case 4: return value > 0xFFFF;
        default: return value > 0xFFFFFFFFU;
    }
}

/* Any head: major type and argument. */
static uint64_t read_head(fleet_cbor_t *in, uint8_t *major) {
    *major = 255;
    if (in->bad || left(in) == 0) {
        return fail(in);
    }
    const uint8_t first = *in->at;
    const uint32_t bytes = argument_bytes(first & 31U);
    if (bytes == 255U || left(in) < 1U + bytes) {
        return fail(in);
    }
    uint64_t value = bytes == 0 ? (first & 31U) : 0;
    for (uint32_t i = 0; i < bytes; i++) {
        value = (value << 8) | in->at[1U + i];
    }
    if (!is_shortest(value, bytes)) {
        return fail(in);
    }
    in->at += 1U + bytes;
    *major = first >> 5;
    return value;
}

static uint64_t head_of(fleet_cbor_t *in, uint8_t expected) {
    uint8_t major;
    const uint64_t value = read_head(in, &major);
    return major == expected ? value : fail(in);
}

static const uint8_t *take(fleet_cbor_t *in, uint64_t bytes) {
    if (in->bad || bytes > left(in)) {
        (void)fail(in);
        return NULL;
    }
    const uint8_t *data = in->at;
    in->at += bytes;
    return data;
}

uint64_t fleet_cbor_uint(fleet_cbor_t *in) {
    return head_of(in, UINT);
}

uint32_t fleet_cbor_u32(fleet_cbor_t *in, uint32_t max) {
    const uint64_t value = fleet_cbor_uint(in);
    return (uint32_t)(value <= max ? value : fail(in));
}

const uint8_t *fleet_cbor_bytes(fleet_cbor_t *in, uint32_t *bytes) {
    const uint64_t count = head_of(in, BYTES);
    const uint8_t *data = take(in, count);
    *bytes = data != NULL ? (uint32_t)count : 0U;
    return data;
}

const uint8_t *fleet_cbor_raw(fleet_cbor_t *in, uint32_t bytes) {
    return take(in, bytes);
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
    const uint64_t count = head_of(in, TEXT);
    const uint8_t *data = take(in, count);
    *bytes = data != NULL ? (uint32_t)count : 0U;
    return (const char *)data;
}

uint64_t fleet_cbor_array(fleet_cbor_t *in) {
    const uint64_t count = head_of(in, ARRAY);
    return count <= left(in) ? count : fail(in); /* each element takes a byte at least */
}

bool fleet_cbor_null(fleet_cbor_t *in) {
    if (in->bad || left(in) == 0 || *in->at != HEAD_NULL) {
        return false;
    }
    in->at++;
    return true;
}

void fleet_cbor_expect(fleet_cbor_t *in, const uint8_t *expected, uint32_t bytes) {
    const uint8_t *data = take(in, bytes);
    if (data != NULL && memcmp(data, expected, bytes) != 0) {
        (void)fail(in);
    }
}

static uint64_t items_inside(fleet_cbor_t *in) {
    uint8_t major;
    const uint64_t value = read_head(in, &major);
    switch (major) {
        case 0:
        case 1: return 0;
        case BYTES:
        case TEXT: (void)take(in, value); return 0;
        case ARRAY: return value <= left(in) ? value : fail(in);
        case MAP: return value <= left(in) / 2U ? value * 2U : fail(in);
        case TAG: return 1;
        case SIMPLE: return value >= 20 && value <= 22 ? 0 : fail(in);
        default: return fail(in);
    }
}

void fleet_cbor_skip(fleet_cbor_t *in) {
    uint64_t open[DEPTH_MAX] = {1};
    uint32_t depth = 1;
    while (depth > 0 && !in->bad) {
        if (open[depth - 1] == 0) {
            depth--;
            continue;
        }
        open[depth - 1]--;
        const uint64_t inside = items_inside(in);
        if (inside > 0) {
            if (depth == DEPTH_MAX) {
                (void)fail(in);
                return;
            }
            open[depth++] = inside;
        }
    }
}

fleet_cbor_map_t fleet_cbor_map(fleet_cbor_t *in) {
    const uint64_t count = head_of(in, MAP);
    fleet_cbor_map_t map = {count <= left(in) / 2U ? count : fail(in), 0, true};
    return map;
}

bool fleet_cbor_next(fleet_cbor_t *in, fleet_cbor_map_t *map) {
    if (in->bad || map->left == 0) {
        return false;
    }
    map->left--;
    const uint64_t key = fleet_cbor_uint(in);
    if (in->bad || (!map->first && key <= map->key)) {
        (void)fail(in);
        return false;
    }
    map->first = false;
    map->key = key;
    return true;
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
    if (bytes > 0) {
        memcpy(out->data + out->used, data, bytes);
    }
    out->used += bytes;
}

static void put_head(fleet_cbor_out_t *out, uint8_t major, uint64_t value) {
    uint8_t head[9];
    uint32_t bytes = value < 24 ? 0U : value <= 0xFF ? 1U : value <= 0xFFFF ? 2U : value <= 0xFFFFFFFFU ? 4U : 8U;
    static const uint8_t low[9] = {0, 24, 25, 0, 26, 0, 0, 0, 27};
    head[0] = (uint8_t)((major << 5) | (bytes == 0 ? (uint8_t)value : low[bytes]));
    for (uint32_t i = 0; i < bytes; i++) {
        head[1U + i] = (uint8_t)(value >> (8U * (bytes - 1U - i)));
    }
    fleet_cbor_put_raw(out, head, 1U + bytes);
}

void fleet_cbor_put_uint(fleet_cbor_out_t *out, uint64_t value) {
    put_head(out, UINT, value);
}

void fleet_cbor_put_bytes(fleet_cbor_out_t *out, const uint8_t *data, uint32_t bytes) {
    put_head(out, BYTES, bytes);
    fleet_cbor_put_raw(out, data, bytes);
}

void fleet_cbor_put_text(fleet_cbor_out_t *out, const char *text) {
    const uint32_t bytes = (uint32_t)strlen(text);
    put_head(out, TEXT, bytes);
    fleet_cbor_put_raw(out, (const uint8_t *)text, bytes);
}

void fleet_cbor_put_array(fleet_cbor_out_t *out, uint32_t count) {
    put_head(out, ARRAY, count);
}

void fleet_cbor_put_map(fleet_cbor_out_t *out, uint32_t count) {
    put_head(out, MAP, count);
}

void fleet_cbor_put_bool(fleet_cbor_out_t *out, bool value) {
    const uint8_t byte = value ? HEAD_TRUE : HEAD_FALSE;
    fleet_cbor_put_raw(out, &byte, 1);
}

void fleet_cbor_put_null(fleet_cbor_out_t *out) {
    const uint8_t byte = HEAD_NULL;
    fleet_cbor_put_raw(out, &byte, 1);
}
