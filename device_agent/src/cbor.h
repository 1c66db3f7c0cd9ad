/*
 * Deterministic CBOR (RFC 8949 section 4.2.1) in and out: shortest heads, no indefinite lengths, no floats.
 * Both sides carry a sticky error, so a caller reads a whole message and asks once.
 */
#ifndef FLEET_CBOR_H
#define FLEET_CBOR_H

#include <stdbool.h>
#include <stdint.h>

/** Reader over bytes that stay the caller's. After an error every call answers zero or null. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
} fleet_cbor_t;

fleet_cbor_t fleet_cbor_reader(const uint8_t *data, uint32_t bytes);

/** True when everything was read without error and nothing is left over. */
bool fleet_cbor_done(const fleet_cbor_t *in);

/** Makes `in` bad: nothing more comes of it. */
void fleet_cbor_fail(fleet_cbor_t *in);

/** Makes `in` bad unless `holds`. */
static inline void fleet_cbor_require(fleet_cbor_t *in, bool holds) {
    if (!holds) {
        fleet_cbor_fail(in);
    }
}

uint64_t fleet_cbor_uint(fleet_cbor_t *in);
/** As fleet_cbor_uint; a value above `max` is an error. */
uint32_t fleet_cbor_u32(fleet_cbor_t *in, uint32_t max);
/** A byte string; null on error. */
const uint8_t *fleet_cbor_bytes(fleet_cbor_t *in, uint32_t *bytes);
/** A byte string of exactly `bytes`; null on error. */
const uint8_t *fleet_cbor_fixed(fleet_cbor_t *in, uint32_t bytes);
/** The next `bytes` bytes whatever they are; null on error. */
const uint8_t *fleet_cbor_raw(fleet_cbor_t *in, uint32_t bytes);
/** A text string, not zero-terminated; null on error. */
const char *fleet_cbor_text(fleet_cbor_t *in, uint32_t *bytes);
/** Reads a text string: whether it is `text`, which is zero-terminated. */
bool fleet_cbor_is_text(fleet_cbor_t *in, const char *text);
/** Number of elements of the array that begins here. */
uint32_t fleet_cbor_array(fleet_cbor_t *in);
/** Number of members of the map that begins here. */
uint32_t fleet_cbor_map(fleet_cbor_t *in);
/** True and past it when the next item is null. */
bool fleet_cbor_null(fleet_cbor_t *in);
/** Compares and passes the next `bytes` bytes; a difference is an error. */
void fleet_cbor_expect(fleet_cbor_t *in, const uint8_t *expected, uint32_t bytes);
/** Passes one item of any kind; nesting is bounded. */
void fleet_cbor_skip(fleet_cbor_t *in);
/** Passes one item of any kind. @param[out] item a reader over it alone */
void fleet_cbor_item(fleet_cbor_t *in, fleet_cbor_t *item);

/** Writer into a caller's buffer; `full` once something did not fit. */
typedef struct {
    uint8_t *data;
    uint32_t size;
    uint32_t used;
    bool full;
} fleet_cbor_out_t;

fleet_cbor_out_t fleet_cbor_writer(uint8_t *data, uint32_t size);
void fleet_cbor_put_uint(fleet_cbor_out_t *out, uint32_t value);
void fleet_cbor_put_u64(fleet_cbor_out_t *out, uint64_t value);
void fleet_cbor_put_bytes(fleet_cbor_out_t *out, const uint8_t *data, uint32_t bytes);
/** Zero-terminated text. */
void fleet_cbor_put_text(fleet_cbor_out_t *out, const char *text);
void fleet_cbor_put_array(fleet_cbor_out_t *out, uint32_t count);
void fleet_cbor_put_map(fleet_cbor_out_t *out, uint32_t count);
void fleet_cbor_put_bool(fleet_cbor_out_t *out, bool value);
void fleet_cbor_put_null(fleet_cbor_out_t *out);
/** Bytes that are CBOR already. */
void fleet_cbor_put_raw(fleet_cbor_out_t *out, const uint8_t *data, uint32_t bytes);

#endif
