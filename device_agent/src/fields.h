/* Members of message maps as rows: key, form and place in a struct, for one routine that writes them and one that reads them. */
#ifndef FLEET_FIELDS_H
#define FLEET_FIELDS_H

#include <stddef.h>

#include "cbor.h"

/** Forms: an unsigned number of 1, 2, 4 or 8 bytes says just that; then the others. */
enum {
    FLEET_FIELD_IS = 16,     /**< the number that stands in place of the offset; anything else is an error */
    FLEET_FIELD_ITEM,        /**< read only: any item as it lies, passed and remembered in a fleet_cbor_t */
    FLEET_FIELD_NOT,         /**< written only, as all that follow: the opposite of a bool */
    FLEET_FIELD_SLOT,        /**< one byte, null for FLEET_NO_SLOT */
    FLEET_FIELD_ID,          /**< FLEET_ID_BYTES, null for zeros */
    FLEET_FIELD_ARRAY,       /**< head of an array of as many items as stand in place of the offset; the caller writes them */
    FLEET_FIELD_TEXT,        /**< the text that a pointer names */
    FLEET_FIELD_AGENT,       /**< the agent's version */
    FLEET_FIELD_BYTES = 0x80 /**< plus a size up to 127, read and written: a byte string of exactly that size */
};

typedef struct {
    uint8_t key;
    uint8_t form;
    uint16_t offset;
} fleet_field_t;

/** A row of FLEET_KEY_<name>; the form by the member's size, or a byte string. */
#define FLEET_FIELD(key, type, member) {key, (uint8_t)sizeof(((type *)0)->member), (uint16_t)offsetof(type, member)}
#define FLEET_FIELD_AS(key, form, type, member) {key, form, (uint16_t)offsetof(type, member)}
#define FLEET_FIELD_STRING(key, type, member) \
    {key, (uint8_t)(FLEET_FIELD_BYTES + sizeof(((type *)0)->member)), (uint16_t)offsetof(type, member)}
#define FLEET_FIELD_VALUE(key, value) {key, FLEET_FIELD_IS, value}
#define FLEET_FIELDS(table) (table), (uint32_t)(sizeof(table) / sizeof *(table))

/** Writes all members, in the order of the rows. */
void fleet_fields_put(fleet_cbor_out_t *out, const void *base, const fleet_field_t *fields, uint32_t count);

/** Writes those members that `mask` names by key. */
void fleet_fields_put_some(fleet_cbor_out_t *out, const void *base, const fleet_field_t *fields, uint32_t count, uint32_t mask);

/**
 * Reads the map that begins here: keys ascend, each stands once. A value goes to the place that its key's row names, and one of another form makes
 * `in` bad; a value of an unknown key is passed.
 * @return the keys that were there, as bits; bit 31 for all from 31 on
 */
uint32_t fleet_fields_read(fleet_cbor_t *in, void *base, const fleet_field_t *fields, uint32_t count);

/** A member alone. */
void fleet_put_pair(fleet_cbor_out_t *out, uint32_t key, uint32_t value);

#endif
