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

static void put_value(fleet_cbor_out_t *out, const uint8_t *at, uint32_t form) {
    if (form == FLEET_FIELD_ID) {
        form = is_zero(at, FLEET_ID_BYTES) ? FLEET_FIELD_ID : FLEET_FIELD_BYTES + FLEET_ID_BYTES;
    } else if (form == FLEET_FIELD_SLOT) {
        form = *at == FLEET_NO_SLOT ? FLEET_FIELD_ID : 1;
    }
    if (form >= FLEET_FIELD_BYTES) {
        fleet_cbor_put_bytes(out, at, form - FLEET_FIELD_BYTES);
    } else if (form == FLEET_FIELD_NOT) {
        fleet_cbor_put_bool(out, *at == 0);
    } else if (form == FLEET_FIELD_ID) {
        fleet_cbor_put_null(out);
    } else {
        fleet_cbor_put_uint(out, load(at, form));
    }
}

void fleet_fields_put(fleet_cbor_out_t *out, const void *base, const fleet_field_t *fields, uint32_t count, uint32_t mask) {
    for (const fleet_field_t *field = fields; field < fields + count; field++) {
        if ((mask >> field->key & 1U) != 0) {
            fleet_cbor_put_uint(out, field->key);
            put_value(out, (const uint8_t *)base + field->offset, field->form);
        }
    }
}

static void take_value(fleet_cbor_t *in, void *base, const fleet_field_t *field) {
    uint8_t *at = (uint8_t *)base + field->offset;
    const uint32_t form = field->form;
    if (form >= FLEET_FIELD_BYTES) {
        const uint8_t *data = fleet_cbor_fixed(in, form - FLEET_FIELD_BYTES);
        if (data != NULL) {
            memcpy(at, data, form - FLEET_FIELD_BYTES);
        }
        return;
    }
    const uint64_t value = fleet_cbor_uint(in);
    if (form == FLEET_FIELD_IS) {
        fleet_cbor_require(in, value == field->offset);
    } else {
        memcpy(at, &value, form);
        fleet_cbor_require(in, load(at, form) == value);
    }
}

bool fleet_fields_take(fleet_cbor_t *in, uint32_t key, void *base, const fleet_field_t *fields, uint32_t count) {
    for (const fleet_field_t *field = fields; field < fields + count; field++) {
        if (field->key == key) {
            take_value(in, base, field);
            return true;
        }
    }
    return false;
}

void fleet_put_pair(fleet_cbor_out_t *out, uint32_t key, uint32_t value) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_uint(out, value);
}
