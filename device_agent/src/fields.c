#include "fields.h"

#include <string.h>

#include "fleet_agent.h"

static uint64_t load(const uint8_t *at, uint32_t bytes) {
    uint64_t value = 0;
    memcpy(&value, at, bytes); /* little-endian cores only: fleet_model_open refuses the others */
    return value;
}

static bool is_zero(const uint8_t *at, uint32_t bytes) {
    while (bytes > 0 && at[bytes - 1U] == 0) {
        bytes--;
    }
    return bytes == 0;
}

/* A number where none of the forms says otherwise. */
static void put_number(fleet_cbor_out_t *out, const uint8_t *at, uint32_t form, uint16_t value) {
    if (form == FLEET_FIELD_ARRAY) {
        fleet_cbor_put_array(out, value);
    } else {
        fleet_cbor_put_u64(out, form == FLEET_FIELD_IS ? value : load(at, form));
    }
}

static void put_value(fleet_cbor_out_t *out, const uint8_t *at, uint32_t form, uint16_t value) {
    if (form == FLEET_FIELD_ID && !is_zero(at, FLEET_ID_BYTES)) {
        form = FLEET_FIELD_BYTES + FLEET_ID_BYTES;
    } else if (form == FLEET_FIELD_SLOT) {
        form = *at == FLEET_NO_SLOT ? FLEET_FIELD_ID : 1;
    }
    if (form >= FLEET_FIELD_BYTES) {
        fleet_cbor_put_bytes(out, at, form - FLEET_FIELD_BYTES);
    } else if (form == FLEET_FIELD_ID) {
        fleet_cbor_put_null(out);
    } else if (form == FLEET_FIELD_NOT) {
        fleet_cbor_put_bool(out, *at == 0);
    } else if (form >= FLEET_FIELD_TEXT) {
        fleet_cbor_put_text(out, form == FLEET_FIELD_AGENT ? FLEET_AGENT_VERSION : *(const char *const *)(const void *)at);
    } else {
        put_number(out, at, form, value);
    }
}

void fleet_fields_put_some(fleet_cbor_out_t *out, const void *base, const fleet_field_t *fields, uint32_t count, uint32_t mask) {
    for (const fleet_field_t *field = fields; field < fields + count; field++) {
        if ((mask >> field->key & 1U) != 0) {
            fleet_cbor_put_uint(out, field->key);
            put_value(out, (const uint8_t *)base + field->offset, field->form, field->offset);
        }
    }
}

void fleet_fields_put(fleet_cbor_out_t *out, const void *base, const fleet_field_t *fields, uint32_t count) {
    fleet_fields_put_some(out, base, fields, count, UINT32_MAX);
}

static void take_number(fleet_cbor_t *in, uint8_t *at, const fleet_field_t *field) {
    const uint64_t value = fleet_cbor_uint(in);
    if (field->form == FLEET_FIELD_IS) {
        fleet_cbor_require(in, value == field->offset);
    } else {
        memcpy(at, &value, field->form);
        fleet_cbor_require(in, is_zero((const uint8_t *)&value + field->form, sizeof value - field->form));
    }
}

static void take_value(fleet_cbor_t *in, uint8_t *at, const fleet_field_t *field) {
    if (field->form == FLEET_FIELD_ITEM) {
        fleet_cbor_item(in, (fleet_cbor_t *)(void *)at);
    } else if (field->form < FLEET_FIELD_BYTES) {
        take_number(in, at, field);
    } else {
        const uint32_t bytes = field->form - (uint32_t)FLEET_FIELD_BYTES;
        const uint8_t *data = fleet_cbor_fixed(in, bytes);
        if (data != NULL) {
            memcpy(at, data, bytes);
        }
    }
}

uint32_t fleet_fields_read(fleet_cbor_t *in, void *base, const fleet_field_t *fields, uint32_t count) {
    uint32_t seen = 0;
    uint32_t least = 0; /* the next key */
    for (uint32_t left = fleet_cbor_map(in); left > 0 && !in->bad; left--) {
        const uint32_t key = fleet_cbor_u32(in, UINT32_MAX - 1U);
        const fleet_field_t *field = fields;
        fleet_cbor_require(in, key >= least);
        least = key + 1U;
        seen |= UINT32_C(1) << (key < 31U ? key : 31U);
        while (field < fields + count && field->key != key) {
            field++;
        }
        if (field < fields + count) {
            take_value(in, (uint8_t *)base + field->offset, field);
        } else {
            fleet_cbor_skip(in);
        }
    }
    return seen;
}

void fleet_put_pair(fleet_cbor_out_t *out, uint32_t key, uint32_t value) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_uint(out, value);
}
